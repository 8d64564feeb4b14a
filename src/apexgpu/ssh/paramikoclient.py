"""paramiko as a client: new connections in this process, which for many hosts at once is the fastest way.

paramiko reads no ssh config. A Route says where to connect, and which keys and known_hosts files to use. This module
and `identities` are the only ones that import paramiko.
"""

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from apexgpu.boundedoutput import BoundedOutput, LineSplitter
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
from apexgpu.iam.publickeys import fingerprint
from apexgpu.models import PublicKey, Reply, Target
from apexgpu.ssh.failures import (
    UnknownHostKeyError,
    command_killed_error,
    command_timeout_error,
    host_key_changed_error,
    key_locked_error,
    key_refused_error,
    too_much_output_error,
    unreachable_error,
)
from apexgpu.ssh.hostkeys import known_hosts_name
from apexgpu.ssh.identities import Identities, load_paramiko
from apexgpu.ssh.route import Route
from apexgpu.ssh.transport import Limits, OnLine
from apexgpu.sshfiles.knownhosts import KnownHosts

if TYPE_CHECKING:
    import paramiko

_KEEP_ALIVE = 15  # seconds
_TCP_LOST_AFTER = 60_000  # milliseconds without an acknowledgement
_RETRY_PAUSES = (0.3, 0.7)  # seconds before connecting again where sshd hung up at once
_CHUNK = 65536


class ParamikoClient:
    """Runs each command over a new connection of its own."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    def run(self, route: Route, command: str, *, limits: Limits, on_line: OnLine | None) -> Reply:
        """See transport.Client."""
        deadline = time.monotonic() + limits.connect
        with self._connected(route, deadline) as transport:
            with _errors_before_the_command(route.target):
                channel = transport.open_session(timeout=_seconds_until(deadline))
                channel.settimeout(limits.connect)
                data_arrived = _watch(channel)
            with _errors_while_sending_the_command(route.target):
                if command:
                    channel.exec_command(command)
                else:
                    channel.invoke_shell()
                channel.shutdown_write()
            return _read(channel, data_arrived, route.target, limits, on_line)

    @contextlib.contextmanager
    def _connected(self, route: Route, deadline: float) -> Iterator["paramiko.Transport"]:
        """A connection that is logged in; it is closed after the block."""
        paramiko = load_paramiko()
        with _errors_before_the_command(route.target):
            connection, transport = _connect(paramiko, route, deadline)
        try:
            with _errors_before_the_command(route.target):
                _check_host_key(transport, route)
                self._log_in(paramiko, transport, route, deadline)
            yield transport
        finally:
            # Without the shutdown, paramiko's reading thread would wait in its poll for another 0.1 s.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            transport.close()
            connection.close()

    def _log_in(
        self, paramiko: ModuleType, transport: "paramiko.Transport", route: Route, deadline: float
    ) -> None:
        keys = self._identities.keys_to_offer(route)
        refused = False
        for key in keys:
            transport.auth_timeout = _seconds_until(deadline)
            try:
                transport.auth_publickey(route.user, key)
            except paramiko.AuthenticationException:
                # paramiko raises this for a refused key, for no answer in time and for a closed connection.
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
                if transport.is_active():
                    refused = True
                    continue
                if not refused:
                    raise EOFError from None
                break  # sshd disconnects after too many refused keys
            # The first request would wait 40 ms for a delayed acknowledgement; a packet before it prevents that.
            transport.global_request("keepalive@openssh.com", wait=False)
            transport.set_keepalive(_KEEP_ALIVE)
            return
        locked = self._identities.locked_file(keys)
        if locked is not None:
            raise key_locked_error(route.target, locked)
        raise key_refused_error(route.target)


def _connect(
    paramiko: ModuleType, route: Route, deadline: float
) -> tuple[socket.socket, "paramiko.Transport"]:
    """Connect and exchange keys.

    While many logins are under way, sshd hangs up on some before it has sent its version (MaxStartups in
    sshd_config(5)). Those are tried again.
    """
    for pause in (*_RETRY_PAUSES, None):
        connection = _open_socket(route, deadline)
        try:
            return connection, _exchange_keys(paramiko, connection, route, deadline)
        except BaseException as exc:
            connection.close()
            no_time = time.monotonic() + (pause or 0) >= deadline
            if no_time or not _hung_up_before_its_version(exc):
                raise
        if pause is not None:
            time.sleep(pause)
    reason = "it closed the connection before it sent its SSH version"
    raise unreachable_error(route.target, reason, ConnectionClosedError)


def _open_socket(route: Route, deadline: float) -> socket.socket:
    timeout = _seconds_until(deadline)
    try:
        connection = socket.create_connection((route.address, route.port), timeout=timeout)
    except OSError as exc:
        raise _socket_error(route.target, exc) from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    user_timeout = getattr(socket, "TCP_USER_TIMEOUT", None)
    if user_timeout is not None:  # Linux
        connection.setsockopt(socket.IPPROTO_TCP, user_timeout, _TCP_LOST_AFTER)
    return connection


def _hung_up_before_its_version(exc: BaseException) -> bool:
    return isinstance(exc, EOFError | ConnectionError) or "protocol banner" in str(exc)


def _exchange_keys(
    paramiko: ModuleType, connection: socket.socket, route: Route, deadline: float
) -> "paramiko.Transport":
    transport: Any = paramiko.Transport(connection)
    transport.banner_timeout = transport.handshake_timeout = _seconds_until(deadline)
    options = transport.get_security_options()
    # curve25519 first: a post-quantum exchange takes more CPU than all the rest of a short command.
    options.kex = sorted(options.kex, key=lambda name: not name.startswith("curve25519"))
    # As OpenSSH does, ask for a host key of a type that is known, so that it can be checked.
    known = KnownHosts(route.known_hosts_files).types(known_hosts_name(route))
    known_families = {_key_family(name) for name in known}
    options.key_types = sorted(
        options.key_types, key=lambda name: _key_family(name) not in known_families
    )
    transport.start_client(timeout=_seconds_until(deadline))
    return transport  # type: ignore[no-any-return]


def _key_family(name: str) -> str:
    """The type of key behind a signature algorithm: RSA keys sign with several."""
    return "ssh-rsa" if name.startswith("rsa-sha2") else name


def _check_host_key(transport: "paramiko.Transport", route: Route) -> None:
    server_key = transport.get_remote_server_key()
    key = PublicKey(server_key.get_name(), server_key.get_base64())
    known_hosts = KnownHosts(route.known_hosts_files)
    name = known_hosts_name(route)
    verdict = known_hosts.check(name, key.kind, key.blob)
    if verdict == "known":
        return
    if verdict == "unknown":
        raise UnknownHostKeyError(route, key)
    known = [fingerprint(other) for other in known_hosts.keys(name)]
    raise host_key_changed_error(
        route.target,
        shown=fingerprint(key),
        known=known or ["revoked"],
        files=route.known_hosts_files,
        key=None if verdict == "revoked" else key,
    )


class _DataArrived(threading.Event):
    """Set by paramiko when data arrives on stdout or stderr, or when one of them ends.

    paramiko also clears it when one of the two buffers is empty, although the other may not be. That is ignored:
    only `reset` clears it.
    """

    def clear(self) -> None:
        """Ignore paramiko's call."""

    def reset(self) -> None:
        """Clear the event. Look at both buffers after this, not before."""
        super().clear()


