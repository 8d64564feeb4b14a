"""What an exception means that no module expected: a file that cannot be used, a full disk, or a bug of ours."""

import errno
import os
from pathlib import Path

from apexgpu import files, settings
from apexgpu.errors import ApexError, BugError, SameCommand
from apexgpu.platforms import hints

_FULL = {errno.ENOSPC, errno.EDQUOT}


def as_apex_error(exc: Exception) -> ApexError:
    """The error for any exception: the user's business where it is about a file, else a bug of ours.

    `exc` is its `__cause__`, so that --debug can show where it came from.
    """
    error = _file_error(exc) if isinstance(exc, OSError) else None
    if error is None:
        error = BugError(
            f"apexgpu itself failed: {type(exc).__name__}",
            hint=SameCommand("run it again with --debug and report what it shows", "--debug"),
        )
    error.__cause__ = exc
    return error


def _file_error(exc: OSError) -> ApexError | None:
    if isinstance(exc.filename, str | os.PathLike) and exc.strerror:
        return _named_file_error(Path(exc.filename), exc)
    if isinstance(exc, FileNotFoundError) and not _has_working_directory():
        return ApexError("the directory that you are in is gone", code="directory_gone", hint="cd")
    if exc.errno in _FULL:
        message = f"the disk is full: {exc.strerror}"
        return ApexError(message, code="no_space", hint=hints.show_free_space(Path.home()))
    return None


def _named_file_error(path: Path, exc: OSError) -> ApexError:
    message = f"cannot use {path}: {exc.strerror}"
    hint = hints.look_at(path.parent)
    is_full = exc.errno in _FULL
    if is_full:
        hint = hints.show_free_space(_existing(path))
    state_dir = settings.state_directory({}, os.environ)
    if path.is_relative_to(state_dir):
        message += "; APEXGPU_STATE_DIR can name another directory for apexgpu's own files"
        if not is_full:
            hint = files.local_state_dir_command()
    return ApexError(message, code="no_space" if is_full else "file", hint=hint)


def _existing(path: Path) -> Path:
    """The nearest directory above `path` that exists: df needs one."""
    for parent in path.parents:
        if parent.is_dir():
            return parent
    return Path("/")


def _has_working_directory() -> bool:
    try:
        return Path.cwd().is_dir()
    except OSError:
        return False
