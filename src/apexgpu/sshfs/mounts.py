"""The mounts of this laptop, from the system's own table: list, mount, unmount. A dead one never hangs us.

Nothing in this process touches a mounted directory: what has to is done by a child that is left behind when it hangs.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from apexgpu.errors import ApexError, RefusedError, UsageError
from apexgpu.files import locked
from apexgpu.forwarding import portowners
from apexgpu.models import Host
from apexgpu.process import Completed, LocalRunner, TimedCommand, run_all
from apexgpu.sshfs import mountnotes, mountprocesses, mountprograms, mounttable
from apexgpu.sshfs.mountnotes import Note
from apexgpu.sshfs.mountprograms import Program, Wish
from apexgpu.sshfs.mounttable import Entry

ALIVE, STALE = "alive", "stale"
PROBE = 2.0  # seconds for a mount to answer
_UNMOUNT = 2.0
# A name that is nowhere: no cache has it, so the server has to be asked.
_PROBE = (
    "import os,sys\ntry: os.lstat(sys.argv[1])\nexcept OSError as e: print(e.errno, e.strerror)"
)
_ANSWERS = {2, 13}  # ENOENT, EACCES: somebody looked
_LOOK = """import json,os,sys
path=os.path.realpath(sys.argv[1])
kind="missing"
if os.path.lexists(path):
    kind="file"
    if os.path.isdir(path):
        try: kind="full" if os.listdir(path) else "empty"
        except OSError: kind="closed"
print(json.dumps([path, kind]))"""


@dataclass(frozen=True, slots=True)
class Mount:
    """A container's directory that is mounted here. `since` is a Unix time, None where nobody knows; `state` is
    `alive` or `stale`, empty while it was not looked at, and `reason` is why it is stale."""

    host: str
    directory: str
    remote: str
    read_only: bool = False
    since: float | None = None
    pid: int | None = None
    state: str = ""
    reason: str = ""
    number: str = ""


def table() -> list[Entry]:
    """The system's table of mounts."""
    if sys.platform == "win32":
        done = run_all([TimedCommand(mountprocesses.PROCESSES, 4), TimedCommand(("net", "use"), 4)])
        return mounttable.windows(done[0].text, done[1].text)
    file = Path("/proc/self/mountinfo")
    if file.exists():
        return mounttable.linux(os.fsdecode(file.read_bytes()))
    return mounttable.darwin(run_all([TimedCommand(("mount",), 2)])[0].text)


def found(state_dir: Path, hosts: Sequence[Host]) -> list[Mount]:
    """The mounts of this user that lead to containers of `hosts`, or that we made; not looked at."""
    entries = table()
    serving = mountprocesses.serving() if entries else {}
    notes = mountnotes.load(state_dir)
    mine = None if sys.platform == "win32" else os.getuid()
    rows = []
    for entry in {
        entry.directory: entry for entry in entries if entry.owner in {None, mine}
    }.values():
        sshfs, note = serving.get(entry.directory), notes.get(entry.directory)
        whose = mounttable.remote_of(entry, hosts, sshfs)
        if (
            whose is not None and note is None and sshfs is not None
        ):  # made by hand: where does its name lead?
            whose = mounttable.remote_of(entry, hosts, mountprocesses.resolved(sshfs))
        if note is not None and mounttable.may_be_ours(entry):
            name, remote = note.host.name, note.remote
        elif whose is not None:
            name, remote = whose[0].name, whose[1] or "~"
        else:
            continue
        since = sshfs.started if sshfs and sshfs.started else note.since if note else None
        rows.append(
            Mount(
                name,
                entry.directory,
                remote,
                entry.read_only,
                since,
                sshfs.pid if sshfs else None,
                number=entry.number,
            )
        )
    return sorted(rows, key=lambda one: (one.host, one.directory))


def unclaimed(state_dir: Path) -> bool:
    """Whether there is an sshfs mount that we know nothing of."""
    notes = mountnotes.load(state_dir)
    return any(
        entry.kind != "nfs" and mounttable.may_be_ours(entry) and entry.directory not in notes
        for entry in table()
    )


def probe(directory: str) -> TimedCommand:
    """The child that finds out whether a mount answers."""
    name = f".apexgpu-{os.urandom(8).hex()}"
    return TimedCommand(
        (sys.executable, "-I", "-S", "-c", _PROBE, str(Path(directory) / name)), PROBE
    )


