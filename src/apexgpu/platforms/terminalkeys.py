"""Single keys of the terminal, read without their echo."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOCAL_MODES = 3  # in the list of tcgetattr (termios(3): c_lflag)

KeyPressed = Callable[[float], str]
"""Waits some seconds for a key of the user's; "" if none was pressed."""


@contextmanager
def reading_keys() -> Iterator[KeyPressed]:
    """Read single keys from the terminal until the block ends."""
    if sys.platform == "win32":
        yield _windows_key
        return
    import select
    import termios
    import tty

    descriptor = sys.stdin.fileno() if sys.stdin.isatty() else None
    if descriptor is None:
        yield _no_key
        return

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return sys.stdin.read(1) if ready else ""

    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def line_mode() -> Iterator[None]:
    """Let the user type and see whole lines within the block, although `reading_keys` reads single keys around it."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    usual = termios.tcgetattr(descriptor)
    usual[_LOCAL_MODES] |= termios.ECHO | termios.ICANON
    termios.tcsetattr(descriptor, termios.TCSADRAIN, usual)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _windows_key(seconds: float) -> str:
    import msvcrt

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if msvcrt.kbhit():  # type: ignore[attr-defined,unused-ignore]
            return str(msvcrt.getwch())  # type: ignore[attr-defined,unused-ignore]
        time.sleep(0.05)
    return ""
