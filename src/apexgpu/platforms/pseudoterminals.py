"""Pseudo-terminals: a terminal of its own for a program. Windows has none that Python could make."""

import contextlib
import os
import struct
import sys

TerminalSize = tuple[int, int, int, int]
"""Columns, rows, and the width and height in pixels."""


def open_terminal() -> tuple[int, int]:
    """Open a terminal: the descriptors of our end, and of the program's."""
    if sys.platform == "win32":
        raise NotImplementedError
    return os.openpty()


def become_leader() -> None:
    """In the child: a session of its own, with stdin as its terminal."""
    if sys.platform == "win32":
        raise NotImplementedError
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def set_size(terminal: int, size: TerminalSize) -> None:
    """Tell the programs on a terminal how large it is."""
    if sys.platform == "win32":
        raise NotImplementedError
    import fcntl
    import termios

    columns, rows, width, height = size
    packed = struct.pack("HHHH", rows or 24, columns or 80, width, height)
    with contextlib.suppress(OSError):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, packed)
