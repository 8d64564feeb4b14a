"""Backups of your containers: take and keep snapshots, and recover a container from one.

    from apexgpu import backups
    from apexgpu.session import Session

    session = Session(yes=True)
    backups.snapshot(session, "gpu7", label="before-upgrade")
    for archive in backups.snapshots(session).archives:
        print(archive.name, archive.size, archive.verified)
    backups.recover(session, "gpu7", "before-upgrade")

A snapshot is a `.tar.gz` file on the NAS that the server writes, an *archive*. Sizes are in bytes
and times in epoch seconds. Every failure is raised as an ApexError; `RefusedError` means that
nothing was changed. Work that is interrupted is recorded: the next call on that host offers to
finish it, and `undo` undoes it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from apexgpu import completionnames, containers, files, manyhosts, questions
from apexgpu.archives import recoverplan, recovery
from apexgpu.archives import snapshot as taking
from apexgpu.archives.access import ArchiveChangedError
from apexgpu.archives.archivehost import ArchiveHost
from apexgpu.archives.catalog import Archive, checked_label
from apexgpu.archives.findhost import running_archive_host
from apexgpu.archives.journal import JournalEntry, ReplacementEntry, SnapshotEntry, Stage, Work, now
from apexgpu.archives.recoverplan import RecoverPlan
from apexgpu.archives.recovery import RecoveredContainer
from apexgpu.archives.selection import KeepRules, Rotation, choose_archive, rotate
from apexgpu.archives.snapshot import SnapshotPlan, TakenSnapshot
from apexgpu.archives.verification import verify_archive
from apexgpu.archives.workcontext import WorkContext
from apexgpu.errors import (
    ApexError,
    BadSnapshotError,
    ConfigError,
    DeclinedError,
    NoRootfsError,
    RefusedError,
    UsageError,
)
from apexgpu.iam.publickeys import fingerprint
from apexgpu.manageshell import manage, newhostkeys
from apexgpu.manageshell.replies import clean
from apexgpu.models import Host, Outcome, Target
from apexgpu.questions import Question
from apexgpu.reporter import Progress
from apexgpu.results import HostResults, JsonObject, Result
from apexgpu.session import Session
from apexgpu.ssh.hostkeys import KeyChange, KnownKeys
from apexgpu.text import duration, size

__all__ = [
    "KeepRules",
    "KeptSnapshots",
    "Recoveries",
    "RemovedSnapshot",
    "Snapshot",
    "SnapshotList",
    "Undos",
    "VerifiedSnapshot",
    "keep",
    "rebuild",
    "recover",
    "remove",
    "snapshot",
    "snapshots",
    "undo",
    "verify",
]


# snapshot


class Snapshot(HostResults[TakenSnapshot]):
    """What `snapshot` returns: one host, with an error too if its container does not start again."""


def snapshot(
    session: Session,
    name: str,
    *,
    label: str = "",
    restart: bool = True,
    replace_previous: bool = False,
) -> Snapshot:
    """Save the container on the host `name` to the NAS, keep the previous archive, check the new
    one.

    The container is stopped meanwhile, and started again unless `restart` is False. `label` becomes
    part of the archive's name. `replace_previous` allows that the previous archive is lost where it
    cannot be kept.

    Raises BadSnapshotError when the new archive is bad (the previous one is still there),
    DeclinedError when the user declines, RefusedError when something is in the way and nothing was
    changed.

    Example:
        backups.snapshot(session, "gpu7", label="before-upgrade")
    """
    checked_label(label)
    host = containers.one_host(session, name, several="apexgpu snapshot HOST")
    with _exclusive_work(session, host, f"snapshot of {host.name}") as context:
        taken = _finish_interrupted(session, context, host, Work.SNAPSHOT)
        if not isinstance(taken, TakenSnapshot):
            with taking.plan_snapshot(context, host) as plan:
                _confirm_snapshot(session, plan, allow_loss=replace_previous)
                taken = taking.take_snapshot(
                    context, plan, label=label, restart=restart, replace_previous=replace_previous
                )
    _report_snapshot(session, host, taken)
    return Snapshot([Outcome(host, taken, taken.start_error)])


def _confirm_snapshot(
    session: Session, plan: SnapshotPlan, *, allow_loss: bool = False, agreed: bool = False
) -> None:
    """Show what would be replaced and stopped, and ask.

    RefusedError when the previous archive cannot be kept, unless `allow_loss`. `agreed` is that the
    user has already said yes to a snapshot.
    """
    host, previous = plan.host, plan.previous
    if previous is not None:
        session.reporter.note(f"  the archive that is there: {previous.describe()}")
        if not plan.writable and not allow_loss:
            message = (
                f"{plan.archives.directory} is read-only for you, so the archive that is there "
                "cannot be kept; --replace gives it up, whether or not the new one is good"
            )
            hint = f"apexgpu snapshot {host.name} --replace"
            raise RefusedError(message, hint=hint, code="not_writable")
        if plan.free is not None and plan.free < previous.size:
            session.reporter.warn(
                f"the NAS has {size(plan.free)} free, less than the size of the last archive"
            )
        if plan.writable:
            session.reporter.note("  it is kept under a name of its own")
    replaces = previous is not None and not plan.writable
    if agreed and not replaces:
        return
    if plan.was_running:
        containers.show_activity(session, host, plan.activity)
    question = _snapshot_question(plan, replaces=replaces)
    if question is not None:
        session.confirm(question)


def _snapshot_question(plan: SnapshotPlan, *, replaces: bool) -> Question | None:
    """The one question before a snapshot; None for a stopped container without an archive: nothing is lost then."""
    name = plan.host.name
    if plan.was_running:
        is_busy = plan.activity is not None and plan.activity.busy
        if replaces and is_busy:
            form = questions.SNAPSHOT_REPLACING_AND_STOPPING_IN_USE
        elif replaces:
            form = questions.SNAPSHOT_REPLACING_AND_STOPPING
        elif is_busy:
            form = questions.SNAPSHOT_STOPPING_IN_USE
        else:
            form = questions.SNAPSHOT_STOPPING
        return form.fill(host=name)
    if replaces:
        return questions.SNAPSHOT_REPLACING.fill(host=name)
    if plan.previous is not None:
        return questions.SNAPSHOT_KEEPING.fill(host=name)
    return None


def _report_snapshot(session: Session, host: Host, taken: TakenSnapshot) -> None:
    reporter = session.reporter
    reporter.success(f"{host.name}: the snapshot is good: {taken.archive.describe()}")
    if taken.previous is not None:
        reporter.note(f"  the previous one is kept: {taken.previous.describe()}")
        if taken.previous.others_can_read:
            why = "it could not be made private"
            if taken.previous.of_server:
                why = "it belongs to the server's root, so no container can make it private"
            reporter.warn(f"others can read {taken.previous.path}: {why}")
    if not taken.has_manifest:
        reporter.warn(
            f"its manifest cannot be written beside {taken.archive.path}, so it will be listed as "
            "never verified, and has to be named to recover from it"
        )
    if taken.start_error is not None:
        reporter.error(taken.start_error, host=host.name)
    reporter.note(f"  to restore it: apexgpu recover {host.name} --from {taken.archive.name}")


# The archives: list, verify, remove, keep


@dataclass(frozen=True)
class SnapshotList(Result):
    """What `snapshots` returns: the archives, oldest first, as the container on `seen_from` sees
    them.

    `free` is in bytes, None if unknown. `server_path` is the file that the next snapshot is written
    to.
    """

    archives: Sequence[Archive]
    free: int | None
    writable: bool
    directory: str
    server_path: str
    seen_from: str

    def to_json(self) -> JsonObject:
        """See Result."""
        return {
            "ok": True,
            "snapshots": [archive.to_json() for archive in self.archives],
            "free": self.free,
            "writable": self.writable,
            "directory": self.directory,
            "seen_from": self.seen_from,
        }


def snapshots(session: Session, name: str | None = None) -> SnapshotList:
    """List your archives, or only those of the hosts that `name` matches.

    They are listed by a container that is running; none is started. NoArchiveHostError when none
    is.
    """
    names = {host.name for host in session.hosts([name])} if name else None
    with session.reporter.working("listing the archives"):
        archives = _running_archive_host(session)
        listing = archives.listing()
    shown = [archive for archive in listing.archives if names is None or archive.host in names]
    _remember_names(session, listing.archives)
    return SnapshotList(
        archives=shown,
        free=listing.free,
        writable=listing.writable,
        directory=archives.directory,
        server_path=archives.server_path,
        seen_from=archives.host.name,
    )


def _remember_names(session: Session, archives: Sequence[Archive]) -> None:
    """Note the names for completion, which asks no host. A list that cannot be written costs only that."""
    lines = [f"{archive.host} {archive.name}\n" for archive in archives]
    with contextlib.suppress(OSError, ConfigError):
        path = session.state_dir / completionnames.SNAPSHOT_FILE
        files.replace_atomically(path, "".join(lines).encode())


@dataclass(frozen=True)
class VerifiedSnapshot(Result):
    """What `verify` returns: a good archive, its number of files, and whether its manifest was
    written.
    """

    archive: Archive
    members: int
    sha256: str
    has_manifest: bool

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "snapshots": [self.archive.to_json()]}


def verify(session: Session, wanted: str) -> VerifiedSnapshot:
    """Read an archive to its end, and record the result in its manifest.

    `wanted` is a name, a label, a file name or a path. ApexError `archive_damaged` when it is bad.
    """
    with session.reporter.working("checking") as progress:
        archives = _running_archive_host(session, progress)
        archive = choose_archive(archives.listing().archives, wanted)
        verified = verify_archive(archives, archive)
    return VerifiedSnapshot(
        archive=archives.find(archive.path) or archive,
        members=verified.check.members,
        sha256=verified.check.sha256,
        has_manifest=verified.has_manifest,
    )


@dataclass(frozen=True)
class RemovedSnapshot(Result):
    """What `remove` returns."""

    archive: Archive

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "snapshots": [self.archive.to_json()]}


def remove(session: Session, wanted: str) -> RemovedSnapshot:
    """Delete an archive, after a question. `wanted` is a name, a label, a file name or a path.

    RefusedError when interrupted work needs it, or when it has changed since it was shown.
    """
    with taking.exclusive_archives(session.state_dir):
        archives = _running_archive_host(session)
        listed = archives.listing().archives
        archive = choose_archive(listed, wanted)
        if archive.path in archives.context.journal.archives_needed():
            message = (
                f"{archive.name} is needed by what was interrupted; `apexgpu status` shows how to "
                "finish or undo it"
            )
            raise RefusedError(message, hint="apexgpu status", code="needed")
        _confirm_removal(session, [archive], listed)
        archives.remove(archive)
    return RemovedSnapshot(archive)


@dataclass(frozen=True)
class KeptSnapshots(Result):
    """What `keep` returns: each archive, and why it is kept ("" for one that is removed).

    With `dry_run`, nothing was removed.
    """

    rotation: Sequence[Rotation]
    dry_run: bool = False

    @property
    def removed(self) -> list[Archive]:
        """The archives that were removed, or would be."""
        return [each.archive for each in self.rotation if not each.why]

    @property
    def kept(self) -> list[Archive]:
        """The archives that stay."""
        return [each.archive for each in self.rotation if each.why]

    def to_json(self) -> JsonObject:
        """See Result."""
        kept = [each.archive.to_json() | {"why": each.why} for each in self.rotation if each.why]
        return {
            "ok": True,
            "changed": bool(self.removed) and not self.dry_run,
            "dry_run": self.dry_run,
            "removed": [archive.to_json() for archive in self.removed],
            "snapshots": kept,
        }


def keep(session: Session, rules: KeepRules, *, dry_run: bool = False) -> KeptSnapshots:
    """Keep the archives of each host that `rules` name, and delete the others after a question.

    Each host's last verified archive is kept too, the newest of those that a recover or rebuild
    saved itself, and those that interrupted work needs. `dry_run` deletes nothing.
    """
    with taking.exclusive_archives(session.state_dir):
        archives = _running_archive_host(session)
        listed = archives.listing().archives
        needed = archives.context.journal.archives_needed()
        rotation = []
        for each in rotate(listed, rules):
            if not each.why and each.archive.path in needed:
                each = replace(each, why="needed by interrupted work")
            rotation.append(each)
        result = KeptSnapshots(rotation, dry_run)
        if result.removed and not dry_run:
            _show_rotation(session, rotation)
            _confirm_removal(session, result.removed, listed)
            for archive in result.removed:
                archives.remove(archive)
    return result


def _show_rotation(session: Session, rotation: Sequence[Rotation]) -> None:
    """Show what stays and why, before the question."""
    rows = [(each.archive.name, each.why or "(is deleted)") for each in rotation]
    session.reporter.table(("NAME", "WHY IT IS KEPT"), rows)


def _running_archive_host(session: Session, progress: Progress | None = None) -> ArchiveHost:
    progress = progress or Progress()
    context = WorkContext(
        session.transport,
        session.known_hosts,
        session.state_dir,
        session.pause,
        progress=progress.update,
        note=session.reporter.note,
    )
    return running_archive_host(context)


def _confirm_removal(
    session: Session, removed: Sequence[Archive], listed: Sequence[Archive]
) -> None:
    for archive in removed:
        session.reporter.note(f"  {archive.describe()}")
    verified = [archive for archive in listed if archive.verified]
    verified_left = [archive for archive in verified if archive not in removed]
    if verified and not verified_left:
        session.reporter.warn("no verified snapshot would be left")
    if len(removed) == 1:
        session.confirm(questions.DELETE_ARCHIVE.fill())
    else:
        session.confirm(questions.DELETE_ARCHIVES.fill(count=len(removed)))


# recover, rebuild


@dataclass(frozen=True)
class Recovery:
    """A container whose files were replaced, and the new host keys that it was given, if any."""

    container: RecoveredContainer
    new_host_keys: KeyChange | None

    def to_json(self) -> JsonObject:
        """Its keys in a row of `recover`."""
        change = self.new_host_keys or self.container.host_key_change
        return {
            "from": self.container.archive_name,
            "changed": True,
            "keys_put_back": self.container.keys_restored,
            "host_key": fingerprint(change.new) if change else None,
            "new_host_keys": self.new_host_keys is not None,
        }


class Recoveries(HostResults[Recovery]):
    """What `recover` and `rebuild` return: one host."""


def recover(
    session: Session,
    name: str,
    source: str | None = None,
    *,
    unverified: bool = False,
    snapshot_first: bool | None = None,
    new_host_keys: bool | None = None,
) -> Recoveries:
    """Replace the container on the host `name` by an archive, after the archive was checked.

    `source` is a name, a label, a file name or a path on the NAS; None for the host's newest
    verified archive that a user asked for, or the one that an interrupted recover began with. What
    a recover saved itself is used only when it is named. `unverified` allows an archive that is
    damaged, or that no container can read. `snapshot_first` saves what is there now, and
    `new_host_keys` gives the container keys of its own; None asks the user.

    Raises DeclinedError when the user declines, RefusedError before anything is changed. When it
    fails later, the message says in which state the container is, and the same call finishes the
    work.

    Example:
        backups.recover(session, "gpu7", "before-upgrade", snapshot_first=True)
    """
    host = containers.one_host(session, name)
    if source is not None and not manage.is_sendable(source):
        message = (
            f"{source!r} cannot be the name of an archive: a manage shell accepts no blanks, quotes "
            "or wildcards"
        )
        raise UsageError(message, hint="apexgpu snapshots")
    return _replace_container(
        session, host, Work.RECOVER, source, unverified, snapshot_first, new_host_keys
    )


def rebuild(
    session: Session,
    name: str,
    *,
    unverified: bool = False,
    snapshot_first: bool | None = None,
    new_host_keys: bool | None = None,
) -> Recoveries:
    """Make the container on the host `name` new from the administrators' template.

    Your files in the container are deleted. Keys in authorized_keys and port maps are restored. The
    parameters and errors are those of `recover`.
    """
    host = containers.one_host(session, name)
    return _replace_container(
        session, host, Work.REBUILD, None, unverified, snapshot_first, new_host_keys
    )


def _replace_container(
    session: Session,
    host: Host,
    what: Work,
    source: str | None,
    unverified: bool,
    snapshot_first: bool | None,
    new_host_keys: bool | None,
) -> Recoveries:
    exclusive_work = _exclusive_work(session, host, f"{what} of {host.name}")
    with exclusive_work as context, session.transport.dropped_after(host):
        interrupted = _finish_interrupted(session, context, host, what, source)
        if isinstance(interrupted, RecoveredContainer):
            recovered = interrupted
        else:
            resumed = interrupted if isinstance(interrupted, ReplacementEntry) else None
            with _forgotten_on_error(context, resumed):
                plan = recoverplan.plan_recover(
                    context, host, what, source, resumed=resumed, unverified=unverified
                )
                _confirm_recover(session, plan, is_resumed=resumed is not None)
                if _wants_snapshot(session, plan, snapshot_first):
                    plan = _take_snapshot_first(session, context, plan)
            recovered = recovery.replace_container(context, plan, _known_keys(session, host))
        _report_recovery(session, host, recovered)
        # An open connection led to the container of before.
        session.transport.drop(host)
        change = _renew_host_keys(session, context, host, recovered, new_host_keys)
    return Recoveries([Outcome(host, Recovery(recovered, change))])


@contextmanager
def _forgotten_on_error(context: WorkContext, resumed: ReplacementEntry | None) -> Iterator[None]:
    """Forget an interrupted recover that is not begun again: declined, or its archive is bad."""
    try:
        yield
    except ApexError:
        if resumed is not None and context.journal.find(resumed.host) == resumed:
            context.journal.end(resumed)
        raise


def _confirm_recover(session: Session, plan: RecoverPlan, *, is_resumed: bool) -> None:
    """Show the archive, and let the user type the host's name, which agrees to a stop too."""
    host, archive, reporter = plan.host, plan.archive, session.reporter
    if plan.what is Work.REBUILD:
        reporter.note(
            f"  the template: {archive.path}; {host.user}'s files in the container will be deleted"
        )
    else:
        reporter.note(f"  the archive: {archive.describe()}")
        if is_resumed:
            reporter.note("  the recover that was interrupted began with it")
        if plan.check and plan.check.hostname and not archive.name.startswith(host.user):
            reporter.warn(
                "it is not one of your archives: the host name of its container is "
                f"{plan.check.hostname}"
            )
    if plan.problem:
        checked = "failed its check" if plan.check else "could not be checked"
        reporter.warn(f"the archive {checked}: {plan.problem}")
    source = "the template" if plan.what is Work.REBUILD else archive.name
    if plan.was_running:
        containers.show_activity(session, host, plan.activity)
        effect = questions.RECOVER_RUNNING.fill(host=host.name, source=source)
    else:
        effect = questions.RECOVER_STOPPED.fill(host=host.name, source=source)
    session.confirm_name(host.name, effect)