def judged(mount: Mount, done: Completed) -> Mount:
    """The mount with its state, from what the child of `probe` came to."""
    if done.timed_out:
        return dataclasses.replace(
            mount, state=STALE, reason=f"it does not answer within {PROBE:g} s"
        )
    number, _, words = done.text.strip().partition(" ")
    if done.code == 0 and (not number or (number.isdigit() and int(number) in _ANSWERS)):
        return dataclasses.replace(mount, state=ALIVE)
    return dataclasses.replace(mount, state=STALE, reason=words or done.last_error_line)


def looked_at(mounts: Sequence[Mount]) -> list[Mount]:
    """The mounts with their states, all asked at once: PROBE seconds at most."""
    done = run_all([probe(one.directory) for one in mounts])
    return [judged(one, result) for one, result in zip(mounts, done, strict=True)]


def place(word: str) -> tuple[str, str]:
    """A directory without its links, and what is there: missing, empty, full, file or closed. It may hang, so: a child.

    RefusedError when it does not answer. A drive letter of Windows is itself.
    """
    if sys.platform == "win32" and re.fullmatch("[A-Za-z]:", word):
        return word.upper(), "missing"
    path = str(Path(word).expanduser().absolute())
    done = run_all([TimedCommand((sys.executable, "-I", "-S", "-c", _LOOK, path), PROBE)])[0]
    if done.timed_out or done.code != 0:
        message = f"{path} does not answer: it lies in a mount that is stale"
        raise RefusedError(message, hint="apexgpu mounts repair", code="stale")
    real, kind = json.loads(done.text)
    return real, kind


