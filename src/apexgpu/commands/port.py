"""port: the server's own maps of container ports, which anyone on the lab's network can use."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from apexgpu.commands import fleet, reach
from apexgpu.commands.options import Group, OneHost, kit_of
from apexgpu.errors import RefusedError
from apexgpu.hosts import forwards
from apexgpu.hosts.forwards import Seen
from apexgpu.hosts.replies import PortMap
from apexgpu.kit import Kit
from apexgpu.models import Host, Outcome

app = Group()


@app.command("port")
def port(
    ctx: typer.Context,
    host: OneHost,
    number: Annotated[
        int | None,
        typer.Argument(metavar="[PORT]", help="A port of the container to map.", min=1, max=65535),
    ] = None,
) -> None:
    """Show the ports of your container that the server maps to its own address, or map PORT as well.

    A map has no password and is open to the lab's whole network, and every stop of the container takes it away:
    `apexgpu tunnel HOST PORT` is the safer way. Example: apexgpu port gpu7 6006
    """
    kit = kit_of(ctx)
    chosen = reach.one_host(kit, host)
    outcome = _listed(kit, chosen) if number is None else _mapped(kit, chosen, number)
    if outcome.error is not None:
        fleet.show_error(kit, chosen, outcome.error)
    elif outcome.value is not None:
        _show(kit, chosen, outcome.value, number)
    raise typer.Exit(fleet.finish(kit, [outcome], lambda found: _value(kit, chosen, found)))


def _listed(kit: Kit, host: Host) -> Outcome[list[Seen]]:
    with kit.screen.working(f"asking {host.name} for its port maps"):
        outcome = fleet.run(kit, [host], lambda one: forwards.listed(kit.transport, one))[0]
        return _looked_at(kit, outcome)


def _mapped(kit: Kit, host: Host, number: int) -> Outcome[list[Seen]]:
    def work(one: Host) -> tuple[PortMap, ...]:
        return (forwards.make_and_remember(kit.transport, one, number, state_dir=kit.state_dir),)

    outcome = fleet.run(kit, [host], work)[0]
    if isinstance(outcome.error, RefusedError) and outcome.error.code == "stopped":
        reach.offer_start(kit, host)
        outcome = fleet.run(kit, [host], work)[0]
    return _looked_at(kit, outcome)


def _looked_at(kit: Kit, outcome: Outcome[tuple[PortMap, ...]]) -> Outcome[list[Seen]]:
    if outcome.value is None:
        return Outcome(outcome.host, None, outcome.error)
    forwards.remember(kit.state_dir, outcome.host, forwards.own(outcome.value))
    return Outcome(outcome.host, forwards.seen(outcome.value))


def _show(kit: Kit, host: Host, found: Sequence[Seen], wanted: int | None) -> None:
    kit.screen.table(("ADDRESS", "CONTAINER PORT", "ANSWERS"), [_row(one) for one in found])
    mine = [one for one in found if one.map.container_port != 22]
    if mine:
        first = mine[0].map.container_port
        kit.screen.warn(
            "anyone on the lab's network can use these addresses, and a stop takes them away",
            hint=f"apexgpu tunnel {host.name} {wanted or first}   (for this laptop alone; comes back)",
        )
    for one in mine:
        if not one.answers:
            kit.screen.note(
                f"{_address(one.map)} does not answer: what listens on port {one.map.container_port} "
                "in the container must listen on 0.0.0.0, not on 127.0.0.1 alone"
            )
    if wanted is None and (gone := _gone(kit, host, found)):
        kit.screen.note(
            f"no longer mapped: {', '.join(map(str, gone))}   (again: apexgpu port {host.name} {gone[0]})"
        )


def _gone(kit: Kit, host: Host, found: Sequence[Seen]) -> list[int]:
    mapped = {one.map.container_port for one in found}
    return [number for number in forwards.remembered(kit.state_dir, host) if number not in mapped]


def _address(one: PortMap) -> str:
    return f"{one.address}:{one.port}"


def _row(one: Seen) -> tuple[str, str, str]:
    number = one.map.container_port
    return (
        _address(one.map),
        f"{number} (ssh)" if number == 22 else str(number),
        "yes" if one.answers else "no",
    )


def _value(kit: Kit, host: Host, found: Sequence[Seen]) -> dict[str, Any]:
    maps = [
        {
            "address": one.map.address,
            "port": one.map.port,
            "container_port": one.map.container_port,
            "answers": one.answers,
        }
        for one in found
    ]
    return {"ports": maps, "remembered": list(forwards.remembered(kit.state_dir, host))}


def offer_again(kit: Kit, hosts: Sequence[Host]) -> None:
    """After a start: ask whether the maps that the last stop took away shall be made again; no means never again."""
    lost = {host: found for host in hosts if (found := forwards.remembered(kit.state_dir, host))}
    if not lost:
        return
    what = "; ".join(f"{host.name}: {', '.join(map(str, found))}" for host, found in lost.items())
    if not kit.yes and not kit.screen.can_ask:
        first, ports = next(iter(lost.items()))
        kit.screen.note(
            f"port maps that the stop took away: {what}   (again: apexgpu port {first.name} {ports[0]})"
        )
    elif kit.yes or kit.screen.confirm(f"Open these ports to the lab's network again ({what})?"):
        fleet.run(kit, list(lost), lambda host: _put_back(kit, host, lost[host]))
    else:
        for host in lost:
            forwards.forget(kit.state_dir, host)


def _put_back(kit: Kit, host: Host, ports: Sequence[int]) -> None:
    forwards.put_back(
        kit.transport, host, ports, note=lambda text: kit.screen.note(f"{host.name}: {text}")
    )
