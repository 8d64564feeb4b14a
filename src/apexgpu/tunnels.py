"""Tunnels: ports of a container, forwarded to this laptop and kept open. Open, list and close them.

    from apexgpu import tunnels
    from apexgpu.session import Session

    opened = tunnels.open(Session(), "gpu7", ["6006"])
    print(opened.url)  # http://127.0.0.1:6006/
    tunnels.close(Session(), [opened.tunnel.id])

A tunnel connects again by itself after the network, the container or the laptop has been away.
"""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from apexgpu import containers, shells
from apexgpu.errors import DroppedError, RefusedError, UsageError
from apexgpu.forwarding import browser, listeners, portowners, ports, records
from apexgpu.forwarding.failures import is_final, tunnel_error
from apexgpu.forwarding.listeners import ContainerListener, ListenerState
from apexgpu.forwarding.ports import Destination
from apexgpu.forwarding.records import Tunnel, TunnelState
from apexgpu.forwarding.request import PortsTakenError, TunnelRequest, take_ports
from apexgpu.models import Host, Target
from apexgpu.results import JsonObject, Result
from apexgpu.session import Session
from apexgpu.ssh import silentagent
from apexgpu.text import duration

if TYPE_CHECKING:
    from apexgpu.forwarding.tunnelprocess import Ending

INTERRUPTED = 130
"""The exit status after Ctrl-C."""


@dataclass(frozen=True)
class WebPage:
    """What a browser sees at the end of a tunnel. A `secret` path contains a token."""

    path: str = "/"
    scheme: str = "http"
    secret: bool = False

    def url(self, tunnel: Tunnel) -> str:
        """Return the page's address on this laptop, at the tunnel's first forward."""
        return f"{self.scheme}://127.0.0.1:{tunnel.forwards[0].local_port}{self.path}"


@dataclass(frozen=True)
class OpenTunnel(Result):
    """What `open` returns, and what `keep_open` reports: a tunnel that is up."""

    tunnel: Tunnel

    @property
    def url(self) -> str:
        """The address of the first forwarded port."""
        return WebPage().url(self.tunnel)

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "tunnels": [tunnel_json(self.tunnel)]}


@dataclass(frozen=True)
class TunnelList(Result):
    """What `list` returns: the tunnels of this laptop, by host and local port."""

    tunnels: Sequence[Tunnel]

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "tunnels": [tunnel_json(tunnel) for tunnel in self.tunnels]}


@dataclass(frozen=True)
class ClosedTunnels(Result):
    """What `close` returns: the tunnels that it closed, as they were before."""

    tunnels: Sequence[Tunnel]

    def to_json(self) -> JsonObject:
        """See Result."""
        rows = [{**tunnel_json(tunnel), "state": "closed"} for tunnel in self.tunnels]
        return {"ok": True, "tunnels": rows}


