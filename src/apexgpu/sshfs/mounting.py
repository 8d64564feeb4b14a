"""Makes a mount: its directories, the mount itself, the record of it; and undoes all of that."""

import contextlib
import hashlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from apexgpu.errors import ApexError, RefusedError, UsageError
from apexgpu.files import locked, private_directory
from apexgpu.platforms import hints
from apexgpu.platforms.rights import mode_of_private_directory
from apexgpu.platforms.system import current, is_windows
from apexgpu.process import TimedCommand, run_all, start_background
from apexgpu.sshfs import mountcommands, mountprocesses, mountrecords, mounttable
from apexgpu.sshfs.mountcheck import PathCheck
from apexgpu.sshfs.mountcommands import MountRequest
from apexgpu.sshfs.mountprograms import MountProgram, ProgramKind
from apexgpu.sshfs.mountrecords import MountRecord
from apexgpu.sshfs.mounts import (
    LocalContent,
    Mount,
    MountState,
    inspect_directory,
    is_listed,
    read_table,
)

UNMOUNT_LIMIT = 2.0  # seconds for a program that unmounts
_POLL = 0.05  # seconds
_SLOW_POLL = 0.3  # seconds: each look starts a program


def mount(
    state_dir: Path,
    program: MountProgram,
    request: MountRequest,
    *,
    requested: str,
    limit: float,
    check: PathCheck | None = None,
) -> Mount:
    """Mount on a directory that is missing or empty, within `limit` seconds.

    `requested` is the remote path as the user gave it. `check` finds the full path meanwhile;
    without it, the request has the full path. Interrupted at any moment, this leaves nothing
    behind.
    """
    directory = request.directory
    with locked(_lock_file(state_dir, directory), what=directory, timeout=limit):
        if mounttable.entry_at(read_table(), directory) is not None:
            message = f"something is mounted on {directory} already"
            raise RefusedError(message, hint=f"apexgpu unmount {directory}", code="mounted")
        content = inspect_directory(directory)[1]
        _refuse_unusable(request, content)
        older = mountrecords.load(state_dir).get(directory)
        created = list(older.created) if older else []
        try:
            _make_directories(request, content, created)
            full_path = _run_and_check(
                program, request, limit, check, _lock_file(state_dir, directory)
            )
            record = MountRecord(
                directory=directory,
                host=request.target.host,
                remote=full_path,
                requested=requested,
                read_only=request.read_only,
                options=request.options,
                since=time.time(),
                created=tuple(created),
                ciphers=request.ciphers,
            )
            mountrecords.add(state_dir, record)
        except BaseException:
            with _ignoring_interrupts():
                _undo(state_dir, directory, created)
            raise
    process = mountprocesses.find_sshfs([directory]).get(directory)
    since, pid = record.since, None
    if process is not None:
        since, pid = process.started or record.since, process.pid
    return Mount(
        host=record.host.name,
        directory=directory,
        remote=record.remote,
        read_only=record.read_only,
        since=since,
        pid=pid,
        state=MountState.ALIVE,
    )


def _lock_file(state_dir: Path, directory: str) -> Path:
    path = directory.encode("utf-8", "surrogateescape")
    name = hashlib.sha256(path).hexdigest()[:16]
    return state_dir / "locks" / f"mount-{name}.lock"


def _refuse_unusable(request: MountRequest, content: LocalContent) -> None:
    """Raise an error unless the directory is missing or empty."""
    directory = request.directory
    name = request.target.host.name
    other_directory = f"apexgpu mount {name} ~/apexgpu/{name}-2"
    if content is LocalContent.FILE:
        message = f"{directory} is a file, and a mount needs a directory"
        raise UsageError(message, hint=other_directory)
    if content is LocalContent.UNREADABLE:
        message = f"permission denied: {directory}"
        raise RefusedError(message, hint=hints.look_at(directory), code="directory")
    if content is LocalContent.FULL:
        message = (
            f"{directory} is not empty, and the mount would hide what is in it: "
            "choose an empty or a new directory"
        )
        raise RefusedError(message, hint=other_directory, code="not_empty")


