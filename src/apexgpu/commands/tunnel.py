"""tunnel and tunnels: ports of a container on this laptop, and the list of what is carried."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import typer

from apexgpu.commands import reach
from apexgpu.commands.options import Group, ListByDefault, OneHost, session_of
from apexgpu.errors import ApexError, RefusedError, UnreachableError, UsageError
from apexgpu.forwarding import portowners, ports, records, request
from apexgpu.forwarding.ports import ListenerState
from apexgpu.forwarding.records import TunnelState
from apexgpu.forwarding.request import PortsTakenError, TunnelRequest
from apexgpu.models import Host, Target
from apexgpu.session import Session
from apexgpu.text import duration, size

app = Group()
listing = Group(cls=ListByDefault)
app.add_typer(listing, name="tunnels", help="The tunnels of this laptop: list, close.")

Local = Annotated[
    int | None, typer.Option("--local", metavar="PORT", help="The port on this laptop.")
]
Background = Annotated[
    bool, typer.Option("--background", "-b", help="Carry on after this command has ended.")
]
Open = Annotated[bool, typer.Option("--open", help="Open it in the browser.")]
Once = Annotated[
    bool, typer.Option("--once", help="End with the connection instead of making a new one.")
]
_HEADER = ("ID", "LOCAL", "REMOTE", "STATE", "SINCE", "CARRIED", "RECONNECTS", "PID")


@dataclass(frozen=True, slots=True)
class Page:
    """What the URL of a tunnel shows, and what else JSON tells of it.

    `path` holds a token where the page is `secret`: it is printed and given to the browser, and written nowhere.
    """

    path: str = "/"
    scheme: str = "http"
    secret: bool = False
    told: Mapping[str, Any] = field(default_factory=dict)


PLAIN = Page()


@app.command("tunnel")
def tunnel(
    ctx: typer.Context,
    host: OneHost,
    port: Annotated[
        list[str],
        typer.Argument(
            metavar="PORT...",
            help="A port there, or NAME:PORT as seen from there.",
            show_default=False,
        ),
    ],
    local: Local = None,
    background: Background = False,
    open_browser: Open = False,
    once: Once = False,
) -> None:
    """Bring ports of your container on HOST to this laptop, and keep them there until Ctrl-C.

    Examples: apexgpu tunnel gpu7 6006 · apexgpu tunnel gpu7 8888 --local 9999 --background
    """
    session = session_of(ctx)
    remotes = [ports.parse_destination(word) for word in port]
    if local is not None and len(remotes) > 1:
        raise UsageError(
            "--local is for one port", hint=f"apexgpu tunnel {host} {remotes[0]} --local {local}"
        )
    wanted = ports.check_local_port(local) if local is not None else None
    chosen = reach.one_host(session, host)
    carry(
        session,
        chosen,
        remotes,
        local=wanted,
        background=background,
        open_browser=open_browser,
        once=once,
    )


def carry(
    session: Session,
    host: Host,
    remotes: Sequence[ports.Destination],
    *,
    local: int | None = None,
    background: bool = False,
    open_browser: bool = False,
    once: bool = False,
    page: Page = PLAIN,
) -> None:
    """Carry `remotes` of the container, here until Ctrl-C or in the background; `page` is what the first one shows."""
    before = records.list_tunnels(session.state_dir)
    records.remove_dead(session.state_dir, before)
    same = _same(before, host, remotes, local)
    if same is not None and same.state != TunnelState.DEAD:
        session.screen.note(
            f"tunnel {same.id} carries that already; close it with: apexgpu tunnels close {same.id}"
        )
        if same.state is not TunnelState.UP:
            reach.ready(
                session, host
            )  # its container may be stopped: it comes back by itself when that is started
        return _show(session, same, page, open_browser)
    listeners, same_machine = _look_at_ports(session, host)
    if same_machine and local in {one.port for one in remotes}:
        message = f"port {local} of {host.name} is this laptop's own: the tunnel would reach itself"
        hint = f"apexgpu tunnel {host.name} {remotes[0]} --local {_free_after(local or 0)}"
        raise RefusedError(message, hint=hint, code="port_taken")
    _warn(session, host, remotes, listeners)
    # One that died gives its ports on: whoever has its page open finds it again.
    wanted = [local] * len(remotes) if same is None else [one.local_port for one in same.forwards]
    plan = TunnelRequest(
        host.name,
        tuple(reach.ssh_arguments(session, host)),
        tuple(remotes),
        tuple(wanted),
        exact_ports=local is not None,
        same_machine=same_machine,
        background=background,
        once=once,
    )
    try:
        if background:
            return _show(session, _started(session, host, plan, before), page, open_browser)
        return _foreground(session, host, plan, page, open_browser)
    except PortsTakenError as exc:
        again = (
            f"apexgpu tunnel {host.name} {remotes[0]}" if page is PLAIN else "the same again with"
        )
        raise _taken(session, exc.ports[0], again) from None


def _look_at_ports(session: Session, host: Host) -> tuple[str, bool]:
    """The container's listening sockets, and whether they are those of this machine (the lab)."""
    with ports.listen_anywhere() as probe:
        listeners = reach.ready(session, host, ports.LIST_LISTENERS)
        if not listeners:  # it had to be started
            listeners = reach.ready(session, host, ports.LIST_LISTENERS)
        return listeners, ports.lists_socket(listeners, probe)


