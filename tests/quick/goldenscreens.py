"""How a golden screen is made: what a terminal of a certain width shows, as text, and in which styles.

`make screens` writes the files in tests/data/screens anew; `test_screens.py` compares them with what the program draws.
"""

import io
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import patch

from tests.quick.screensamples import NOW, SCREENS, Draw

from apexgpu.render.screen import Screen
from apexgpu.text import start_of

DIRECTORY = Path(__file__).parent.parent / "data" / "screens"
WIDTHS = (60, 80, 140)
STYLED_WIDTH = 80
"""The width whose styles are recorded: they are the same in all."""

PICTURE_WIDTH = 96
"""The width of the terminal in the picture of the README: all columns fit."""

STYLES = {"1": "bold", "2": "dim", "31": "red", "32": "green", "33": "yellow"}
"""The styles that the program may use, by their SGR numbers.

Each terminal theme, light or dark, gives these three colours a shade that can be read on its background. Black, white,
blue, the bright colours and every background are as good as invisible in one theme or the other.
"""

_SGR = re.compile(r"\x1b\[([0-9;]*)m")


class _Terminal(io.StringIO):
    """A terminal. What is written to it appears in `window` too, if there is one."""

    def __init__(self, window: io.StringIO | None = None) -> None:
        super().__init__()
        self._window = window

    def isatty(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if self._window is not None:
            self._window.write(text)
        return super().write(text)


@dataclass(frozen=True)
class Shown:
    """What a terminal of `width` cells shows.

    `output` is everything that the program wrote, escape codes included; `results` is the part that went to stdout.
    """

    output: str
    results: str
    width: int

    @property
    def lines(self) -> list[str]:
        """The lines that the program wrote, without styles."""
        return plain_lines(self.output)

    @property
    def text(self) -> str:
        """The rows of the terminal: a line that is too long goes on in the next row, wherever it is cut."""
        rows = [row.rstrip() for line in self.lines for row in _folded(line, self.width)]
        return "\n".join(rows) + "\n"

    @property
    def pieces(self) -> list[tuple[int, str, str]]:
        """Every piece of text with a style, in order: its line, its style, the text."""
        pieces = []
        for number, line in enumerate(self.output.splitlines(), 1):
            for style, text in _styled(line):
                pieces.append((number, style, text.rstrip()))
        return pieces

    @property
    def styles(self) -> str:
        """The pieces as text."""
        return "".join(f"{number:>3}  {style:<8}{text}\n" for number, style, text in self.pieces)


def plain_lines(output: str) -> list[str]:
    """The lines of an output, without escape codes."""
    return [line.rstrip() for line in _SGR.sub("", output).splitlines()]


def _folded(line: str, width: int) -> Iterator[str]:
    while True:
        row = start_of(line, width)
        yield row
        line = line[len(row) :]
        if not line:
            return


def _styled(line: str) -> Iterator[tuple[str, str]]:
    """The pieces of a line that have a style. KeyError for a style that is not one of `STYLES`."""
    parts = _SGR.split(line)
    for codes, text in zip(parts[1::2], parts[2::2], strict=True):
        numbers = [code for code in codes.split(";") if code not in {"", "0"}]
        if numbers and text.strip():
            yield " ".join(STYLES[number] for number in numbers), text


@contextmanager
def fixed_surroundings(width: int) -> Iterator[None]:
    """A time, a zone and a width that are always the same."""
    variables = {
        "COLUMNS": str(width),
        "LINES": "60",
        "TERM": "xterm",
        "TERM_PROGRAM": "any",  # a modern terminal, on Windows too: an old one gets other symbols
        "TZ": "Asia/Shanghai",
    }
    with patch.dict("os.environ", variables), patch("time.time", lambda: NOW):
        for name in ("NO_COLOR", "COLORTERM", "FORCE_COLOR"):  # `patch.dict` restores them
            os.environ.pop(name, None)
        _follow_time_zone()
        yield
    _follow_time_zone()


def _follow_time_zone() -> None:
    if hasattr(time, "tzset"):  # Windows follows no variable
        time.tzset()


@cache
def shown(name: str, width: int) -> Shown:
    """What the golden screen `name` is now."""
    return drawn(SCREENS[name](), width)


def drawn(draws: Sequence[Draw], width: int) -> Shown:
    """What a terminal of `width` cells shows of `draws`."""
    with fixed_surroundings(width):
        window = io.StringIO()
        results = _Terminal(window)
        enter = io.StringIO("\n" * 200)  # somebody presses Enter at every question
        screen = terminal(window, enter, results)
        for draw in draws:
            draw(screen)
    return Shown(window.getvalue(), results.getvalue(), width)


def terminal(window: io.StringIO, stdin: io.StringIO, results: io.StringIO | None = None) -> Screen:
    """A screen whose stdout, `results`, and stderr appear in one window."""
    out = results or _Terminal(window)
    return Screen(out=out, err=_Terminal(window), stdin=stdin, environment={"TERM": "xterm"})


def golden_files() -> dict[str, str]:
    """The names of all golden files, with what they have to contain."""
    files = {}
    for name in SCREENS:
        for width in WIDTHS:
            screen = shown(name, width)
            files[f"{name}-{width}.txt"] = screen.text
            if width == STYLED_WIDTH:
                files[f"{name}.styles"] = screen.styles
    return files
