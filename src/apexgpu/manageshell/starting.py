"""Starts a container, and waits for its address and until its port answers SSH."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from apexgpu import timelimit
from apexgpu.errors import (
    ApexError,
    CommandTimeoutError,
    ConnectionClosedError,
    ConnectionLostError,
    DroppedError,
    NoForwardError,
    NoRouteError,
    PortRefusedError,
    RefusedError,
    UnexpectedError,
    UnreachableError,
)
from apexgpu.manageshell import manage, replies
from apexgpu.manageshell.hostlock import only_one
from apexgpu.manageshell.replies import DriverMismatch, StartReply
from apexgpu.models import Container, Host, Target
from apexgpu.ssh.failures import UnknownHostKeyError
from apexgpu.ssh.transport import Limits, OnLine, Transport

Pause = Callable[[float], None]
"""Waits for a number of seconds between two attempts; tests pass one that does not wait."""

_START_LIMIT = 900  # seconds; the installation of a driver is part of a start
_IAM_LIMIT = 20  # seconds for the reply to a question, which includes one of the host to IAM
_ADDRESS_LIMIT = 20  # seconds for DHCP
_SSH_LIMIT = 30  # seconds for the container's sshd to accept connections
_TOO_EARLY = (PortRefusedError, ConnectionClosedError, ConnectionLostError)

# The lines of a start that a user wants to keep; the others are progress.
_MILESTONES = (
    "Starting your",
    "The container is up",
    "NVIDIA",
    "Installing",
    "Failed",
    "Successfully",
    "Done! Trying",
    "You might",
)


class LoginAttempt:
    """A login to the container that begins while its host is asked for the container's state."""

    def __init__(self, transport: Transport, host: Host) -> None:
        target = Target(host, "container")
        # Not waited for where the container turns out to be stopped.
        self._login = timelimit.start(
            lambda: transport.run(target, "true", once=True), name=f"login to {host.name}"
        )

    def succeeded(self) -> bool:
        """Wait for the login, and return whether it worked.

        UnknownHostKeyError for a host key that the user has not seen.
        """
        try:
            self._login.result()
        except UnknownHostKeyError:
            raise
        except ApexError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class StartedContainer:
    """A container that answers SSH, and what its start reported."""

    container: Container
    was_running: bool
    driver: DriverMismatch | None


def up(
    transport: Transport,
    host: Host,
    *,
    state_dir: Path,
    on_line: OnLine,
    wait: float,
    pause: Pause,
    started: dict[str, StartReply] | None = None,
) -> StartedContainer:
    """Start the container and wait until its port answers SSH, under the host's lock.

    `wait` (seconds) limits both the silence of the start and the wait for the port. `started`
    remembers the replies to starts by host name: a second call, after a question about a new host
    key, does not start again.
    """
    with only_one(state_dir, host):
        return start(transport, host, on_line=on_line, wait=wait, pause=pause, started=started)


def state_before_start(transport: Transport, host: Host) -> Container:
    """Return the container's state. UnreachableError if the host waits for IAM longer than other commands may.

    A start would wait too, before it has done anything.
    """
    limits = Limits(total=_IAM_LIMIT)
    try:
        return manage.container_state(transport, host, limits=limits)
    except CommandTimeoutError:
        raise _silent(host) from None
    except DroppedError:
        # A question may be asked again; the connection may have been dead for long.
        return manage.container_state(transport, host, limits=limits)


def _silent(host: Host) -> UnreachableError:
    message = (
        f"{host.name} accepted the login, but printed nothing: it may be waiting for IAM; "
        "try again in a minute"
    )
    return UnreachableError(message, hint=f"apexgpu up {host.name}", code="silent")


def port_error(transport: Transport, host: Host) -> ApexError | None:
    """Return why the port of a running container does not answer now; None if it does, or may."""
    try:
        transport.run(Target(host, "container"), "true", once=True)
    except PortRefusedError as exc:
        return explain_port_error(host, exc)
    except ApexError:
        return None
    return None