def tunnel_json(tunnel: Tunnel) -> JsonObject:
    """Return a tunnel as JSON: sizes in bytes, times in ISO 8601.

    `local_port`, `remote`, `remote_port` and `url` are those of its first forward.
    """
    forwards = []
    for forward in tunnel.forwards:
        forwards.append(
            {
                "local_port": forward.local_port,
                "remote": forward.destination,
                "remote_port": ports.parse_destination(forward.destination).port,
                "url": f"http://127.0.0.1:{forward.local_port}/",
            }
        )
    return {
        "id": tunnel.id,
        "host": tunnel.host,
        "pid": tunnel.pid,
        "started": _iso(tunnel.started),
        "background": tunnel.background,
        "state": tunnel.state.value,
        "since": _iso(tunnel.since),
        "reconnects": tunnel.reconnects,
        "reason": tunnel.reason,
        **forwards[0],
        "forwards": forwards,
        "bytes": tunnel.bytes_carried,
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat()


def open(
    session: Session,
    host: str,
    destinations: Sequence[str],
    *,
    local: int | None = None,
    once: bool = False,
    in_browser: bool = False,
) -> OpenTunnel:
    """Open a tunnel in the background, and return it once it is up.

    `destinations` are ports of the container on `host` (`6006`), or of hosts that it can reach
    (`db:5432`). `local` is the port on this laptop, for a single destination; without it the same
    port or the next free one is taken. With `once` the tunnel ends with its connection.
    `in_browser` opens the first destination in the user's browser.

    A tunnel that is open already is returned as it is. If the container is stopped, the user is
    asked whether to start it.

    Raises UsageError (no such port), RefusedError (`local` is in use; forwarding is forbidden),
    LoginError, UnreachableError and DeclinedError.
    """
    plan = _plan(session, host, destinations, local, once, in_browser)
    return OpenTunnel(open_planned(session, plan))


def keep_open(
    session: Session,
    host: str,
    destinations: Sequence[str],
    *,
    on_open: Callable[[OpenTunnel], None],
    local: int | None = None,
    once: bool = False,
    in_browser: bool = False,
) -> int:
    """Open a tunnel and carry it in this process, until Ctrl-C; see `open`.

    `on_open` is called once the tunnel is up. Returns the exit status: 130 after Ctrl-C.
    Raises DroppedError when the tunnel ends by itself.
    """
    plan = _plan(session, host, destinations, local, once, in_browser)
    return keep_planned_open(session, plan, lambda tunnel: on_open(OpenTunnel(tunnel)))


def list(session: Session) -> TunnelList:
    """Return every tunnel of this laptop. A dead one is listed once and then forgotten."""
    tunnels = records.list_tunnels(session.state_dir)
    records.remove_dead(session.state_dir, tunnels)
    return TunnelList(tunnels)


def close(
    session: Session, names: Sequence[str] = (), *, everything: bool = False
) -> ClosedTunnels:
    """Close the tunnels with these IDs or to these hosts, or `everything`.

    Raises UsageError if nothing is named, or for a name that is neither.
    """
    if not names and not everything:
        raise UsageError("no tunnel was named", hint="apexgpu tunnels close --all")
    tunnels = records.list_tunnels(session.state_dir)
    _check_names(session, names, tunnels)
    chosen = [
        tunnel for tunnel in tunnels if everything or tunnel.id in names or tunnel.host in names
    ]
    for tunnel in chosen:
        records.close(session.state_dir, tunnel)
        session.reporter.success(f"closed {tunnel.id}")
    if not chosen:
        session.reporter.note("nothing to close")
    return ClosedTunnels(chosen)


def _check_names(session: Session, names: Sequence[str], tunnels: Sequence[Tunnel]) -> None:
    """Raise UsageError for a name that is neither a host nor the ID of a tunnel, open or closed."""
    known_names = {tunnel.id for tunnel in tunnels} | {tunnel.host for tunnel in tunnels}
    for name in names:
        if name in known_names:
            continue
        # The ID of a tunnel that is closed already: its host must exist. This may ask IAM.
        host, _, number = name.rpartition("-")
        if host and number.isdigit():
            session.hosts([host])
        else:
            session.hosts([name])


# The steps of opening a tunnel, which TensorBoard and Jupyter take as well.


@dataclass(frozen=True)
class TunnelPlan:
    """A tunnel to open. `command` is the command that opens it, for hints.

    `local`, `once` and `in_browser` are as in `open`; `page` is what the browser then shows.
    """

    host: Host
    destinations: tuple[Destination, ...]
    command: str
    local: int | None = None
    once: bool = False
    in_browser: bool = False
    page: WebPage = WebPage()


def _plan(
    session: Session,
    host: str,
    destinations: Sequence[str],
    local: int | None,
    once: bool,
    in_browser: bool,
) -> TunnelPlan:
    local, destinations = _split_local(host, destinations, local)
    parsed = tuple(ports.parse_destination(text) for text in destinations)
    command = f"apexgpu tunnel {host} {parsed[0]}"
    if local is not None:
        if len(parsed) > 1:
            raise UsageError("--local is for one port", hint=f"{command} --local {local}")
        ports.check_local_port(local, command)
    chosen = containers.one_host(session, host)
    return TunnelPlan(chosen, parsed, command, local, once, in_browser)


def _split_local(
    host: str, destinations: Sequence[str], local: int | None
) -> tuple[int | None, Sequence[str]]:
    """The local port of `LOCAL:PORT`, and the destinations without it."""
    with_local = [text for text in destinations if ports.split_local(text)[0] is not None]
    if not with_local:
        return local, destinations
    if len(destinations) > 1 or local is not None:
        message = f"{with_local[0]} names a local port, which is for one port, without --local"
        raise UsageError(message, hint=f"apexgpu tunnel {host} {with_local[0]}")
    return ports.split_local(destinations[0])[0], [ports.split_local(destinations[0])[1]]


def open_planned(session: Session, plan: TunnelPlan) -> Tunnel:
    """Open a tunnel in the background; return it once it is up, or if it is open already."""
    # Also the dead ones: their local ports are used again.
    existing = records.list_tunnels(session.state_dir)
    tunnel = _use_existing(session, plan, existing)
    if tunnel is None:
        tunnel = _start_in_background(session, plan, existing)
    if plan.in_browser:
        _show_in_browser(session, plan, tunnel)
    return tunnel


def _start_in_background(session: Session, plan: TunnelPlan, existing: Sequence[Tunnel]) -> Tunnel:
    from apexgpu.forwarding import background

    request = _request(session, plan, existing, in_background=True)
    try:
        with session.reporter.working(f"opening the tunnel to {plan.host.name}"):
            tunnel = background.start(session.state_dir, request, session.runner)
    except background.TunnelFailedError as exc:
        raise tunnel_error(plan.host, exc.message) from None
    except PortsTakenError as exc:
        raise _port_in_use(session, exc.ports[0], plan) from None
    _report_other_port(session, request, tunnel, existing)
    return tunnel


def keep_planned_open(session: Session, plan: TunnelPlan, on_open: Callable[[Tunnel], None]) -> int:
    """Open a tunnel and carry it in this process; `on_open` is called once it is up."""
    existing = records.list_tunnels(session.state_dir)
    open_tunnel = _use_existing(session, plan, existing)
    if open_tunnel is not None:
        on_open(open_tunnel)
        if plan.in_browser:
            _show_in_browser(session, plan, open_tunnel)
        return 0
    request = _request(session, plan, existing, in_background=False)
    try:
        sockets = take_ports(request)
    except PortsTakenError as exc:
        raise _port_in_use(session, exc.ports[0], plan) from None

    def came_up(tunnel: Tunnel) -> None:
        _report_other_port(session, request, tunnel, existing)
        on_open(tunnel)
        session.reporter.note("Ctrl-C closes it")
        if plan.in_browser:
            # In a thread: some browsers run until they are closed, and the tunnel must go on.
            show = threading.Thread(
                target=_show_in_browser, args=(session, plan, tunnel), daemon=True
            )
            show.start()

    return _Foreground(session, plan, request, came_up).carry(sockets)


def _use_existing(session: Session, plan: TunnelPlan, existing: Sequence[Tunnel]) -> Tunnel | None:
    """Return the open tunnel that does what is planned already; None if there is none."""
    records.remove_dead(session.state_dir, existing)
    tunnel = records.find(existing, plan.host.name, plan.destinations, plan.local)
    if tunnel is None or tunnel.state is TunnelState.DEAD:
        return None
    session.reporter.note(
        f"tunnel {tunnel.id} is open already; to close it: apexgpu tunnels close {tunnel.id}"
    )
    if tunnel.state is not TunnelState.UP:
        # It connects by itself, unless its container is stopped: then that has to be started.
        containers.ensure_running(session, plan.host)
    return tunnel


def _request(
    session: Session, plan: TunnelPlan, existing: Sequence[Tunnel], *, in_background: bool
) -> TunnelRequest:
    """Look at the container, report what is missing there, and word the request."""
    # A socket of ours that is in the container's list shows that both are one machine.
    with ports.listen_anywhere() as probe:
        listening = _list_listeners(session, plan.host)
        same_machine = listeners.contain(listening, probe)
    wanted_ports = [destination.port for destination in plan.destinations]
    if same_machine and plan.local in wanted_ports:
        raise _own_port(plan)
    for destination in plan.destinations:
        _report_missing_listener(session, plan.host, destination, listening)
    local_ports: tuple[int | None, ...] = (plan.local,) * len(plan.destinations)
    dead = records.find(existing, plan.host.name, plan.destinations, plan.local)
    if dead is not None:
        # Its pages may still be open in a browser: they work again on the same ports.
        local_ports = tuple(forward.local_port for forward in dead.forwards)
    target = Target(plan.host, "container")
    return TunnelRequest(
        host=plan.host.name,
        ssh_arguments=tuple(shells.ssh_arguments(session, plan.host)),
        destinations=plan.destinations,
        local_ports=local_ports,
        exact_ports=plan.local is not None,
        same_machine=same_machine,
        background=in_background,
        once=plan.once,
        agent_socket=silentagent.socket_on(session.transport.route(target)),
    )


def _list_listeners(session: Session, host: Host) -> Sequence[ContainerListener]:
    """Return what listens in the container, which is started if the user agrees."""
    command = listeners.list_command()
    output = containers.ensure_running(session, host, command)
    if not output:
        # It has just been started.
        output = containers.ensure_running(session, host, command)
    return listeners.parse(output)


def _report_missing_listener(
    session: Session, host: Host, destination: Destination, listening: Sequence[ContainerListener]
) -> None:
    # The tunnel is opened all the same: the program may be started later.
    state = listeners.state_of(destination, listening)
    port = destination.port
    if state is ListenerState.NOTHING:
        session.reporter.note(f"nothing listens on port {port} of {host.name} yet")
    elif state is ListenerState.IPV6_ONLY:
        session.reporter.note(
            f"port {port} of {host.name} listens on ::1 only; to reach it: "
            f"apexgpu tunnel {host.name} '[::1]:{port}'"
        )


def _report_other_port(
    session: Session, request: TunnelRequest, tunnel: Tunnel, existing: Sequence[Tunnel]
) -> None:
    """Tell which program has the port that a user would expect, if another one was taken."""
    if request.exact_ports:
        return
    for forward, destination in zip(tunnel.forwards, request.destinations, strict=True):
        expected = next(ports.local_candidates(destination.port))
        # A privileged port always moves, which is no news.
        is_moved = expected == destination.port and forward.local_port > expected
        if is_moved and request.same_machine:
            session.reporter.note(
                f"the container is on this machine, so local port {expected} is its own; using"
                f" {forward.local_port}"
            )
        elif is_moved and not ports.is_free(expected):
            owner = _owner(session, expected, existing)
            session.reporter.note(
                f"local port {expected} is in use by {owner}; using {forward.local_port}"
            )


def _owner(session: Session, port: int, existing: Sequence[Tunnel]) -> str:
    for tunnel in existing:
        if any(forward.local_port == port for forward in tunnel.forwards):
            return f"your tunnel {tunnel.id}"
    if ports.is_reserved(port):
        return "Windows, which reserves it (netsh int ipv4 show excludedportrange tcp)"
    return str(portowners.port_owner(port, session.runner))


@dataclass
class _Foreground:
    """A tunnel that this process carries, and what the user sees of it."""

    session: Session
    plan: TunnelPlan
    request: TunnelRequest
    came_up: Callable[[Tunnel], None]
    is_open: bool = False
    lost_since: dict[str, float] = field(default_factory=dict)
    """When the connection was lost, by the reasons that have been reported since."""

    def carry(self, sockets: Sequence[socket.socket]) -> int:
        """Carry the tunnel to its end; return the exit status."""
        from apexgpu.forwarding import tunnelprocess
        from apexgpu.forwarding.tunnelprocess import EndedBy

        with self.session.reporter.status_line() as show_line:
            show_line(f"opening the tunnel to {self.plan.host.name} …")

            def each_second(tunnel: Tunnel) -> None:
                if self.is_open:
                    show_line(tunnel.describe())

            ending = tunnelprocess.carry(
                self.session.state_dir,
                self.request,
                sockets,
                on_change=self._changed,
                each_second=each_second,
            )
        if ending.ended_by is EndedBy.CTRL_C:
            return INTERRUPTED
        if ending.ended_by is EndedBy.ITSELF:
            self._raise_reason(ending)
        return 0

    def _changed(self, tunnel: Tunnel) -> None:
        reporter = self.session.reporter
        if tunnel.state is TunnelState.UP and not self.is_open:
            self.is_open = True
            self.came_up(tunnel)
        elif tunnel.state is TunnelState.UP:
            lost_for = time.time() - min(self.lost_since.values())
            reporter.success(f"connected again after {duration(lost_for)}")
            self.lost_since.clear()
        elif tunnel.state is TunnelState.WAITING and self.is_open:
            self._report_loss(tunnel)

    def _report_loss(self, tunnel: Tunnel) -> None:
        """Report why the connection was lost: each reason once, however long it lasts."""
        if tunnel.reason in self.lost_since:
            return
        self.lost_since[tunnel.reason] = tunnel.since
        reason = tunnel.reason.rstrip(".")
        message = f"{tunnel.host}: {reason}"
        if not self.request.once:
            message += "; connecting again …"
        self.session.reporter.note(message)

    def _raise_reason(self, ending: "Ending") -> None:
        reason = ending.status.reason
        host = self.plan.host
        if not ending.was_up or is_final(reason):
            raise tunnel_error(host, reason)
        if reason:
            raise DroppedError(
                f"the connection to {host.name} ended: {reason}", hint=self.plan.command
            )


def _show_in_browser(session: Session, plan: TunnelPlan, tunnel: Tunnel) -> None:
    url = plan.page.url(tunnel)
    if not browser.open_url(url, secret=plan.page.secret):
        session.reporter.note(f"no browser could be started; open it yourself: {url}")


def _port_in_use(session: Session, port: int, plan: TunnelPlan) -> RefusedError:
    own_tunnels = records.list_tunnels(session.state_dir)
    owner = _owner(session, port, own_tunnels)
    message = f"local port {port} is in use by {owner}"
    free_port = ports.next_free(port)
    hint = f"{plan.command} --local {free_port}"
    return RefusedError(message, hint=hint, code="port_taken")


def _own_port(plan: TunnelPlan) -> RefusedError:
    """The error for `--local` with the container's own port, where both are on one machine."""
    port = plan.local or 0
    message = (
        f"port {port} of {plan.host.name} is port {port} of this laptop, too: "
        "the tunnel would connect to itself"
    )
    hint = f"{plan.command} --local {ports.next_free(port)}"
    return RefusedError(message, hint=hint, code="port_taken")
