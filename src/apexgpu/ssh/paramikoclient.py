"""paramiko as a client: connections in this process, which for many hosts at once is the fastest way.

paramiko reads no ssh config. A Route says where to connect, and which keys and known_hosts files to use. This module
and `identities` are the only ones that import paramiko.
"""

import contextlib
import errno
import socket
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from apexgpu.boundedoutput import BoundedOutput, OnOutput, OutputTaker, taker_of
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
    agent_refused_error,
    command_killed_error,
    command_timeout_error,
    host_key_changed_error,
    key_locked_error,
    key_refused_error,
    key_unreadable_error,
    nothing_offered_error,
    revoked_host_key_error,
    silent_agent_error,
    stalled_login_error,
    too_much_output_error,
    unreachable_error,
    wrong_passphrase_error,
)
from apexgpu.ssh.history import ConnectionHistory
from apexgpu.ssh.hostkeys import known_hosts_name
from apexgpu.ssh.identities import AgentSignError, Identities, Offer, SkipReason, load_paramiko
from apexgpu.ssh.route import Route
from apexgpu.ssh.transport import Limits, OnLogin, UsedKey
from apexgpu.sshfiles.agentquery import AgentState
from apexgpu.sshfiles.knownhosts import KnownHosts

if TYPE_CHECKING:
    import paramiko

_KEEP_ALIVE = 15  # seconds
_TCP_LOST_AFTER = 60_000  # milliseconds without an acknowledgement
_RETRY_PAUSE = 0.5  # seconds before connecting again where sshd hung up at once
_GREETING_BYTES = 512
_CHUNK = 65536
_LONGEST_WAIT = 0.5  # seconds
_MOST_KEPT = 32  # connections for further commands
_REUSE_LIMIT = 3.0  # seconds for one of them to answer; it may have lost its network


class Stage(Enum):
    """How far a connection came that failed without a fault of the network."""

    PROTOCOL = "key exchange"
    HOST_KEY = "host key"
    LOGIN = "login"
    SESSION = "session"


