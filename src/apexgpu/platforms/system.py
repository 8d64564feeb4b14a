"""Which of the three systems this is."""

import sys
from enum import Enum


class System(Enum):
    """The systems that apexgpu tells apart. Any other Unix is treated as Linux is."""

    LINUX = "Linux"
    MACOS = "macOS"
    WINDOWS = "Windows"


_BY_PYTHON_NAME = {"win32": System.WINDOWS, "darwin": System.MACOS}


def current() -> System:
    """The system that this process runs on."""
    return _BY_PYTHON_NAME.get(sys.platform, System.LINUX)


def is_windows() -> bool:
    """Whether this is Windows."""
    return current() is System.WINDOWS


def is_macos() -> bool:
    """Whether this is macOS."""
    return current() is System.MACOS
