"""paramiko in this process: the quick way for short commands on many cold hosts. The one owner of paramiko.

It knows nothing of ssh_config; a Route, resolved by `ssh -G`, tells it where to go and with which keys.
"""

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from apexgpu.errors import (
    ApexError,
    ConnectionClosedError,
    ConnectionLostError,
    ConnectTimeoutError,
    DroppedError,
    NoNetworkError,
    NoRouteError,
    PortRefusedError,
    UnknownNameError,
    UnreachableError,
)
from apexgpu.models import PublicKey, Reply, Target
from apexgpu.process import Lines
from apexgpu.ssh.failures import (
    UnknownHostKeyError,
    command_killed_error,
    command_timeout_error,
    host_key_changed_error,
    key_locked_error,
    key_refused_error,
    unreachable_error,
)
from apexgpu.ssh.hostkeys import known_hosts_name
from apexgpu.ssh.identities import Identities, load_paramiko
from apexgpu.ssh.route import Route
from apexgpu.ssh.transport import Limits, OnLine

if TYPE_CHECKING:
    import paramiko

_KEEPALIVE = 15
_PAUSES = (0.3, 0.7)  # before dialling again where sshd hung up at once


class _Bell(threading.Event):
    """What paramiko rings when a stream has data or ends.

    It also clears it when one of the two streams is empty, though the other may not be: that is not heard.
    """

    def clear(self) -> None:
        """Not ours to hear."""

    def rearm(self) -> None:
        """Make it silent before looking at both streams."""
        super().clear()