def _wants_snapshot(session: Session, plan: RecoverPlan, chosen: bool | None) -> bool:
    """Whether to save the container's current files first."""
    if not plan.can_save:
        session.reporter.note(
            "  cannot save the current container first: its files are incomplete, or could not be "
            "checked"
        )
        return False
    if chosen is not None:
        return chosen
    if session.yes:
        return True
    # Enter alone takes the snapshot: the default answer never loses anything.
    return session.reporter.confirm(questions.SNAPSHOT_FIRST.fill(host=plan.host.name))


def _take_snapshot_first(session: Session, context: WorkContext, plan: RecoverPlan) -> RecoverPlan:
    """Save the container's current files; the plan as it is then.

    If the archive to recover from is the one that the server overwrites, it has been moved.
    """
    host = plan.host
    then = recovery.planned_entry(plan)
    try:
        with taking.plan_snapshot(context, host) as snapshot_plan:
            # The user has agreed to stop the container already.
            snapshot_plan_to_ask = replace(snapshot_plan, was_running=False)
            _confirm_snapshot(session, snapshot_plan_to_ask, agreed=True)
            taken = taking.take_snapshot(
                context, snapshot_plan, label=f"before-{plan.what}", then=then
            )
    except DeclinedError:
        raise
    except NoRootfsError as exc:
        session.reporter.note(f"  there is nothing to save: {exc.message}")
        return plan
    except ApexError as exc:
        if context.journal.find(host.name) == then:
            context.journal.end(then)
        message = (
            f"{exc.message}; the {plan.what} was not begun (--no-snapshot skips the snapshot, and "
            "your files in the container are lost then)"
        )
        raise exc.with_message(message, hint=f"{then.resume_command} --no-snapshot") from None
    _report_snapshot(session, host, taken)
    if plan.archive.path != taken.archive.path:
        return plan
    moved = taken.previous
    if moved is None or plan.check is None or moved.stamp != plan.check.stamp:
        message = (
            f"the archive that was checked is no longer at {plan.archive.path}; the {plan.what} was "
            "not begun"
        )
        raise ArchiveChangedError(message, hint="apexgpu snapshots")
    return replace(plan, archive=moved, check=replace(plan.check, mode=moved.mode))


