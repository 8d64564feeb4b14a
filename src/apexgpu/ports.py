"""Port maps: ports of a host that lead to ports of your container, for the lab's whole network.

    from apexgpu import ports
    from apexgpu.session import Session

    result = ports.map_port(Session(), "gpu7", 6006)
    print(result.outcomes[0].value.maps)

`tunnels` is the safer way to a port of a container: it is open to this machine only, and survives a
stop.
"""

from collections.abc import Callable
from dataclasses import dataclass

from apexgpu import containers, manyhosts
from apexgpu.errors import StoppedError
from apexgpu.manageshell import manage, portmaps
from apexgpu.manageshell.portmaps import CheckedMap
from apexgpu.manageshell.replies import SSH_PORT, PortMap
from apexgpu.models import Host, Outcome
from apexgpu.results import HostResults, JsonObject
from apexgpu.session import Session


@dataclass(frozen=True)
class HostPorts:
    """The port maps of a container, and the ports of it that were mapped before (`remembered`)."""

    maps: tuple[CheckedMap, ...]
    remembered: tuple[int, ...]

    @property
    def lost(self) -> list[int]:
        """The remembered ports that are not mapped now."""
        mapped = {checked.map.container_port for checked in self.maps}
        return [port for port in self.remembered if port not in mapped]

    def to_json(self) -> JsonObject:
        """Its keys in the row of `port`."""
        maps = [
            {
                "address": checked.map.address,
                "port": checked.map.port,
                "container_port": checked.map.container_port,
                "answers": checked.answers,
            }
            for checked in self.maps
        ]
        return {"ports": maps, "remembered": list(self.remembered)}


class PortList(HostResults[HostPorts]):
    """What `list_ports` and `map_port` return: the maps of one host, or its error."""


def list_ports(session: Session, name: str) -> PortList:
    """Return the port maps of the container on the host `name`, and test whether they answer.

    RefusedError in the result for a stopped container, and for a host without port maps.
    """
    host = containers.one_host(session, name)
    with session.reporter.working(f"asking {host.name} for its port maps"):
        outcome = _check(
            session,
            _ask(session, host, lambda host: manage.list_port_maps(session.transport, host)),
        )
    if outcome.value is not None:
        _report_dangers(session, host, outcome.value)
        _report_lost(session, host, outcome.value)
    return PortList([outcome])


def map_port(session: Session, name: str, port: int) -> PortList:
    """Map a port of the container on the host `name`, or find its map.

    A stopped container is started after a yes.
    """
    host = containers.one_host(session, name)

    def map_it(host: Host) -> tuple[PortMap, ...]:
        port_map = portmaps.map_and_remember(
            session.transport, host, port, state_dir=session.state_dir
        )
        return (port_map,)

    mapped = _ask(session, host, map_it)
    if isinstance(mapped.error, StoppedError):
        containers.offer_start(session, host)
        mapped = _ask(session, host, map_it)
    outcome = _check(session, mapped)
    if outcome.value is not None:
        _report_dangers(session, host, outcome.value)
    return PortList([outcome])


def _ask(
    session: Session, host: Host, work: Callable[[Host], tuple[PortMap, ...]]
) -> Outcome[tuple[PortMap, ...]]:
    (outcome,) = manyhosts.run(session, [host], work)
    return outcome


def _check(session: Session, outcome: Outcome[tuple[PortMap, ...]]) -> Outcome[HostPorts]:
    """Remember the maps for the next start, and test them."""
    host = outcome.host
    maps = outcome.value
    if maps is None:
        if outcome.error is not None:
            session.reporter.error(outcome.error, host=host.name)
        return Outcome(host, None, outcome.error)
    ports = portmaps.user_ports(maps)
    portmaps.remember(session.state_dir, host, ports)
    checked = tuple(portmaps.check_maps(maps))
    remembered = portmaps.remembered(session.state_dir, host)
    return Outcome(host, HostPorts(checked, remembered))


def _report_dangers(session: Session, host: Host, ports: HostPorts) -> None:
    user_maps = [checked for checked in ports.maps if checked.map.container_port != SSH_PORT]
    if not user_maps:
        return
    session.reporter.warn(
        "anyone on the lab's network can use these addresses, and stopping the container removes "
        "them; a tunnel is open to this laptop only, and reconnects by itself",
        hint=f"apexgpu tunnel {host.name} {user_maps[0].map.container_port}",
    )
    for checked in user_maps:
        if not checked.answers:
            session.reporter.note(
                f"{checked.map.where} does not answer: the program on port "
                f"{checked.map.container_port} in the container must listen on 0.0.0.0, not only on "
                "127.0.0.1"
            )


def _report_lost(session: Session, host: Host, ports: HostPorts) -> None:
    if ports.lost:
        listed = ", ".join(str(port) for port in ports.lost)
        command = f"apexgpu port {host.name} {ports.lost[0]}"
        session.reporter.note(f"no longer mapped: {listed}; to map one again: {command}")
