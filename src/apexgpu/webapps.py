"""TensorBoard and Jupyter in a container, shown on this laptop through a tunnel.

    from apexgpu import webapps
    from apexgpu.session import Session

    shown = webapps.show(Session(), "gpu7", webapps.TENSORBOARD, "runs")
    print(shown.url)  # http://127.0.0.1:6006/
    webapps.stop(Session(), "gpu7", webapps.TENSORBOARD, "runs")

A server that shows the directory already is used, whoever started it. A new one keeps running when
the tunnel is closed and the laptop is away.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from apexgpu import containers, manyhosts, tunnels
from apexgpu.forwarding import ports, records
from apexgpu.forwarding.ports import Destination
from apexgpu.forwarding.records import Tunnel
from apexgpu.models import Host
from apexgpu.remote import webservers
from apexgpu.remote.webservers import ServerFailedError, ServerKind, ServerRequest, WebServer
from apexgpu.results import HostResults, JsonObject, Result
from apexgpu.session import Session
from apexgpu.tunnels import TunnelPlan, WebPage, tunnel_json

__all__ = [
    "JUPYTER",
    "TENSORBOARD",
    "ServerKind",
    "ShownServer",
    "StoppedServers",
    "keep_showing",
    "show",
    "stop",
]

TENSORBOARD = ServerKind.TENSORBOARD
JUPYTER = ServerKind.JUPYTER

WAIT = 60.0
"""Seconds that a server may take to start, unless the user gives it more."""


@dataclass(frozen=True)
class ShownServer(Result):
    """What `show` returns, and what `keep_showing` reports: a server, and the tunnel to it."""

    kind: ServerKind
    server: WebServer
    tunnel: Tunnel

    @property
    def url(self) -> str:
        """The address on this laptop. Jupyter's contains its token: do not write it to a file."""
        return _page(self.server).url(self.tunnel)

    def to_json(self) -> JsonObject:
        """See Result."""
        server = {
            "kind": self.kind.value,
            "directory": self.server.directory,
            "started": self.server.started,
            "pid": self.server.pid,
            "program": self.server.program or None,
            "log": self.server.log or None,
        }
        tunnel = {**tunnel_json(self.tunnel), "server": server, "url": self.url}
        return {"ok": True, "tunnels": [tunnel]}


@dataclass(frozen=True)
class StoppedPorts:
    """The ports on which the stopped servers of a host listened; none if none was running."""

    ports: Sequence[int]

    def to_json(self) -> JsonObject:
        """Its keys in the host's row."""
        return {"stopped": [*self.ports], "changed": bool(self.ports)}


@dataclass(frozen=True)
class StoppedServers(HostResults[StoppedPorts]):
    """What `stop` returns."""


def show(
    session: Session,
    host: str,
    kind: ServerKind,
    directory: str | None = None,
    *,
    program: str | None = None,
    wait: float = WAIT,
    local: int | None = None,
    once: bool = False,
    in_browser: bool = False,
) -> ShownServer:
    """Find or start the server that shows `directory`, and open a tunnel to it in the background.

    `directory` is in the container on `host`, relative to the home directory there. Without one,
    Jupyter shows whatever a running server shows, else the home directory. `program` is the program
    or environment to start; `wait` is how many seconds it may take. The rest is as in
    `tunnels.open`.

    Raises RefusedError (no such directory or program), ServerFailedError (it does not start),
    UnreachableError (it does not answer in time), and the errors of `tunnels.open`.
    """
    request = _request(kind, directory, program, wait)
    server, plan = _serve(session, host, request, local)
    plan = replace(plan, once=once, in_browser=in_browser)
    return ShownServer(kind, server, tunnels.open_planned(session, plan))


def keep_showing(
    session: Session,
    host: str,
    kind: ServerKind,
    directory: str | None = None,
    *,
    on_open: Callable[[ShownServer], None],
    program: str | None = None,
    wait: float = WAIT,
    local: int | None = None,
    once: bool = False,
    in_browser: bool = False,
) -> int:
    """As `show`, but carry the tunnel in this process, until Ctrl-C.

    `on_open` is called once the tunnel is up. Returns the exit status (see `tunnels.keep_open`).
    """
    request = _request(kind, directory, program, wait)
    server, plan = _serve(session, host, request, local)
    plan = replace(plan, once=once, in_browser=in_browser)
    return tunnels.keep_planned_open(
        session, plan, lambda tunnel: on_open(ShownServer(kind, server, tunnel))
    )