def _report_recovery(session: Session, host: Host, recovered: RecoveredContainer) -> None:
    source = "the template"
    if recovered.what is Work.RECOVER:
        source = recovered.archive_name
    keys = f", {recovered.keys_restored} of your keys restored" if recovered.keys_restored else ""
    session.reporter.success(
        f"{host.name} was restored from {source}{keys}; login works. "
        f"Next: {containers.ssh_command(session, host)}"
    )
    if recovered.host_key_change is not None:
        _report_key_change(session, host, recovered.host_key_change)


def _renew_host_keys(
    session: Session,
    context: WorkContext,
    host: Host,
    recovered: RecoveredContainer,
    chosen: bool | None,
) -> KeyChange | None:
    """Offer the container host keys of its own; the change, None when it keeps those it has.

    The keys of the template are the same for everybody, and those in an archive may have been read.
    The recover is done by now, so a failure is reported, not raised.
    """
    keys_are_old = recovered.host_key_change is None and recovered.what is Work.RECOVER
    if chosen is False or (chosen is None and keys_are_old):
        return None
    try:
        if chosen is None:
            session.confirm(questions.NEW_HOST_KEYS.fill())
        change = newhostkeys.renew(
            context.transport,
            host,
            _known_keys(session, host),
            wait=context.start_timeout,
            pause=context.pause,
            say=context.progress,
        )
    except DeclinedError:
        return None
    except ApexError as exc:
        session.reporter.error(exc, host=host.name)
        return None
    _report_key_change(session, host, change)
    return change


