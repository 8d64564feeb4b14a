"""status: every host in one table. Without typer, because this is the command that has to feel instant."""

from collections.abc import Sequence
from typing import Any

from apexgpu import manage
from apexgpu.commands import fleet
from apexgpu.kit import Kit
from apexgpu.manage import HostStatus
from apexgpu.models import Container, Host, Outcome
from apexgpu.render import duration, size


def status(kit: Kit, patterns: Sequence[str], *, watch: bool = False) -> int:
    """Show the hosts that `patterns` name, all where there are none; the exit code."""
    chosen = kit.hosts(patterns)
    inside = bool(patterns)
    if watch and kit.screen.live and not kit.screen.as_json:
        from apexgpu.render import watch as keep_showing

        keep_showing(lambda: "\n".join(_table_lines(_ask_all(kit, chosen, inside))), every=5)
    outcomes = _ask_all(kit, chosen, inside, live=True)
    kit.screen.table(_HEADER, [_row(outcome) for outcome in outcomes], styles=_colour)
    for outcome in outcomes:
        if outcome.error is not None:
            fleet.show_error(kit, outcome.host, outcome.error)
    return fleet.finish(kit, outcomes, _status_value)


_HEADER = ("HOST", "STATE", "ADDRESS", "PORT", "MEMORY", "UPTIME", "KEY")


def _ask_all(kit: Kit, hosts: list[Host], inside: bool, *, live: bool = False) -> list[Outcome[HostStatus]]:
    """Ask all hosts; rows appear on a terminal as answers arrive, and give way to the whole table."""
    shown: list[str] = []

    def done(outcome: Outcome[HostStatus]) -> None:
        shown.append(outcome.host.name)
        if live and kit.screen.live:
            missing = [host.name for host in hosts if host.name not in shown]
            if missing:
                kit.screen.transient(f"{len(shown)} of {len(hosts)} answered; waiting for {', '.join(missing)}")

    outcomes = fleet.run(kit, hosts, lambda host: manage.status(kit.transport, host, inside=inside), on_done=done)
    if live:
        kit.screen.transient("")
    return outcomes


def _table_lines(outcomes: list[Outcome[HostStatus]]) -> list[str]:
    from apexgpu.render import columns

    return columns(_HEADER, [_row(outcome) for outcome in outcomes])


def _row(outcome: Outcome[HostStatus]) -> tuple[str, ...]:
    host, found = outcome.host, outcome.value
    if found is None:
        code = outcome.error.code if outcome.error else "failed"
        return (host.name, code.replace("_", " "), host.address, "-", "-", "-", "-")
    container = found.container
    if not found.registered or container is None:
        return (host.name, "not registered", host.address, "-", "-", "-", "no")
    memory = size(container.memory)
    return (host.name, container.state.lower(), host.address, str(host.port or "-"), memory,
            duration(found.uptime), "yes")  # fmt: skip


def _colour(row: Any) -> str:
    return {"running": "green", "stopped": "", "not registered": "dim"}.get(row[1], "red")


def _status_value(value: HostStatus) -> dict[str, Any]:
    container = value.container
    return {
        "registered": value.registered,
        "key_accepted": value.registered,
        **(container_value(container) if container else {"running": False, "state": None}),
        "uptime": value.uptime,
    }


def container_value(container: Container) -> dict[str, Any]:
    """A container as JSON documents show it."""
    return {
        "running": container.running,
        "state": container.state,
        "addresses": list(container.addresses),
        "memory": container.memory,
    }