def _watch(channel: "paramiko.Channel") -> _DataArrived:
    event = _DataArrived()
    channel.in_buffer.set_event(event)
    channel.in_stderr_buffer.set_event(event)
    return event


def _read(
    channel: "paramiko.Channel",
    data_arrived: _DataArrived,
    target: Target,
    limits: Limits,
    on_line: OnLine | None,
) -> Reply:
    """Read both streams until the command has ended."""
    output = BoundedOutput(limits.output)
    lines = LineSplitter(on_line)
    deadline = None if limits.total is None else time.monotonic() + limits.total
    while True:
        data_arrived.reset()
        # Before the buffers are emptied: what arrives later still sets the event.
        ended = channel.closed
        # Once per round only: a server that never stops sending must not keep us from the time limits below.
        if channel.recv_ready():
            data = channel.recv(_CHUNK)
            output.add_out(data)
            lines.feed(data)
        if channel.recv_stderr_ready():
            output.add_err(channel.recv_stderr(_CHUNK))
        if output.is_full and not limits.keeps_reading:
            raise too_much_output_error(target, limits.output)
        has_more = channel.recv_ready() or channel.recv_stderr_ready()
        if ended and not has_more:
            break
        timeout = limits.silence
        if deadline is not None:
            left = _seconds_until(deadline)
            timeout = left if timeout is None else min(timeout, left)
        arrived = has_more or data_arrived.wait(timeout)
        if not arrived or (deadline is not None and time.monotonic() >= deadline):
            raise command_timeout_error(target, output.out_text)
    lines.end()
    reply = Reply(channel.exit_status, output.out_text, output.err_text, output.is_full)
    if reply.code < 0:
        raise _no_status_error(channel, target, reply)
    return reply


def _no_status_error(channel: "paramiko.Channel", target: Target, reply: Reply) -> DroppedError:
    """The error for a command without an exit status: killed by a signal, or the connection was lost."""
    # A manage shell reports signals as exit statuses.
    if target.role == "container" and channel.get_transport().is_active():
        return command_killed_error(target, reply.out, reply.err)
    return _lost_error(target, reply.out)


def _lost_error(target: Target, seen: str = "") -> ConnectionLostError:
    message = f"the connection to {target.alias} was lost"
    return ConnectionLostError(message, hint=f"apexgpu status {target.host.name}", seen=seen)


@contextlib.contextmanager
def _errors_while_sending_the_command(target: Target) -> Iterator[None]:
    """Translate errors from the moment a command is sent: it may have started."""
    paramiko = load_paramiko()
    try:
        yield
    except (paramiko.SSHException, EOFError, OSError):
        raise _lost_error(target) from None


@contextlib.contextmanager
def _errors_before_the_command(target: Target) -> Iterator[None]:
    """Translate errors of connecting and logging in: no command was sent."""
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
    # paramiko has one class for all its failures; its messages are the only difference.
    text = str(exc).lower()
    silent = "timeout" in text or "no existing session" in text or "banner" in text
    if silent and "reset" not in text:
        reason = "it accepts the connection but does not answer"
        return unreachable_error(target, reason, ConnectTimeoutError)
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


def _seconds_until(deadline: float) -> float:
    # Not 0, which means no limit to some of paramiko's functions.
    return max(0.001, deadline - time.monotonic())
