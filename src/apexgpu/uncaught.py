"""What an exception means that no module expected: a file that cannot be used, a full disk, or a bug of ours."""

import errno
import os
from pathlib import Path

from apexgpu.errors import ApexError, BugError


def as_apex_error(exc: Exception) -> ApexError:
    """The error for any exception: the user's business where it is about a file, else a bug of ours.

    `exc` is its `__cause__`, so that --debug can show where it came from.
    """
    error = _file_error(exc) if isinstance(exc, OSError) else None
    if error is None:
        error = BugError(
            f"apexgpu itself failed: {type(exc).__name__}",
            hint="run it again with --debug and report what it shows",
        )
    error.__cause__ = exc
    return error


def _file_error(exc: OSError) -> ApexError | None:
    if isinstance(exc.filename, str | os.PathLike) and exc.strerror:
        path = Path(exc.filename)
        hint = f"ls -ld {path.parent}"
        return ApexError(f"cannot use {path}: {exc.strerror}", code="file", hint=hint)
    if isinstance(exc, FileNotFoundError) and not _has_working_directory():
        return ApexError("the directory that you are in is gone", code="directory_gone", hint="cd")
    if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
        message = f"the disk is full: {exc.strerror}"
        return ApexError(message, code="no_space", hint="df -h ~ .")
    return None


def _has_working_directory() -> bool:
    try:
        return Path.cwd().is_dir()
    except OSError:
        return False
