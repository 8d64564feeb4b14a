"""Values -> text for people or JSON. Owns rich, which is loaded only where a terminal shows something live.

Results go to stdout, everything else to stderr. Text from a server is data: its control characters are escaped on the
way (see `text`), and rich never sees it as markup.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from apexgpu.errors import ApexError, DeclinedError
from apexgpu.models import Finding
from apexgpu.text import Row, columns, duration, safe, width

SCHEMA = 1
_VERDICTS = {
    "ok": "green",
    "note": "yellow",
    "busy": "yellow",
    "slow": "yellow",
    "unknown": "yellow",
    "problem": "red",
    "broken": "red",
    "skipped": "dim",
}


def error_value(error: ApexError | None) -> dict[str, Any] | None:
    """An error as JSON tells it."""
    if error is None:
        return None
    return {"code": error.code, "message": error.message, "hint": error.hint}


def finding_value(finding: Finding) -> dict[str, Any]:
    """What was found at one thing, as JSON tells it."""
    return {
        "check": finding.check,
        "verdict": finding.verdict,
        "fact": finding.fact,
        "hint": finding.hint,
        "code": finding.code,
    }


def _cut(text: str, room: int) -> str:
    while width(text) > room:
        text = text[:-1]
    return text


class Screen:
    """Where output goes, and how questions are asked."""

    def __init__(
        self,
        *,
        out: IO[str] | None = None,
        err: IO[str] | None = None,
        stdin: IO[str] | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.as_json = False
        self.told = False  # the document is out, and there is only one
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._stdin = stdin or sys.stdin
        dumb = environment.get("TERM") == "dumb" or "NO_COLOR" in environment
        self._colour = self._err.isatty() and not dumb
        self._out_colour = self._out.isatty() and not dumb
        self.live = self._err.isatty() and environment.get("TERM") != "dumb"
        self._drawing = threading.RLock()
        self._drawn = 0  # lines that live and stand on the terminal now
        self._asking = False
        for stream in (self._out, self._err):
            # A Windows console with another code page, or LANG=C, must not end a command.
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(
                    errors="backslashreplace",
                    **({"encoding": "utf-8"} if sys.platform == "win32" else {}),
                )

    @property
    def can_ask(self) -> bool:
        """Whether a person can answer."""
        return self._stdin.isatty() and self._err.isatty()

    @property
    def draws(self) -> bool:
        """Whether a result can be drawn in place before it is printed: all goes to a terminal."""
        return self.live and self._out.isatty() and not self.as_json

    def result(self, text: str) -> None:
        """A line of the result, on stdout. Silent when JSON is wanted."""
        if not self.as_json:
            self._write(self._out, text)

    def table(
        self,
        header: Row,
        rows: Sequence[Row],
        *,
        styles: Callable[[Row], str] | None = None,
        least: Sequence[int] = (),
        headed: bool = True,
    ) -> None:
        """A table as the result; `styles` names the colour of a row for a terminal. Not `headed`: more rows of one."""
        first, *rest = columns(header, rows, least)
        if headed:
            self.result(self._paint(first, "bold", self._out_colour))
        for line, row in zip(rest, rows, strict=True):
            self.result(self._paint(line, styles(row) if styles else "", self._out_colour))

    def document(self, values: Mapping[str, Any]) -> None:
        """The JSON document, when JSON is wanted. What failed on the only host is told at the top, too."""
        if self.as_json:
            self.told = True
            rows = values.get("hosts") or []
            alone = {"error": rows[0]["error"]} if len(rows) == 1 and rows[0].get("error") else {}
            text = json.dumps({"schema": SCHEMA, **alone, **values}, indent=2, ensure_ascii=False)
            self._write(self._out, text)

    def note(self, text: str) -> None:
        """A line beside the result, on stderr."""
        self._write(self._err, safe(text))

    def good(self, text: str) -> None:
        """A step that went well."""
        self._write(self._err, self._paint("✓ ", "green", self._colour) + safe(text))

    def warn(self, text: str, *, hint: str | None = None) -> None:
        """Something to know."""
        self._write(self._err, self._paint("warning: ", "yellow", self._colour) + safe(text))
        if hint:
            self._write(self._err, self._paint("   hint: ", "yellow", self._colour) + safe(hint))

    def error(self, error: ApexError, *, host: str | None = None) -> None:
        """An error and its hint, on stderr."""
        where = f"{host}: " if host and host not in error.message else ""
        self._write(
            self._err, self._paint("error: ", "red", self._colour) + safe(where + error.message)
        )
        if error.hint:
            self._write(self._err, self._paint(" hint: ", "red", self._colour) + safe(error.hint))

    def verdict(self, word: str, what: str, fact: str, *, hint: str | None = None) -> None:
        """A line of a report, on stdout: how it stands, what it is about, and what to paste."""
        colour = _VERDICTS.get(word, "")
        self.result(self._paint(f"{word:<8}", colour, self._out_colour) + safe(f"{what:<15}{fact}"))
        if hint:
            self.result(f"{'':<8}{'hint:':<15}{safe(hint)}")

    def block(self, text: str) -> None:
        """Several lines on stderr, such as a difference; each escaped."""
        for line in text.splitlines():
            colour = {"+": "green", "-": "red"}.get(line[:1], "")
            self._write(self._err, self._paint(safe(line), colour, self._colour))

    def raw(self, out: str, err: str) -> None:
        """What a program of the user's own printed: passed through as it is."""
        self._out.write(out)
        self._out.flush()
        self._err.write(err)
        self._err.flush()

    def ask(self, question: str, *, default: str = "") -> str:
        """A line from the user; DeclinedError at the end of input."""
        with self._still():
            self._err.write(f"{question}{f' [{default}]' if default else ''}: ")
            self._err.flush()
            line = self._stdin.readline()
        if not line:
            self._write(self._err, "")
            raise DeclinedError("no answer was given")
        return line.strip() or default

    def confirm(self, question: str) -> bool:
        """A y/N question; anything but yes is no."""
        return self.ask(f"{question.removesuffix('?')}? [y/N]").lower() in {"y", "yes", "是"}

    def secret(self, question: str) -> str:
        """A line from the user that is not shown."""
        import getpass

        try:
            with self._still():
                return getpass.getpass(f"{question}: ")
        except EOFError:
            raise DeclinedError("no answer was given") from None

    def piped_line(self) -> str:
        """The first line of what was piped in, without its end; empty where there is none."""
        return self._stdin.readline().rstrip("\r\n")

    @contextmanager
    def _still(self) -> Iterator[None]:
        """No spinner while a question stands on the terminal: it would be drawn over it."""
        with self._drawing:
            self._take_away()
            self._asking = True
        try:
            yield
        finally:
            self._asking = False

    @contextmanager
    def working(self, what: str) -> Iterator["Progress"]:
        """Show that long work lives: a spinner on a terminal, a plain line every 10 s otherwise."""
        progress = Progress(self, what)
        try:
            yield progress
        finally:
            progress.end()

    def _paint(self, text: str, colour: str, on: bool) -> str:
        codes = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}
        return f"\x1b[{codes[colour]}m{text}\x1b[0m" if on and colour in codes else text

    def _write(self, stream: IO[str], text: str) -> None:
        with self._drawing:
            self._take_away()
            stream.write(text + "\n")
            stream.flush()

    def _take_away(self) -> None:
        if self._drawn:
            up = f"\x1b[{self._drawn - 1}A" if self._drawn > 1 else ""
            self._err.write(f"\r{up}\x1b[J")
            self._err.flush()
            self._drawn = 0

    def transient(self, text: str) -> None:
        """Replace the living lines of a terminal; an empty text takes them away. Nothing while a question stands."""
        import shutil

        with self._drawing:
            if not self.live or self._asking:
                return
            self._take_away()
            if not text:
                return
            room = shutil.get_terminal_size().columns - 1
            lines = [_cut(safe(line), room) for line in text.split("\n")]
            self._err.write("\n".join(lines))
            self._err.flush()
            self._drawn = len(lines)

    def waiting(self, text: str) -> None:
        """A line to say that long work goes on, where nothing can be drawn; not in the middle of a question."""
        with self._drawing:
            if not self._asking:
                self.note(text)


