"""What an earlier command left half done on a host: shown, and finished or undone when the user says so."""

from typing import Any

from apexgpu.archives import recovery
from apexgpu.archives import snapshot as snapshots
from apexgpu.archives.journal import (
    JournalEntry,
    ReplacementEntry,
    SnapshotEntry,
    Stage,
    Work,
    now,
)
from apexgpu.archives.workcontext import WorkContext
from apexgpu.errors import DeclinedError
from apexgpu.models import Host, Target
from apexgpu.session import Session
from apexgpu.ssh.hostkeys import KnownKeys
from apexgpu.text import duration


def settle(
    session: Session, context: WorkContext, host: Host, *, wanted: Work, anew: bool = False
) -> Any:
    """Finish what was interrupted, if anything was: its result, or None when the wanted work is still to be done.

    What was cut before anything was changed is put back without a question. `anew` says that the wanted work
    replaces all files of the container, so that an interrupted replacement need not be finished first.
    """
    entry = context.journal.find(host.name)
    if entry is None:
        return None
    if entry.stage is Stage.STOP:
        session.screen.note(f"  {entry.describe()}: putting that back first")
        undo_entry(context, host, entry)
        return None
    if anew and isinstance(entry, ReplacementEntry):
        recovery.wait_until_unpacked(context, host, entry)
        return None
    _ask(session, host, entry)
    if isinstance(entry, SnapshotEntry):
        done: Any = snapshots.finish_snapshot(context, host, entry)
    else:
        done = recovery.finish_replacement(context, host, entry, place_of(session, host))
    if entry.what == wanted:
        return done
    session.screen.good(f"{host.name}: the interrupted {entry.what} is finished")
    return None


def place_of(session: Session, host: Host) -> KnownKeys:
    """Where the user's known_hosts files keep the container's key."""
    return KnownKeys.of(session.transport.route(Target(host, "container")), session.state_dir)


def _ask(session: Session, host: Host, entry: JournalEntry) -> None:
    session.screen.warn(f"{entry.describe()} ({duration(now() - entry.began)} ago)")
    try:
        session.confirm("Finish it now")
    except DeclinedError as exc:
        command = f"apexgpu {entry.what} {host.name}"
        hint = f"{command} --yes   finishes it; {command} --undo   undoes it"
        raise exc.with_message(exc.message, hint=hint) from None


def undo(session: Session, context: WorkContext, host: Host) -> bool:
    """Undo what was interrupted; whether there was anything."""
    entry = context.journal.find(host.name)
    if entry is None:
        session.screen.good(f"{host.name}: nothing was interrupted")
        return False
    undo_entry(context, host, entry)
    session.screen.good(f"{host.name}: the interrupted {entry.what} is undone")
    return True


def undo_entry(context: WorkContext, host: Host, entry: SnapshotEntry | ReplacementEntry) -> None:
    """Undo one entry; RefusedError where only finishing helps."""
    if isinstance(entry, SnapshotEntry):
        snapshots.undo_snapshot(context, host, entry)
    else:
        recovery.undo_replacement(context, host, entry)
