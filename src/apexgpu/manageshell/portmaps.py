"""Port maps of a host: which of them answer, and which ports to map again after a stop."""

import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from apexgpu import readers
from apexgpu.errors import ApexError, UnexpectedError
from apexgpu.files import locked, replace_atomically
from apexgpu.manageshell import hostlock, manage
from apexgpu.manageshell.replies import SSH_PORT, PortMap
from apexgpu.models import Host
from apexgpu.ssh.transport import OnLine, Transport

_CONNECT_LIMIT = 3.0  # seconds for a map to accept a connection
_SETTLE = (
    0.5  # seconds in which a forwarder such as docker's closes a connection that leads nowhere
)


@dataclass(frozen=True, slots=True)
class CheckedMap:
    """A port map, and whether a connection through it reaches a program."""

    map: PortMap
    answers: bool


def mapped_ports(transport: Transport, host: Host) -> tuple[int, ...]:
    """Return the container ports that the user mapped; none when the host cannot list them."""
    try:
        return user_ports(manage.list_port_maps(transport, host))
    except ApexError:
        return ()


def user_ports(maps: Sequence[PortMap]) -> tuple[int, ...]:
    """Return the container ports of maps that the user made: all except sshd's."""
    ports = [port_map.container_port for port_map in maps]
    return tuple(dict.fromkeys(port for port in ports if port != SSH_PORT))


def map_and_remember(transport: Transport, host: Host, port: int, *, state_dir: Path) -> PortMap:
    """Map a port under the host's lock, and remember it for the next start."""
    with hostlock.only_one(state_dir, host):
        port_map = manage.map_port(transport, host, port)
    remember(state_dir, host, user_ports([port_map]))
    return port_map


def check_maps(maps: Sequence[PortMap]) -> list[CheckedMap]:
    """Connect through every map, because the server's list alone does not prove that it works.

    Takes some seconds.
    """
    from concurrent.futures import (
        ThreadPoolExecutor,  # loads logging, which `status` can do without
    )

    with ThreadPoolExecutor(max_workers=16) as pool:
        answers = list(pool.map(_answers, maps))
    return [CheckedMap(port_map, answer) for port_map, answer in zip(maps, answers, strict=True)]


def _answers(port_map: PortMap) -> bool:
    try:
        address = (port_map.address, port_map.port)
        with socket.create_connection(address, timeout=_CONNECT_LIMIT) as connection:
            return _stays_open(connection)
    except (OSError, UnicodeError):
        return False


def _stays_open(connection: socket.socket) -> bool:
    """Whether a connection is kept.

    A forwarder accepts it even when there is no program behind the map.
    """
    connection.settimeout(_SETTLE)
    try:
        return bool(connection.recv(1))
    except TimeoutError:
        return True  # the program waits for us to send something


def map_again(transport: Transport, host: Host, ports: Sequence[int], *, note: OnLine) -> None:
    """Map ports that a stop removed.

    `note` gets one line for each, also for a port that cannot be mapped.
    """
    for port in ports:
        try:
            port_map = manage.map_port(transport, host, port)
        except ApexError as exc:
            note(f"port {port} is no longer mapped: {exc.message}")
        else:
            note(f"port {port} is mapped again: {port_map.where}")


def remembered(state_dir: Path, host: Host) -> tuple[int, ...]:
    """Return the container ports that were mapped the last time we looked."""
    return tuple(_read_memory(state_dir).get(host.name, ()))


def remember(state_dir: Path, host: Host, ports: Sequence[int]) -> None:
    """Add ports to those that are offered again after a start."""
    if set(ports) - set(remembered(state_dir, host)):
        _change_memory(state_dir, host, lambda known: [*known, *ports])


def forget(state_dir: Path, host: Host) -> None:
    """Offer none of a host's ports again."""
    if remembered(state_dir, host):
        _change_memory(state_dir, host, lambda _: [])


def _change_memory(state_dir: Path, host: Host, change: Callable[[list[int]], list[int]]) -> None:
    with locked(state_dir / "locks" / "ports.lock", what="the list of port maps"):
        memory = _read_memory(state_dir)
        ports = change(memory.get(host.name, []))
        if ports:
            memory[host.name] = list(dict.fromkeys(ports))  # each once, in order
        else:
            memory.pop(host.name, None)
        document = json.dumps(memory, indent=1)
        replace_atomically(state_dir / "ports.json", document.encode())


def _read_memory(state_dir: Path) -> dict[str, list[int]]:
    """Return the remembered ports by host name; nothing for a missing or damaged file."""
    try:
        document = (state_dir / "ports.json").read_bytes()
        memory = readers.json_object(document, "the list of port maps")
        return {name: list(memory.numbers(name, most=65535)) for name in memory.names}
    except (OSError, UnexpectedError):
        return {}