def _report_key_change(session: Session, host: Host, change: KeyChange) -> None:
    old = ", ".join(fingerprint(key) for key in change.old)
    session.reporter.note(
        f"  the host key of {host.name} in known_hosts: was {old}, is {fingerprint(change.new)}"
    )


def _known_keys(session: Session, host: Host) -> KnownKeys:
    """The container's entries in the user's known_hosts files."""
    route = session.transport.route(Target(host, "container"))
    return KnownKeys.of(route, session.state_dir)


# Interrupted work


@dataclass(frozen=True)
class Undo:
    """Whether there was anything to undo on a host."""

    changed: bool

    def to_json(self) -> JsonObject:
        """Its keys in a row."""
        return {"changed": self.changed}


class Undos(HostResults[Undo]):
    """What `undo` returns: one host."""


def undo(session: Session, name: str) -> Undos:
    """Undo the snapshot, recover or rebuild that was interrupted on the host `name`.

    The container is started if it ran before, and a moved archive is put back. RefusedError
    `no_undo` when the container's files are deleted already: then the work can only be finished.
    """
    host = containers.one_host(session, name)
    with _exclusive_work(session, host, f"undoing on {host.name}", user_agreed=True) as context:
        entry = context.journal.find(host.name)
        if entry is not None:
            _undo_entry(context, host, entry)
    if entry is None:
        session.reporter.success(f"{host.name}: nothing was interrupted")
    else:
        session.reporter.success(f"{host.name}: the interrupted {entry.what} is undone")
    return Undos([Outcome(host, Undo(entry is not None))])


