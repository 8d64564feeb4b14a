"""Which archive a user means, which one is the default, and which ones a rotation removes. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from apexgpu import readers
from apexgpu.archives.catalog import SUFFIX, UNKNOWN_HOST, Archive, file_name, name_time
from apexgpu.errors import NoSnapshotError, RefusedError, UsageError


def choose_archive(archives: Sequence[Archive], wanted: str) -> Archive:
    """The archive with the name, label, file name or path `wanted`.

    RefusedError for none, or several.

    A name, a file or a path counts before a label that has the same text, and that before a part of a name.
    """
    matches = [archive for archive in archives if wanted in _names(archive)]
    if not matches:
        matches = [archive for archive in archives if _was_printed(archive, wanted)]
    if not matches:
        matches = [archive for archive in archives if archive.label == wanted]
    if not matches and wanted:
        # Any part of a name that only one archive has.
        matches = [archive for archive in archives if wanted in archive.name]
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


@dataclass(frozen=True, slots=True)
class KeepRules:
    """How many archives a rotation keeps of each host: the newest ones, the newest of each day and of each week.

    Days and weeks without an archive do not count, as with restic. They are those of this machine's time zone.
    """

    last: int = 0
    daily: int = 0
    weekly: int = 0


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation does with one archive: why it is kept, or "" if it is to be removed."""

    archive: Archive
    why: str


VERIFIED = "newest verified"
FOR_UNDO = "saved by the last recover"


def rotate(archives: Sequence[Archive], rules: KeepRules) -> list[Rotation]:
    """Decide about each archive, in their order.

    Kept are those of the rules, the last verified one of each host, and the newest of those that a recover or rebuild
    saved itself. The latter are not counted by the rules: otherwise, three recovers would push out all snapshots that
    the user asked for. UsageError if the rules keep nothing.
    """
    if rules.last + rules.daily + rules.weekly < 1:
        raise UsageError("at least one snapshot must be kept", hint="apexgpu snapshots keep 3")
    requested: dict[str, list[Archive]] = {}
    for_undo: dict[str, list[Archive]] = {}
    for archive in archives:
        group = for_undo if archive.made_for_undo else requested
        group.setdefault(archive.host, []).append(archive)
    reasons: dict[str, str] = {}  # by path
    for of_host in requested.values():
        _keep_by_rules(of_host, rules, reasons)
        _keep_verified(of_host, reasons)
    for of_host in for_undo.values():
        reasons[_newest(of_host).path] = FOR_UNDO
        _keep_verified(of_host, reasons)
    return [Rotation(archive, reasons.get(archive.path, "")) for archive in archives]


def _keep_by_rules(of_host: Sequence[Archive], rules: KeepRules, reasons: dict[str, str]) -> None:
    newest_first = sorted(of_host, key=lambda archive: -archive.created)
    for number, archive in enumerate(newest_first[: rules.last], start=1):
        _add_reason(reasons, archive, f"last {number}")
    _keep_periods(newest_first, rules.daily, "day", _day, reasons)
    _keep_periods(newest_first, rules.weekly, "week", _week, reasons)


def _keep_periods(
    newest_first: Sequence[Archive],
    count: int,
    unit: str,
    period_of: Callable[[Archive], str],
    reasons: dict[str, str],
) -> None:
    """Keep the newest archive of each of the last `count` periods; one that is not known to be bad, if there is one."""
    periods: dict[str, list[Archive]] = {}
    for archive in newest_first:
        periods.setdefault(period_of(archive), []).append(archive)
    for period in list(periods)[:count]:
        usable = [archive for archive in periods[period] if not _is_bad(archive)]
        chosen = usable[0] if usable else periods[period][0]
        _add_reason(reasons, chosen, f"{unit} {period}")


def _is_bad(archive: Archive) -> bool:
    return archive.damage is not None or archive.changed


def _day(archive: Archive) -> str:
    return _local(archive).strftime("%Y-%m-%d")


def _week(archive: Archive) -> str:
    year, week, _day_of_week = _local(archive).isocalendar()
    return f"{year}-W{week:02}"


def _local(archive: Archive) -> datetime:
    return datetime.fromtimestamp(min(archive.created, readers.LAST_SECOND)).astimezone()


def _keep_verified(of_host: Sequence[Archive], reasons: dict[str, str]) -> None:
    """Keep the newest verified archive, unless a verified one is kept already."""
    verified = [archive for archive in of_host if archive.verified]
    if verified and not any(archive.path in reasons for archive in verified):
        _add_reason(reasons, _newest(verified), VERIFIED)


def _add_reason(reasons: dict[str, str], archive: Archive, reason: str) -> None:
    present = reasons.get(archive.path)
    reasons[archive.path] = f"{present}, {reason}" if present else reason
