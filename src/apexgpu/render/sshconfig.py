"""How the results of `apexgpu.sshconfig` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.render.screen import Screen
from apexgpu.sshconfig import (
    BackupList,
    ConfigBlock,
    ConfigStatus,
    Removal,
    Restoration,
    Sync,
)
from apexgpu.tables import Column
from apexgpu.text import counted, local_time

_SETTING_COLUMNS = (Column("SETTING"), Column("VALUE", least=12), Column("FROM", keep=0))


def show_sync(result: Sync, screen: Screen) -> None:
    """The line that the user has to paste, if any; `sync` has reported everything else."""
    if result.line_to_paste is not None:
        screen.line(result.line_to_paste)
    if not result.would_change:
        screen.line("Nothing to do.")


def show_status(result: ConfigStatus, screen: Screen) -> None:
    """The table of settings, then the ssh config, then the warnings."""
    rows = []
    for name, setting in sorted(result.settings.items()):
        rows.append((name, setting.value or "-", setting.source))
    screen.table(_SETTING_COLUMNS, rows)
    screen.line("")
    own = f"{counted(len(result.own), 'name')} of your own"
    if result.managed:
        names = ", ".join(host.name for host in result.managed)
        count = counted(len(result.managed), "host")
        screen.paragraph(f"{result.path}: {count} of the lab ({names}), {own}")
    else:
        screen.paragraph(f"{result.path}: no hosts of the lab yet, {own}. Next: apexgpu login")
    if result.left_out:
        names = ", ".join(result.left_out)
        screen.paragraph(f"left out: {names}. To include all hosts:")
        screen.line("  apexgpu config sync --no-except")
    for warning in result.warnings:
        screen.reporter.warn(warning)


def show_block(result: ConfigBlock, screen: Screen) -> None:
    """The block as it is, to copy or redirect."""
    screen.verbatim(result.text.rstrip("\n"))


def show_removal(result: Removal, screen: Screen) -> None:
    """Whether there was a block."""
    if result.changed:
        screen.line(f"{result.path}: apexgpu's block is removed.")
    else:
        screen.line(f"Nothing to do: apexgpu's block is not in {result.path}.")


def show_restoration(result: Restoration, screen: Screen) -> None:
    """What was restored, and how to undo that."""
    if result.changed:
        screen.line(
            f"{result.path} is copy {result.number} again. To undo this: apexgpu config restore 0"
        )
    else:
        screen.line("Nothing to do: it is the same.")


def show_backups(result: BackupList, screen: Screen) -> None:
    """The copies, newest first."""
    if not result.backups:
        screen.line("No copies yet: apexgpu has not changed the ssh config.")
        return
    rows = []
    for backup in result.backups:
        taken = local_time(backup.taken.timestamp())
        rows.append((str(backup.number), taken, str(backup.bytes)))
    screen.table(("N", "TAKEN", "BYTES"), rows)


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    Sync: show_sync,
    ConfigStatus: show_status,
    ConfigBlock: show_block,
    Removal: show_removal,
    Restoration: show_restoration,
    BackupList: show_backups,
}
