"""The server's port maps, which every stop takes away: which there were, and making them again."""

from collections.abc import Sequence

from apexgpu import manage, replies
from apexgpu.errors import ApexError
from apexgpu.models import Host
from apexgpu.nas import Means, question
from apexgpu.transport import Transport


def there(link: Transport, host: Host) -> tuple[int, ...]:
    """The container ports that are mapped, but for ssh's own; none where the host cannot list them."""
    try:
        maps = replies.port_maps(question(link, host, "port"), host.name)
    except ApexError:
        return ()
    return tuple(dict.fromkeys(one.container_port for one in maps if one.container_port != 22))


def put_back(means: Means, host: Host, ports: Sequence[int]) -> None:
    """Map the ports again and say where they are now; what cannot be mapped is said, not raised."""
    for port in ports:
        try:
            reply = manage.ask(means.link, host, "port", str(port), once=True)
            found = replies.port_map(reply, host.name, str(port))
        except ApexError as exc:
            means.note(f"port {port} is no longer mapped: {exc.message}")
        else:
            means.note(f"port {port} is mapped again: {found.address}:{found.port}")
