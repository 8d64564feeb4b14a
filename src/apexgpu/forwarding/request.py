"""What a tunnel is asked to do, and the local ports that are taken for it."""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from apexgpu.errors import RefusedError
from apexgpu.forwarding import ports
from apexgpu.forwarding.ports import Destination


@dataclass(frozen=True, slots=True)
class TunnelRequest:
    """What a tunnel is to do.

    `ssh_arguments` lead to the container of `host`: config file, address, alias.
    `local_ports` has one entry for each of `destinations`: the wanted port on this laptop, or None
    for the first one that is free. With `exact_ports` no other port will do. `same_machine` is set
    if the container's ports are this machine's own. With `once` the tunnel ends with its
    connection; `background` is only noted for `tunnels`. `agent_socket` is the socket of the agent
    that ssh asks, "" if it asks none.
    """

    host: str
    ssh_arguments: tuple[str, ...]
    destinations: tuple[Destination, ...]
    local_ports: tuple[int | None, ...]
    exact_ports: bool = False
    same_machine: bool = False
    background: bool = False
    once: bool = False
    agent_socket: str = ""


class PortsTakenError(RefusedError):
    """Local ports that the user named, and that other programs have: `ports`."""

    code = "port_taken"

    def __init__(self, taken: Sequence[int]) -> None:
        super().__init__(f"local port {taken[0]} is in use")
        self.ports = tuple(taken)


def take_ports(request: TunnelRequest) -> list[socket.socket]:
    """Return a listening socket for each destination of `request`.

    Raises PortsTakenError if one of them cannot be had; then none is kept.
    """
    sockets: list[socket.socket] = []
    taken: list[int] = []
    for wanted, destination in zip(request.local_ports, request.destinations, strict=True):
        listening = _listen_for(request, wanted, destination)
        if listening is None:
            taken.append(wanted or destination.port)
        else:
            sockets.append(listening)
    if taken:
        for listening in sockets:
            listening.close()
        raise PortsTakenError(taken)
    return sockets


def _listen_for(
    request: TunnelRequest, wanted: int | None, destination: Destination
) -> socket.socket | None:
    for port in _candidates(request, wanted, destination):
        listening = ports.listen(port)
        if listening is not None:
            return listening
    return None


def _candidates(
    request: TunnelRequest, wanted: int | None, destination: Destination
) -> Iterator[int]:
    own_ports: set[int] = set()
    if request.same_machine:
        # A tunnel that listened on one of these would connect to itself.
        own_ports = {each.port for each in request.destinations}
    if wanted is not None and wanted not in own_ports:
        yield wanted
    if request.exact_ports:
        return
    for port in ports.local_candidates(destination.port):
        if port not in own_ports:
            yield port
