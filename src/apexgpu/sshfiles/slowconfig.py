"""Which lines of an ssh config cost the time: the `Match exec` commands that take seconds."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from apexgpu.platforms.system import is_windows
from apexgpu.process import Runner

WORTH_A_NOTE = 1.5
"""Seconds that ssh may need to resolve one name before the user is told why."""

_LEAST = 0.5  # seconds of a command that is reported
_READING = re.compile(r"debug1: Reading configuration data (.+)")
_EXECUTING = re.compile(r"debug1: Executing command: '(.*)'")
_RESULT = re.compile(r"debug3: (.+) line (\d+): (?:not )?matched 'exec ")


@dataclass(frozen=True, slots=True)
class SlowLine:
    """A `Match exec` that takes `seconds`, or more if it did not end. `line` is None if not known."""

    file: str
    line: int | None
    command: str
    seconds: float

    def describe(self) -> str:
        """The line for a message."""
        place = self.file if self.line is None else f"{self.file} line {self.line}"
        return f'{place}: Match exec "{self.command}" takes {self.seconds:.1f} s'


def find_slow_lines(file: Path, name: str, runner: Runner, *, limit: float) -> list[SlowLine]:
    """Run `ssh -G name` with the config `file` once more, and measure each `Match exec` in it.

    A command that still runs after `limit` seconds is reported too. No lines are found on Windows.
    """
    if is_windows():
        return []
    watch = _Stopwatch()
    # With -E, ssh's messages arrive on stdout line by line, so that the time of each is known.
    argv = ["ssh", "-G", "-F", str(file), "-vvv", "-E", "/dev/stdout", "--", name]
    runner.stream(argv, on_line=watch.on_line, total=limit, silence=None)
    watch.end()
    return watch.slow


class _Stopwatch:
    """Measures the commands that ssh's debug messages report."""

    def __init__(self) -> None:
        self.slow: list[SlowLine] = []
        self._file = ""
        self._command: str | None = None
        self._start = 0.0

    def on_line(self, line: str) -> None:
        line = line.rstrip("\r")
        reading = _READING.match(line)
        executing = _EXECUTING.match(line)
        result = _RESULT.match(line)
        if reading is not None:
            self._file = reading[1]
        elif executing is not None:
            self._command = executing[1]
            self._start = time.monotonic()
        elif result is not None:
            self._finish(result[1], int(result[2]))

    def end(self) -> None:
        """ssh has ended, or the time is over: a command without a result still runs."""
        self._finish(self._file, None)

    def _finish(self, file: str, line: int | None) -> None:
        if self._command is None:
            return
        seconds = time.monotonic() - self._start
        if seconds >= _LEAST:
            self.slow.append(SlowLine(file, line, self._command, seconds))
        self._command = None
