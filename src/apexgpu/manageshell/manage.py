"""The commands of the manage shell: one function for each, over any transport.

`starting` has the start, `archivecommands` those that save and restore.

Commands that change something are sent at most once, over a new connection. Their callers hold the
host's lock (`hostlock`), except where a function takes it itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from apexgpu.errors import (
    CommandTimeoutError,
    DroppedError,
    NotRegisteredError,
    RefusedError,
    RegisterKeyError,
    UnknownCommandError,
    UnsafeArgumentError,
    UsageError,
)
from apexgpu.manageshell import replies
from apexgpu.manageshell.hostlock import only_one
from apexgpu.manageshell.replies import PortMap, StopReply
from apexgpu.models import Container, Host, Reply, Target
from apexgpu.remote.disks import Disk
from apexgpu.ssh.transport import Limits, OnLine, Transport

# The manage shell splits its line at blanks and expands globs. It has no quoting that would prevent
# this.
_UNSAFE = frozenset(" \t\r\n'\"\\*?[]$`;&|<>")

_QUERY_LIMITS = Limits(total=120)
_STOP_LIMITS = Limits(total=180, silence=None)
# A registration copies the template, and nobody knows how long that takes.
_NO_LIMITS = Limits(total=None, silence=None)


@dataclass(frozen=True, slots=True)
class HostStatus:
    """Whether the user is registered on a host, and the state of the container.

    `uptime` (seconds), `disks` and `reachable` (whether its SSH port is forwarded) are known only
    when the container was asked too; see `containershell.detailed_status`.
    """

    registered: bool
    container: Container | None = None
    uptime: float | None = None
    disks: tuple[Disk, ...] = ()
    reachable: bool | None = None


def is_sendable(word: str) -> bool:
    """Whether a word reaches the manage shell unchanged."""
    return bool(word) and not _UNSAFE & set(word) and all(letter.isprintable() for letter in word)


def send(
    transport: Transport,
    host: Host,
    *words: str,
    limits: Limits | None = None,
    on_line: OnLine | None = None,
    once: bool = True,
) -> Reply:
    for word in words:
        if not is_sendable(word):
            message = f"{word!r} cannot be sent to a manage shell"
            raise UnsafeArgumentError(message, hint="apexgpu explain word")
    return transport.run(
        Target(host, "manage"), " ".join(words), limits=limits, on_line=on_line, once=once
    )


def query(transport: Transport, host: Host, *words: str, limits: Limits = _QUERY_LIMITS) -> Reply:
    """Send a command that changes nothing. It is sent again once when the connection drops."""
    try:
        return send(transport, host, *words, limits=limits, once=False)
    except CommandTimeoutError:
        raise
    except DroppedError:
        return send(transport, host, *words, limits=limits)


def status(transport: Transport, host: Host) -> HostStatus:
    """Return whether the user is registered, and the state of the container. Starts nothing."""
    try:
        return HostStatus(registered=True, container=container_state(transport, host))
    except NotRegisteredError:
        return HostStatus(registered=False)


def container_state(
    transport: Transport,
    host: Host,
    *,
    new_connection: bool = False,
    limits: Limits | None = None,
) -> Container:
    """Return the state of the container, which is not started.

    NotRegisteredError without an account.
    """
    # `help` is the only command that prints the state and changes nothing.
    reply = send(transport, host, "help", once=new_connection, limits=limits)
    return replies.parse_status(reply, host.name)


def register(
    transport: Transport,
    host: Host,
    *,
    state_dir: Path,
    on_line: OnLine,
    resend_keys: Callable[[], bool],
) -> bool:
    """Make the account and the container of `host.user`, under the host's lock.

    Returns True for a new account, False when there was one. There is no time limit: an interrupted
    registration leaves a half-made account that only an administrator can delete.

    `resend_keys` sends the user's keys to IAM again and returns whether it could. It is called
    once, when the register account does not accept our key: that account is shared, and contains
    the keys of whoever sent them last.
    """
    from apexgpu.iam.client import valid_user

    if not valid_user(host.user):
        message = f"{host.user!r} is not a user name that can be registered"
        raise RefusedError(message, hint="apexgpu login", code="user_name")
    with only_one(state_dir, host):
        try:
            is_new = _register(transport, host, on_line)
        except RegisterKeyError:
            if not resend_keys():
                raise
            is_new = _register(transport, host, on_line)
        _check_account(transport, host, is_new)
    return is_new


def _register(transport: Transport, host: Host, on_line: OnLine) -> bool:
    target = Target(host, "register")
    reply = transport.run(target, host.user, limits=_NO_LIMITS, on_line=on_line, once=True)
    return replies.parse_register(reply, host.name)


def _check_account(transport: Transport, host: Host, is_new: bool) -> None:
    """Raise when the account has no manage shell.

    `already exist` does not prove that it has one.
    """
    try:
        reply = send(transport, host, "help")
    except NotRegisteredError:
        has_manage_shell = False
    else:
        has_manage_shell = replies.is_manage_shell(reply)
    if not has_manage_shell:
        reported = "reports success" if is_new else f"reports that {host.user} exists"
        raise replies.half_made(host.name, f"{host.name} {reported}, but an ordinary shell answers")


def down(transport: Transport, host: Host, *, state_dir: Path, on_line: OnLine) -> StopReply:
    """Stop the container under the host's lock. A stopped container stays stopped."""
    with only_one(state_dir, host):
        return stop(transport, host, on_line=on_line)


def stop(transport: Transport, host: Host, *, on_line: OnLine) -> StopReply:
    """As `down`, for callers that already hold the host's lock."""
    reply = send(transport, host, "stop", limits=_STOP_LIMITS, on_line=on_line)
    return replies.parse_stop(reply, host.name)


def list_port_maps(transport: Transport, host: Host) -> tuple[PortMap, ...]:
    """Return all port maps of the container, including that of sshd.

    StoppedError for a stopped container; RefusedError for a container with several addresses, or a
    host without port maps.
    """
    reply = query(transport, host, "port")
    try:
        return replies.parse_port_maps(reply, host.name)
    except UnknownCommandError:
        raise _no_port_command(host, _TENSORBOARD) from None


def map_port(transport: Transport, host: Host, port: int) -> PortMap:
    """Map a port of the container to a port of the host, or return the map that exists."""
    if not 0 < port < 65536:
        message = f"{port} is not a port number"
        raise UsageError(message, hint=f"apexgpu port {host.name} 6006", code="port")
    reply = send(transport, host, "port", str(port))
    try:
        return replies.parse_port_map(reply, host.name, str(port))
    except UnknownCommandError:
        raise _no_port_command(host, str(port)) from None


_TENSORBOARD = "6006"
"""The port in a hint where the user has named none."""


def _no_port_command(host: Host, port: str) -> RefusedError:
    message = f"{host.name} is an older host that has no port maps"
    return RefusedError(message, hint=f"apexgpu tunnel {host.name} {port}", code="no_port_command")
