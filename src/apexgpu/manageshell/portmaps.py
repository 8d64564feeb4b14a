"""The server's port maps, which every stop takes away: listing, making, remembering them, and making them again."""

import json
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from apexgpu.errors import ApexError, RefusedError, UnknownCommandError, UsageError
from apexgpu.files import locked, replace_atomically
from apexgpu.manageshell import hostlock, manage, replies
from apexgpu.manageshell.manage import question
from apexgpu.manageshell.replies import PortMap
from apexgpu.models import Host
from apexgpu.ssh.transport import OnLine, Transport

_CONNECT = 3.0  # seconds for a map to take a connection
_SETTLE = 0.5  # seconds for a forwarder on the way (docker's, say) to find that nobody is behind it
_SSH = 22


@dataclass(frozen=True, slots=True)
class Seen:
    """A map, and whether a connection through it came to something."""

    map: PortMap
    answers: bool


def there(link: Transport, host: Host) -> tuple[int, ...]:
    """The container ports that are mapped, but for ssh's own; none where the host cannot list them."""
    try:
        return own(listed(link, host))
    except ApexError:
        return ()


def own(maps: Sequence[PortMap]) -> tuple[int, ...]:
    """The container ports of maps that the user made: all but ssh's."""
    return tuple(dict.fromkeys(one.container_port for one in maps if one.container_port != _SSH))


def listed(link: Transport, host: Host) -> tuple[PortMap, ...]:
    """All maps of the container, ssh's own among them. RefusedError: stopped, several addresses, an old host …"""
    try:
        return replies.port_maps(question(link, host, "port"), host.name)
    except RefusedError as exc:
        raise _in_port_words(host, exc, "PORT") from None


def make(link: Transport, host: Host, port: int) -> PortMap:
    """Map a port of the container, or find it mapped. The host's lock is held by the caller."""
    if not 0 < port < 65536:
        message = f"{port} is not a port number"
        raise UsageError(message, hint=f"apexgpu port {host.name} 6006", code="port")
    try:
        return replies.port_map(
            manage.ask(link, host, "port", str(port), once=True), host.name, str(port)
        )
    except RefusedError as exc:
        raise _in_port_words(host, exc, str(port)) from None


def _in_port_words(host: Host, exc: RefusedError, port: str) -> RefusedError:
    if not isinstance(exc, UnknownCommandError):
        return exc
    message = f"{host.name} is an older host that has no port maps"
    return RefusedError(message, hint=f"apexgpu tunnel {host.name} {port}", code="no_port_command")


def make_and_remember(link: Transport, host: Host, port: int, *, state_dir: Path) -> PortMap:
    """As `make`, alone on the host, and kept in mind for after the next start."""
    with hostlock.only_one(state_dir, host):
        found = make(link, host, port)
    remember(state_dir, host, own([found]))
    return found


def seen(maps: Sequence[PortMap]) -> list[Seen]:
    """Every map with whether it leads somewhere: the server's list alone is not proof. At most seconds."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        return [
            Seen(one, answer) for one, answer in zip(maps, pool.map(_answers, maps), strict=True)
        ]


def _answers(one: PortMap) -> bool:
    """Whether a connection is taken and then kept: what something on the way takes and drops leads nowhere."""
    try:
        with socket.create_connection((one.address, one.port), timeout=_CONNECT) as caller:
            return _kept(caller)
    except OSError:
        return False


def _kept(caller: socket.socket) -> bool:
    caller.settimeout(_SETTLE)
    try:
        return bool(caller.recv(1))
    except TimeoutError:
        return True  # it waits for us to speak


def put_back(link: Transport, host: Host, ports: Sequence[int], *, note: OnLine) -> None:
    """Map the ports again and say where they are now; what cannot be mapped is said, not raised."""
    for port in ports:
        try:
            found = make(link, host, port)
        except ApexError as exc:
            note(f"port {port} is no longer mapped: {exc.message}")
        else:
            note(f"port {port} is mapped again: {found.address}:{found.port}")


def remembered(state_dir: Path, host: Host) -> tuple[int, ...]:
    """The container ports that were mapped when we last looked."""
    return tuple(_memory(state_dir).get(host.name, ()))


def remember(state_dir: Path, host: Host, ports: Sequence[int]) -> None:
    """Add ports to those that are offered again after a start."""
    if set(ports) - set(remembered(state_dir, host)):
        _change(state_dir, host, lambda known: [*known, *ports])


def forget(state_dir: Path, host: Host) -> None:
    """Offer none of a host's ports again."""
    if remembered(state_dir, host):
        _change(state_dir, host, lambda _: [])


def _change(state_dir: Path, host: Host, change: Callable[[list[int]], list[int]]) -> None:
    with locked(state_dir / "locks" / "ports.lock", what="the list of port maps"):
        memory = _memory(state_dir)
        memory[host.name] = list(dict.fromkeys(change(memory.get(host.name, []))))
        kept = {name: ports for name, ports in memory.items() if ports}
        replace_atomically(state_dir / "ports.json", json.dumps(kept, indent=1).encode())


def _memory(state_dir: Path) -> dict[str, list[int]]:
    """What was kept; nothing where the file is missing or spoilt, for it holds no more than a convenience."""
    try:
        found = json.loads((state_dir / "ports.json").read_bytes())
        return {str(name): [int(port) for port in ports] for name, ports in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
