"""Local programs: the one owner of subprocess. Argument lists only, a time limit always, a value back.

subprocess itself is imported by the first program that is run: many commands run none.
"""

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol

from apexgpu.errors import MissingProgramError, ProgramTimeoutError
from apexgpu.text import last_line

if TYPE_CHECKING:
    import asyncio

_STREAM = 1 << 20  # bytes that may wait to be read from an asyncio child's pipe


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended: its arguments, exit status, and output as bytes."""

    argv: tuple[str, ...]
    code: int
    out: bytes
    err: bytes
    timed_out: bool = False

    @property
    def text(self) -> str:
        """Stdout as text; bytes that are not UTF-8 are kept as replacement characters."""
        return self.out.decode("utf-8", "replace")

    @property
    def last_error_line(self) -> str:
        """The last line of stderr that says something."""
        return last_line(self.err.decode("utf-8", "replace"), f"exit status {self.code}")


class Runner(Protocol):
    """What can run local programs; tests put a strict fake here."""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 30,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run to the end and return what it said."""
        ...

    def stream(
        self,
        argv: Sequence[str],
        *,
        on_line: Callable[[str], None] | None,
        total: float | None,
        silence: float | None,
    ) -> Completed:
        """Run and pass each line of stdout on as it comes; what was there at a time limit is returned too."""
        ...

    def attach(self, argv: Sequence[str]) -> int:
        """Hand the terminal over until the program ends; its exit status."""
        ...

    def spawn(self, argv: Sequence[str]) -> None:
        """Start a program that outlives us, without our terminal, and do not wait for it."""
        ...


class LocalRunner:
    """The real one."""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 30,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run to the end; MissingProgramError when it is not installed, ProgramTimeoutError when too slow."""
        import subprocess

        try:
            done = subprocess.run(
                list(argv),
                input=stdin,
                capture_output=True,
                timeout=timeout,
                check=False,
                env={**os.environ, **env} if env else None,
            )
        except FileNotFoundError:
            raise missing(argv[0]) from None
        except subprocess.TimeoutExpired:
            message = f"{argv[0]} did not end within {timeout:g} s"
            raise ProgramTimeoutError(message) from None
        return Completed(tuple(argv), done.returncode, done.stdout, done.stderr)

    def stream(
        self,
        argv: Sequence[str],
        *,
        on_line: Callable[[str], None] | None,
        total: float | None,
        silence: float | None,
    ) -> Completed:
        """Run with stdin closed. `total` and `silence` are seconds; the program is killed past either."""
        import subprocess

        try:
            child = subprocess.Popen(
                list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except FileNotFoundError:
            raise missing(argv[0]) from None
        parts: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        for number, pipe in enumerate((child.stdout, child.stderr)):
            threading.Thread(target=_pump, args=(number, pipe, parts), daemon=True).start()
        try:
            kept, timed_out = _collect(parts, on_line, total, silence)
        except BaseException:
            child.kill()
            child.wait()
            raise
        if timed_out:
            child.kill()
        return Completed(tuple(argv), child.wait(), kept[0], kept[1], timed_out)

    def attach(self, argv: Sequence[str]) -> int:
        """Hand the terminal over; Ctrl-C is the program's meanwhile, not ours. One that ended ssh is 130."""
        import subprocess

        seen: list[int] = []
        before = signal.signal(signal.SIGINT, lambda number, _frame: seen.append(number))
        try:
            # The child must not inherit an ignored SIGINT (we may have, too), or Ctrl-C would be lost on it.
            child = subprocess.Popen(
                list(argv),
                preexec_fn=None if sys.platform == "win32" else _default_sigint,
            )
            code = child.wait()
        except FileNotFoundError:
            raise missing(argv[0]) from None
        finally:
            signal.signal(signal.SIGINT, before)
        if code == 255 and seen:  # what ssh says for it where it has no terminal to pass it on by
            return 130
        return 128 - code if code < 0 else code

    def spawn(self, argv: Sequence[str]) -> None:
        """Start detached; a program that is missing is no error here, for nothing depends on it."""
        import subprocess

        flags = (
            0x00000008 | 0x00000200 if sys.platform == "win32" else 0
        )  # DETACHED_PROCESS, new group
        try:
            started = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=sys.platform != "win32",
                creationflags=flags,
            )
        except OSError:
            return
        started.returncode = (
            0  # it outlives us on purpose: nobody is to be warned that it still runs
        )