def _warn(
    session: Session, host: Host, remotes: Sequence[ports.Destination], listeners: str
) -> None:
    """The tunnel is opened all the same: what it leads to may be started later."""
    for one in remotes:
        state = ports.listener_state(listeners, one)
        if state is ListenerState.NOTHING:
            session.screen.note(f"nothing listens on port {one.port} of {host.name} yet")
        elif state is ListenerState.IPV6_ONLY:
            session.screen.note(
                f"port {one.port} of {host.name} listens on ::1 only; to reach it: "
                f"apexgpu tunnel {host.name} '[::1]:{one.port}'"
            )


def _started(
    session: Session, host: Host, plan: TunnelRequest, others: Sequence[records.Tunnel]
) -> records.Tunnel:
    from apexgpu.forwarding import background

    try:
        with session.screen.working(f"opening the tunnel to {host.name}"):
            made = background.start(session.state_dir, plan, session.runner)
    except background.TunnelFailedError as exc:
        raise _failure(host, exc.message) from None
    _say_moved(session, plan, made, others)
    return made


def _foreground(
    session: Session, host: Host, plan: TunnelRequest, page: Page, open_browser: bool
) -> None:
    from apexgpu.forwarding import tunnelprocess
    from apexgpu.forwarding.supervisor import is_final
    from apexgpu.forwarding.tunnelprocess import EndedBy

    sockets = request.listen(plan)
    shown: list[records.Tunnel] = []

    def changed(one: records.Tunnel) -> None:
        if one.state is TunnelState.UP and not shown:
            shown.append(one)
            _say_moved(session, plan, one, records.list_tunnels(session.state_dir))
            _show(session, one, page, open_browser=False)
            session.screen.note("Ctrl-C closes it")
            if (
                open_browser
            ):  # beside the tunnel: some browsers run in the terminal, and the tunnel has to go on
                threading.Thread(target=_open, args=(session, one, page), daemon=True).start()
        elif shown and one.state is TunnelState.UP:
            session.screen.good(
                f"connected again after {duration(time.time() - min(lost.values()))}"
            )
            lost.clear()
        elif shown and one.state is TunnelState.WAITING and one.reason not in lost:
            lost[one.reason] = one.since  # each reason once, however long it lasts
            session.screen.note(
                f"{host.name}: {one.reason.rstrip('.')}"
                + ("" if plan.once else "; connecting again …")
            )

    lost: dict[str, float] = {}
    with session.reporter.status_line() as show_line:
        show_line(f"opening the tunnel to {host.name} …")
        ending = tunnelprocess.carry(
            session.state_dir,
            plan,
            sockets,
            on_change=changed,
            each_second=lambda one: show_line(living(one)) if shown else None,
        )
    last = ending.status
    if ending.ended_by is not EndedBy.ITSELF:
        raise typer.Exit(130 if ending.ended_by is EndedBy.CTRL_C else 0)
    if not ending.was_up or is_final(last.reason):
        raise _failure(host, last.reason)
    if last.reason:
        message = f"the connection to {host.name} ended: {last.reason}"
        raise UnreachableError(
            message, hint=f"apexgpu tunnel {host.name} {plan.destinations[0]}", code="dropped"
        )


