"""What an earlier command left half done on a host: shown, and finished or undone when the user says so."""

from typing import Any

from apexgpu.archives import recovery, saving
from apexgpu.archives.archivehost import Means, now
from apexgpu.archives.journal import Entry, Work
from apexgpu.errors import DeclinedError
from apexgpu.models import Host, Target
from apexgpu.session import Session
from apexgpu.ssh.hostkeys import KnownKeys
from apexgpu.text import duration


def settle(session: Session, means: Means, host: Host, *, wanted: Work, anew: bool = False) -> Any:
    """Finish what was interrupted, if anything was: its result, or None when the wanted work is still to be done.

    What was cut before anything was changed is put back without a question. `anew` says that the wanted work
    replaces all files of the container, so that an interrupted replacement need not be finished first.
    """
    entry = means.journal.find(host.name)
    if entry is None:
        return None
    if entry.stage == "stop":
        session.screen.note(f"  {entry.words()}: putting that back first")
        undo_entry(means, host, entry)
        return None
    if anew and entry.what != "snapshot":
        recovery.await_unpacked(means, host, entry)
        return None
    _ask(session, host, entry)
    if entry.what == "snapshot":
        done: Any = saving.finish(means, host, entry)
    else:
        done = recovery.finish(means, host, entry, place_of(session, host))
    if entry.what == wanted:
        return done
    session.screen.good(f"{host.name}: the interrupted {entry.what} is finished")
    return None


def place_of(session: Session, host: Host) -> KnownKeys:
    """Where the user's known_hosts files keep the container's key."""
    return KnownKeys.of(session.transport.route(Target(host, "container")), session.state_dir)


def _ask(session: Session, host: Host, entry: Entry) -> None:
    session.screen.warn(f"{entry.words()} ({duration(now() - entry.began)} ago)")
    try:
        session.confirm("Finish it now")
    except DeclinedError as exc:
        command = f"apexgpu {entry.what} {host.name}"
        hint = f"{command} --yes   finishes it; {command} --undo   undoes it"
        raise DeclinedError(exc.message, hint=hint, code=exc.code) from None


def undo(session: Session, means: Means, host: Host) -> bool:
    """Undo what was interrupted; whether there was anything."""
    entry = means.journal.find(host.name)
    if entry is None:
        session.screen.good(f"{host.name}: nothing was interrupted")
        return False
    undo_entry(means, host, entry)
    session.screen.good(f"{host.name}: the interrupted {entry.what} is undone")
    return True


def undo_entry(means: Means, host: Host, entry: Entry) -> None:
    """Undo one entry; RefusedError where only finishing helps."""
    if entry.what == "snapshot":
        saving.undo(means, host, entry)
    else:
        recovery.undo(means, host, entry)
