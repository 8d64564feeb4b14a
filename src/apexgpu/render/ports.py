"""How the results of `apexgpu.ports` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.manageshell.portmaps import CheckedMap
from apexgpu.manageshell.replies import SSH_PORT
from apexgpu.ports import PortList
from apexgpu.render.screen import Screen
from apexgpu.tables import Row

_COLUMNS = ("ADDRESS", "CONTAINER PORT", "ANSWERS")


def show_ports(result: PortList, screen: Screen) -> None:
    """The table of the maps."""
    for outcome in result.outcomes:
        if outcome.value is not None:
            screen.table(_COLUMNS, [_row(checked) for checked in outcome.value.maps])


def _row(checked: CheckedMap) -> Row:
    port = checked.map.container_port
    return (
        checked.map.where,
        f"{port} (ssh)" if port == SSH_PORT else str(port),
        "yes" if checked.answers else "no",
    )


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {PortList: show_ports}
