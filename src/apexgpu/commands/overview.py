"""status: every host in one table. Without typer, because this is the command that has to feel instant."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from apexgpu.commands import fleet
from apexgpu.livetable import Board
from apexgpu.manageshell import containershell, hostlock, manage
from apexgpu.manageshell.manage import HostStatus
from apexgpu.models import Container, Host, Outcome
from apexgpu.remote import disks
from apexgpu.session import Session
from apexgpu.ssh import fanout
from apexgpu.text import duration, size

if TYPE_CHECKING:
    from apexgpu.archives.journal import Entry


def status(session: Session, patterns: Sequence[str], *, watch: bool = False) -> int:
    """Show the hosts that `patterns` name, all where there are none; the exit code."""
    chosen = session.hosts(patterns)
    inside = bool(patterns)
    waiting = {
        one.name: (one.name, "…", one.address, str(one.port or "-"), "-", "-", "-")
        for one in chosen
    }
    board = Board(session.screen, _HEADER, waiting, styles=_colour, least=_LEAST)
    outcomes = _ask_all(session, chosen, inside, board)
    if watch and session.screen.draws:
        _watch(session, chosen, inside, board)
    board.end()
    for outcome in outcomes:
        if outcome.error is not None:
            fleet.show_error(session, outcome.host, outcome.error)
    cut = _interrupted(session, chosen)
    for entry in cut.values():
        hint = f"apexgpu {entry.what} {entry.host}   finishes it (--undo undoes it)"
        session.screen.warn(entry.words(), hint=hint)
    _show_disks(session, outcomes)
    code = fanout.exit_code(outcomes)
    rows = fleet.rows(outcomes, _status_value)
    told = [
        {**row, "interrupted": cut[row["host"]].value() if row["host"] in cut else None}
        for row in rows
    ]
    session.screen.document({"ok": code == 0, "hosts": told})
    return code


def _show_disks(session: Session, outcomes: Sequence[Outcome[HostStatus]]) -> None:
    """The free space of the disks, for hosts that were named."""
    rows = [
        (
            outcome.host.name,
            one.path,
            size(one.size),
            size(one.free),
            f"{one.free * 100 // max(1, one.size)} %",
        )
        for outcome in outcomes
        if outcome.value is not None
        for one in outcome.value.disks
    ]
    if not rows:
        return
    session.screen.result("")
    session.screen.table(("HOST", "DISK", "SIZE", "FREE", "FREE %"), rows, styles=_scarce)
    session.screen.note(
        "Disks are shared with everyone on the host (/NAS and /newNAS with everyone in the lab)."
    )


def _scarce(row: Any) -> str:
    return "red" if int(row[4].split()[0]) < 3 else ""


def _interrupted(session: Session, hosts: Sequence[Host]) -> "dict[str, Entry]":
    """What was cut on these hosts; work that another apexgpu is at now is not."""
    if not (session.state_dir / "journal").is_dir():
        return {}
    from apexgpu.archives.journal import Journal

    found = ((host, Journal(session.state_dir).find(host.name)) for host in hosts)
    return {
        host.name: entry
        for host, entry in found
        if entry and not hostlock.in_use(session.state_dir, host)
    }


_HEADER = ("HOST", "STATE", "ADDRESS", "PORT", "MEMORY", "UPTIME", "KEY")
_LEAST = (0, len("connection refused"), 0, 5, len("1023.9 MiB"), len("23 h 59 min"), 0)
_EVERY = 5.0


def _ask_all(
    session: Session, hosts: list[Host], inside: bool, board: Board
) -> list[Outcome[HostStatus]]:
    def done(outcome: Outcome[HostStatus]) -> None:
        board.put(outcome.host.name, _row(outcome))

    ask = containershell.detailed_status if inside else manage.status
    return fleet.run(
        session,
        hosts,
        lambda host: ask(session.transport, host),
        on_done=done,
    )


def _watch(session: Session, hosts: list[Host], inside: bool, board: Board) -> NoReturn:
    """Ask all hosts again and again, each row as it comes, until Ctrl-C."""
    with board.living():
        while True:
            time.sleep(_EVERY)
            _ask_all(session, hosts, inside, board)


def _row(outcome: Outcome[HostStatus]) -> tuple[str, ...]:
    host, found = outcome.host, outcome.value
    if found is None:
        code = outcome.error.code if outcome.error else "failed"
        return (host.name, code.replace("_", " "), host.address, "-", "-", "-", "-")
    container = found.container
    if not found.registered or container is None:
        return (host.name, "not registered", host.address, "-", "-", "-", "no")
    memory = size(container.memory)
    return (
        host.name,
        container.state.lower(),
        host.address,
        str(host.port or "-"),
        memory,
        duration(found.uptime),
        "yes",
    )


def _colour(row: Any) -> str:
    return {"running": "green", "stopped": "", "not registered": "dim"}.get(row[1], "red")


def _status_value(value: HostStatus) -> dict[str, Any]:
    container = value.container
    return {
        "registered": value.registered,
        "key_accepted": value.registered,
        **(container_value(container) if container else {"running": False, "state": None}),
        "uptime": value.uptime,
        "disks": disks.rows(value.disks),
    }


def container_value(container: Container) -> dict[str, Any]:
    """A container as JSON documents show it."""
    return {
        "running": container.running,
        "state": container.state,
        "addresses": list(container.addresses),
        "memory": container.memory,
    }
