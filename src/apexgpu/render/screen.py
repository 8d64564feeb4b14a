"""The terminal, or the pipe or JSON document that stands in for it: where results go, and how they look there.

Results go to stdout; `reporter` writes everything else to stderr. With `--json` the only thing on stdout is one
document. rich is loaded only where a terminal shows something.
"""

import codecs
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

from apexgpu.errors import SameCommand
from apexgpu.models import Finding, Host
from apexgpu.platforms.console import understands_escape_codes
from apexgpu.platforms.system import is_windows
from apexgpu.reporter import (
    HostRows,
    PlainReporter,
    Reporter,
    TerminalReporter,
    can_encode_chinese,
)
from apexgpu.results import JsonObject, Result, envelope
from apexgpu.tables import Column, Row, aligned, as_columns, lay_out
from apexgpu.text import safe, safe_json, safe_lines, width, wrapped

if TYPE_CHECKING:
    from rich.console import Console

    from apexgpu.session import Session
    from apexgpu.shells import OutputReceiver

_VERDICT_COLOURS = {
    "ok": "green",
    "note": "yellow",
    "busy": "yellow",
    "slow": "yellow",
    "unknown": "yellow",
    "problem": "red",
    "broken": "red",
    "skipped": "dim",
}
_EXPLAINED = {"problem", "broken", "busy", "slow", "unknown"}
"""The verdicts below which a Chinese line is shown, where that is the language."""

_VERDICT_WIDTH = 8
_CHECK_WIDTH = 15
_LEAST_ROOM = 20
"""Text is not broken into lines that are shorter than this."""


