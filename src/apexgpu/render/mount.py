"""How the results of `apexgpu.mount` look."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.mount import Mount, MountChanges, Mounted, MountList, MountState
from apexgpu.render.screen import Screen, reported_already
from apexgpu.tables import Column, Row
from apexgpu.text import duration

_COLUMNS = (
    Column("HOST"),
    Column("DIRECTORY", least=26, is_path=True),
    Column("REMOTE", least=16, keep=2, is_path=True),
    Column("STATE"),
    Column("SINCE", keep=1),
    Column("MODE", keep=0),
)
_STATE = 3


def show_mounted(result: Mounted, screen: Screen) -> None:
    """The mount, and how to unmount it."""
    mount = result.mount
    screen.line(f"{mount.directory}  →  {mount.describe_source()}")
    if result.changed:
        screen.reporter.note(f"to unmount: apexgpu unmount {mount.host}")
    else:
        screen.reporter.note("nothing to do: it is mounted already")


def show_list(result: MountList, screen: Screen) -> None:
    """A table of the mounts; stale ones in red, with the reason below it."""
    if not result.mounts:
        screen.reporter.note("nothing is mounted; mount a container with: apexgpu mount HOST")
        return
    screen.table(_COLUMNS, [_row(mount) for mount in result.mounts], styles=_style)
    for mount in result.mounts:
        if mount.is_stale:
            screen.reporter.warn(
                f"{mount.directory} is stale: {mount.reason}", hint="apexgpu mounts repair"
            )


def _row(mount: Mount) -> Row:
    since = duration(time.time() - mount.since) if mount.since else "-"
    mode = "read-only" if mount.read_only else "read-write"
    return (mount.host, mount.directory, mount.remote, mount.state, since, mode)


def _style(row: Row) -> str:
    return "red" if row[_STATE] == MountState.STALE else ""


# `repair` and `unmount` have reported each mount while they worked.
VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    Mounted: show_mounted,
    MountList: show_list,
    MountChanges: reported_already,
}