@contextmanager
def _exclusive_work(
    session: Session, host: Host, doing: str, *, user_agreed: bool = False
) -> Iterator[WorkContext]:
    """Show the progress of work on archives, and hold the locks of the host and of the archives.

    With `user_agreed`, the user has agreed to everything by calling the command. If the user
    interrupts the work, the remaining steps are reported.
    """
    reporter = session.reporter
    with reporter.working(doing) as progress:
        context = WorkContext(
            manyhosts.AcceptingTransport(session, host),
            session.known_hosts,
            session.state_dir,
            session.pause,
            progress=lambda line: progress.update(clean(line).strip().lstrip("= ")),
            note=lambda line: reporter.note(f"  {line}"),
            may_start=user_agreed or session.yes or reporter.can_ask,
        )
        try:
            with taking.exclusive_work(session.state_dir, host):
                yield context
        except KeyboardInterrupt:
            entry = context.journal.find(host.name)
            if entry is not None:
                reporter.warn(
                    f"{entry.describe()}; the next {entry.what} offers to finish it, --undo undoes it",
                    hint=entry.resume_command,
                )
            raise
        finally:
            # What was opened before the container was stopped leads nowhere now. A connection that was
            # being opened at that moment has failed, and would not be tried again for minutes.
            session.transport.close(Target(host, "container"))