class Screen:
    """Where output goes. `as_json` asks for the JSON document instead of text."""

    def __init__(
        self,
        *,
        out: IO[str] | None = None,
        err: IO[str] | None = None,
        stdin: IO[str] | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.as_json = False
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._printed_document = False
        for stream in (self._out, self._err):
            _accept_any_character(stream)
        dumb = environment.get("TERM") == "dumb"
        self._colour = "NO_COLOR" not in environment
        self._out_is_terminal = not dumb and _is_terminal(self._out)
        if not dumb and _is_terminal(self._err):
            self.reporter: Reporter = TerminalReporter(
                err=self._err, stdin=stdin, rows=self._host_rows, colour=self._colour
            )
        else:
            self.reporter = PlainReporter(err=self._err, stdin=stdin, rows=self._host_rows)

    @property
    def draws(self) -> bool:
        """Whether a result can be drawn in place while it grows: stdout and stderr are a terminal."""
        return self.reporter.draws and self._out_is_terminal and not self.as_json

    @property
    def printed_document(self) -> bool:
        """Whether the JSON document is out. There is only one."""
        return self._printed_document

    # Results

    def show(self, result: Result) -> None:
        """Print a command's result: its JSON document, or what its module in `apexgpu.render` draws."""
        if self.as_json:
            self.document(result.to_json())
            return
        module = type(result).__module__.rpartition(".")[2]
        views: Mapping[type, Callable[[Any, Screen], None]]
        views = import_module(f"apexgpu.render.{module}").VIEWS
        views[type(result)](result, self)

    def document(self, document: JsonObject) -> None:
        """Print the JSON document, when JSON is wanted."""
        if self.as_json:
            self._printed_document = True
            whole = self._with_commands(envelope(document))
            text = json.dumps(whole, indent=2, ensure_ascii=False)
            self._write(safe_json(text))

    def document_line(self, document: JsonObject) -> None:
        """Print one of several JSON documents, on a line of its own."""
        self._printed_document = True
        text = json.dumps(self._with_commands(envelope(document)), ensure_ascii=False)
        self._write(safe_json(text))

    def _with_commands(self, value: Any) -> Any:
        """A part of a document, with commands to paste as hints."""
        if isinstance(value, dict):
            return {key: self._with_commands(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self._with_commands(part) for part in value]
        line = self.reporter.command_line
        if isinstance(value, SameCommand) and line is not None:
            return value.with_options(line.words, line.options_at)
        return value

    def line(self, text: str) -> None:
        """A line of a result."""
        self.result(safe(text))

    def paragraph(self, text: str) -> None:
        """A paragraph of a result: on a terminal its lines are broken between words."""
        for line in self._lines(safe(text)):
            self.line(line)

    def labelled(self, label: str, text: str) -> None:
        """A label, and a text whose lines are beside it."""
        first, *others = self._lines(safe(text), indent=width(label))
        self.line(f"{label}{first}")
        for line in others:
            self.line(f"{'':<{width(label)}}{line}")

    def _lines(self, text: str, *, indent: int = 0) -> list[str]:
        """The lines of `text` beside `indent` cells: one in a pipe, and where there is no room to break it."""
        if not self._out_is_terminal:
            return [text]
        room = self.console.width - indent
        return wrapped(text, room) if room >= _LEAST_ROOM else [text]

    def result(self, text: str) -> None:
        """Text of a result, with its own line ends. Nothing when JSON is wanted."""
        if not self.as_json:
            self._write(text)

    def verbatim(self, text: str) -> None:
        """Text that apexgpu made for a file or a shell, as it is. It must not contain any text of a server."""
        if not self.as_json:
            with self.reporter.suspended():
                self._out.write(text + "\n")
                self._out.flush()

    def table(
        self,
        columns: Sequence[Column] | Sequence[str],
        rows: Sequence[Row],
        *,
        styles: Callable[[Row], str] | None = None,
    ) -> None:
        """A table as a result; `styles` gives the colour of a row on a terminal."""
        if self.as_json:
            return
        columns = as_columns(columns)
        if self._out_is_terminal:
            self._draw_table(columns, rows, styles)
        else:
            self._write("\n".join(aligned(columns, rows)))

    def finding(self, finding: Finding) -> None:
        """The line of one check: its verdict, what was checked, the fact, and the command that helps."""
        self.verdict(
            finding.verdict, finding.check, finding.fact, hint=finding.hint, code=finding.code
        )

    def verdict(
        self,
        word: str,
        what: str,
        fact: str,
        *,
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        """As `finding`, from its parts."""
        # Several hosts may be named, in more cells than the column has.
        gap = "" if len(what) < _CHECK_WIDTH else "  "
        first, *others = self._lines(safe(fact), indent=_VERDICT_WIDTH + _CHECK_WIDTH)
        rest = safe(f"{what:<{_CHECK_WIDTH}}{gap}{first}")
        self._write_coloured(f"{word:<{_VERDICT_WIDTH}}", _VERDICT_COLOURS.get(word, ""), rest)
        for other in others:
            self.line(f"{'':<{_VERDICT_WIDTH + _CHECK_WIDTH}}{other}")
        if code is not None and word in _EXPLAINED and self._writes_chinese:
            from apexgpu.explanations import chinese_line

            line = chinese_line(code)
            if line is not None:
                self.labelled(f"{'':<{_VERDICT_WIDTH}}{'说明:':<{_CHECK_WIDTH - 2}}", line)
        if hint:
            self.line(f"{'':<{_VERDICT_WIDTH}}{'hint:':<{_CHECK_WIDTH}}{hint}")

    @property
    def _writes_chinese(self) -> bool:
        """Whether Chinese is wanted, and stdout can write it."""
        return self.reporter.is_chinese() and can_encode_chinese(self._out)

    def raw(self, out: str, err: str) -> None:
        """Pass on what a program of the user's printed, as it is."""
        with self.reporter.suspended():
            self._out.write(out)
            self._out.flush()
            self._err.write(err)
            self._err.flush()

    def raw_bytes(self, data: bytes) -> None:
        """Pass on a part of what a program of the user's printed, as it is."""
        with self.reporter.suspended():
            _write_bytes(self._out, data)

    def raw_error_bytes(self, data: bytes) -> None:
        """As `raw_bytes`, for what the program printed on stderr."""
        with self.reporter.suspended():
            _write_bytes(self._err, data)

    def output_lines(self, lines: Sequence[str]) -> None:
        """Lines of a program of the user's, already safe, in one write: there may be very many."""
        with self.reporter.suspended():
            _write_text(self._out, lines)

    def error_lines(self, lines: Sequence[str]) -> None:
        """As `output_lines`, on stderr."""
        with self.reporter.suspended():
            _write_text(self._err, lines)

    def live_outputs(self, hosts: Sequence[Host]) -> "OutputReceiver":
        """What shows the output of commands on `hosts` while they run."""
        from apexgpu.render.outputs import live_outputs

        return live_outputs(self, hosts)

    def notify(self, text: str, session: "Session") -> None:
        """Show a notification, if a person has a terminal here."""
        if not self._err.isatty() or not session.settings.notify:
            return
        from apexgpu.render import notification

        with self.reporter.suspended():
            notification.notify(text, self._err, session.runner, session.environment)

    # How it is written

    @cached_property
    def console(self) -> "Console":
        """rich's view of stdout, for a terminal."""
        from rich.console import Console

        return Console(
            file=self._out,
            force_terminal=self._out_is_terminal,
            color_system="auto" if self._colour else None,
            legacy_windows=False,  # `_is_terminal` has asked the console already
            highlight=False,
            markup=False,
            emoji=False,
        )

    def write_aligned(self, lines: Sequence[str]) -> None:
        """Lines of a table that is printed in parts."""
        for line in lines:
            self.result(line)

    def _draw_table(
        self,
        columns: Sequence[Column],
        rows: Sequence[Row],
        styles: Callable[[Row], str] | None,
    ) -> None:
        from apexgpu.render.richtables import table

        layout = lay_out(columns, rows, self.console.width)
        with self.reporter.suspended():
            self.console.print(table(columns, rows, layout, styles))
        if layout.dropped:
            text = f"columns not shown in this width: {', '.join(layout.dropped)}"
            for line in self._lines(text):
                self.reporter.note(line)

    def _write(self, text: str) -> None:
        """The one way of plain text to stdout: whatever it contains, it cannot control the terminal."""
        with self.reporter.suspended(), _reader_gone():
            self._out.write(safe_lines(text) + "\n")
            self._out.flush()

    def _write_coloured(self, label: str, colour: str, text: str) -> None:
        if self.as_json:
            return
        if not self._out_is_terminal:
            self._write(label + text)
            return
        from rich.text import Text

        with self.reporter.suspended():
            self.console.print(Text.assemble((label, colour), safe(text)), soft_wrap=True)

    def _host_rows(
        self, kind: type, hosts: Sequence[Host], watch: float | None
    ) -> AbstractContextManager[HostRows]:
        from apexgpu.render.livetable import live_rows

        return live_rows(self, kind, hosts, watch=watch)


def _is_terminal(stream: IO[str]) -> bool:
    """Whether a stream is a terminal that understands escape codes."""
    if not stream.isatty():
        return False
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a test's own stream
        return True
    return understands_escape_codes(descriptor)


def reported_already(result: Result, screen: Screen) -> None:
    """The view of results that need none: the command has reported everything while it worked."""


def _write_text(stream: IO[str], lines: Sequence[str]) -> None:
    with _reader_gone():
        stream.write("\n".join(lines) + "\n")
        stream.flush()


def _write_bytes(stream: IO[str], data: bytes) -> None:
    with _reader_gone():
        stream.flush()
        binary = getattr(stream, "buffer", None)
        if binary is None:
            stream.write(data.decode("utf-8", "replace"))
            stream.flush()
        else:
            binary.write(data)
            binary.flush()


@contextmanager
def _reader_gone() -> Iterator[None]:
    """Raise a BrokenPipeError without a number: one with EPIPE would end in typer, as a failure."""
    try:
        yield
    except BrokenPipeError:
        message = "nobody reads the output any more"
        raise BrokenPipeError(message) from None


def _accept_any_character(stream: IO[str]) -> None:
    """UTF-8 on a Windows console with another code page; escapes for what LANG=C cannot write."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is None:
        return
    codecs.register_error(_REPLACE, _replaced)
    if is_windows():
        reconfigure(errors=_REPLACE, encoding="utf-8")
    else:
        reconfigure(errors=_REPLACE)


_REPLACE = "apexgpu-replace"
# One letter for one, so that tables keep their columns.
_ASCII = {
    "✓": "+",
    "…": "~",
    "·": "-",
    "×": "x",
    "→": ">",
    "█": "#",
    "▌": "#",
    "░": ".",
    "─": "-",
    "│": "|",
    "’": "'",
    "“": '"',
    "”": '"',
}
_SPINNER_DOTS = range(0x2800, 0x2900)  # rich's spinner is made of braille patterns


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """What stands for letters that the terminal's encoding does not have: similar ones, or an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = ""
    for letter in error.object[error.start : error.end]:
        if letter in _ASCII:
            text += _ASCII[letter]
        elif ord(letter) in _SPINNER_DOTS:
            text += "*"
        else:
            text += letter.encode("ascii", "backslashreplace").decode()
    return text, error.end
