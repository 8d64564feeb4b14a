"""Which of the three systems this is."""

import sys
from enum import StrEnum


class System(StrEnum):
    """The systems that apexgpu tells apart, with Python's names. Any other Unix is treated as Linux is."""

    LINUX = "linux"
    MACOS = "darwin"
    WINDOWS = "win32"


def current() -> System:
    """The system that this process runs on."""
    name: str = sys.platform  # a type checker would otherwise take it for its own system
    if name in {System.MACOS, System.WINDOWS}:
        return System(name)
    return System.LINUX


def is_windows() -> bool:
    """Whether this is Windows."""
    return current() is System.WINDOWS


def is_macos() -> bool:
    """Whether this is macOS."""
    return current() is System.MACOS