def _finish_interrupted(
    session: Session, context: WorkContext, host: Host, wanted: Work, source: str | None = None
) -> TakenSnapshot | RecoveredContainer | ReplacementEntry | None:
    """Finish what was interrupted on the host.

    Its result if it is the work that is wanted now. The journal entry of a recover that is to be
    begun anew, from the archive that it began with. Otherwise None.

    Work that was interrupted before it changed anything is undone without a question. A recover
    from another archive than the interrupted one (`source`) replaces it, which need not be
    finished.
    """
    entry = context.journal.find(host.name)
    if entry is None:
        return None
    if entry.stage is Stage.STOP:
        session.reporter.note(f"  {entry.describe()}: undoing that first")
        return _begin_anew(context, host, entry, wanted, source)
    if isinstance(entry, SnapshotEntry):
        return _finish_snapshot(session, context, host, entry, wanted, source)
    is_other = source is not None or wanted is Work.REBUILD
    if is_other and not entry.is_resumed_by(wanted, source):
        recovery.wait_until_unpacked(context, host, entry)
        return None
    _confirm_finish(session, host, entry)
    recovered = recovery.finish_replacement(context, host, entry, _known_keys(session, host))
    if entry.what is wanted:
        return recovered
    session.reporter.success(f"{host.name}: the interrupted {entry.what} is finished")
    return None


