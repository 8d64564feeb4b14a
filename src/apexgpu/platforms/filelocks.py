"""Locks on files that the system releases when their process ends, however it ends (not on Windows: see `files`)."""

import errno
import os
import sys
from pathlib import Path

_HELD_BY_ANOTHER = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK}


class UnlockableError(Exception):
    """The file system has no locks; `reason` is what it answered."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def try_lock(path: Path) -> int | None:
    """Return the open, locked file `path`; None if another process, or another part of this one, holds it."""
    if sys.platform == "win32":
        raise NotImplementedError
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it may have deleted the file: then the next process would lock another one.
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in _HELD_BY_ANOTHER:
            os.close(descriptor)
            raise UnlockableError(error) from error
    os.close(descriptor)
    return None