def make(state_dir: Path, program: Program, wish: Wish, *, asked: str, limit: float) -> Mount:
    """Mount what is wished for on a directory that is missing or empty. Cut at any moment, it leaves nothing behind."""
    name = hashlib.sha256(wish.directory.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    with locked(state_dir / "locks" / f"mount-{name}.lock", what=wish.directory, timeout=limit):
        if mounttable.at(table(), wish.directory) is not None:
            message = f"something is mounted on {wish.directory} already"
            raise RefusedError(message, hint=f"apexgpu unmount {wish.directory}", code="mounted")
        kind = place(wish.directory)[1]
        _refuse(wish.directory, kind)
        before = mountnotes.load(state_dir).get(wish.directory)
        made = list(before.made if before else ())
        try:
            _directories(wish.directory, kind, made)
            _launch(program, wish, limit)
            note = Note(
                wish.directory,
                wish.target.host,
                wish.remote,
                asked,
                wish.read_only,
                wish.options,
                time.time(),
                tuple(made),
                wish.ciphers,
            )
            mountnotes.add(state_dir, note)
        except BaseException:
            with _undisturbed():
                _undo(state_dir, wish.directory, made)
            raise
    sshfs = mountprocesses.serving().get(wish.directory)
    since, pid = (sshfs.started or note.since, sshfs.pid) if sshfs else (note.since, None)
    return Mount(note.host.name, note.directory, note.remote, note.read_only, since, pid, ALIVE)


def _refuse(directory: str, kind: str) -> None:
    if kind == "file":
        message = f"{directory} is a file, and a mount needs a directory"
        raise UsageError(message, hint="apexgpu mount HOST DIR")
    if kind == "closed":
        raise RefusedError(
            f"{directory} may not be read by you", hint=f"ls -ld {directory}", code="directory"
        )
    if kind == "full":
        message = f"{directory} is not empty: what is in it would be hidden by the mount"
        raise RefusedError(
            message, hint="apexgpu mount HOST DIR   (an empty or a new directory)", code="not_empty"
        )


def _directories(directory: str, kind: str, made: list[str]) -> None:
    """Make what is missing, and put each into `made` before it is there. WinFsp makes the last one itself."""
    path = Path(directory)
    windows = sys.platform == "win32"
    if windows and kind == "empty":
        path.rmdir()
    wanted = [one for one in (*([] if windows else [path]), *path.parents) if not one.exists()]
    for one in reversed(wanted):
        made.append(str(one))
        try:
            one.mkdir(mode=0o700)
        except FileExistsError:
            made.remove(str(one))
        except OSError as exc:
            message = f"{one} cannot be made: {exc.strerror}"
            raise UsageError(message, hint="apexgpu mount HOST DIR", code="directory") from None


def _launch(program: Program, wish: Wish, limit: float) -> None:
    if program.kind == "sshfs-win":  # it stays in the foreground
        LocalRunner().spawn(mountprograms.argv(program, wish))
    else:
        mountprograms.launch(program, wish, limit=limit)
    deadline = time.monotonic() + limit
    while mounttable.at(table(), wish.directory) is None:
        if time.monotonic() > deadline:
            message = (
                f"{wish.target.host.name} is not in the system's table of mounts after {limit:g} s"
            )
            raise ApexError(
                message, hint=f"apexgpu doctor {wish.target.host.name}", code="mount_failed"
            )
        time.sleep(0.05)


def _undo(state_dir: Path, directory: str, made: Sequence[str]) -> None:
    entry = mounttable.at(table(), directory)
    processes = mountprocesses.behind(directory)
    if entry is not None and mounttable.may_be_ours(entry):
        run_all(
            [
                TimedCommand(tuple(argv), _UNMOUNT)
                for argv in mountprograms.unmount_argv(directory, force=True)
            ]
        )
    mountprocesses.end(processes, grace=0)
    mountnotes.drop(state_dir, directory, _remove(made))


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C waits until what the first one began is finished; it is short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _remove(made: Sequence[str]) -> list[str]:
    """Take away empty directories that we made, innermost first; which of them stay, for something is in them."""
    left = []
    for path in sorted(made, key=len, reverse=True):
        try:
            Path(path).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            left.append(path)
    return left


def unmount(state_dir: Path, mount: Mount, *, force: bool = False, keep: bool = False) -> None:
    """Unmount; RefusedError naming who holds it when it is busy. With `force` it goes from the tree at once.

    What is stale is ended, so that who waits for it gets an error; what is alive serves its open files to their end.
    With `keep`, the directory and what is noted of it stay, for it is mounted again.
    """
    _leave(mount.directory)
    processes = mountprocesses.behind(mount.directory)
    dead = force and mount.state == STALE
    if dead:
        mountprocesses.abort(mount.number)
    _detach(mount, force)
    if dead or not force:
        mountprocesses.end(processes, grace=0 if dead else 1)
    if keep:
        return
    note = mountnotes.load(state_dir).get(mount.directory)
    if note is not None:
        mountnotes.drop(state_dir, mount.directory, _remove(note.made))


def ours(state_dir: Path) -> list[Mount]:
    """The mounts that we made; those that the user made by hand stay the user's."""
    notes = mountnotes.load(state_dir)
    return [one for one in found(state_dir, ()) if one.directory in notes] if notes else []


def unmount_ours(state_dir: Path) -> list[Mount]:
    """Unmount all that we made, a stale one by force; RefusedError at the first that is in use. Which they were."""
    done = looked_at(ours(state_dir))
    for one in done:
        unmount(state_dir, one, force=one.state == STALE)
    forget(state_dir)
    return done


def forget(state_dir: Path, names: Sequence[str] | None = None) -> None:
    """Drop the notes (all, or those of hosts and directories) of what is mounted no more, and what was made for it.

    Somebody has unmounted it by hand, or the machine was started anew.
    """
    there = {entry.directory for entry in table()}
    for note in mountnotes.load(state_dir).values():
        if note.directory not in there and (
            names is None or {note.directory, note.host.name} & set(names)
        ):
            mountnotes.drop(state_dir, note.directory, _remove(note.made))


def _leave(directory: str) -> None:
    """Not to hold it ourselves, when we were started there."""
    try:
        here = os.getcwd()  # noqa: PTH109 - Path.cwd() is the same
    except OSError:
        here = directory
    if here == directory or here.startswith(f"{directory}{os.sep}"):
        os.chdir(Path(directory).anchor)


def _detach(mount: Mount, force: bool) -> None:
    done = None
    for argv in mountprograms.unmount_argv(mount.directory, force=force):
        done = run_all([TimedCommand(tuple(argv), _UNMOUNT)])[0]
        if done.code == 0 and not done.timed_out:
            return
    if sys.platform == "win32" and mount.pid is not None:
        os.kill(mount.pid, signal.SIGTERM)
        return
    now = mounttable.at(table(), mount.directory)
    if now is None or (mount.number and now.number != mount.number):
        return  # somebody else was quicker
    holding = portowners.users_of(mount.directory)
    said = "it does not end" if done is None or done.timed_out else done.last_error_line
    if not holding and "busy" not in said.lower():
        raise ApexError(
            f"{mount.directory} cannot be unmounted: {said}",
            code="unmount_failed",
            hint=f"apexgpu unmount {mount.host} --force",
        )
    who = (
        ", ".join(map(str, holding or portowners.waiting_for_fuse()))
        or "a program that cannot be seen"
    )
    message = f"{mount.directory} is in use by {who}"
    raise RefusedError(
        message, hint=f"close it, or: apexgpu unmount {mount.host} --force", code="busy"
    )
