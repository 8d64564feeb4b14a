"""Makes an archive ready for the server's recover, and afterwards private again and back in its
place.

The server deletes the container's files before it looks whether it can read the archive. Therefore
the archive is compared with the checked one last of all, is moved to a path that no snapshot
overwrites, and is made readable.
"""

from dataclasses import replace

from apexgpu.archives.archivehost import ArchiveHost
from apexgpu.archives.catalog import SUFFIX
from apexgpu.archives.findhost import NoArchiveHostError, archive_host
from apexgpu.archives.journal import Grant, ReplacementEntry, Stage
from apexgpu.archives.scriptreplies import CannotMoveError
from apexgpu.archives.workcontext import WorkContext
from apexgpu.errors import ApexError, RefusedError
from apexgpu.models import Host

_OTHERS_READ = 0o004
_ALL_READ = 0o444


class ArchiveChangedError(RefusedError):
    """An archive is not the one that was checked."""

    code = "archive_changed"


def grant_access(context: WorkContext, host: Host, entry: ReplacementEntry) -> ReplacementEntry:
    """Make the archive of an entry ready for the server; the entry as it is in the journal then.

    ArchiveChangedError, or another RefusedError, when the server might not read what was checked.
    An archive that was not checked (--unverified) is left as it is.
    """
    if entry.checked is None:
        return entry
    may_use_own = entry.stage is not Stage.UNPACK
    try:
        with archive_host(context, host, entry.directory, may_use_own=may_use_own) as archives:
            entry = _note_missed_move(context, archives, entry)
            _require_unchanged(archives, entry)
            entry = _move_out_of_the_way(context, archives, entry)
            return _make_readable(context, archives, entry)
    except NoArchiveHostError:
        # The files are already deleted, and no container can look: the archive as it was checked
        # and made readable then is still the best choice.
        if entry.stage is Stage.UNPACK:
            return entry
        raise


def _note_missed_move(
    context: WorkContext, archives: ArchiveHost, entry: ReplacementEntry
) -> ReplacementEntry:
    """Correct an entry whose move was recorded, but interrupted before it happened."""
    old_path = entry.moved_from
    if old_path is None or archives.size_and_mtime(entry.path) is not None:
        return entry
    if archives.size_and_mtime(old_path) is None:
        return entry
    return context.journal.record(replace(entry, path=old_path, moved_from=None))


def _require_unchanged(archives: ArchiveHost, entry: ReplacementEntry) -> None:
    if archives.size_and_mtime(entry.path) != entry.checked:
        message = (
            f"{entry.path} has changed since it was checked; name another snapshot with --from"
        )
        raise ArchiveChangedError(message, hint="apexgpu snapshots")


def _move_out_of_the_way(
    context: WorkContext, archives: ArchiveHost, entry: ReplacementEntry
) -> ReplacementEntry:
    """Rename the server's own archive meanwhile: a snapshot on another host would overwrite it
    during the recover.
    """
    if entry.path != entry.server_path:
        return entry
    archive = archives.find(entry.path)
    if archive is None:
        return entry
    target = archives.unused_path(archive)
    moved = context.journal.record(replace(entry, path=target, moved_from=entry.path))
    try:
        archives.move_away(archive, target)
    except CannotMoveError:
        return context.journal.record(replace(entry, moved_from=None))
    # An archive that is moved away is made private.
    return context.journal.record(replace(moved, mode=0o600))


def _make_readable(
    context: WorkContext, archives: ArchiveHost, entry: ReplacementEntry
) -> ReplacementEntry:
    path, mode = entry.path, entry.mode or 0
    if mode & _OTHERS_READ:
        return entry
    if not any(grant.path == path for grant in entry.grants):
        entry = replace(entry, grants=(*entry.grants, Grant(path, mode)))
    # Recorded before the change, so that the next recover makes it private again if this one is
    # interrupted.
    entry = context.journal.record(entry)
    new_mode = archives.set_mode(path, mode | _ALL_READ) or 0
    if not new_mode & _OTHERS_READ:
        message = (
            f"{path} is private and could not be made readable: the server would delete your files "
            "first, and then fail to read it"
        )
        copy = f"{path.removesuffix(SUFFIX)}-copy{SUFFIX}"
        hint = f"apexgpu ssh {archives.host.name} -- cp {path} {copy}"
        raise RefusedError(message, hint=hint, code="private")
    return entry


def revoke_access(context: WorkContext, host: Host, entry: ReplacementEntry) -> None:
    """Undo what `grant_access` did; failures are reported, not raised."""
    if not entry.grants and not entry.moved_from:
        return
    may_use_own = entry.stage is not Stage.UNPACK
    try:
        with archive_host(context, host, entry.directory, may_use_own=may_use_own) as archives:
            for grant in entry.grants:
                archives.set_mode(grant.path, grant.mode)
            if entry.moved_from:
                archives.undo_move(entry.path)
    except ApexError as exc:
        paths = [grant.path for grant in entry.grants] or [entry.path]
        names = ", ".join(paths)
        context.note(f"could not restore the permissions of {names}: {exc.message}")
