"""Which ports programs in a container listen on, as its kernel lists them."""

import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from apexgpu.forwarding.ports import Destination
from apexgpu.remote import remotescript

_LINE = re.compile(r"([0-9A-F]{8,32}):([0-9A-F]{4}) ([0-9]{1,19})")
_IPV6_LOOPBACK = "00000000000000000000000001000000"


@dataclass(frozen=True, slots=True)
class ContainerListener:
    """A listening socket: its address in the kernel's hexadecimal form, its port, its inode."""

    address: str
    port: int
    inode: int


class ListenerState(Enum):
    """What the listeners of a container tell about a destination."""

    LISTENING = "listening"
    NOTHING = "nothing listens"
    IPV6_ONLY = "listens on ::1 only"
    UNKNOWN = "unknown"


def list_command() -> str:
    """Return the command line that lists the listeners of a container."""
    return remotescript.sh_command("listeners.sh")


def parse(output: str) -> list[ContainerListener]:
    """Read the output of `list_command`; empty if the container did not list any."""
    listeners = []
    for line in remotescript.answers(output):
        match = _LINE.fullmatch(line)
        if match:
            address, port, inode = match.groups()
            listeners.append(ContainerListener(address, int(port, 16), int(inode)))
    return listeners


def state_of(destination: Destination, listeners: Sequence[ContainerListener]) -> ListenerState:
    """Tell whether a program in the container listens on `destination`."""
    if not listeners or destination.host != "localhost":
        return ListenerState.UNKNOWN
    addresses = {listener.address for listener in listeners if listener.port == destination.port}
    if not addresses:
        return ListenerState.NOTHING
    if addresses == {_IPV6_LOOPBACK}:
        return ListenerState.IPV6_ONLY
    return ListenerState.LISTENING


def contain(listeners: Sequence[ContainerListener], ours: socket.socket) -> bool:
    """Tell whether `listeners` contain our own listening socket.

    If so, the container's ports are this machine's ports, as in the embedded lab, and a tunnel that
    listens on the port that it leads to would connect to itself. The inode tells our socket from
    one that listens on the same port of another machine.
    """
    port = ours.getsockname()[1]
    inode = os.fstat(ours.fileno()).st_ino
    return any(listener.port == port and listener.inode == inode for listener in listeners)
