"""Decides whether a snapshot is good, by what the server printed and what a container sees.

A bad snapshot never replaces a good archive.
"""

from dataclasses import dataclass, replace

from apexgpu.archives.archivehost import ArchiveHost
from apexgpu.archives.catalog import (
    UNKNOWN_HOST,
    Archive,
    ArchiveCheck,
    Manifest,
    archive_name,
    file_name,
    saved_host,
    sizes_agree,
)
from apexgpu.archives.journal import SnapshotEntry, now
from apexgpu.archives.observation import STARTED_MEANWHILE
from apexgpu.errors import ApexError, BadSnapshotError, NoSnapshotError
from apexgpu.models import Host


@dataclass(frozen=True, slots=True)
class ServerReply:
    """The server's complete reply to a snapshot: where it says it wrote and the size it shows, or
    why it is bad. `seen_running` is that the container ran while tar did.
    """

    path: str = ""
    shown_size: str = ""
    error: ApexError | None = None
    seen_running: bool = False


@dataclass(frozen=True, slots=True)
class LostReply:
    """The server's reply was lost.

    `check` is what was read once the archive stopped changing, if anybody could look.

    `unobserved` is that nobody could look before the container was started again. `seen_running`
    is that it ran while tar may have been writing, and does not any more.
    """

    check: ArchiveCheck | None = None
    unobserved: bool = False
    seen_running: bool = False


@dataclass(frozen=True, slots=True)
class Verified:
    """A good archive, its check, and whether its manifest could be written."""

    archive: Archive
    check: ArchiveCheck
    has_manifest: bool


def verify_archive(archives: ArchiveHost, archive: Archive) -> Verified:
    """Check an archive that is listed, and write its manifest.

    ApexError `archive_damaged` when it is bad, which the manifest then says.
    """
    check = archives.check(archive.path)
    problem = find_problem(archive, check)
    if problem is not None and _is_other_archive(archives, archive, check):
        problem = None
        archive = replace(archive, host=UNKNOWN_HOST, label="")
    if problem is not None:
        record_damage(archives, archive, check, problem)
        message = f"{archive.name} is damaged: {problem}"
        raise ApexError(message, hint="apexgpu snapshots", code="archive_damaged")
    host = archive.host
    if host == UNKNOWN_HOST:
        names = [known.name for known in archives.context.hosts]
        host = saved_host(check, archives.host.user, names) or UNKNOWN_HOST
    manifest = _manifest(host, archive.label, check)
    has_manifest = archives.write_manifest(archive.path, manifest)
    return Verified(archive, check, has_manifest)


def _is_other_archive(archives: ArchiveHost, archive: Archive, check: ArchiveCheck) -> bool:
    """Whether the server has written another archive, a whole one, over the one that was verified."""
    is_overwritten = archive.changed and archive.path == archives.server_path
    return is_overwritten and check.problem is None


def record_damage(
    archives: ArchiveHost,
    archive: Archive,
    check: ArchiveCheck,
    problem: str,
    *,
    sha256: str | None = None,
) -> None:
    """Write into the manifest that an archive is bad, so that it stays listed under its name.

    `sha256` is that of the good archive, where there was one: a reading that finds it again shows
    that the NAS was at fault, not the archive.
    """
    if check.changed:
        # It is still being written; nothing is known of it yet.
        return
    manifest = Manifest(
        host=archive.host,
        label=archive.label,
        created=check.stamp.mtime,
        size=check.stamp.size,
        sha256=sha256 if sha256 is not None else archive.sha256 or "",
        verified=None,
        damage=problem,
    )
    if not archives.write_manifest(archive.path, manifest):
        # A manifest that says otherwise is not true any more.
        archives.delete_manifest(archive.path)


def find_problem(archive: Archive, check: ArchiveCheck) -> str | None:
    """Why an archive that is listed cannot be trusted, None when it can."""
    if check.problem is not None:
        return check.problem
    if archive.sha256 and archive.sha256 != check.sha256:
        return "its SHA-256 differs from the one that was noted when it was verified"
    if archive.damage is not None and not archive.sha256:
        # Nothing that can be read in it shows that the container was used meanwhile, for example.
        return archive.damage
    return None


