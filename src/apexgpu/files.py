"""Files of ours and the user's: atomic replacement, private modes, locks against a second apexgpu."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apexgpu.errors import ApexError


def private_directory(path: Path) -> Path:
    """Make `path` (0700 when it is new) and return it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def replace_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write `data` to `path` so that a reader, or a crash, sees the old bytes or the new ones, whole.

    A symlink is followed, so that a dotfiles repository keeps its link. The temporary file has a dot name
    beside the target, so that an `Include ~/.ssh/config*` cannot see it.
    """
    import tempfile  # 5 ms, and most commands write nothing

    target = Path(os.path.realpath(path))
    private_directory(target.parent)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(mode)
        Path(name).replace(target)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    sync_directory(target.parent)


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
    lock = FileLock(path, timeout=timeout)
    try:
        lock.acquire()
    except Timeout:
        message = f"{what} is in use by another apexgpu"
        raise ApexError(message, hint="wait until it has ended, then try again", code="busy") from None
    try:
        yield
    finally:
        lock.release()
