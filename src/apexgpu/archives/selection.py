"""Which archive a user means, which one is the default, and which ones a rotation removes. Pure."""

from collections.abc import Sequence

from apexgpu.archives.catalog import SUFFIX, UNKNOWN_HOST, Archive, file_name, name_time
from apexgpu.errors import NoSnapshotError, RefusedError, UsageError


def choose_archive(archives: Sequence[Archive], wanted: str) -> Archive:
    """The archive with the name, label, file name or path `wanted`.

    RefusedError for none, or several.

    A name, a file or a path counts before a label that has the same text.
    """
    matches = [archive for archive in archives if wanted in _names(archive)]
    if not matches:
        matches = [archive for archive in archives if _was_printed(archive, wanted)]
    if not matches:
        matches = [archive for archive in archives if archive.label == wanted]
    if not matches:
        message = f"there is no snapshot {wanted}"
        raise NoSnapshotError(message, hint="apexgpu snapshots")
    if len(matches) > 1:
        # Which of them is meant, nobody knows, so the hint names none: it might be pasted.
        names = ", ".join(archive.name for archive in matches)
        message = f"{wanted} is the name of several snapshots: {names}; use the whole name"
        raise RefusedError(message, hint="apexgpu snapshots", code="several_snapshots")
    return matches[0]


def _names(archive: Archive) -> set[str]:
    stem = file_name(archive.path)
    return {archive.name, archive.path, stem, f"{stem}{SUFFIX}"}


def _was_printed(archive: Archive, wanted: str) -> bool:
    """Whether `wanted` is the name that was printed for an archive whose manifest could not be
    written. It contains the archive's time.
    """
    if archive.host != UNKNOWN_HOST or archive.name != file_name(archive.path):
        return False
    time = f"-{name_time(archive.created)}"
    return wanted.startswith(f"{archive.name}-") and f"{time}-" in f"{wanted}-"


def default_archive(archives: Sequence[Archive], host: str) -> Archive:
    """The archive that `recover HOST` uses: the newest verified one of this host that a user asked
    for.

    What a recover saved itself does not count: after the first recover it is the newest archive,
    and the same command would bring back what the user wanted to be rid of. NoSnapshotError names
    the archive that comes nearest.
    """
    usable = [
        archive
        for archive in archives
        if archive.host == host and archive.verified and not archive.made_for_undo
    ]
    if usable:
        return _newest(usable)
    raise _no_default(archives, host)


def _newest(archives: Sequence[Archive]) -> Archive:
    return max(archives, key=lambda archive: archive.created)


def _no_default(archives: Sequence[Archive], host: str) -> NoSnapshotError:
    """The error when no archive can be the default; its hint names the nearest one."""
    of_host = [archive for archive in archives if archive.host == host]
    requested = [archive for archive in of_host if not archive.made_for_undo]
    of_others = [archive for archive in archives if archive.host not in {host, UNKNOWN_HOST}]
    if requested:
        nearest = _newest(requested)
        message = f"no verified snapshot of {host} found; {nearest.describe()} has to be named"
    elif of_host:
        nearest = _newest(of_host)
        message = (
            f"no snapshot of {host} found but what a recover or rebuild saved itself; "
            f"{nearest.name} has to be named"
        )
    elif of_others:
        nearest = _newest(of_others)
        message = (
            f"no snapshot of {host} found; the newest archive is of {nearest.host} ({nearest.name})"
        )
    elif archives:
        nearest = _newest(archives)
        message = f"no snapshot of {host} found; {nearest.describe()} has to be named"
    else:
        return NoSnapshotError("no snapshot found", hint=f"apexgpu snapshot {host}")
    return NoSnapshotError(message, hint=f"apexgpu recover {host} --from {nearest.name}")


def archives_to_remove(archives: Sequence[Archive], keep: int) -> list[Archive]:
    """All archives but the newest `keep` of each host, its last verified one, and the newest of
    those that a recover or rebuild saved itself.

    The latter are not counted among the `keep`: otherwise, three recovers would push out all
    snapshots that the user asked for.
    """
    if keep < 1:
        raise UsageError("at least one snapshot must be kept", hint="apexgpu snapshots keep 3")
    requested: dict[str, list[Archive]] = {}
    for_undo: dict[str, list[Archive]] = {}
    for archive in archives:
        group = for_undo if archive.made_for_undo else requested
        group.setdefault(archive.host, []).append(archive)
    removed: list[Archive] = []
    for of_host in requested.values():
        removed += _older_than(of_host, keep)
    for of_host in for_undo.values():
        removed += _older_than(of_host, 1)
    return removed


def _older_than(archives: Sequence[Archive], keep: int) -> list[Archive]:
    """All but the newest `keep` and the newest verified one."""
    newest_first = sorted(archives, key=lambda archive: -archive.created)
    verified_is_kept = any(archive.verified for archive in newest_first[:keep])
    removed = []
    for archive in newest_first[keep:]:
        if archive.verified and not verified_is_kept:
            verified_is_kept = True
        else:
            removed.append(archive)
    return removed