def _begin_anew(
    context: WorkContext,
    host: Host,
    entry: SnapshotEntry | ReplacementEntry,
    wanted: Work,
    source: str | None,
) -> ReplacementEntry | None:
    """Undo work that had changed nothing.

    The entry of the recover to go on with, if that is what is wanted.
    """
    if isinstance(entry, ReplacementEntry):
        if entry.is_resumed_by(wanted, source):
            return recovery.begin_anew(context, host, entry)
    elif entry.then is not None and entry.then.is_resumed_by(wanted, source):
        return taking.begin_recover_anew(context, host, entry, entry.then)
    _undo_entry(context, host, entry)
    return None


def _finish_snapshot(
    session: Session,
    context: WorkContext,
    host: Host,
    entry: SnapshotEntry,
    wanted: Work,
    source: str | None,
) -> TakenSnapshot | ReplacementEntry | None:
    """Finish an interrupted snapshot; see `_finish_interrupted`."""
    _confirm_finish(session, host, entry)
    if entry.then is None:
        taken = taking.finish_snapshot(context, host, entry)
        if wanted is Work.SNAPSHOT:
            return taken
    else:
        # It was to save the container before a recover. If that failed, it is saved again.
        try:
            taking.finish_snapshot(context, host, entry)
        except BadSnapshotError as exc:
            session.reporter.warn(exc.message)
    session.reporter.success(f"{host.name}: the interrupted {entry.what} is finished")
    then = context.journal.find(host.name)
    if not isinstance(then, ReplacementEntry):
        return None
    if then.is_resumed_by(wanted, source):
        return then
    # The container was saved for a recover that nobody wants any more.
    context.journal.end(then)
    return None


def _confirm_finish(session: Session, host: Host, entry: JournalEntry) -> None:
    session.reporter.warn(f"{entry.describe()} ({duration(now() - entry.began)} ago)")
    question = questions.FINISH.fill(what=entry.what)
    if isinstance(entry, ReplacementEntry) and entry.what is Work.RECOVER:
        question = questions.FINISH_RECOVER.fill(archive=entry.archive_name)
    try:
        session.confirm(question)
    except DeclinedError as exc:
        message = f"{exc.message}; --yes finishes the {entry.what}, --undo undoes it"
        hint = f"apexgpu {entry.what} {host.name} --undo"
        raise exc.with_message(message, hint=hint) from None


def _undo_entry(context: WorkContext, host: Host, entry: SnapshotEntry | ReplacementEntry) -> None:
    if isinstance(entry, SnapshotEntry):
        taking.undo_snapshot(context, host, entry)
    else:
        recovery.undo_replacement(context, host, entry)
