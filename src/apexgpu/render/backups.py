"""How the results of `apexgpu.backups` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.archives.catalog import MANIFEST_SUFFIX, SUFFIX, UNKNOWN_HOST, Archive, shown_time
from apexgpu.archives.selection import Rotation
from apexgpu.backups import (
    KeptSnapshots,
    Recoveries,
    RemovedSnapshot,
    Snapshot,
    SnapshotList,
    Undos,
    VerifiedSnapshot,
)
from apexgpu.render.screen import Screen, reported_already
from apexgpu.tables import Column, Row
from apexgpu.text import counted, size

# A snapshot is named when it is restored, so its name is never shortened. The name contains the time and ends the path.
_COLUMNS = (
    Column("NAME"),
    Column("HOST"),
    Column("TIME", keep=2),
    Column("SIZE", keep=3),
    Column("VERIFIED", keep=4),
    Column("OTHERS", keep=1),
    Column("PATH", least=20, keep=0, is_path=True),
)


def show_list(result: SnapshotList, screen: Screen) -> None:
    """A table of the archives, and what the next snapshot has to know about the NAS."""
    if result.archives:
        screen.table(_COLUMNS, [_row(archive) for archive in result.archives])
    else:
        screen.reporter.note("no snapshot found; make one with: apexgpu snapshot HOST")
    screen.reporter.note(
        f"{size(result.free)} free in {result.directory} (seen from {result.seen_from})"
    )
    for archive in result.archives:
        if archive.damage is not None:
            screen.reporter.warn(f"{archive.name} is damaged: {archive.damage}")
        elif archive.changed:
            screen.reporter.warn(
                f"{archive.path} is not the file that was verified: it was damaged, or overwritten by "
                "another snapshot",
                hint=f"apexgpu snapshots verify {archive.name}",
            )
    public = [
        archive for archive in result.archives if archive.others_can_read and archive.of_server
    ]
    if public:
        newest = public[-1]
        copy = f"{result.directory}/{newest.name}-private{SUFFIX}"
        screen.reporter.note(
            "root's: the server's root owns these archives, so no container can make them private. A "
            f"copy is yours: apexgpu ssh {result.seen_from} -- install -p -m 600 {newest.path} {copy}"
        )
    if not result.writable:
        screen.reporter.warn(
            f"{result.directory} is read-only for you: a new snapshot would replace "
            f"{result.server_path}"
        )


def _row(archive: Archive) -> Row:
    return (
        archive.name,
        "?" if archive.host == UNKNOWN_HOST else archive.host,
        shown_time(archive.created),
        size(archive.size),
        _verified(archive),
        _others(archive),
        archive.path,
    )


def _verified(archive: Archive) -> str:
    if archive.damage is not None:
        return "damaged"
    if archive.changed:
        return "changed"
    return shown_time(archive.verified) if archive.verified else "never"


def _others(archive: Archive) -> str:
    if not archive.others_can_read:
        return "no"
    return "can read it (root's)" if archive.of_server else "can read it"


def show_verified(result: VerifiedSnapshot, screen: Screen) -> None:
    """What was read of a good archive."""
    archive = result.archive
    if not result.has_manifest:
        screen.reporter.warn(
            f"{archive.path}{MANIFEST_SUFFIX} cannot be written, so the result is not kept"
        )
    screen.reporter.success(
        f"{archive.name} is good: {counted(result.members, 'file')}, SHA-256 {result.sha256}"
    )


def show_removed(result: RemovedSnapshot, screen: Screen) -> None:
    """What was deleted."""
    screen.reporter.success(f"{result.archive.name} is removed")


_KEEP_COLUMNS = (
    Column("NAME"),
    Column("HOST", keep=1),
    Column("TIME", keep=0),
    Column("SIZE", keep=2),
    Column("KEEP", keep=4),
    Column("WHY", least=12, keep=3),
)


def show_kept(result: KeptSnapshots, screen: Screen) -> None:
    """With a dry run, a table of what would stay and why. Otherwise how many were deleted, and how many are left."""
    if result.dry_run and result.rotation:
        screen.table(_KEEP_COLUMNS, [_rotation_row(each) for each in result.rotation])
        screen.reporter.note(
            f"{counted(len(result.removed), 'snapshot')} would be deleted; nothing was changed"
        )
    elif result.removed:
        screen.reporter.success(f"{len(result.removed)} removed, {len(result.kept)} kept")
    else:
        screen.reporter.success("nothing to remove")


def _rotation_row(each: Rotation) -> Row:
    archive = each.archive
    return (
        archive.name,
        "?" if archive.host == UNKNOWN_HOST else archive.host,
        shown_time(archive.created),
        size(archive.size),
        "yes" if each.why else "no",
        each.why or "-",
    )


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    SnapshotList: show_list,
    VerifiedSnapshot: show_verified,
    RemovedSnapshot: show_removed,
    KeptSnapshots: show_kept,
    Recoveries: reported_already,
    Snapshot: reported_already,
    Undos: reported_already,
}
