"""Files of ours and the user's: atomic replacement, private modes, locks against a second apexgpu."""

import glob
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apexgpu.errors import ApexError

_STALE = 3600.0


def private_directory(path: Path) -> Path:
    """Make `path` (0700 when it is new) and return it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def replace_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write `data` to `path` so that a reader, or a crash, sees the old bytes or the new ones, whole.

    A symlink is followed, so that a dotfiles repository keeps its link.
    """
    target = Path(os.path.realpath(path))
    with written_beside(target, data, mode=mode) as temporary:
        temporary.replace(target)
    sync_directory(target.parent)


@contextmanager
def written_beside(target: Path, data: bytes, *, mode: int) -> Iterator[Path]:
    """`data` on disk in a temporary file beside `target`, to be moved there; it is gone after the block.

    It has a dot name, so that an `Include ~/.ssh/config*` cannot see it. What a run that was killed left of
    `target`'s is deleted when it is an hour old: until then it may be another run's that is still writing.
    """
    import tempfile  # 5 ms, and most commands write nothing

    private_directory(target.parent)
    prefix = f".{target.name}."
    for stale in target.parent.glob(f"{glob.escape(prefix)}*.tmp"):
        with suppress(OSError):
            if time.time() - stale.stat().st_mtime > _STALE:
                stale.unlink()
    descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(mode)
        yield Path(name)
    finally:
        with suppress(OSError):
            Path(name).unlink()


def sync_directory(path: Path) -> None:
    """Make a rename in `path` survive a power cut, where the system can do that (not on Windows)."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def locked(path: Path, *, what: str, timeout: float = 10) -> Iterator[None]:
    """Hold the lock file `path` against other apexgpu processes; ApexError after `timeout` seconds.

    The lock is the operating system's, so a process that was killed does not leave it behind.
    """
    from filelock import FileLock, Timeout

    private_directory(path.parent)
    lock = FileLock(path, timeout=timeout, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        message = f"{what} is in use by another apexgpu"
        raise ApexError(
            message, hint="when that one has ended, run the same line again", code="busy"
        ) from None
    try:
        yield
    finally:
        lock.release()
