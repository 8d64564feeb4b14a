"""Takes a snapshot that can be trusted, and finishes or undoes an interrupted one.

The order is: move the previous archive away, stop the container, get a token, let the server's tar
write, start the container again, check the archive. Every stage is recorded in the journal before
it begins. A failure before `tar` is undone at once; from `tar` on, the work is finished, now or by
the next command.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from apexgpu.archives import archivehost
from apexgpu.archives.archivehost import ArchiveHost
from apexgpu.archives.catalog import Archive, parse_du_size
from apexgpu.archives.findhost import NoArchiveHostError, archive_host
from apexgpu.archives.journal import ReplacementEntry, SnapshotEntry, Stage, Work, now
from apexgpu.archives.observation import (
    STARTED_MEANWHILE,
    ContainerWatch,
    find_disturbance,
    watching,
    why_running,
)
from apexgpu.archives.scriptreplies import CannotMoveError
from apexgpu.archives.verification import (
    LostReply,
    ServerReply,
    Verified,
    settle_undone,
    verify,
)
from apexgpu.archives.workcontext import WorkContext
from apexgpu.errors import (
    ApexError,
    BadSnapshotError,
    ConnectionLostError,
    DeclinedError,
    IamDownError,
    LoginError,
    NoNetworkError,
    NoRootfsError,
    NoRouteError,
    NoSnapshotError,
    NotRegisteredError,
    PortRefusedError,
    RefusedError,
    RunningError,
    TokenError,
    UnknownCommandError,
    UnknownNameError,
    UnreachableError,
    UnsafeArgumentError,
)
from apexgpu.files import locked
from apexgpu.manageshell import archivecommands, containershell, hostlock, portmaps
from apexgpu.models import Host, Target
from apexgpu.ssh.failures import key_refused_error
from apexgpu.text import size

TOKEN_ATTEMPTS = 3

# The failures of a command that certainly changed nothing: it was not sent, or was refused before
# it began.
_NOTHING_DONE = (
    DeclinedError,
    IamDownError,
    LoginError,
    NoNetworkError,
    NoRootfsError,
    NoRouteError,
    NoSnapshotError,
    NotRegisteredError,
    PortRefusedError,
    RunningError,
    TokenError,
    UnknownCommandError,
    UnknownNameError,
    UnsafeArgumentError,
)
# A tar that no container can see is waited for as long as a slow one takes, and at least ten
# minutes.
_SLOW_TAR = 4 << 20  # bytes per second
_SHORTEST_TAR_WAIT = 600  # seconds


@dataclass(frozen=True, slots=True)
class SnapshotPlan:
    """What a snapshot would do.

    `free` is in bytes; `previous` is the archive that the server would overwrite.
    """

    host: Host
    was_running: bool
    activity: containershell.Activity
    archives: ArchiveHost
    previous: Archive | None
    free: int | None
    writable: bool
    port_maps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TakenSnapshot:
    """A good snapshot. `previous` is the archive that was moved away for it, as it is now.

    `start_error` is why the container could not be started again afterwards.
    """

    archive: Archive
    previous: Archive | None
    restarted: bool
    has_manifest: bool = True
    start_error: ApexError | None = None

    def to_json(self) -> dict[str, object]:
        """The snapshot as JSON documents show it."""
        return {
            "snapshot": self.archive.to_json(),
            "previous": self.previous.to_json() if self.previous else None,
            "restarted": self.restarted,
        }


@contextmanager
def exclusive_work(state_dir: Path, host: Host) -> Iterator[None]:
    """Hold the locks of the host, and of the one file that the snapshots of all hosts are written
    to.
    """
    with exclusive_archives(state_dir), hostlock.only_one(state_dir, host):
        yield


def exclusive_archives(state_dir: Path) -> AbstractContextManager[None]:
    """Hold the lock of the archives against other apexgpu processes."""
    return locked(state_dir / "locks" / "+archive.lock", what="your archive on the NAS", timeout=5)


@contextmanager
def plan_snapshot(context: WorkContext, host: Host) -> Iterator[SnapshotPlan]:
    """Look before anything is changed.

    A container that is started to look is stopped again after the block.
    """
    container = context.status(host).container
    if container is None:
        raise key_refused_error(Target(host, "manage"))
    template = archivehost.template_path(context.transport, host)
    directory = archivehost.parent_directory(template)
    looking = archive_host(context, host, directory, may_use_own=True, is_running=container.running)
    with looking as archives:
        listing = archives.listing()
        previous = listing.find(archives.server_path)
        if previous is not None and archives.is_being_written(previous):
            message = (
                f"somebody is writing {archives.server_path} at this moment: another snapshot is "
                "running, wait until it has ended"
            )
            raise RefusedError(message, hint="apexgpu snapshots", code="busy")
        activity = containershell.Activity()
        port_maps: tuple[int, ...] = ()
        if container.running:
            activity = containershell.activity(context.transport, host)
            port_maps = portmaps.mapped_ports(context.transport, host)
        yield SnapshotPlan(
            host=host,
            was_running=container.running,
            activity=activity,
            archives=archives,
            previous=previous,
            free=listing.free,
            writable=listing.writable,
            port_maps=port_maps,
        )


def take_snapshot(
    context: WorkContext,
    plan: SnapshotPlan,
    *,
    label: str = "",
    restart: bool = True,
    replace_previous: bool = False,
    then: ReplacementEntry | None = None,
) -> TakenSnapshot:
    """Take the snapshot of a plan; BadSnapshotError when it is bad, with the previous one kept.

    `replace_previous` lets the server overwrite an archive that cannot be moved away. `then` is the
    recover for which the container is saved: it is in the journal when the snapshot is good.
    """
    host = plan.host
    entry = context.journal.record(
        SnapshotEntry(
            host=host.name,
            what=Work.SNAPSHOT,
            began=now(),
            directory=plan.archives.directory,
            path=plan.archives.server_path,
            was_running=plan.was_running,
            port_maps=plan.port_maps,
            restart=restart,
            label=label,
            previous=plan.previous.stamp if plan.previous else None,
            then=then,
        )
    )
    try:
        entry = _move_previous_away(context, plan, entry, allow_loss=replace_previous)
        if context.is_running(host):
            context.stop(host)
        entry, reply = _write_archive(context, host, entry)
    except ApexError:
        _undo_at_once(context, host, entry)
        raise
    return _complete(context, host, entry, reply)


def _move_previous_away(
    context: WorkContext, plan: SnapshotPlan, entry: SnapshotEntry, *, allow_loss: bool
) -> SnapshotEntry:
    """Move the previous archive away.

    The new path is recorded first: whatever happens then, it can be found.
    """
    if plan.previous is None:
        return entry
    target = plan.archives.unused_path(plan.previous)
    moved = context.journal.record(replace(entry, moved_to=target))
    context.progress(f"renaming {plan.previous.name} to keep it")
    try:
        was_renamed = plan.archives.move_away(plan.previous, target)
    except CannotMoveError:
        if not allow_loss:
            raise
        return context.journal.record(replace(entry, moved_to=None))
    # Recorded with the next stage: until tar begins, it makes no difference.
    return replace(moved, previous_stayed=not was_renamed)


def _write_archive(
    context: WorkContext, host: Host, entry: SnapshotEntry
) -> tuple[SnapshotEntry, ServerReply | LostReply]:
    """Get a token, let the server write, and return what it replied.

    An error means that no tar was started.
    """
    context.progress("the server measures the files")
    rootfs_size = archivehost.rootfs_size(context.transport, host)
    entry = context.journal.record(replace(entry, rootfs_size=rootfs_size))
    for attempt in range(1, TOKEN_ATTEMPTS + 1):
        token = _get_token(context, host, entry)
        entry = context.journal.record(replace(entry, stage=Stage.TAR, tar_began=now()))
        context.progress(f"tar is writing; {_describe_sizes(entry)}")
        try:
            with watching(context, host) as watch:
                written = archivecommands.snapshot(context.transport, host, token)
        except ApexError as exc:
            if not changed_nothing(exc):
                return entry, _reply_after_error(context, exc, watch)
            entry = context.journal.record(replace(entry, stage=Stage.STOP))
            if not isinstance(exc, TokenError) or attempt == TOKEN_ATTEMPTS:
                raise
            context.note("the token was no longer valid; asking for a new one")
        else:
            reply = ServerReply(written.path, written.size, seen_running=watch.seen_running)
            return entry, reply
    raise AssertionError


def _describe_sizes(entry: SnapshotEntry) -> str:
    text = f"the files take {entry.rootfs_size or '?'}"
    if entry.previous is not None:
        text += f", the last archive took {size(entry.previous.size)}"
    return text


def changed_nothing(exc: ApexError) -> bool:
    """Whether a failure proves that the command changed nothing.

    A lost connection or an unknown reply do not.
    """
    return isinstance(exc, _NOTHING_DONE)


def _reply_after_error(
    context: WorkContext, exc: ApexError, watch: ContainerWatch
) -> ServerReply | LostReply:
    if isinstance(exc, BadSnapshotError):
        return ServerReply(error=exc)
    if isinstance(exc, UnreachableError):
        context.note(f"{exc.message}; tar keeps running on the server")
    else:
        context.note(exc.message)
    return LostReply(seen_running=watch.seen_running)


def _get_token(context: WorkContext, host: Host, entry: SnapshotEntry) -> str:
    """Return a fresh token for the snapshot.

    Raises RefusedError if the server would write another file than the one that was moved away.
    """
    # `recover` prints the same token as `snapshot`, but does not measure the files for minutes first.
    offer = archivecommands.confirm_recover(context.transport, host)
    if offer.path not in {None, entry.path}:
        message = f"{host.name} would write {offer.path}, not {entry.path}, which was checked"
        hint = f"ssh {host.manage_name} recover"
        raise RefusedError(message, hint=hint, code="other_path")
    return offer.token


def _undo_at_once(context: WorkContext, host: Host, entry: SnapshotEntry) -> None:
    """Undo a snapshot that failed before anything was written.

    A failure of this is reported, not raised.
    """
    latest = context.journal.find(host.name)
    if isinstance(latest, SnapshotEntry):
        entry = latest
    try:
        undo_snapshot(context, host, entry)
    except ApexError as exc:
        context.note(f"{host.name} could not be put back as it was: {exc.message}")


def undo_snapshot(context: WorkContext, host: Host, entry: SnapshotEntry) -> None:
    """Start the container again and put the previous archive back.

    A tar that is running is waited for first.

    A whole new archive stays, under its name. When it fails, the journal entry stays.
    """
    _restore_former_state(context, host, entry)
    context.journal.end(entry)


def begin_recover_anew(
    context: WorkContext, host: Host, entry: SnapshotEntry, then: ReplacementEntry
) -> ReplacementEntry:
    """As `undo_snapshot`, but the recover for which the container was to be saved stays planned.

    Its entry, as it is in the journal then.
    """
    _restore_former_state(context, host, entry)
    return context.journal.record(then)


def _restore_former_state(context: WorkContext, host: Host, entry: SnapshotEntry) -> None:
    """Bring the container and the archives back to where they were before the snapshot began."""
    if entry.stage is Stage.TAR:
        # The server's tar goes on without us, and reads the container's files: a start has to wait for its end.
        reply = _wait_for_tar(context, host, entry, LostReply())
        entry = _observed(context, host, entry, reply)
    if entry.was_running and not context.is_known_to_run(host):
        context.start(host)
        portmaps.map_again(context.transport, host, entry.port_maps, note=context.note)
    tar_began = entry.stage is not Stage.STOP
    if entry.moved_to or tar_began:
        with archive_host(context, host, entry.directory, may_use_own=True) as archives:
            if tar_began:
                context.progress("checking what tar has written")
                settle_undone(archives, host, entry)
            if entry.moved_to:
                archives.undo_move(entry.moved_to)


def finish_snapshot(context: WorkContext, host: Host, entry: SnapshotEntry) -> TakenSnapshot:
    """Finish an interrupted snapshot: wait for its tar, start the container, check the archive."""
    return _complete(context, host, entry, LostReply())


def _complete(
    context: WorkContext, host: Host, entry: SnapshotEntry, reply: ServerReply | LostReply
) -> TakenSnapshot:
    """Do what follows the server's tar.

    Starts a container that ran, checks the archive, and writes its manifest.
    """
    if isinstance(reply, LostReply) and entry.stage is Stage.TAR:
        reply = _wait_for_tar(context, host, entry, reply)
    entry = context.journal.record(
        replace(_observed(context, host, entry, reply), stage=Stage.TEST)
    )
    wants_restart = entry.was_running and entry.restart
    start_error = None
    if wants_restart:
        start_error, entry = _start_again(context, host, entry)
    if not entry.observed:
        raise _not_observed(host, entry, start_error)
    with ExitStack() as cleanup:
        archives = _find_checker(context, host, entry, cleanup, start_error)
        context.progress("checking the archive: gzip -t, tar -t, SHA-256")
        verified = verify(archives, host, entry, reply)
        previous = None
        if entry.moved_to:
            previous = archives.find(entry.moved_to)
    _end(context, entry, previous)
    return _taken(verified, previous, wants_restart, start_error)


def _end(context: WorkContext, entry: SnapshotEntry, previous: Archive | None) -> None:
    """End the entry of a good snapshot; the recover that follows it takes its place."""
    then = entry.then
    if then is None:
        context.journal.end(entry)
        return
    if previous is not None and then.path == entry.path:
        # The archive to recover from was the one that had to be moved away.
        then = replace(then, path=previous.path, mode=previous.mode)
    context.journal.record(then)


def _taken(
    verified: Verified,
    previous: Archive | None,
    wants_restart: bool,
    start_error: ApexError | None,
) -> TakenSnapshot:
    return TakenSnapshot(
        archive=verified.archive,
        previous=previous,
        restarted=wants_restart and start_error is None,
        has_manifest=verified.has_manifest,
        start_error=start_error,
    )


def _find_checker(
    context: WorkContext,
    host: Host,
    entry: SnapshotEntry,
    cleanup: ExitStack,
    start_error: ApexError | None,
) -> ArchiveHost:
    try:
        return cleanup.enter_context(archive_host(context, host, entry.directory, may_use_own=True))
    except RefusedError as exc:
        reason = start_error.message if start_error else exc.message
        message = (
            f"the snapshot on {host.name} is written, but could not be checked yet: {reason}; run "
            "the command again to check it, and keep the previous one until then"
        )
        raise ApexError(message, hint=entry.resume_command, code="not_tested") from None


def _observed(
    context: WorkContext, host: Host, entry: SnapshotEntry, reply: ServerReply | LostReply
) -> SnapshotEntry:
    """The entry with what is known of the container since tar began, before we start it again."""
    if entry.observed:
        return entry
    if reply.seen_running:
        return replace(entry, observed=True, disturbance=STARTED_MEANWHILE)
    try:
        disturbance = find_disturbance(context, host, entry.path)
    except ApexError:
        return entry
    return replace(entry, observed=True, disturbance=disturbance)


def _start_again(
    context: WorkContext, host: Host, entry: SnapshotEntry
) -> tuple[ApexError | None, SnapshotEntry]:
    """Start the container and map its ports again.

    A failure is returned, since the archive still is to be checked. Where the host did not tell
    before whether the container ran, the start does.
    """
    try:
        ran_already = context.start(host)
        if not entry.observed and ran_already is not None:
            disturbance = why_running(context, host, entry.path) if ran_already else None
            entry = replace(entry, observed=True, disturbance=disturbance)
            context.journal.record(entry)
        portmaps.map_again(context.transport, host, entry.port_maps, note=context.note)
    except ApexError as exc:
        return exc, entry
    return None, entry


def _not_observed(host: Host, entry: SnapshotEntry, start_error: ApexError | None) -> ApexError:
    reason = start_error.message if start_error else f"{host.name} does not tell"
    message = (
        f"the snapshot on {host.name} is written, but it is not known whether the container was "
        f"started meanwhile: {reason}; run the command again to check it"
    )
    return ApexError(message, hint=entry.resume_command, code="not_tested")


def _wait_for_tar(
    context: WorkContext, host: Host, entry: SnapshotEntry, reply: LostReply
) -> LostReply:
    """Wait until the archive is complete, or has not changed for so long that its tar must be dead.

    If no container could look, the result says so.
    """
    is_running = context.is_known_to_run(host)
    if is_running:
        context.note(
            f"the container on {host.name} was started before its tar was known to have ended"
        )
    try:
        with archive_host(context, host, entry.directory, may_use_own=is_running) as archives:
            with watching(context, host) as watch:
                written = archives.wait_until_stable(entry.path)
            if written is None:
                return reply
            # One that still runs is asked for its age.
            started = watch.seen_running and not context.is_known_to_run(host)
            check = archives.check(entry.path, stable_checks=archivehost.PATIENT_CHECKS)
            return replace(reply, check=check, seen_running=reply.seen_running or started)
    except NoSnapshotError:
        return reply
    except NoArchiveHostError as exc:
        silent = exc.silent
    remaining = _tar_wait(entry) - (now() - (entry.tar_began or entry.began))
    if remaining <= 0:
        return replace(reply, unobserved=True)
    if silent:
        # As after a link that was down: when this is read, they may answer again.
        advice = (
            f"these hosts did not answer when they were asked: {', '.join(silent)}; run the command "
            "again when they do (do not start the container)"
        )
    else:
        minutes = max(1, round(remaining / 60))
        advice = (
            f"no other container can see it: wait {minutes} minutes (do not start the container), "
            "then run the command again"
        )
    message = f"tar may still be writing the snapshot of {host.name}; {advice}"
    raise ConnectionLostError(message, hint=entry.resume_command)


def _tar_wait(entry: SnapshotEntry) -> float:
    """How long the server's tar may take, in seconds from its begin."""
    rootfs_bytes = parse_du_size(entry.rootfs_size or "") or 0
    return max(_SHORTEST_TAR_WAIT, rootfs_bytes / _SLOW_TAR)