def living(one: records.Tunnel) -> str:
    """The line that stands on a terminal while a tunnel is carried."""
    urls = " ".join(f"http://127.0.0.1:{each.local_port}" for each in one.forwards)
    now = time.time()
    mood = (
        f"up {duration(now - one.since)}"
        if one.state is TunnelState.UP
        else f"{one.state} {duration(now - one.since)}"
    )
    parts = [f"{urls} → {one.host}", mood, size(one.bytes_carried)]
    if one.reconnects:
        parts.append(f"{one.reconnects} reconnect{'s' if one.reconnects > 1 else ''}")
    if one.reason and one.state is TunnelState.UP:
        parts.append(f"the container answered: {one.reason}")
    return " · ".join(parts)


@listing.command("list")
def show(ctx: typer.Context) -> None:
    """Show every tunnel of this laptop.

    Dead ones are shown once and forgotten.

    Example: apexgpu tunnels
    """
    session = session_of(ctx)
    found = records.list_tunnels(session.state_dir)
    rows = [_row(one, each) for one in found for each in one.forwards]
    if rows:
        session.screen.table(
            _HEADER, rows, styles=lambda row: "red" if row[3] == TunnelState.DEAD else ""
        )
        for one in found:
            if one.reason:
                session.screen.note(
                    f"{one.id}: {'the container answered: ' if one.state is TunnelState.UP else ''}{one.reason}"
                )
    else:
        session.screen.note("no tunnel is open; open one with: apexgpu tunnel HOST PORT")
    session.screen.document({"ok": True, "tunnels": [value(one) for one in found]})
    records.remove_dead(session.state_dir, found)


@listing.command("close")
def close(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID|HOST...]", help="IDs of tunnels, or host names.", show_default=False
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every tunnel.")] = False,
) -> None:
    """Close tunnels by ID, by host, or all of them.

    Examples: apexgpu tunnels close gpu7-6006 · apexgpu tunnels close gpu7 · apexgpu tunnels close --all
    """
    session = session_of(ctx)
    if not names and not everything:
        raise UsageError("no tunnel was named", hint="apexgpu tunnels close --all")
    found = records.list_tunnels(session.state_dir)
    open_ones = {one.id for one in found} | {one.host for one in found}
    for name in names or ():
        if name not in open_ones:  # only then are the hosts needed, which may take IAM
            host, _, number = name.rpartition("-")
            session.hosts(
                [host if number.isdigit() and host else name]
            )  # one that is closed: nothing to do
    chosen = [
        one for one in found if everything or one.id in (names or ()) or one.host in (names or ())
    ]
    for one in chosen:
        records.close(session.state_dir, one)
        session.screen.good(f"closed {one.id}")
    if not chosen:
        session.screen.note("nothing to close")
    session.screen.document(
        {"ok": True, "tunnels": [{**value(one), "state": "closed"} for one in chosen]}
    )