def _make_directories(request: MountRequest, content: LocalContent, created: list[str]) -> None:
    """Make the directories that are missing.

    Each is put into `created` before it is made, in case we are interrupted.

    On Windows, WinFsp makes the directory of the mount itself and wants it to be missing.
    """
    directory = Path(request.directory)
    candidates = [*directory.parents]
    if not is_windows():
        candidates.insert(0, directory)
    elif content is LocalContent.EMPTY:
        directory.rmdir()
    missing = [path for path in candidates if not path.exists()]
    for path in reversed(missing):
        created.append(str(path))
        try:
            path.mkdir(mode=mode_of_private_directory(current()))
        except FileExistsError:
            created.remove(str(path))
        except OSError as exc:
            message = f"cannot make the directory {path}: {exc.strerror}"
            hint = (
                f"apexgpu mount {request.target.host.name} ~/apexgpu/{request.target.host.name}-2"
            )
            raise UsageError(message, hint=hint, code="directory") from None


def _run_and_check(
    program: MountProgram,
    request: MountRequest,
    limit: float,
    check: PathCheck | None,
    lock_file: Path,
) -> str:
    """Run the program and return the full remote path.

    Both at the same time, over connections of their own: on a slow line, a check before the mount
    would take as long as the mount.
    """
    if check is None:
        _run_program(program, request, limit, lock_file)
        return request.remote
    with check.asking() as running_check:
        try:
            _run_program(program, request, limit, lock_file)
        except ApexError:
            running_check.full_path()  # its error explains more than that of the program
            raise
        return running_check.path_of_mounted()


def _run_program(
    program: MountProgram, request: MountRequest, limit: float, lock_file: Path
) -> None:
    """Run the program and wait until the mount is in the system's table."""
    if program.kind is ProgramKind.SSHFS_WIN:
        _run_sshfs_win(program, request, limit, lock_file.with_suffix(".log"))
        return
    mountcommands.run_mount(program, request, limit=limit)
    deadline = time.monotonic() + limit
    while mounttable.entry_at(read_table(), request.directory) is None:
        if time.monotonic() > deadline:
            name = request.target.host.name
            message = f"{name} is not in the system's table of mounts after {limit:g} s"
            raise ApexError(message, hint=f"apexgpu doctor {name}", code="mount_failed")
        time.sleep(_POLL)


def _run_sshfs_win(program: MountProgram, request: MountRequest, limit: float, log: Path) -> None:
    """Start SSHFS-Win's sshfs, which runs as long as the mount is there, and wait until the files can be listed.

    The process alone is no mount: it runs for a moment also where the login is refused. What it writes to stderr is
    in the file `log`.
    """
    name = request.target.host.name
    private_directory(log.parent)
    with log.open("wb") as messages:
        started = start_background(mountcommands.mount_argv(program, request), messages.fileno())
    deadline = time.monotonic() + limit
    while not is_listed(request.directory):
        has_ended = started.has_ended()
        if has_ended or time.monotonic() > deadline:
            started.kill()
            text = log.read_text(encoding="utf-8", errors="replace")
            if has_ended or text.strip():
                raise mountcommands.mount_failure(name, text)
            message = f"{request.directory} does not show the files of {name} after {limit:g} s"
            raise ApexError(message, hint=f"apexgpu doctor {name}", code="mount_failed")
        time.sleep(_SLOW_POLL)


def _undo(state_dir: Path, directory: str, created: Sequence[str]) -> None:
    """Remove everything that a mount that failed has left."""
    _unmount_and_end(directory)
    # sshfs lets a program of FUSE mount. That may still have been at work when the table was read.
    _unmount_and_end(directory)
    not_removed = remove_directories(created)
    mountrecords.forget(state_dir, directory, not_removed)


def _unmount_and_end(directory: str) -> None:
    entry = mounttable.entry_at(read_table(), directory)
    processes = mountprocesses.find_behind(directory)
    if entry is not None and mounttable.may_be_ours(entry):
        argvs = mountcommands.unmount_argvs(directory, force=True)
        commands = [TimedCommand(tuple(argv), UNMOUNT_LIMIT) for argv in argvs]
        run_all(commands)
    mountprocesses.end_behind(processes, grace=0)


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Let a second Ctrl-C wait until the cleaning up that the first one began is finished.

    It is short.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change signal handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def remove_directories(created: Sequence[str]) -> list[str]:
    """Remove empty directories that we made, innermost first.

    Returns those that are not empty, and stay.
    """
    not_removed = []
    for path in sorted(created, key=len, reverse=True):
        try:
            Path(path).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            not_removed.append(path)
    return not_removed
