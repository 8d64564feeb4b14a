"""Ending processes, and groups of processes, on each system."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Protocol


class HasFileno(Protocol):
    """An open file, pipe or socket."""

    def fileno(self) -> int:
        """Its file descriptor."""
        ...


def kill_signal() -> int:
    """The signal that ends a process for good. On Windows, every signal does."""
    return int(getattr(signal, "SIGKILL", signal.SIGTERM))


def kill_group(pid: int, number: int | None = None) -> None:
    """End a process and its children, or send them the signal `number`. Windows has no groups: it ends the process.

    Nothing happens if it has ended, or if it is another user's.
    """
    with contextlib.suppress(OSError):
        if sys.platform == "win32" or not hasattr(os, "killpg"):
            os.kill(pid, signal.SIGTERM)
        else:
            os.killpg(pid, kill_signal() if number is None else number)


def is_running(pid: int) -> bool:
    """Whether any process has this number, whoever it belongs to. On Windows, it is taken for granted."""
    if sys.platform == "win32":
        return True  # there, 0 would be a Ctrl-C
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def before_start() -> Callable[[], None] | None:
    """What a program that uses our terminal has to do before it starts; None if that is nothing.

    If we were started with SIGINT ignored (`nohup`, `&`), it would inherit that.
    """
    return None if sys.platform == "win32" else _restore_sigint


def _restore_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def is_in_background() -> bool:
    """Whether a shell started us with `&`. A program that then reads from the terminal would be stopped."""
    if sys.platform == "win32" or not hasattr(os, "tcgetpgrp"):
        return False
    # There may be no terminal, or no stdin.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.tcgetpgrp(sys.__stdin__.fileno()) != os.getpgrp()  # type: ignore[union-attr,unused-ignore]  # suppressed
    return False


def enlarge_pipe(pipe: "HasFileno", size: int) -> None:
    """Give a pipe a buffer of `size` bytes, where the system can (Linux)."""
    if sys.platform != "linux":
        return
    import fcntl

    # The user may have reached the limit for all pipes, or the program may have ended.
    with contextlib.suppress(OSError, ValueError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)


def allow_open_files(wanted: int) -> None:
    """Raise the limit of open files, for us and for what we start. A shell on macOS allows 256; Windows has none."""
    if sys.platform == "win32":
        return
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def ticks_per_second() -> int:
    """How many times in a second the kernel counts the time of processes (Linux)."""
    if sys.platform == "win32":
        raise NotImplementedError
    return int(os.sysconf("SC_CLK_TCK"))