class UnconfirmedError(Exception):
    """A failure that counts only when OpenSSH fails too. Nothing was sent.

    `error` is what it means if OpenSSH confirms it. `offer` is what was offered, None if the connection failed before
    the login. `refused` are the fingerprints of the keys that the server saw and refused.
    """

    def __init__(
        self,
        error: ApexError,
        stage: Stage,
        offer: Offer | None = None,
        refused: Sequence[str] = (),
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.stage = stage
        self.offer = offer
        self.refused = tuple(refused)


@dataclass(frozen=True, slots=True)
class _Login:
    """A connection that is logged in."""

    connection: socket.socket
    transport: "paramiko.Transport"

    @property
    def is_active(self) -> bool:
        """Whether it is open, as far as this side knows."""
        return bool(self.transport.is_active())

    def close(self) -> None:
        """End it at once."""
        # Without the shutdown, paramiko's reading thread would wait in its poll for another 0.1 s.
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.transport.close()
        self.connection.close()


class _KeptLogins:
    """The connections of this run that further commands can use: one for each target. Safe for several threads."""

    def __init__(self) -> None:
        self._logins: dict[Target, _Login] = {}
        self._lock = threading.Lock()

    def find(self, target: Target) -> _Login | None:
        """The connection to a target, if there is one."""
        with self._lock:
            return self._logins.get(target)

    def keep(self, target: Target, login: _Login) -> None:
        """Keep a connection, or close it where there is one already, or too many."""
        with self._lock:
            known = self._logins.get(target)
            has_room = len(self._logins) < _MOST_KEPT
            is_kept = has_room if known is None else not known.is_active
            if is_kept:
                self._logins[target] = login
        unused = known if is_kept else login
        if unused is not None:
            unused.close()

    def close(self, target: Target) -> None:
        """Close the connection to a target."""
        with self._lock:
            login = self._logins.pop(target, None)
        if login is not None:
            login.close()

    def close_all(self) -> None:
        """Close all of them."""
        for target in list(self._logins):
            self.close(target)


class ParamikoClient:
    """Runs commands over new connections, and further ones over those that it has made.

    `on_login` is called with each key that a server accepted.
    """

    def __init__(
        self,
        identities: Identities,
        *,
        history: ConnectionHistory | None = None,
        on_login: OnLogin = lambda _route, _key: None,
    ) -> None:
        self._identities = identities
        self._history = history or ConnectionHistory()
        self._on_login = on_login
        self._kept = _KeptLogins()
        # Also at the end of the program.
        weakref.finalize(self, self._kept.close_all)

    def run(self, route: Route, command: str, *, limits: Limits, on_line: OnOutput | None) -> Reply:
        """See transport.Client. Without OpenSSH's confirmation of failures."""
        try:
            return self.attempt(route, command, limits=limits, on_line=on_line)
        except UnconfirmedError as exc:
            raise exc.error from None

    def attempt(
        self, route: Route, command: str, *, limits: Limits, on_line: OnOutput | None
    ) -> Reply:
        """As `run`, but UnconfirmedError for every failure that OpenSSH has to confirm."""
        deadline = time.monotonic() + limits.connect
        with self._connected(route, deadline) as transport:
            with _errors_before_the_command(route.target, Stage.SESSION):
                channel = transport.open_session(timeout=_seconds_until(deadline))
                channel.settimeout(limits.connect)
                data_arrived = _watch(channel)
            return _execute(channel, data_arrived, route.target, command, limits, on_line)

    def run_again(
        self, target: Target, command: str, *, limits: Limits, on_line: OnOutput | None
    ) -> Reply | None:
        """See transport.ReusingClient."""
        login = self._kept.find(target)
        if login is None or not login.is_active:
            return None
        try:
            channel = login.transport.open_session(timeout=min(limits.connect, _REUSE_LIMIT))
            channel.settimeout(limits.connect)
            data_arrived = _watch(channel)
        except Exception:
            # paramiko raises many classes. The server did not open a session, so nothing was sent.
            self._kept.close(target)
            return None
        try:
            return _execute(channel, data_arrived, target, command, limits, on_line)
        except BaseException:
            self._kept.close(target)
            raise

    def close(self, target: Target) -> None:
        """See transport.ReusingClient."""
        self._kept.close(target)

    @contextlib.contextmanager
    def _connected(self, route: Route, deadline: float) -> Iterator["paramiko.Transport"]:
        """A connection that is logged in. After a block that succeeds, it is kept for further commands."""
        paramiko = load_paramiko()
        with _errors_before_the_command(route.target, Stage.PROTOCOL):
            connection, transport = self._connect(paramiko, route, deadline)
        login = _Login(connection, transport)
        is_trusted = False
        try:
            with _errors_before_the_command(route.target, Stage.HOST_KEY):
                _check_host_key(transport, route)
            is_trusted = True
            with _errors_before_the_command(route.target, Stage.LOGIN):
                self._log_in(paramiko, transport, route, deadline)
        except BaseException:
            login.close()
            self._history.ended_early(route, refused=is_trusted)
            raise
        self._history.logged_in(route)
        try:
            yield transport
        except BaseException:
            login.close()
            raise
        self._kept.keep(route.target, login)

    def _connect(
        self, paramiko: ModuleType, route: Route, deadline: float
    ) -> tuple[socket.socket, "paramiko.Transport"]:
        """Connect and exchange keys.

        While many logins are under way, sshd hangs up on some before it has sent its version (MaxStartups in
        sshd_config(5)). That is tried again once, unless the server refuses this address for a while.
        """
        for is_last in (False, True):
            connection = _open_socket(route, deadline)
            try:
                transport = _exchange_keys(paramiko, connection, route, deadline)
            except BaseException as exc:
                connection.close()
                if _has_version(connection.first_bytes):
                    self._history.ended_early(route, refused=False)
                    raise
                if isinstance(exc, TimeoutError) or time.monotonic() >= deadline:
                    raise _silent_error(route.target, Stage.PROTOCOL) from None
                hung_up = isinstance(exc, EOFError | ConnectionError | paramiko.SSHException)
                if not hung_up:
                    raise
                greeting = connection.first_bytes.decode("utf-8", "replace")
                penalty = self._history.penalty(route, greeting)
                if penalty is not None:
                    raise penalty from None
                no_time = time.monotonic() + _RETRY_PAUSE >= deadline
                if is_last or no_time or not _may_be_busy(greeting):
                    raise _hung_up_error(route.target, greeting) from None
                time.sleep(_RETRY_PAUSE)
            else:
                return connection, transport
        raise AssertionError  # the last attempt returns or raises

    def _log_in(
        self, paramiko: ModuleType, transport: "paramiko.Transport", route: Route, deadline: float
    ) -> None:
        offer = self._identities.offer(route)
        refused: list[str] = []
        for key in offer.keys:
            transport.auth_timeout = _seconds_until(deadline)
            try:
                transport.auth_publickey(route.user, key)
            except paramiko.AuthenticationException:
                # paramiko raises this for a refused key, for no answer in time and for a closed connection.
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
                if transport.is_active():
                    refused.append(key.fingerprint)
                    continue
                if not refused:
                    raise EOFError from None
                # sshd disconnects after too many refused keys, and some servers after the first one.
                break
            except AgentSignError as exc:
                agent_error = agent_refused_error(route.target, str(exc))
                raise UnconfirmedError(agent_error, Stage.LOGIN, offer) from None
            except Exception as exc:
                # For example a signature that the library, or the agent, cannot make.
                library_error = _ssh_error(route.target, exc)
                raise UnconfirmedError(library_error, Stage.LOGIN, offer) from None
            if not transport.is_authenticated():
                break  # the server requires another method after this one
            # The first request would wait 40 ms for a delayed acknowledgement; a packet before it prevents that.
            transport.global_request("keepalive@openssh.com", wait=False)
            transport.set_keepalive(_KEEP_ALIVE)
            self._on_login(route, UsedKey(key.fingerprint, refused=tuple(refused)))
            return
        error = login_error(route.target, self._identities, offer, was_offered=bool(offer.keys))
        raise UnconfirmedError(error, Stage.LOGIN, offer, refused)


def login_error(
    target: Target, identities: Identities, offer: Offer, *, was_offered: bool
) -> ApexError:
    """The error for a login that failed with `offer`; `was_offered`: ssh too had a key to offer.

    A key that should have been offered and could not be is named. "They refused" is only for keys that they saw.
    """
    if identities.fingerprint and identities.fingerprint in offer.fingerprints:
        return key_refused_error(target)
    locked = identities.locked_file(offer)
    if locked is not None:
        return key_locked_error(target, locked)
    reason = offer.reason_of(identities.preferred)
    if reason is not None and identities.preferred is not None:
        return _skipped_error(target, identities.preferred, reason)
    if was_offered:
        return key_refused_error(target)
    for skipped in offer.skipped:
        if skipped.path is not None and skipped.reason is not SkipReason.ONLY_OPENSSH:
            return _skipped_error(target, skipped.path, skipped.reason)
    if offer.agent.state is AgentState.SILENT:
        return silent_agent_error(target, offer.agent)
    return nothing_offered_error(target)


def _skipped_error(target: Target, path: Path, reason: SkipReason) -> ApexError:
    if reason is SkipReason.LOCKED:
        return key_locked_error(target, path)
    if reason is SkipReason.WRONG_PASSPHRASE:
        return wrong_passphrase_error(target, path)
    if reason is SkipReason.ONLY_OPENSSH:
        return key_refused_error(target)
    return key_unreadable_error(target, path, reason.value, too_open=reason is SkipReason.TOO_OPEN)


class _Socket(socket.socket):
    """A socket that keeps the first bytes that arrive: what a server sends before it hangs up is the reason."""

    first_bytes = b""

    def recv(self, size: int, flags: int = 0) -> bytes:
        """See socket.socket.recv."""
        data = super().recv(size, flags)
        if len(self.first_bytes) < _GREETING_BYTES:
            self.first_bytes += data[:_GREETING_BYTES]
        return data


def _open_socket(route: Route, deadline: float) -> _Socket:
    timeout = _seconds_until(deadline)
    try:
        plain = socket.create_connection((route.address, route.port), timeout=timeout)
    except OSError as exc:
        raise _socket_error(route.target, exc) from None
    except UnicodeError:  # a name such as "a..b", which cannot be asked for
        raise _socket_error(route.target, socket.gaierror()) from None
    connection = _Socket(plain.family, plain.type, plain.proto, fileno=plain.detach())
    connection.settimeout(timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    user_timeout = getattr(socket, "TCP_USER_TIMEOUT", None)
    if user_timeout is not None:  # Linux
        connection.setsockopt(socket.IPPROTO_TCP, user_timeout, _TCP_LOST_AFTER)
    return connection


def _has_version(first_bytes: bytes) -> bool:
    """Whether the server sent its version, perhaps after other lines (RFC 4253, section 4.2)."""
    return any(line.startswith(b"SSH-") for line in first_bytes.split(b"\n"))


def _may_be_busy(greeting: str) -> bool:
    """Whether a server that hung up with `greeting` may accept the next connection: sshd has too many logins."""
    return not greeting or "MaxStartups" in greeting


def _silent_error(target: Target, stage: Stage) -> UnreachableError:
    if stage in {Stage.LOGIN, Stage.SESSION}:
        return stalled_login_error(target, logged_in=stage is Stage.SESSION)
    return unreachable_error(
        target, "it accepts the connection but does not answer", ConnectTimeoutError
    )


def _hung_up_error(target: Target, greeting: str) -> UnreachableError:
    reason = (
        "it closed the connection before it sent its SSH version (too many logins at once, or it "
        "refuses this address for some seconds to ten minutes after failed logins)"
    )
    first_line = greeting.partition("\n")[0].strip()
    if first_line:
        reason = f"it is not an SSH server, or refuses this connection; it sent: {first_line[:80]}"
    return unreachable_error(target, reason, ConnectionClosedError)


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
    accepted = route.host_key_algorithms
    key_types = [name for name in options.key_types if not accepted or name in accepted]
    options.key_types = sorted(key_types, key=lambda name: _key_family(name) not in known_families)
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
    if verdict == "revoked":
        place = known_hosts.revoked_by(name, fingerprint(key))
        raise revoked_host_key_error(route.target, shown=fingerprint(key), place=place)
    known = [fingerprint(other) for other in known_hosts.keys(name)]
    raise host_key_changed_error(
        route.target,
        shown=fingerprint(key),
        known=known,
        files=route.known_hosts_files,
        name=name,
        key=key,
    )


class _DataArrived(threading.Event):
    """Set by paramiko when data arrives on stdout or stderr, or when one of them ends.

    paramiko also clears it when one of the two buffers is empty, although the other may not be. That is ignored:
    only `reset` clears it.
    """

    def clear(self) -> None:
        """Ignore paramiko's call."""

    def wait_within(self, limit: float | None) -> bool:
        """Wait until it is set; False after `limit` seconds.

        In short waits: before Python 3.14, Ctrl-C does not end one on Windows.
        """
        end = None if limit is None else time.monotonic() + limit
        while True:
            left = _LONGEST_WAIT if end is None else min(_LONGEST_WAIT, end - time.monotonic())
            if self.wait(max(0.0, left)):
                return True
            if end is not None and time.monotonic() >= end:
                return False

    def reset(self) -> None:
        """Clear the event. Look at both buffers after this, not before."""
        super().clear()


def _execute(
    channel: "paramiko.Channel",
    data_arrived: "_DataArrived",
    target: Target,
    command: str,
    limits: Limits,
    on_line: OnOutput | None,
) -> Reply:
    """Run a command in a session that is open; an empty one asks for a shell."""
    taker = taker_of(on_line)
    taker.starting()
    with _errors_while_sending_the_command(target):
        if command:
            channel.exec_command(command)
        else:
            channel.invoke_shell()
        channel.shutdown_write()
    return _read(channel, data_arrived, target, limits, taker)


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
    taker: OutputTaker,
) -> Reply:
    """Read both streams until the command has ended."""
    output = BoundedOutput(limits.output)
    deadline = None if limits.total is None else time.monotonic() + limits.total
    while True:
        data_arrived.reset()
        # Before the buffers are emptied: what arrives later still sets the event.
        ended = channel.closed
        # Once per round only: a server that never stops sending must not keep us from the time limits below.
        if channel.recv_ready():
            data = channel.recv(_CHUNK)
            output.add_out(data)
            taker.take_out(data)
        if channel.recv_stderr_ready():
            data = channel.recv_stderr(_CHUNK)
            output.add_err(data)
            taker.take_err(data)
        if output.is_full and not limits.keeps_reading:
            raise too_much_output_error(target, limits.output)
        has_more = channel.recv_ready() or channel.recv_stderr_ready()
        if ended and not has_more:
            break
        timeout = limits.silence
        if deadline is not None:
            left = _seconds_until(deadline)
            timeout = left if timeout is None else min(timeout, left)
        arrived = has_more or data_arrived.wait_within(timeout)
        if not arrived or (deadline is not None and time.monotonic() >= deadline):
            raise command_timeout_error(target, output.out_text)
    taker.end()
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
def _errors_before_the_command(target: Target, stage: Stage) -> Iterator[None]:
    """Translate errors of connecting and logging in: no command was sent.

    Failures of the network are what they are. All others have to be confirmed by OpenSSH.
    """
    try:
        yield
    except (UnreachableError, UnconfirmedError):
        raise
    except ApexError as exc:
        raise UnconfirmedError(exc, stage) from None
    except TimeoutError:
        raise _silent_error(target, stage) from None
    except Exception as exc:
        # paramiko and the libraries below it raise more classes than anybody could list.
        if _is_silence(exc):
            # A second try would take as long again.
            raise _silent_error(target, stage) from None
        raise UnconfirmedError(_ssh_error(target, exc), stage) from None


def _is_silence(exc: Exception) -> bool:
    """Whether the server did not answer in time. paramiko has one class for all failures: only its messages tell."""
    text = str(exc).lower()
    silent = "timeout" in text or "no existing session" in text
    return silent and "reset" not in text


def _ssh_error(target: Target, exc: Exception) -> UnreachableError:
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
