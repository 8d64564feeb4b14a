"""How the results of `apexgpu.containers` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.containers import ContainerStatus, Registrations, Starts, Statuses, Stops
from apexgpu.models import Host, Outcome
from apexgpu.render.livetable import RowsView
from apexgpu.render.screen import Screen, reported_already
from apexgpu.tables import Column, Row
from apexgpu.text import duration, size

_STATE_WIDTH = len("running, not reachable")
_COLUMNS = (
    Column("HOST"),
    Column("STATE", is_coloured=True),
    Column("ADDRESS", least=9, keep=3),
    Column("PORT", keep=4),
    Column("MEMORY", keep=2),
    Column("UPTIME", keep=1, optional=True),
    Column("KEY", keep=0),
)
_DISK_COLUMNS = (
    Column("HOST"),
    Column("DISK", least=8, is_path=True),
    Column("SIZE", keep=0),
    Column("FREE"),
    Column("FREE %", keep=1),
)
_SCARCE = 3
"""A disk with less of it free, in percent, is shown in red."""


def _waiting(host: Host) -> Row:
    return (host.name, "…", host.address, str(host.port or "-"), "-", "", "-")


def _rows(outcome: Outcome[ContainerStatus], draws: bool) -> list[Row]:
    host = outcome.host
    # On a terminal, a column without anything in it is left out. In a pipe, no cell is empty.
    unknown = "" if draws else "-"
    if outcome.value is None:
        code = outcome.error.code if outcome.error else "failed"
        return [(host.name, code.replace("_", " "), host.address, "-", "-", unknown, "-")]
    found = outcome.value.found
    if not found.registered or found.container is None:
        return [(host.name, "not registered", host.address, "-", "-", unknown, "no")]
    state = found.container.state.lower()
    if found.reachable is False:
        state += ", not reachable"
    row = (
        host.name,
        state,
        host.address,
        str(host.port or "-"),
        size(found.container.memory),
        unknown if found.uptime is None else duration(found.uptime),
        "yes",
    )
    return [row]


def _style(row: Row) -> str:
    return {"running": "green", "stopped": "", "not registered": "dim", "…": "dim"}.get(
        row[1], "red"
    )


def show_status(result: Statuses, screen: Screen) -> None:
    """What follows the table: errors, interrupted work, and the disks of hosts that were named."""
    screen.reporter.errors(result.outcomes)
    for outcome in result.outcomes:
        if outcome.value is not None and outcome.value.found.reachable is False:
            name = outcome.host.name
            message = f"the container on {name} runs, but its SSH port is not forwarded"
            screen.reporter.warn(message, hint=f"apexgpu up {name}")
    for entry in result.interrupted.values():
        message = f"{entry.describe()}; the command below finishes it, with --undo it is undone"
        screen.reporter.warn(message, hint=f"apexgpu {entry.what} {entry.host}")
    _show_disks(result, screen)


def _show_disks(result: Statuses, screen: Screen) -> None:
    rows = []
    for outcome in result.outcomes:
        if outcome.value is None:
            continue
        for disk in outcome.value.found.disks:
            percent = disk.free * 100 // max(1, disk.size)
            rows.append(
                (outcome.host.name, disk.path, size(disk.size), size(disk.free), f"{percent} %")
            )
    if not rows:
        return
    screen.line("")
    screen.table(_DISK_COLUMNS, rows, styles=_style_of_disk)
    screen.reporter.note(
        "/NAS and /newNAS are shared by the lab, other disks by everyone on the host."
    )


def _style_of_disk(row: Row) -> str:
    percent_free = int(row[4].split()[0])
    return "red" if percent_free < _SCARCE else ""


ROWS: Mapping[type, RowsView] = {
    Statuses: RowsView(
        columns=_COLUMNS,
        waiting=_waiting,
        rows=_rows,
        styles=_style,
        late_widths=(0, _STATE_WIDTH, 0, 5, len("1023.9 MiB"), len("23 h 59 min"), 0),
    )
}

VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    Statuses: show_status,
    Registrations: reported_already,
    Starts: reported_already,
    Stops: reported_already,
}