def stop(
    session: Session,
    host: str,
    kind: ServerKind,
    directory: str | None = None,
    *,
    program: str | None = None,
) -> StoppedServers:
    """Stop the servers that show `directory`, and close the tunnels that lead to them.

    Nothing is started for it: in a stopped container no server runs.
    """
    chosen = containers.one_host(session, host)
    request = _request(kind, directory, program, WAIT)
    with session.reporter.working(f"stopping {kind.label} on {chosen.name}") as progress:

        def work(target: Host) -> StoppedPorts:
            # In a stopped container no server runs, and none is started in order to stop it.
            if not containers.is_running(session, target):
                return StoppedPorts(())
            transport = session.transport
            return StoppedPorts(
                webservers.stop(transport, target, request, on_line=progress.update)
            )

        outcome = manyhosts.run(session, [chosen], work)[0]
    if outcome.error is not None:
        raise outcome.error
    stopped = outcome.value.ports if outcome.value else ()
    for port in stopped:
        session.reporter.success(f"{kind.label} on {chosen.name} (port {port}) is stopped")
        _close_tunnels(session, chosen, port)
    if not stopped:
        session.reporter.success(f"no {kind.label} is running on {chosen.name}")
    return StoppedServers([outcome])


def _request(
    kind: ServerKind, directory: str | None, program: str | None, wait: float
) -> ServerRequest:
    return ServerRequest(kind, directory, program, wait, laptop_home=str(Path.home()))


def _serve(
    session: Session, host: str, request: ServerRequest, local: int | None
) -> tuple[WebServer, TunnelPlan]:
    """Find or start the server; return it with the plan for the tunnel to it."""
    chosen = containers.one_host(session, host)
    if local is not None:
        # Before a server is started for nothing.
        ports.check_local_port(local, _command(request, chosen, request.directory))
    containers.ensure_running(session, chosen)
    label = request.kind.label
    try:
        with session.reporter.working(f"looking for {label} on {chosen.name}") as progress:
            server = webservers.serve(session.transport, chosen, request, on_line=progress.update)
    except ServerFailedError as exc:
        # The error itself quotes the last line only.
        for line in exc.log_lines:
            session.reporter.note(f"  {line}")
        raise
    command = _command(request, chosen, server.directory)
    _report_server(session, chosen, label, server, command)
    destination = Destination(server.port, server.host)
    return server, TunnelPlan(chosen, (destination,), command, local, page=_page(server))


def _command(request: ServerRequest, host: Host, directory: str | None) -> str:
    """The command that shows `directory`, for hints."""
    words = ["apexgpu", request.kind.value, host.name]
    if directory is not None:
        words.append(directory)
    return shlex.join(words)


def _report_server(
    session: Session, host: Host, label: str, server: WebServer, command: str
) -> None:
    how = "was running already"
    if server.started:
        how = f"started with {server.program}"
    session.reporter.success(f"{label} shows {server.directory} on {host.name}: {how}")
    if server.password:
        session.reporter.note("it asks for the password that you have set in its configuration")
    session.reporter.note(f"it keeps running; to stop it: {command} --stop")


def _page(server: WebServer) -> WebPage:
    path = f"/{server.path.removeprefix('/')}"
    return WebPage(path, "https" if server.https else "http", secret=server.has_token)


def _close_tunnels(session: Session, host: Host, port: int) -> None:
    """Close the tunnels to a server that is gone: they are of no use, and keep local ports."""
    for tunnel in records.list_tunnels(session.state_dir):
        destinations = [
            ports.parse_destination(forward.destination).port for forward in tunnel.forwards
        ]
        if tunnel.host == host.name and destinations == [port]:
            records.close(session.state_dir, tunnel)
            session.reporter.success(f"closed {tunnel.id}")
