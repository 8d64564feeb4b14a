"""port: the server's own maps of container ports, which anyone on the lab's network can use."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from apexgpu import manyhosts
from apexgpu.commands import reach
from apexgpu.commands.options import Group, OneHost, session_of
from apexgpu.errors import RefusedError
from apexgpu.manageshell import manage, portmaps
from apexgpu.manageshell.portmaps import CheckedMap
from apexgpu.manageshell.replies import PortMap
from apexgpu.models import Host, Outcome
from apexgpu.session import Session

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
    session = session_of(ctx)
    chosen = reach.one_host(session, host)
    outcome = _listed(session, chosen) if number is None else _mapped(session, chosen, number)
    if outcome.error is not None:
        manyhosts.show_error(session, chosen, outcome.error)
    elif outcome.value is not None:
        _show(session, chosen, outcome.value, number)
    raise typer.Exit(
        manyhosts.finish(session, [outcome], lambda found: _value(session, chosen, found))
    )


def _listed(session: Session, host: Host) -> Outcome[list[CheckedMap]]:
    with session.screen.working(f"asking {host.name} for its port maps"):
        outcome = manyhosts.run(
            session, [host], lambda one: manage.list_port_maps(session.transport, one)
        )[0]
        return _looked_at(session, outcome)


def _mapped(session: Session, host: Host, number: int) -> Outcome[list[CheckedMap]]:
    def work(one: Host) -> tuple[PortMap, ...]:
        return (
            portmaps.map_and_remember(session.transport, one, number, state_dir=session.state_dir),
        )

    outcome = manyhosts.run(session, [host], work)[0]
    if isinstance(outcome.error, RefusedError) and outcome.error.code == "stopped":
        reach.offer_start(session, host)
        outcome = manyhosts.run(session, [host], work)[0]
    return _looked_at(session, outcome)


def _looked_at(
    session: Session, outcome: Outcome[tuple[PortMap, ...]]
) -> Outcome[list[CheckedMap]]:
    if outcome.value is None:
        return Outcome(outcome.host, None, outcome.error)
    portmaps.remember(session.state_dir, outcome.host, portmaps.user_ports(outcome.value))
    return Outcome(outcome.host, portmaps.check_maps(outcome.value))


def _show(session: Session, host: Host, found: Sequence[CheckedMap], wanted: int | None) -> None:
    session.screen.table(("ADDRESS", "CONTAINER PORT", "ANSWERS"), [_row(one) for one in found])
    mine = [one for one in found if one.map.container_port != 22]
    if mine:
        first = mine[0].map.container_port
        session.screen.warn(
            "anyone on the lab's network can use these addresses, and a stop takes them away",
            hint=f"apexgpu tunnel {host.name} {wanted or first}   (for this laptop alone; comes back)",
        )
    for one in mine:
        if not one.answers:
            session.screen.note(
                f"{_address(one.map)} does not answer: what listens on port {one.map.container_port} "
                "in the container must listen on 0.0.0.0, not on 127.0.0.1 alone"
            )
    if wanted is None and (gone := _gone(session, host, found)):
        session.screen.note(
            f"no longer mapped: {', '.join(map(str, gone))}   (again: apexgpu port {host.name} {gone[0]})"
        )


def _gone(session: Session, host: Host, found: Sequence[CheckedMap]) -> list[int]:
    mapped = {one.map.container_port for one in found}
    return [
        number for number in portmaps.remembered(session.state_dir, host) if number not in mapped
    ]


def _address(one: PortMap) -> str:
    return f"{one.address}:{one.port}"


def _row(one: CheckedMap) -> tuple[str, str, str]:
    number = one.map.container_port
    return (
        _address(one.map),
        f"{number} (ssh)" if number == 22 else str(number),
        "yes" if one.answers else "no",
    )


def _value(session: Session, host: Host, found: Sequence[CheckedMap]) -> dict[str, Any]:
    maps = [
        {
            "address": one.map.address,
            "port": one.map.port,
            "container_port": one.map.container_port,
            "answers": one.answers,
        }
        for one in found
    ]
    return {"ports": maps, "remembered": list(portmaps.remembered(session.state_dir, host))}


def offer_again(session: Session, hosts: Sequence[Host]) -> None:
    """After a start: ask whether the maps that the last stop took away shall be made again; no means never again."""
    lost = {
        host: found for host in hosts if (found := portmaps.remembered(session.state_dir, host))
    }
    if not lost:
        return
    what = "; ".join(f"{host.name}: {', '.join(map(str, found))}" for host, found in lost.items())
    if not session.yes and not session.screen.can_ask:
        first, ports = next(iter(lost.items()))
        session.screen.note(
            f"port maps that the stop took away: {what}   (again: apexgpu port {first.name} {ports[0]})"
        )
    elif session.yes or session.screen.confirm(
        f"Open these ports to the lab's network again ({what})?"
    ):
        manyhosts.run(session, list(lost), lambda host: _put_back(session, host, lost[host]))
    else:
        for host in lost:
            portmaps.forget(session.state_dir, host)


def _put_back(session: Session, host: Host, ports: Sequence[int]) -> None:
    portmaps.map_again(
        session.transport,
        host,
        ports,
        note=lambda text: session.screen.note(f"{host.name}: {text}"),
    )
