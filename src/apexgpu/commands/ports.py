"""The panel "Ports": `tunnel`, `tunnels`, `tensorboard`, `jupyter`, `port`."""

from typing import Annotated, NamedTuple

import typer

from apexgpu import ports, tunnels, webapps
from apexgpu.commands.options import Group, ListByDefault, OneHost, session_of, show_now
from apexgpu.results import Result

app = Group()
listing = Group(cls=ListByDefault)
app.add_typer(listing, name="tunnels", help="The tunnels of this laptop: list, close.")

Local = Annotated[
    int | None, typer.Option("--local", metavar="PORT", help="The port on this laptop.")
]
Background = Annotated[
    bool,
    typer.Option("--background", "-b", help="Keep the tunnel open after this command has ended."),
]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]
Once = Annotated[
    bool, typer.Option("--once", help="End when the connection ends, instead of connecting again.")
]
Stop = Annotated[
    bool,
    typer.Option("--stop", help="Stop it in the container, and close its tunnels."),
]
Program = Annotated[
    str | None,
    typer.Option("--program", metavar="PATH", help="The program or the environment to start."),
]
Wait = Annotated[
    float, typer.Option("--wait", metavar="SECONDS", help="Seconds it may take to start.", min=1)
]


@app.command("tunnel")
def tunnel(
    ctx: typer.Context,
    host: OneHost,
    port: Annotated[
        list[str],
        typer.Argument(
            metavar="PORT...",
            help="A port of the container, LOCAL:PORT, or NAME:PORT as the container reaches it.",
            show_default=False,
        ),
    ],
    local: Local = None,
    background: Background = False,
    open_browser: Open = False,
    once: Once = False,
) -> Result | int:
    """Forward ports of your container on HOST to this laptop, and keep them open until Ctrl-C.

    Examples: apexgpu tunnel gpu7 6006 · apexgpu tunnel gpu7 9999:8888 --background
    """
    session = session_of(ctx)
    if background:
        return tunnels.open(session, host, port, local=local, once=once, in_browser=open_browser)
    return tunnels.keep_open(
        session,
        host,
        port,
        on_open=show_now(ctx),
        local=local,
        once=once,
        in_browser=open_browser,
    )


@listing.command("list")
def list_tunnels(ctx: typer.Context) -> Result:
    """Show every tunnel of this laptop.

    A tunnel whose process was killed is shown once, as dead.

    Example: apexgpu tunnels
    """
    return tunnels.list(session_of(ctx))


@listing.command("close")
def close(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID|HOST...]", help="IDs of tunnels, or host names.", show_default=False
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Close every tunnel.")] = False,
) -> Result:
    """Close tunnels by ID, by host, or all of them.

    Examples: apexgpu tunnels close gpu7-6006 · apexgpu tunnels close gpu7 · apexgpu tunnels close
    --all
    """
    return tunnels.close(session_of(ctx), names or [], everything=everything)


@app.command("tensorboard")
def tensorboard(
    ctx: typer.Context,
    host: OneHost,
    logdir: Annotated[
        str,
        typer.Argument(
            metavar="LOGDIR",
            help="A directory in the container, relative to your home directory there.",
            show_default=False,
        ),
    ],
    stop: Stop = False,
    local: Local = None,
    background: Background = False,
    open_browser: Open = False,
    once: Once = False,
    program: Program = None,
    wait: Wait = webapps.WAIT,
) -> Result | int:
    """Show LOGDIR of your container on HOST in TensorBoard: the one that shows it already, else a new one.

    It keeps running in the container when the tunnel is closed; --stop ends it.

    Example: apexgpu tensorboard gpu7 runs
    """
    options = _Options(program, wait, local, background, open_browser, once)
    return _show_or_stop(ctx, host, webapps.TENSORBOARD, logdir, options, stop=stop)


@app.command("jupyter")
def jupyter(
    ctx: typer.Context,
    host: OneHost,
    directory: Annotated[
        str | None,
        typer.Argument(
            metavar="[DIR]",
            help="A directory in the container; by default what a running one shows, else your home.",
            show_default=False,
        ),
    ] = None,
    stop: Stop = False,
    local: Local = None,
    background: Background = False,
    open_browser: Open = False,
    once: Once = False,
    program: Program = None,
    wait: Wait = webapps.WAIT,
) -> Result | int:
    """Show DIR of your container on HOST in Jupyter: the one that runs already, else a new JupyterLab or notebook.

    It keeps running in the container when the tunnel is closed; --stop ends it.

    Example: apexgpu jupyter gpu7 --open
    """
    options = _Options(program, wait, local, background, open_browser, once)
    return _show_or_stop(ctx, host, webapps.JUPYTER, directory, options, stop=stop)


class _Options(NamedTuple):
    """The options that `tensorboard` and `jupyter` share."""

    program: str | None
    wait: float
    local: int | None
    background: bool
    open_browser: bool
    once: bool


def _show_or_stop(
    ctx: typer.Context,
    host: str,
    kind: webapps.ServerKind,
    directory: str | None,
    options: _Options,
    *,
    stop: bool,
) -> Result | int:
    session = session_of(ctx)
    if stop:
        return webapps.stop(session, host, kind, directory, program=options.program)
    if options.background:
        return webapps.show(
            session,
            host,
            kind,
            directory,
            program=options.program,
            wait=options.wait,
            local=options.local,
            once=options.once,
            in_browser=options.open_browser,
        )
    return webapps.keep_showing(
        session,
        host,
        kind,
        directory,
        on_open=show_now(ctx),
        program=options.program,
        wait=options.wait,
        local=options.local,
        once=options.once,
        in_browser=options.open_browser,
    )


@app.command("port")
def port(
    ctx: typer.Context,
    host: OneHost,
    number: Annotated[
        int | None,
        typer.Argument(metavar="[PORT]", help="A port of the container to map.", min=1, max=65535),
    ] = None,
) -> Result:
    """Show the ports of your container that the server maps to its own address, or map PORT as well.

    A map has no password and is open to the lab's whole network, and every stop of the container
    removes it: `apexgpu tunnel HOST PORT` is the safer way. Example: apexgpu port gpu7 6006
    """
    session = session_of(ctx)
    if number is None:
        return ports.list_ports(session, host)
    return ports.map_port(session, host, number)