async def child(
    argv: Sequence[str],
    *,
    own_group: bool = True,
    cwd: bytes | None = None,
    env: Mapping[str, str] | None = None,
) -> "asyncio.subprocess.Process":
    """Start a program with three pipes; in a group of its own a Ctrl-C is not its affair, nor can it ask anything."""
    import asyncio

    pipe = asyncio.subprocess.PIPE
    group = (
        {"creationflags": 0x00000200} if sys.platform == "win32" else {"start_new_session": True}
    )
    try:
        started = await asyncio.create_subprocess_exec(
            *argv,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            limit=_STREAM,
            cwd=cwd,
            env={**os.environ, **env} if env else None,
            **(group if own_group else {}),
        )
    except FileNotFoundError:
        raise missing(argv[0]) from None
    _widen(started)
    return started


def _widen(started: "asyncio.subprocess.Process") -> None:
    """Room for a megabyte in the pipes, where the system gives it (Linux): each turn of a busy machine moves more."""
    if sys.platform != "linux":
        return
    import fcntl

    for number in (0, 1):
        way = started._transport.get_pipe_transport(number)  # type: ignore[attr-defined]
        with contextlib.suppress(
            OSError, ValueError
        ):  # a limit on all pipes of a user, or a program that has ended
            fcntl.fcntl(way.get_extra_info("pipe"), fcntl.F_SETPIPE_SZ, _STREAM)


def _pump(number: int, pipe: IO[bytes], parts: "queue.SimpleQueue[tuple[int, bytes]]") -> None:
    with pipe:
        while data := os.read(pipe.fileno(), 65536):
            parts.put((number, data))
    parts.put((number, b""))


def _collect(
    parts: "queue.SimpleQueue[tuple[int, bytes]]",
    on_line: Callable[[str], None] | None,
    total: float | None,
    silence: float | None,
) -> tuple[tuple[bytes, bytes], bool]:
    kept = (bytearray(), bytearray())
    lines = LineSplitter(on_line)
    end = None if total is None else time.monotonic() + total
    open_pipes = 2
    while open_pipes:
        limits = [
            limit
            for limit in (silence, None if end is None else end - time.monotonic())
            if limit is not None
        ]
        try:
            number, data = parts.get(timeout=max(0.0, min(limits)) if limits else None)
        except queue.Empty:
            return (bytes(kept[0]), bytes(kept[1])), True
        open_pipes -= not data
        kept[number].extend(data)
        if number == 0:
            lines.feed(data)
    lines.end()
    return (bytes(kept[0]), bytes(kept[1])), False


class LineSplitter:
    """Bytes in, whole lines of text out to a callback."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._on_line = on_line
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Pass on every line that is complete now."""
        if self._on_line is None:
            return
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._on_line(line.decode("utf-8", "replace"))

    def end(self) -> None:
        """Pass on a last line that has no newline."""
        if self._rest:
            self.feed(b"\n")


def _default_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def in_background() -> bool:
    """Whether a shell runs us with `&`: a program that then reads from the terminal is stopped."""
    import contextlib

    with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows; no terminal; no stdin
        return os.tcgetpgrp(sys.__stdin__.fileno()) != os.getpgrp()  # type: ignore[union-attr]  # caught
    return False


def missing(program: str) -> MissingProgramError:
    """The error for a program that is not there, with this system's way to install it."""
    return MissingProgramError(
        f"{program} is not installed", hint=install_hint(program, sys.platform)
    )


def install_hint(program: str, platform: str) -> str:
    """The line to paste that installs `program` on `platform` (a `sys.platform` value)."""
    packages = dict.fromkeys(("ssh", "ssh-keygen", "ssh-add", "sftp"), "openssh-client")
    if platform == "darwin":
        return f"macOS ships it in /usr/bin; look at PATH: command -v {program}"
    if platform == "win32":
        return "Add-WindowsCapability -Online -Name OpenSSH.Client~~~~0.0.1.0"
    return f"sudo apt install {packages.get(program, program)}"


def which(program: str) -> str | None:
    """The program's path, or None."""
    import shutil

    return shutil.which(program)
