"""Safe writes to apexgpu's and the user's files: atomic replacement, private modes, and locks between processes."""

import glob
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apexgpu.errors import ApexError

_STALE_AFTER = 3600.0  # seconds


def private_directory(path: Path) -> Path:
    """Create the directory `path` with mode 0700 unless it exists, and return it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def replace_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write `data` to `path`. A reader, also after a crash, sees the old content or the new one, never a part.

    If `path` is a symlink (as in a dotfiles repository), its target is replaced.
    """
    target = Path(os.path.realpath(path))
    with written_beside(target, data, mode=mode) as temporary:
        temporary.replace(target)
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
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(mode)
        yield temporary
    finally:
        with suppress(OSError):  # it was renamed
            temporary.unlink()


def _delete_stale(directory: Path, prefix: str) -> None:
    """Delete temporary files that killed processes left behind. A recent one may be in use by another process."""
    pattern = f"{glob.escape(prefix)}*.tmp"
    for path in directory.glob(pattern):
        with suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if age > _STALE_AFTER:
                path.unlink()


def sync_directory(path: Path) -> None:
    """Make a rename in `path` survive a power failure. Windows cannot do this."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def locked(path: Path, *, what: str, timeout: float = 10) -> Iterator[None]:
    """Hold the lock file `path`, so that other apexgpu processes wait. `what` is what it protects, for the message.

    ApexError with the code `busy` if another process still holds it after `timeout` seconds. The operating system
    releases the lock of a process that was killed.
    """
    from filelock import FileLock, Timeout

    private_directory(path.parent)
    lock = FileLock(path, timeout=timeout, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        message = f"{what} is in use by another apexgpu"
        hint = "when the other one has ended, run the same command again"
        raise ApexError(message, hint=hint, code="busy") from None
    try:
        yield
    finally:
        lock.release()