def _manifest(host: str, label: str, check: ArchiveCheck) -> Manifest:
    """The manifest of an archive that was checked just now."""
    return Manifest(
        host=host,
        label=label,
        created=check.stamp.mtime,
        size=check.stamp.size,
        sha256=check.sha256,
        verified=now(),
    )


def verify(
    archives: ArchiveHost, host: Host, entry: SnapshotEntry, reply: ServerReply | LostReply
) -> Verified:
    """Check the archive that a snapshot wrote, and write its manifest.

    BadSnapshotError when it is bad; the previous archive is safe then, and the journal entry is
    ended.
    """
    # Before the archive is read: reading takes long enough for a tar that is still running to end
    # meanwhile.
    still_written = isinstance(reply, LostReply) and reply.unobserved and _grows(archives)
    check = _check(archives, reply)
    problem = _problem(archives, host, entry, reply, check)
    if problem is None:
        problem = entry.disturbance
    if problem is None and still_written:
        problem = STARTED_MEANWHILE
    if problem is not None or check is None:
        raise _bad_snapshot(archives, host, entry, problem or "the server wrote no archive", check)
    return _named(archives, host.name, entry.label, check)


def _named(archives: ArchiveHost, host: str, label: str, check: ArchiveCheck) -> Verified:
    """Write the manifest of a good archive that the server has just written.

    Where none can be written, the archive itself gets its name: it must be found by what we print.
    """
    path = archives.server_path
    manifest = _manifest(host, label, check)
    has_manifest = archives.write_manifest(path, manifest)
    archive = replace(
        _server_archive(archives, host, label, check),
        sha256=check.sha256,
        verified=manifest.verified,
    )
    if has_manifest:
        return Verified(archive, check, has_manifest)
    target = archives.unused_path(archive)
    try:
        archives.move_away(archive, target)
    except ApexError as exc:
        archives.context.note(f"{path} keeps its file name: {exc.message}")
    else:
        archive = replace(archive, path=target, name=file_name(target), mode=check.mode & ~0o077)
    return Verified(archive, check, has_manifest)


def settle_undone(archives: ArchiveHost, host: Host, entry: SnapshotEntry) -> None:
    """Give the archive that an undone snapshot has left a name, or put the previous one back.

    A whole one is kept: it may be what somebody wants after all.
    """
    try:
        check = archives.check(archives.server_path)
    except NoSnapshotError:
        return
    if _is_previous(archives, entry, check) or check.changed:
        return
    problem = check.problem or entry.disturbance
    if problem is not None and entry.moved_to is not None and archives.restore(entry.moved_to):
        return
    names = [known.name for known in archives.context.hosts]
    saved = saved_host(check, host.user, names)
    is_ours = saved in {None, host.name}
    label = entry.label if is_ours else ""
    if problem is None:
        verified = _named(archives, saved or host.name, label, check)
        archives.context.note(f"the archive is whole and stays: {verified.archive.name}")
        return
    damaged = _server_archive(archives, saved or host.name, label, check)
    record_damage(archives, damaged, check, problem, sha256="")


def _server_archive(archives: ArchiveHost, host: str, label: str, check: ArchiveCheck) -> Archive:
    """The archive at the server's path, as it will be listed."""
    return Archive(
        name=archive_name(archives.host.user, host, check.stamp.mtime, label),
        host=host,
        label=label,
        path=archives.server_path,
        size=check.stamp.size,
        created=check.stamp.mtime,
        mode=check.mode,
    )


def _grows(archives: ArchiveHost) -> bool:
    """Whether the server's tar is still writing."""
    before = archives.size_and_mtime(archives.server_path)
    return archives.wait_until_stable(archives.server_path) != before


def _check(archives: ArchiveHost, reply: ServerReply | LostReply) -> ArchiveCheck | None:
    """The check of the archive, None when there is no archive.

    One that was made already is used if it still applies.
    """
    path = archives.server_path
    try:
        if isinstance(reply, ServerReply):
            return archives.check(path, expected=reply.error is None)
        if reply.check is not None and archives.size_and_mtime(path) == reply.check.stamp:
            return reply.check
        return archives.check(path)
    except NoSnapshotError:
        return None


