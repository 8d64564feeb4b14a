"""Safe writes to apexgpu's and the user's files: atomic replacement, private modes, and locks between processes.

Every OSError that leaves a function here names the file or directory that it is about.
"""

import errno
import glob
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apexgpu.errors import ApexError, MissingProgramError, SameCommand
from apexgpu.platforms import filelocks, hints, owner, replacing, rights, system

_STALE_AFTER = 3600.0  # seconds
_RIGHTS_LIMIT = 10.0  # seconds for icacls
_LOCK_INTERVAL = 0.05  # seconds between two attempts to take a lock
# What fsync answers where the file system has no such operation. There is nothing to wait for then.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


class BusyError(ApexError):
    """Another apexgpu holds the lock."""

    code = "busy"


class NoLocksError(ApexError):
    """The file system of the state directory has no locks (an NFS server without a lock daemon)."""

    code = "no_locks"


def private_directory(path: Path) -> Path:
    """Create the directory `path` unless it exists, and return it. Nobody but the user can read it.

    The same holds for parents that are missing, whatever the umask is.
    """
    if path.is_dir():
        return path
    if path.parent != path:
        private_directory(path.parent)
    try:
        path.mkdir(mode=rights.mode_of_private_directory(system.current()))
    except FileExistsError:
        if not path.is_dir():  # another process may have made it
            raise
    else:
        _restrict(path)
    return path


def _restrict(path: Path) -> None:
    """Make a new directory private where its mode does not (Windows)."""
    command = rights.restricting_command(system.current(), str(path), os.environ)
    if not command:
        return
    from apexgpu.process import TimedCommand, run_all

    # Without icacls, the directory has what it inherits, which is right below the user's profile.
    with suppress(MissingProgramError):
        run_all([TimedCommand(command, _RIGHTS_LIMIT)])


def replace_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write `data` to `path`. A reader, also after a crash, sees the old content or the new one, never a part.

    If `path` is a symlink (as in a dotfiles repository), its target is replaced.
    """
    target = Path(os.path.realpath(path))
    with written_beside(target, data, mode=mode) as temporary:
        replacing.replace(temporary, target)
    sync_directory(target.parent)


@contextmanager
def written_beside(target: Path, data: bytes, *, mode: int) -> Iterator[Path]:
    """Write `data` to a temporary file in the directory of `target`, to be renamed; it is deleted after the block.

    Its name begins with a dot, so that an `Include ~/.ssh/config*` does not read it.
    """
    import tempfile  # takes 5 ms, and most commands write nothing

    private_directory(target.parent)
    prefix = f".{target.name}."
    _delete_stale(target.parent, prefix)
    descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=target.parent)
    temporary = Path(name)
    try:
        with errors_naming(target), os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            sync(stream.fileno())
        temporary.chmod(mode)
        yield temporary
    finally:
        with suppress(OSError):  # it was renamed
            temporary.unlink()


def append(path: Path, addition: Callable[[bytes], bytes], *, mode: int = 0o600) -> bool:
    """Append `addition(present bytes)` to `path` in one piece; return whether there was anything to append.

    What other programs append at the same time stays: nothing is replaced. `mode` is for a new file.
    """
    present = path.read_bytes() if path.exists() else b""
    if not addition(present):
        return False
    private_directory(path.parent)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, mode)
    with errors_naming(path), os.fdopen(descriptor, "r+b", buffering=0) as stream:
        present = stream.read()
        data = addition(present)
        written = stream.write(data) if data else 0
        if written < len(data):
            _undo_part(stream.fileno(), len(present), written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        sync(descriptor)
    return bool(data)


def _undo_part(descriptor: int, start: int, written: int) -> None:
    """Cut off a part of a line that the disk had room for, unless another program has written after it."""
    if os.fstat(descriptor).st_size == start + written:
        os.ftruncate(descriptor, start)


def sync(descriptor: int) -> None:
    """Wait until the file's bytes are on the disk. Raises OSError if the disk failed to keep them."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def sync_directory(path: Path) -> None:
    """Make a rename in `path` survive a power failure. Windows cannot do this."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """Let an OSError from a file that is already open (a full disk) name the file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _delete_stale(directory: Path, prefix: str) -> None:
    """Delete temporary files that killed processes left behind. A recent one may be in use by another process."""
    pattern = f"{glob.escape(prefix)}*.tmp"
    for path in directory.glob(pattern):
        with suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if age > _STALE_AFTER:
                path.unlink()


@contextmanager
def locked(path: Path, *, what: str, timeout: float = 10) -> Iterator[None]:
    """Hold the lock file `path`, so that other apexgpu processes wait. `what` is what it protects, for the message.

    The operating system releases the lock of a process that was killed. A file whose mere existence is
    the lock (a "soft lock") would stay behind, so there is no such fallback.

    Raises:
        BusyError: another process still holds it after `timeout` seconds.
        NoLocksError: the file system has no locks.
    """
    private_directory(path.parent)
    if system.is_windows():
        with _locked_on_windows(path, what, timeout):
            yield
        return
    deadline = time.monotonic() + timeout
    while True:
        descriptor = _try_lock(path, what)
        if descriptor is not None:
            break
        if time.monotonic() >= deadline:
            raise _busy(what)
        time.sleep(_LOCK_INTERVAL)
    try:
        yield
    finally:
        os.close(descriptor)  # releases the lock


def _try_lock(path: Path, what: str) -> int | None:
    """Return the open, locked file, or None if another process (or another part of this one) holds it."""
    try:
        return filelocks.try_lock(path)
    except filelocks.UnlockableError as error:
        raise _no_locks(path, what, error.reason) from error


@contextmanager
def _locked_on_windows(path: Path, what: str, timeout: float) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=timeout, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        raise _busy(what) from None
    try:
        yield
    finally:
        lock.release()


def _busy(what: str) -> BusyError:
    message = f"{what} is in use by another apexgpu"
    return BusyError(
        message, hint=SameCommand("when the other one has ended, run the same command again")
    )


def _no_locks(path: Path, what: str, error: OSError) -> NoLocksError:
    return NoLocksError(
        f"the file system of {path.parent} cannot lock files ({error.strerror}), so nothing would keep"
        f" two programs from changing {what} at once; set APEXGPU_STATE_DIR to a directory on a local"
        " disk",
        hint=local_state_dir_command(),
    )


def local_state_dir_command() -> str:
    """Return the command to paste that moves apexgpu's state to a directory on a local disk."""
    directory = f"/var/tmp/apexgpu-{owner.user_id()}"  # noqa: S108 - a text to paste
    if system.is_windows():
        directory = os.path.join(os.environ.get("TEMP", "C:\\"), "apexgpu")  # noqa: PTH118
    return hints.set_variable("APEXGPU_STATE_DIR", directory)