class Progress:
    """A spinner with elapsed time and the last line that was heard."""

    _FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

    def __init__(self, screen: Screen, what: str) -> None:
        self._screen = screen
        self._what = what
        self._last = ""
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._turn, daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """The newest thing to show beside the elapsed time."""
        self._last = text

    def print(self, write: Callable[[], None]) -> None:
        """Write a lasting line while the spinner is on."""
        self._screen.transient("")
        write()

    def _turn(self) -> None:
        live = self._screen.live
        count = 0
        while not self._stop.wait(0.1 if live else 10):
            elapsed = duration(time.monotonic() - self._began)
            text = f"{self._what} … {elapsed}{'  ' + self._last if self._last else ''}"
            if live:
                self._screen.transient(f"{self._FRAMES[count % len(self._FRAMES)]} {text}")
            else:
                self._screen.waiting(text)
            count += 1

    def end(self) -> None:
        """Take the line away."""
        self._stop.set()
        self._thread.join()
        self._screen.transient("")


@contextmanager
def living_text() -> Iterator[Callable[[str], None]]:
    """A text that stands on the terminal, is replaced in place as often as one likes, and stays in the end."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(Text(""), console=Console(), auto_refresh=False) as live:
        yield lambda text: live.update(Text(text, no_wrap=True, overflow="crop"), refresh=True)