def start(
    transport: Transport,
    host: Host,
    *,
    on_line: OnLine,
    wait: float,
    pause: Pause,
    started: dict[str, StartReply] | None = None,
) -> StartedContainer:
    """As `up`, for callers that already hold the host's lock."""
    started = {} if started is None else started
    reply = started.get(host.name)
    if reply is None:
        reply = _send_start(transport, host, on_line, wait)
        started[host.name] = reply
    container = reply.container
    if container.running and not container.addresses:
        container = _wait_for_address(transport, host, wait, pause)
    wait_for_ssh(transport, host, wait, pause)
    return StartedContainer(container, reply.was_running, reply.driver)


def is_milestone(line: str) -> bool:
    """Whether a line that the server prints during a start is worth keeping on the screen."""
    return line.startswith(_MILESTONES)


def _send_start(transport: Transport, host: Host, on_line: OnLine, wait: float) -> StartReply:
    seen: list[str] = []

    def remember_line(line: str) -> None:
        seen.append(line)
        on_line(line)

    # The installation of a driver prints nothing for a minute or more; the default of `wait` allows
    # for it.
    limits = Limits(total=_START_LIMIT, silence=wait)
    try:
        # A login without a command starts the container.
        reply = transport.run(
            Target(host, "manage"), "", limits=limits, on_line=remember_line, once=True
        )
    except DroppedError as exc:
        raise _interrupted_start(host, exc, replies.content_lines("\n".join(seen))) from None
    try:
        return replies.parse_start(reply, host.name)
    except UnexpectedError:
        if not replies.has_greeting(replies.content_lines(reply.out)):
            # An ordinary shell prints the host's message of the day here. Its `help` gives it away.
            manage.container_state(transport, host, new_connection=True)
        raise


def _interrupted_start(host: Host, exc: DroppedError, lines: Sequence[str]) -> ApexError:
    """Explain a start whose connection ended, by the lines that it printed until then."""
    name = host.name
    restart = f"apexgpu restart {name}"
    # What comes before the greeting is the host's motd, and not the manage shell's.
    if not replies.has_greeting(lines):
        return _silent(host)
    waits_for_address = "Starting your container..." in lines and "The container is up" not in lines
    if isinstance(exc, CommandTimeoutError) and waits_for_address:
        message = (
            f"{name} keeps waiting for the container to get an address; last seen: {lines[-1]}; "
            "if this happens again and again, tell the administrators (no DHCP)"
        )
        return UnreachableError(message, hint=restart, code="no_address")
    # The server forwards the port at the end of the start, so it may not be forwarded now.
    message = f"the connection to {name} was lost during the start; last seen: {lines[-1]}"
    return ConnectionLostError(message, hint=restart)


def _wait_for_address(transport: Transport, host: Host, wait: float, pause: Pause) -> Container:
    deadline = time.monotonic() + min(wait, _ADDRESS_LIMIT)
    while time.monotonic() < deadline:
        container = manage.container_state(transport, host, new_connection=True)
        if container.addresses:
            return container
        pause(1)
    raise replies.no_address(host.name)


def wait_for_ssh(transport: Transport, host: Host, wait: float, pause: Pause) -> None:
    """Wait until the container accepts a login.

    Its sshd may refuse connections for some seconds after a start.
    """
    deadline = time.monotonic() + min(wait, _SSH_LIMIT)
    while True:
        try:
            transport.run(Target(host, "container"), "true", once=True)
        except UnreachableError as exc:
            if not isinstance(exc, _TOO_EARLY) or time.monotonic() >= deadline:
                raise explain_port_error(host, exc) from None
        else:
            return
        pause(0.3)


def explain_port_error(host: Host, exc: UnreachableError) -> ApexError:
    """Return what an error on the port of a running container means, with its cure."""
    if isinstance(exc, PortRefusedError):
        message = f"the container on {host.name} runs, but its port {host.port} is not forwarded"
        return NoForwardError(message, hint=f"apexgpu restart {host.name}")
    if isinstance(exc, NoRouteError):
        message = (
            f"port {host.port} on {host.name} leads to an old address of the container "
            "(a stale forward); only the administrators can clear it"
        )
        return RefusedError(message, hint=f"apexgpu doctor {host.name}", code="stale_forward")
    return exc
