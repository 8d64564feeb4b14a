"""Replaces a container's files by those of an archive, and finishes or undoes an interrupted
replacement.

The order is: make the archive ready, stop the container, get a token, let the server unpack, start
the container, log in. The server deletes first, unpacks second, and reports `Done` whatever
happened. Therefore nothing is sent before the archive was read to its end, and nothing is called a
success before a login. `rebuild` is the same with the template.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace

from apexgpu.archives import archivehost, scripts
from apexgpu.archives.access import grant_access, revoke_access
from apexgpu.archives.catalog import parse_du_size
from apexgpu.archives.findhost import start_briefly
from apexgpu.archives.journal import ReplacementEntry, Stage, Work, now
from apexgpu.archives.recoverplan import RecoverPlan, read_authorized_keys
from apexgpu.archives.snapshot import TOKEN_ATTEMPTS, changed_nothing
from apexgpu.archives.workcontext import WorkContext
from apexgpu.errors import (
    ApexError,
    NoRootfsError,
    RefusedError,
    RunningError,
    StartFailedError,
    TokenError,
)
from apexgpu.iam.publickeys import parse_all
from apexgpu.manageshell import archivecommands, portmaps
from apexgpu.models import Host, Target
from apexgpu.ssh.failures import ChangedHostKeyError
from apexgpu.ssh.hostkeys import KeyChange, KnownKeys
from apexgpu.ssh.transport import Limits

_SLOW_UNPACKING = 4 << 20  # bytes per second


@dataclass(frozen=True, slots=True)
class RecoveredContainer:
    """A container whose files were replaced, and that was logged in to.

    `host_key_change` is what was changed in known_hosts; `keys_restored` counts the keys that were
    added to authorized_keys again.
    """

    what: Work
    archive_name: str
    host_key_change: KeyChange | None
    keys_restored: int


def planned_entry(plan: RecoverPlan) -> ReplacementEntry:
    """The journal entry of a plan before anything is done."""
    check = plan.check
    return ReplacementEntry(
        host=plan.host.name,
        what=plan.what,
        began=now(),
        directory=plan.directory,
        path=plan.archive.path,
        was_running=plan.was_running,
        port_maps=plan.port_maps,
        archive_name=plan.archive.name,
        server_path=plan.server_path,
        checked=check.stamp if check else None,
        mode=check.mode if check else None,
        host_keys=check.host_keys if check else (),
        authorized_keys=plan.authorized_keys,
        wanted=plan.wanted,
    )


def replace_container(
    context: WorkContext, plan: RecoverPlan, known_keys: KnownKeys
) -> RecoveredContainer:
    """Carry out a plan.

    When it fails, the error says in which state the container is and what to do.
    """
    host = plan.host
    interrupted = context.journal.find(host.name)
    entry = planned_entry(plan)
    if plan.what is Work.REBUILD and not plan.was_running and interrupted is None:
        keys = plan.authorized_keys or _keys_of_stopped_container(context, host)
        entry = replace(entry, authorized_keys=keys)
    if interrupted is not None and interrupted.stage is not Stage.STOP:
        # Interrupted work may have replaced some of the files already; how many is not known.
        entry = replace(entry, stage=Stage.UNPACK)
    if isinstance(interrupted, ReplacementEntry):
        # What the interrupted recover made readable has to be made private again by this one.
        entry = replace(entry, grants=interrupted.grants)
    return _replace_files(context, host, context.journal.record(entry), known_keys)


def _keys_of_stopped_container(context: WorkContext, host: Host) -> tuple[str, ...]:
    """The lines of authorized_keys in a stopped container, which is started briefly for it."""
    with ExitStack() as cleanup:
        try:
            start_briefly(
                context, host, cleanup, purpose="to keep the keys in it", lock_is_held=True
            )
        except ApexError:
            return ()
        return read_authorized_keys(context, host)


def finish_replacement(
    context: WorkContext, host: Host, entry: ReplacementEntry, known_keys: KnownKeys
) -> RecoveredContainer:
    """Finish an interrupted recover or rebuild, with the archive that was checked then."""
    if entry.stage is Stage.START:
        return _start_and_log_in(context, host, entry, known_keys)
    wait_until_unpacked(context, host, entry)
    return _replace_files(context, host, entry, known_keys)


def undo_replacement(context: WorkContext, host: Host, entry: ReplacementEntry) -> None:
    """Undo an interrupted recover or rebuild.

    RefusedError when files are deleted and it can only be finished.
    """
    if entry.stage is not Stage.STOP:
        message = (
            f"the files of the container on {host.name} are already replaced; this cannot be "
            f"undone. Finish the {entry.what}, or recover from another snapshot with --from"
        )
        raise RefusedError(message, hint=entry.resume_command, code="no_undo")
    _put_back(context, host, entry)
    context.journal.end(entry)


def begin_anew(context: WorkContext, host: Host, entry: ReplacementEntry) -> ReplacementEntry:
    """Put everything back as it was before an interrupted recover that had changed no files.

    The entry stays in the journal, as that of a recover that is only planned: which archive it is
    from must not be forgotten, whatever happens now.
    """
    _put_back(context, host, entry)
    path = entry.moved_from or entry.path
    return context.journal.record(replace(entry, path=path, moved_from=None, grants=()))


def _put_back(context: WorkContext, host: Host, entry: ReplacementEntry) -> None:
    if entry.was_running and not context.is_known_to_run(host):
        context.start(host)
        portmaps.map_again(context.transport, host, entry.port_maps, note=context.note)
    revoke_access(context, host, entry)


def wait_until_unpacked(context: WorkContext, host: Host, entry: ReplacementEntry) -> None:
    """Wait until the container's files stop growing: the server's tar unpacks on after a dropped
    connection.
    """
    if entry.stage is not Stage.UNPACK:
        return
    last = _rootfs_size(context, host)
    unchanged = 0
    while unchanged < _checks_needed(last):
        context.pause(archivehost.CHECK_INTERVAL)
        current = _rootfs_size(context, host)
        unchanged = unchanged + 1 if current == last else 0
        last = current
        context.progress(f"waiting until the server has unpacked: {last or 'nothing yet'}")


def _checks_needed(shown: str | None) -> int:
    """How often the same size must be seen: `12G` does not change until a slow tar has written
    another whole GiB.
    """
    if shown is None:
        return archivehost.STABLE_CHECKS
    number = shown.rstrip("KMGTP")
    unit = shown[len(number) :]
    step = parse_du_size(f"1{unit}") or 0
    if "." in number:
        step //= 10
    return max(
        archivehost.STABLE_CHECKS, round(step / _SLOW_UNPACKING / archivehost.CHECK_INTERVAL)
    )


def _rootfs_size(context: WorkContext, host: Host) -> str | None:
    try:
        return archivehost.rootfs_size(context.transport, host)
    except (NoRootfsError, RunningError):
        return None


def _replace_files(
    context: WorkContext, host: Host, entry: ReplacementEntry, known_keys: KnownKeys
) -> RecoveredContainer:
    try:
        entry = grant_access(context, host, entry)
        if context.is_known_to_run(host):
            context.stop(host)
        entry = _unpack(context, host, entry)
    except ApexError as exc:
        latest = context.journal.find(host.name)
        if not isinstance(latest, ReplacementEntry):
            latest = entry
        if latest.stage is Stage.STOP:
            _undo_at_once(context, host, latest)
            raise
        raise _files_incomplete(host, entry, exc) from None
    return _start_and_log_in(context, host, entry, known_keys)


def _undo_at_once(context: WorkContext, host: Host, entry: ReplacementEntry) -> None:
    try:
        undo_replacement(context, host, entry)
    except ApexError as exc:
        context.note(
            f"{host.name} could not be put back as it was (its files are unchanged): {exc.message}"
        )


def _unpack(context: WorkContext, host: Host, entry: ReplacementEntry) -> ReplacementEntry:
    """Get a token and let the server unpack.

    The stage is UNPACK from the moment that files may be deleted.
    """
    already_deleted = entry.stage is Stage.UNPACK
    for attempt in range(1, TOKEN_ATTEMPTS + 1):
        token = archivecommands.confirm_recover(context.transport, host).token
        entry = context.journal.record(replace(entry, stage=Stage.UNPACK))
        context.progress(f"the server unpacks {entry.archive_name}")
        try:
            archivecommands.recover(context.transport, host, token, entry.path)
        except ApexError as exc:
            if changed_nothing(exc) and not already_deleted:
                entry = context.journal.record(replace(entry, stage=Stage.STOP))
            if not isinstance(exc, TokenError) or attempt == TOKEN_ATTEMPTS:
                raise
            context.note("the token was no longer valid; asking for a new one")
        else:
            return context.journal.record(replace(entry, stage=Stage.START))
    raise AssertionError


def _files_incomplete(host: Host, entry: ReplacementEntry, exc: ApexError) -> ApexError:
    """The same failure, with the state of the container and what to do."""
    if entry.what is Work.RECOVER:
        choices = "finish the recover, name another snapshot with --from, or rebuild the container"
    else:
        choices = "finish the rebuild, or recover a snapshot with --from"
    message = (
        f"{exc.message}; the container on {host.name} is stopped, and its files are deleted or "
        f"incomplete: {choices}"
    )
    return exc.with_message(message, hint=entry.resume_command)


def _start_and_log_in(
    context: WorkContext, host: Host, entry: ReplacementEntry, known_keys: KnownKeys
) -> RecoveredContainer:
    """Start the container, log in, and restore what the archive does not contain."""
    change = known_keys.expect_one_of(entry.host_keys)
    try:
        try:
            context.start(host)
        except ChangedHostKeyError as exc:
            # The archive could not be read, so its keys are not known; but this recover is what
            # changed the key.
            if entry.host_keys or exc.key is None:
                raise
            change = known_keys.replace(exc.key)
            context.start(host)
    except ApexError as exc:
        if isinstance(exc, StartFailedError):
            context.journal.record(replace(entry, stage=Stage.UNPACK))
            raise _files_incomplete(host, entry, exc) from None
        message = (
            f"{exc.message}; the files on {host.name} are replaced, but no login has worked yet"
        )
        raise exc.with_message(message, hint=exc.hint or entry.resume_command) from None
    keys_restored = 0
    if entry.what is Work.REBUILD:
        keys_restored = _restore_keys(context, host, entry)
    portmaps.map_again(context.transport, host, entry.port_maps, note=context.note)
    revoke_access(context, host, entry)
    context.journal.end(entry)
    return RecoveredContainer(entry.what, entry.archive_name, change, keys_restored)


def _restore_keys(context: WorkContext, host: Host, entry: ReplacementEntry) -> int:
    """Add the keys that were in the container before and that IAM did not send; how many."""
    present = set()
    for line in read_authorized_keys(context, host):
        present |= {key.blob for key in parse_all(line)}
    missing = []
    for line in entry.authorized_keys:
        if not any(key.blob in present for key in parse_all(line)):
            missing.append(line)
    if missing:
        context.transport.run(
            Target(host, "container"),
            scripts.add_authorized_keys(missing),
            limits=Limits(total=60),
            once=True,
        )
    return len(missing)
