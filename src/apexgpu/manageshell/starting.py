"""Starting a container: the manage shell's start, the address, and the port that then has to answer SSH."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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
    UnreachableError,
)
from apexgpu.manageshell import replies
from apexgpu.manageshell.hostlock import only_one
from apexgpu.manageshell.replies import Driver, Started
from apexgpu.models import Container, Host, Target
from apexgpu.ssh.transport import Limits, OnLine, Transport


class Pause(Protocol):
    """Something to wait with between two tries; tests give a wait that does not wait."""

    def __call__(self, seconds: float, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Up:
    """What `up` came to: an address that answers SSH."""

    container: Container
    was_running: bool
    driver: Driver | None


def up(
    link: Transport,
    host: Host,
    *,
    state_dir: Path,
    on_line: OnLine,
    wait: float,
    pause: Pause,
    begun: dict[str, Started] | None = None,
) -> Up:
    """Start the container and wait until its own port answers SSH; the cure is named where it does not.

    `wait` bounds, in seconds, the start itself without a word, and the wait for the port. `begun` keeps what the
    start came to, by host: the same call again (after a question about a new host key) goes on from there.
    """
    with only_one(state_dir, host):
        return bring_up(link, host, on_line=on_line, wait=wait, pause=pause, begun=begun)


def bring_up(
    link: Transport,
    host: Host,
    *,
    on_line: OnLine,
    wait: float,
    pause: Pause,
    begun: dict[str, Started] | None = None,
) -> Up:
    """As `up`, for who holds the host's lock already."""
    begun = {} if begun is None else begun
    started = begun.get(host.name) or _start(link, host, on_line, wait)
    begun[host.name] = started
    if started.container.running and not started.container.addresses:
        started = _await_address(link, host, started, wait, pause)
    await_ssh(link, host, wait, pause)
    return Up(started.container, started.was_running, started.driver)


def _start(link: Transport, host: Host, on_line: OnLine, wait: float) -> Started:
    # A driver install says nothing for a minute or more; `wait` leaves room for it by default.
    seen: list[str] = []

    def line(text: str) -> None:
        seen.append(text)
        on_line(text)

    limits = Limits(total=900, silence=wait)
    try:
        reply = link.run(Target(host, "manage"), "", limits=limits, on_line=line, once=True)
    except DroppedError as exc:
        raise _start_cut(host, exc, replies.lines("\n".join(seen))) from None
    return replies.start(reply, host.name)


def _start_cut(host: Host, exc: DroppedError, said: list[str]) -> ApexError:
    last = said[-1] if said else "nothing"
    if (
        isinstance(exc, CommandTimeoutError)
        and "The container is up" not in said
        and "Starting your container..." in said
    ):
        message = (
            f"{host.name} keeps waiting for the container to get an address; last seen: {last}"
        )
        hint = (
            f"apexgpu down {host.name} && apexgpu up {host.name}"
            "   (again and again: tell the administrators, no DHCP)"
        )
        return UnreachableError(message, hint=hint, code="no_address")
    if not said:
        message = f"{host.name} took the login, but said nothing: it may be waiting for IAM"
        return UnreachableError(
            message, hint=f"apexgpu up {host.name}   (in a minute)", code="silent"
        )
    message = f"the connection to {host.name} was lost during the start; last seen: {last}"
    hint = f"apexgpu down {host.name} && apexgpu up {host.name}   (the port may not be forwarded otherwise)"
    return ConnectionLostError(message, hint=hint)


def _await_address(
    link: Transport, host: Host, started: Started, wait: float, pause: Pause
) -> Started:
    deadline = time.monotonic() + min(wait, 20)
    while time.monotonic() < deadline:
        found = replies.status(link.run(Target(host, "manage"), "help", once=True), host.name)
        if found.addresses:
            return Started(found, started.was_running, started.driver)
        pause(1)
    message = f"the container on {host.name} runs but has no address"
    hint = f"apexgpu down {host.name} && apexgpu up {host.name}   (if it stays: tell the administrators, no DHCP)"
    raise RefusedError(message, hint=hint, code="no_address")


def await_ssh(link: Transport, host: Host, wait: float, pause: Pause) -> None:
    """Right after a start the container's sshd may refuse for some seconds; after that it is something else."""
    deadline = time.monotonic() + min(wait, 30)
    while True:
        try:
            link.run(Target(host, "container"), "true", once=True)
        except UnreachableError as exc:
            coming_up = isinstance(
                exc, PortRefusedError | ConnectionClosedError | ConnectionLostError
            )
            if not coming_up or time.monotonic() >= deadline:
                raise port_trouble(host, exc) from None
        else:
            return
        pause(0.3)


def port_trouble(host: Host, exc: UnreachableError) -> ApexError:
    """What it means that the port of a running container does not answer, and the cure."""
    if isinstance(exc, PortRefusedError):
        message = f"the container on {host.name} runs, but its port {host.port} is not forwarded"
        return NoForwardError(message, hint=f"apexgpu down {host.name} && apexgpu up {host.name}")
    if isinstance(exc, NoRouteError):
        message = f"port {host.port} on {host.name} leads to an old address of the container (a stale forward)"
        hint = f"ask the administrators to clear the forward of port {host.port} on {host.name}; nothing else helps"
        return RefusedError(message, hint=hint, code="stale_forward")
    return exc