class ParamikoLink:
    """Runs commands over connections of its own, one each."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    def run(self, route: Route, command: str, *, limits: Limits, on_line: OnLine | None) -> Reply:
        """See transport.Link."""
        with self._connected(route, limits.connect) as (client, deadline):
            with _translated(route.target):
                channel = client.open_session(timeout=_left(deadline))
                channel.settimeout(limits.connect)
                bell = _Bell()
                channel.in_buffer.set_event(bell)
                channel.in_stderr_buffer.set_event(bell)
            with _carrying(route.target):
                if command:
                    channel.exec_command(command)
                else:
                    channel.invoke_shell()
                channel.shutdown_write()
            return _read(channel, bell, route.target, limits, on_line)

    @contextlib.contextmanager
    def _connected(
        self, route: Route, seconds: float
    ) -> Iterator[tuple["paramiko.Transport", float]]:
        paramiko = load_paramiko()
        deadline = time.monotonic() + seconds
        with _translated(route.target):
            connection, client = _met(paramiko, route, deadline)
        try:
            with _translated(route.target):
                self._check_host_key(client, route)
                self._log_in(paramiko, client, route, deadline)
            yield client, deadline
        finally:
            # Shut down first: paramiko's reader would otherwise sit in its poll for a tenth of a second.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            client.close()
            connection.close()

    def _check_host_key(self, client: "paramiko.Transport", route: Route) -> None:
        from apexgpu.iam.publickeys import fingerprint
        from apexgpu.sshfiles.knownhosts import KnownHosts

        shown = client.get_remote_server_key()
        key = PublicKey(shown.get_name(), shown.get_base64())
        known = KnownHosts(route.known_hosts_files)
        name = known_hosts_name(route)
        verdict = known.check(name, key.kind, key.blob)
        if verdict == "unknown":
            raise UnknownHostKeyError(route, key)
        if verdict != "known":
            raise host_key_changed_error(
                route.target,
                shown=fingerprint(key),
                files=route.known_hosts_files,
                known=[fingerprint(other) for other in known.keys(name)] or ["revoked"],
                key=None if verdict == "revoked" else key,
            )

    def _log_in(
        self, paramiko: ModuleType, client: "paramiko.Transport", route: Route, deadline: float
    ) -> None:
        offered, refused = self._identities.offer(route), False
        for key in offered:
            client.auth_timeout = _left(deadline)
            try:
                client.auth_publickey(route.user, key)
            except (
                paramiko.AuthenticationException
            ):  # paramiko's word for silence and for an end, too
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
                if not client.is_active() and not refused:
                    raise EOFError from None
                if not client.is_active():
                    break
                refused = True
                continue
            # An early packet: without one, the first request waits 40 ms for a delayed acknowledgement.
            client.global_request("keepalive@openssh.com", wait=False)
            client.set_keepalive(_KEEPALIVE)
            return
        locked = self._identities.locked(offered)
        raise (
            key_refused_error(route.target)
            if locked is None
            else key_locked_error(route.target, locked)
        )


def _dial(route: Route, deadline: float) -> socket.socket:
    target = route.target
    try:
        connection = socket.create_connection((route.address, route.port), timeout=_left(deadline))
    except OSError as exc:
        raise _socket_error(target, exc) from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    user_timeout = getattr(socket, "TCP_USER_TIMEOUT", None)
    if user_timeout is not None:  # Linux: a network that is gone ends the connection after a minute
        connection.setsockopt(socket.IPPROTO_TCP, user_timeout, 60_000)
    return connection


def _met(
    paramiko: ModuleType, route: Route, deadline: float
) -> tuple[socket.socket, "paramiko.Transport"]:
    """A connection whose keys are exchanged. With many logins at once sshd hangs up on some before a word is said
    (MaxStartups): those dial again.
    """
    for pause in (*_PAUSES, None):
        connection = _dial(route, deadline)
        try:
            return connection, _transport(paramiko, connection, route, deadline)
        except BaseException as exc:
            connection.close()
            if not _hung_up(exc) or time.monotonic() + (pause or 0) >= deadline:
                raise
        if pause is not None:
            time.sleep(pause)
    raise unreachable_error(
        route.target, "it hung up before a word was said", ConnectionClosedError
    )


def _hung_up(exc: BaseException) -> bool:
    """Whether a handshake ended before the server had said what it is."""
    return isinstance(exc, EOFError | ConnectionError) or "protocol banner" in str(exc)


def _transport(
    paramiko: ModuleType, connection: socket.socket, route: Route, deadline: float
) -> "paramiko.Transport":
    from apexgpu.sshfiles.knownhosts import KnownHosts

    client: Any = paramiko.Transport(connection)
    client.banner_timeout = client.handshake_timeout = _left(deadline)
    options = client.get_security_options()
    # curve25519 first: the post-quantum exchange costs more than all else together, for commands of a second.
    options.kex = sorted(options.kex, key=lambda name: not name.startswith("curve25519"))
    known = KnownHosts(route.known_hosts_files).types(known_hosts_name(route))
    options.key_types = sorted(
        options.key_types, key=lambda name: _family(name) not in {_family(k) for k in known}
    )
    client.start_client(timeout=_left(deadline))
    return client  # type: ignore[no-any-return]


def _family(name: str) -> str:
    return "ssh-rsa" if name.startswith("rsa-sha2") else name


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _read(
    channel: "paramiko.Channel", bell: _Bell, target: Target, limits: Limits, on_line: OnLine | None
) -> Reply:
    out, err = bytearray(), bytearray()
    lines = Lines(on_line)
    end = None if limits.total is None else time.monotonic() + limits.total
    while True:
        bell.rearm()
        ended = channel.closed
        while channel.recv_ready():
            data = channel.recv(65536)
            out += data
            lines.feed(data)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(65536)
        if ended:
            break
        waits = [
            limit
            for limit in (limits.silence, None if end is None else _left(end))
            if limit is not None
        ]
        rang = bell.wait(min(waits) if waits else None)
        if (end is not None and time.monotonic() >= end) or not rang:
            raise command_timeout_error(target, out.decode("utf-8", "replace"))
    lines.end()
    reply = Reply(
        channel.exit_status, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")
    )
    if reply.code < 0:
        raise _ended(channel, target, reply)
    return reply


def _ended(channel: "paramiko.Channel", target: Target, reply: Reply) -> DroppedError:
    """The error for a command without an exit status: a signal has none, and neither has a connection that is gone."""
    if target.role == "container" and channel.get_transport().is_active():
        return command_killed_error(target, reply.out, reply.err)
    message = f"the connection to {target.alias} was lost"
    return ConnectionLostError(message, hint=f"apexgpu status {target.host.name}", seen=reply.out)


@contextlib.contextmanager
def _carrying(target: Target) -> Iterator[None]:
    """From the moment in which a command is sent, a lost connection leaves open whether it was taken."""
    paramiko = load_paramiko()
    try:
        yield
    except (paramiko.SSHException, EOFError, OSError):
        message = f"the connection to {target.alias} was lost"
        raise ConnectionLostError(message, hint=f"apexgpu status {target.host.name}") from None


@contextlib.contextmanager
def _translated(target: Target) -> Iterator[None]:
    """The one place where paramiko's and the socket's errors become ours."""
    paramiko = load_paramiko()
    try:
        yield
    except ApexError:
        raise
    except paramiko.AuthenticationException:
        raise key_refused_error(target) from None
    except (paramiko.SSHException, EOFError) as exc:
        raise _ssh_error(target, exc) from None
    except OSError as exc:
        raise _socket_error(target, exc) from None


def _ssh_error(target: Target, exc: Exception) -> UnreachableError:
    text = str(exc).lower()
    if "reset" not in text and (
        "timeout" in text or "no existing session" in text or "banner" in text
    ):
        return unreachable_error(
            target, "it takes the connection but does not answer", ConnectTimeoutError
        )
    reason = f"the SSH connection failed ({str(exc)[:120] or 'closed'})"
    return unreachable_error(target, reason, ConnectionClosedError)


def _socket_error(target: Target, exc: OSError) -> UnreachableError:
    if isinstance(exc, TimeoutError):
        return unreachable_error(target, "no answer in time", ConnectTimeoutError)
    if isinstance(exc, socket.gaierror):
        return unreachable_error(target, "its name cannot be resolved", UnknownNameError)
    if exc.errno == errno.ECONNREFUSED:
        return unreachable_error(target, "connection refused", PortRefusedError)
    if exc.errno == errno.EHOSTUNREACH:
        return unreachable_error(target, "no route to host", NoRouteError)
    if exc.errno == errno.ENETUNREACH:
        return unreachable_error(target, "the network is unreachable (VPN?)", NoNetworkError)
    reason = exc.strerror or "the connection was lost"
    return unreachable_error(target, reason, ConnectionClosedError)
