"""tensorboard and jupyter: found or started in the container, and shown here."""

from pathlib import Path
from typing import Annotated

import typer

from apexgpu import manyhosts
from apexgpu.commands import reach, tunnel
from apexgpu.commands.options import Group, OneHost, session_of
from apexgpu.commands.tunnel import Background, Local, Once, Open
from apexgpu.forwarding import ports, records
from apexgpu.models import Host, Outcome
from apexgpu.remote import webservers
from apexgpu.remote.webservers import ServerFailedError, ServerKind, ServerRequest, WebServer
from apexgpu.session import Session

app = Group()

Stop = Annotated[
    bool, typer.Option("--stop", help="End it in the container, and the tunnels that lead to it.")
]
Program = Annotated[
    str | None, typer.Option("--program", metavar="PATH", help="Start this program or environment.")
]
Wait = Annotated[
    float, typer.Option("--wait", metavar="SECONDS", help="How long it may take to start.", min=1)
]


@app.command("tensorboard")
def tensorboard(
    ctx: typer.Context,
    host: OneHost,
    logdir: Annotated[
        str,
        typer.Argument(
            metavar="LOGDIR",
            help="A directory there; your home is where it begins.",
            show_default=False,
        ),
    ],
    stop: Stop = False,
    local: Local = None,
    background: Background = False,
    open_browser: Open = False,
    once: Once = False,
    program: Program = None,
    wait: Wait = 60,
) -> None:
    """Show LOGDIR of your container on HOST in TensorBoard: the one that shows it already, else a new one.

    It goes on in the container when the tunnel is closed; --stop ends it. Example: apexgpu tensorboard gpu7 runs
    """
    session = session_of(ctx)
    chosen = reach.one_host(session, host)
    wish = ServerRequest(ServerKind.TENSORBOARD, logdir, program, wait, str(Path.home()))
    if stop:
        return _stop(session, chosen, wish)
    return _show(
        session,
        chosen,
        wish,
        local=local,
        background=background,
        open_browser=open_browser,
        once=once,
    )


@app.command("jupyter")
def jupyter(
    ctx: typer.Context,
    host: OneHost,
    directory: Annotated[
        str | None,
        typer.Argument(
            metavar="[DIR]",
            help="A directory there; by default your home, or whatever one shows already.",
            show_default=False,
        ),
    ] = None,
    stop: Stop = False,
    local: Local = None,
    background: Background = False,
    open_browser: Open = False,
    once: Once = False,
    program: Program = None,
    wait: Wait = 60,
) -> None:
    """Show DIR of your container on HOST in Jupyter: the one that runs already, else a new JupyterLab or notebook.

    It goes on in the container when the tunnel is closed; --stop ends it. Example: apexgpu jupyter gpu7 --open
    """
    session = session_of(ctx)
    chosen = reach.one_host(session, host)
    wish = ServerRequest(ServerKind.JUPYTER, directory, program, wait, str(Path.home()))
    if stop:
        return _stop(session, chosen, wish)
    return _show(
        session,
        chosen,
        wish,
        local=local,
        background=background,
        open_browser=open_browser,
        once=once,
    )


def _show(
    session: Session,
    host: Host,
    wish: ServerRequest,
    *,
    local: int | None,
    background: bool,
    open_browser: bool,
    once: bool,
) -> None:
    wanted = ports.check_local_port(local) if local is not None else None
    reach.ready(session, host)
    try:
        with session.screen.working(f"looking for {wish.kind.label} on {host.name}") as progress:
            found = webservers.serve(session.transport, host, wish, on_line=progress.update)
    except ServerFailedError as exc:
        for line in exc.log_lines:
            session.screen.note(f"  {line}")
        raise
    _tell(session, host, wish, found)
    page = tunnel.Page(
        found.path,
        "https" if found.https else "http",
        found.has_token,
        {
            "server": {
                "kind": wish.kind,
                "directory": found.directory,
                "started": found.started,
                "pid": found.pid,
                "program": found.program or None,
                "log": found.log or None,
            }
        },
    )
    tunnel.carry(
        session,
        host,
        [ports.Destination(found.port, found.host)],
        local=wanted,
        background=background,
        open_browser=open_browser,
        once=once,
        page=page,
    )


def _tell(session: Session, host: Host, wish: ServerRequest, found: WebServer) -> None:
    did = f"started there with {found.program}" if found.started else "was there already"
    session.screen.good(f"{wish.kind.label} shows {found.directory} on {host.name}: {did}")
    if found.password:
        session.screen.note("it asks for the password that you gave it")
    session.screen.note(
        f"it goes on there until: apexgpu {wish.kind} {host.name} {found.directory} --stop"
    )


def _stop(session: Session, host: Host, wish: ServerRequest) -> None:
    with session.screen.working(f"stopping {wish.kind.label} on {host.name}") as progress:

        def work(one: Host) -> list[int]:
            return (
                webservers.stop(session.transport, one, wish, on_line=progress.update)
                if reach.answers(session, one)
                else []
            )

        outcome = manyhosts.run(session, [host], work)[0]
    if outcome.error is not None:
        raise outcome.error
    stopped = outcome.value or []
    for number in stopped:
        session.screen.good(f"{wish.kind.label} on {host.name} (port {number}) is stopped")
        _close_tunnels(session, host, number)
    if not stopped:
        session.screen.good(f"no {wish.kind.label} runs there on {host.name}")
    manyhosts.finish(
        session, [Outcome(host, stopped)], lambda found: {"stopped": found, "changed": bool(found)}
    )


def _close_tunnels(session: Session, host: Host, number: int) -> None:
    """A tunnel to a server that is gone is of no use, and would keep its port here."""
    for one in records.list_tunnels(session.state_dir):
        if one.host == host.name and [
            ports.parse_destination(each.destination).port for each in one.forwards
        ] == [number]:
            records.close(session.state_dir, one)
            session.screen.good(f"closed {one.id}")
