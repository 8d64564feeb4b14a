"""Named pipes in a directory, which Windows does not have."""

import os
import sys
from pathlib import Path


def are_possible() -> bool:
    """Whether this system has them."""
    return hasattr(os, "mkfifo")


def create(path: Path) -> None:
    """Make one that is for this user alone. OSError where that is not possible."""
    if sys.platform == "win32":
        raise OSError("Windows has no named pipes in directories")
    os.mkfifo(path, 0o600)


def open_without_waiting(path: Path) -> int:
    """Open one for reading, whether anybody writes to it or not. Returns the file descriptor."""
    if sys.platform == "win32":
        raise OSError("Windows has no named pipes in directories")
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
