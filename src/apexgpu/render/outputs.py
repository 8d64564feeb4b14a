"""The output of commands in containers, shown while they run."""

import contextlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apexgpu.boundedoutput import LONGEST_LINE
from apexgpu.errorgroups import ErrorsAsTheyCome
from apexgpu.models import Host, Outcome
from apexgpu.shells import CommandOutput, OutputReceiver
from apexgpu.text import counted, safe

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from apexgpu.render.screen import Screen
    from apexgpu.reporter import Progress

TAB = "    "
"""Stands for a tab, which would break the columns: the host's name is in front of every line."""


def live_outputs(screen: "Screen", hosts: Sequence[Host]) -> OutputReceiver:
    """What shows the output of a command on `hosts` while it runs."""
    if len(hosts) == 1:
        return _UnmodifiedOutput(screen)
    return _LabelledLines(screen, hosts)


class _UnmodifiedOutput(OutputReceiver):
    """The output of the only host: the same bytes on the same streams, as `ssh` would pass them on."""

    def __init__(self, screen: "Screen") -> None:
        self._screen = screen

    def take(self, host: Host, data: bytes, *, is_error: bool) -> None:
        """See OutputReceiver."""
        if is_error:
            self._screen.raw_error_bytes(data)
        else:
            self._screen.raw_bytes(data)

    def end(self, outcome: Outcome[CommandOutput]) -> None:
        """See OutputReceiver."""
        if outcome.error is not None:
            self._screen.reporter.error(outcome.error, host=outcome.host.name)


class _LabelledLines(OutputReceiver):
    """The lines of several hosts, whole and as they arrive, with the host in front of each."""

    def __init__(self, screen: "Screen", hosts: Sequence[Host]) -> None:
        self._screen = screen
        self._lock = threading.Lock()
        width = max(len(host.name) for host in hosts)
        self._labels = {host.name: host.name.ljust(width) for host in hosts}
        # What has arrived of a line that is not whole yet: for each host, of stdout and of stderr.
        self._rest: dict[tuple[str, bool], bytearray] = {}
        self._left = len(hosts)
        self._errors = ErrorsAsTheyCome(self._show_errors)
        what = f"running on {counted(len(hosts), 'host')}"
        self._working: AbstractContextManager[Progress] | None = screen.reporter.working(what)
        self._working.__enter__()

    def take(self, host: Host, data: bytes, *, is_error: bool) -> None:
        """See OutputReceiver."""
        with self._lock:
            self._put(host, data, is_error=is_error)

    def end(self, outcome: Outcome[CommandOutput]) -> None:
        """See OutputReceiver."""
        host = outcome.host
        with self._lock:
            for is_error in (False, True):
                if self._rest.get((host.name, is_error)):
                    self._put(host, b"\n", is_error=is_error)
            self._left -= 1
            if not self._left:
                self._stop_drawing()
            if outcome.value is not None and outcome.value.reply.code:
                label = self._labels[host.name]
                self._screen.reporter.note(f"{label}  exit status {outcome.value.reply.code}")
        # Without the lock, for errors are shown from another thread too, which needs it then.
        if outcome.error is not None:
            self._errors.put(outcome)
        if not self._left:
            self._errors.flush()

    def _show_errors(self, outcomes: Sequence[Outcome[CommandOutput]]) -> None:
        with self._lock:
            self._screen.reporter.errors(outcomes)

    def _put(self, host: Host, data: bytes, *, is_error: bool) -> None:
        key = (host.name, is_error)
        rest = self._rest.setdefault(key, bytearray())
        end = data.rfind(b"\n")
        if end < 0 and len(rest) + len(data) <= LONGEST_LINE:
            rest += data
            return
        # Without a newline, a line is longer than what is kept: it is written in pieces.
        whole = bytes(rest) + (data[: end + 1] if end >= 0 else data)
        self._rest[key] = bytearray(data[end + 1 :] if end >= 0 else b"")
        lines = self._lines(self._labels[host.name], whole)
        if self._screen.draws:
            # A spinner and lines that scroll do not go together.
            self._stop_drawing()
        if is_error:
            self._screen.error_lines(lines)
        else:
            self._screen.output_lines(lines)

    def _lines(self, label: str, data: bytes) -> list[str]:
        lines = []
        for part in data.decode("utf-8", "replace").removesuffix("\n").split("\n"):
            # A progress bar goes back to the start of its line; each of its states is a line here.
            for line in part.splitlines() or [""]:
                text = safe(line.replace("\t", TAB))
                lines.append(f"{label}  {text}".rstrip())
        return lines

    def _stop_drawing(self) -> None:
        if self._working is not None:
            working, self._working = self._working, None
            with contextlib.suppress(BrokenPipeError):
                working.__exit__(None, None, None)