def _problem(
    archives: ArchiveHost,
    host: Host,
    entry: SnapshotEntry,
    reply: ServerReply | LostReply,
    check: ArchiveCheck | None,
) -> str | None:
    """Why the archive cannot be trusted, None when it can."""
    if isinstance(reply, ServerReply) and reply.error is not None:
        return reply.error.message
    if check is None:
        return "the server wrote no archive"
    if check.problem is not None:
        return check.problem
    if _is_previous(archives, entry, check):
        return "the archive is the old one: the server wrote nothing"
    if isinstance(reply, ServerReply):
        if reply.path != archives.server_path:
            return f"the server reports that it wrote {reply.path}"
        if not sizes_agree(reply.shown_size, check):
            return (
                f"the server shows {reply.shown_size}, but the archive has {check.stamp.size} bytes"
            )
    names = [known.name for known in archives.context.hosts]
    saved = saved_host(check, host.user, names)
    if saved not in {None, host.name}:
        return f"the archive contains the container of {saved}: a snapshot there has overwritten it"
    return None


def _is_previous(archives: ArchiveHost, entry: SnapshotEntry, check: ArchiveCheck) -> bool:
    """Whether the archive is the previous one: one that could only be copied, not renamed, is still
    in its place.

    Two archives of one container, written within a second, can have the same size and time. One that was renamed is
    not in its place as long as it is where it was moved to.
    """
    if entry.previous != check.stamp:
        return False
    if entry.previous_stayed or entry.moved_to is None:
        return True
    return archives.size_and_mtime(entry.moved_to) != entry.previous


def _bad_snapshot(
    archives: ArchiveHost,
    host: Host,
    entry: SnapshotEntry,
    problem: str,
    check: ArchiveCheck | None,
) -> BadSnapshotError:
    """The error for a bad snapshot.

    Puts the previous archive back where that costs nothing, and ends the entry. The recover for
    which the container was to be saved takes its place in the journal.
    """
    kept = _keep_previous(archives, entry, check)
    _mark_bad(archives, host, entry, problem, check)
    journal = archives.context.journal
    if entry.then is None:
        journal.end(entry)
    else:
        # The recover that was to follow is still planned: its caller decides what becomes of it.
        journal.record(entry.then)
    if not problem.startswith("the snapshot on "):
        problem = f"the snapshot on {host.name} is bad: {problem}"
    return BadSnapshotError(f"{problem}; {kept}", hint="apexgpu snapshots")


def _mark_bad(
    archives: ArchiveHost,
    host: Host,
    entry: SnapshotEntry,
    problem: str,
    check: ArchiveCheck | None,
) -> None:
    """Record that the archive is bad, where it is still in its place.

    One that contains another host's container is that host's good snapshot.
    """
    if check is None or _is_previous(archives, entry, check):
        return
    names = [known.name for known in archives.context.hosts]
    if saved_host(check, host.user, names) not in {None, host.name}:
        return
    if archives.size_and_mtime(archives.server_path) == check.stamp:
        bad = _server_archive(archives, host.name, entry.label, check)
        record_damage(archives, bad, check, problem, sha256="")


def _keep_previous(archives: ArchiveHost, entry: SnapshotEntry, check: ArchiveCheck | None) -> str:
    """Put the previous archive back in place of one that is damaged; where it is now, for people.

    It never replaces an archive that can be read to its end: that may be another host's good
    snapshot.
    """
    is_previous = check is not None and _is_previous(archives, entry, check)
    if entry.moved_to is None:
        if is_previous:
            return f"the previous one is still in its place: {archives.server_path}"
        if entry.previous is None:
            return "there was no previous one"
        return "the previous one was given up for it (--replace)"
    readable = check is not None and (check.changed or check.problem is None)
    is_whole_and_new = readable and not is_previous
    if not is_whole_and_new and archives.restore(entry.moved_to):
        return f"the previous one is back in its place: {archives.server_path}"
    return f"the previous one is still there: {entry.moved_to}"
