"""Terminals: whether one understands escape codes, and which symbols its font has."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from apexgpu.platforms.system import System, current

_VIRTUAL_TERMINAL = 0x0004  # ENABLE_VIRTUAL_TERMINAL_PROCESSING
_STANDARD_HANDLES = {1: -11, 2: -12}  # STD_OUTPUT_HANDLE, STD_ERROR_HANDLE


def understands_escape_codes(descriptor: int) -> bool:
    """Whether the terminal at `descriptor` (1 or 2) understands escape codes; Windows' console is asked to.

    cmd.exe and Windows PowerShell switch them off for the programs that they start.
    """
    if current() is not System.WINDOWS:
        return True
    return _enable_on_windows(descriptor)


def _enable_on_windows(descriptor: int) -> bool:
    import ctypes

    try:
        kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
        handle = kernel.GetStdHandle(_STANDARD_HANDLES[descriptor])
        mode = ctypes.c_uint32()
        if not kernel.GetConsoleMode(handle, ctypes.byref(mode)):
            return False
        if mode.value & _VIRTUAL_TERMINAL:
            return True
        return bool(kernel.SetConsoleMode(handle, mode.value | _VIRTUAL_TERMINAL))
    except (AttributeError, KeyError, OSError):
        return False


@dataclass(frozen=True, slots=True)
class Symbols:
    """What is drawn beside text.

    `spinner` is the name of one of rich's; `full` and `empty` are the cells of a bar.
    """

    spinner: str
    done: str
    ellipsis: str
    full: str
    empty: str
    is_ascii: bool = False


_UNICODE = Symbols("dots", "✓", "…", "█", "░")
_ASCII = Symbols("line", "ok", "...", "#", "-", is_ascii=True)


def symbols(system: System, environment: Mapping[str, str] = os.environ) -> Symbols:
    """The symbols that this terminal draws, each in one cell.

    The old console of Windows has no braille in its fonts, and in China it draws lines and arrows two cells wide, so
    that a bar would be longer than its line. Windows Terminal and the terminal of VS Code are fine.
    """
    if system is not System.WINDOWS:
        return _UNICODE
    is_modern = bool(environment.get("WT_SESSION")) or "TERM_PROGRAM" in environment
    return _UNICODE if is_modern else _ASCII