def value(one: records.Tunnel) -> dict[str, Any]:
    """A tunnel as JSON; `local_port` and `remote_port` are those of its first forward, times are ISO 8601."""
    from apexgpu.archives.catalog import iso

    forwards = [
        {
            "local_port": each.local_port,
            "remote": each.destination,
            "remote_port": ports.parse_destination(each.destination).port,
            "url": f"http://127.0.0.1:{each.local_port}/",
        }
        for each in one.forwards
    ]
    hidden = {"forwards", "bytes_carried"}
    rest = {key: val for key, val in asdict(one).items() if key not in hidden}
    times = {"started": iso(int(one.started)), "since": iso(int(one.since))}
    return {**rest, **times, **forwards[0], "forwards": forwards, "bytes": one.bytes_carried}


def _row(one: records.Tunnel, each: records.Forward) -> tuple[str, ...]:
    return (
        one.id,
        f"127.0.0.1:{each.local_port}",
        f"{one.host} {each.destination}",
        one.state,
        duration(time.time() - one.since),
        size(one.bytes_carried),
        str(one.reconnects),
        str(one.pid),
    )


def _same(
    found: Sequence[records.Tunnel],
    host: Host,
    remotes: Sequence[ports.Destination],
    local: int | None,
) -> records.Tunnel | None:
    ends = [str(one) for one in remotes]
    return next(
        (
            one
            for one in found
            if one.host == host.name
            and [each.destination for each in one.forwards] == ends
            and local in (None, one.forwards[0].local_port)
        ),
        None,
    )


def _show(session: Session, one: records.Tunnel, page: Page, open_browser: bool) -> None:
    urls = [_url(one, page), *(f"http://127.0.0.1:{each.local_port}" for each in one.forwards[1:])]
    for url, each in zip(urls, one.forwards, strict=True):
        session.screen.result(f"{url}  →  {one.host} {each.destination}")
    shown = value(one)
    told = {**shown, **page.told, "url": urls[0] if page is not PLAIN else shown["url"]}
    session.screen.document({"ok": True, "tunnels": [told]})
    if open_browser:
        _open(session, one, page)


def _open(session: Session, one: records.Tunnel, page: Page) -> None:
    session.open_page(_url(one, page), secret=page.secret)


def _url(one: records.Tunnel, page: Page) -> str:
    """The address of the first forward; what people see of a plain one has no slash."""
    ending = "" if page is PLAIN else f"/{page.path.removeprefix('/')}"
    return f"{page.scheme}://127.0.0.1:{one.forwards[0].local_port}{ending}"


def _say_moved(
    session: Session, plan: TunnelRequest, one: records.Tunnel, others: Sequence[records.Tunnel]
) -> None:
    for each in () if plan.exact_ports else one.forwards:
        first = next(ports.local_candidates(ports.parse_destination(each.destination).port))
        if (
            each.local_port > first
            and ports.parse_destination(each.destination).port == first
            and not ports.is_free(first)
        ):
            session.screen.note(
                f"local port {first} is in use by {_who(session, first, others)}; "
                f"using {each.local_port}"
            )


def _who(session: Session, port: int, others: Sequence[records.Tunnel]) -> str:
    own = next((one for one in others for each in one.forwards if each.local_port == port), None)
    return f"your tunnel {own.id}" if own else str(portowners.port_owner(port, session.runner))


def _taken(session: Session, number: int, again: str) -> RefusedError:
    message = (
        f"local port {number} is in use by "
        f"{_who(session, number, records.list_tunnels(session.state_dir))}"
    )
    return RefusedError(message, hint=f"{again} --local {_free_after(number)}", code="port_taken")


def _free_after(number: int) -> int:
    return next(
        (port for port in ports.local_candidates(number + 1) if ports.is_free(port)), number + 1
    )


def _failure(host: Host, reason: str) -> ApexError:
    """The error that ssh's last words stand for."""
    from apexgpu.ssh import failures

    failure = failures.classify(reason)
    if failure is not None:
        return failures.failure_error(Target(host, "container"), failure, reason)
    return UnreachableError(
        f"no tunnel to {host.name}: {reason or 'ssh ended'}", hint=f"apexgpu doctor {host.name}"
    )
