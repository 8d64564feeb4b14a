"""A table whose rows come one by one: what is there is shown at once, and a late row delays no other."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from apexgpu.render import Screen, living_text
from apexgpu.text import Row, columns, width

PAUSE = 0.2
"""Seconds without a new row after which those that came are printed, where they cannot be drawn in place."""


class Board:
    """Rows by their names, shown in the order of `waiting`, which holds what stands there until one or more come.

    On a terminal the table is drawn in place, and printed in the end. Elsewhere rows are printed when they have
    come: all in order, unless some are late; `least` are the widths that late rows may need. With JSON, nothing
    is shown.
    """

    def __init__(
        self,
        screen: Screen,
        header: Row,
        waiting: Mapping[str, Row],
        *,
        styles: Callable[[Row], str],
        least: Sequence[int],
    ) -> None:
        self._screen = screen
        self._header = header
        self._rows: dict[str, Sequence[Row]] = {name: (row,) for name, row in waiting.items()}
        self._styles = styles
        self._least = least
        self._draw: Callable[[str], None] | None = (
            screen.transient if screen.draws and fits(len(waiting)) else None
        )
        self._left = set(waiting)
        self._unprinted: set[str] = set(waiting)
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._newest = 0.0

    def put(self, name: str, *rows: Row) -> None:
        """The rows of a name have come, or newer ones."""
        with self._lock:
            self._rows[name] = rows
            self._newest = time.monotonic()
            self._left.discard(name)
            if self._screen.as_json:
                return
            if self._draw == self._screen.transient and not fits(len(self._all)):
                self._screen.transient("")
                self._draw = None
            if self._draw is not None:
                self._draw(self.text)
            elif self._left and self._timer is None:
                self._print_after(PAUSE)

    @property
    def text(self) -> str:
        """The table as it is now."""
        return "\n".join(columns(self._header, self._all))

    @property
    def _all(self) -> list[Row]:
        return [row for rows in self._rows.values() for row in rows]

    def end(self) -> None:
        """Print what has not been printed."""
        with self._lock:
            self._print_no_more()
            self._print()

    @contextmanager
    def living(self) -> Iterator[None]:
        """From now on the table lives on the terminal, and what it shows in the end stays there."""
        with self._lock:
            self._print_no_more()
        with living_text() as draw:
            self._draw = draw
            draw(self.text)
            yield

    def _print_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._screen.transient("")

    def _print_after(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._print_meanwhile)
        self._timer.daemon = True
        self._timer.start()

    def _print_meanwhile(self) -> None:
        with self._lock:
            if self._timer is None:
                return  # it is over
            self._timer = None
            early = self._newest + PAUSE - time.monotonic()
            if early > 0:
                self._print_after(early)
            else:
                self._print()

    def _print(self) -> None:
        """Print the rows that came since the last time; where some are late, in columns with room for those."""
        names = [name for name in self._rows if name in self._unprinted - self._left]
        first = len(self._unprinted) == len(self._rows)
        whole = first and len(names) == len(self._rows)
        if names or whole:
            widest = [max(map(width, cells)) for cells in zip(*self._all, strict=True)]
            least = [] if whole else [max(pair) for pair in zip(widest, self._least, strict=True)]
            rows = [row for name in names for row in self._rows[name]]
            self._screen.table(self._header, rows, styles=self._styles, least=least, headed=first)
        self._unprinted -= set(names)


def fits(rows: int) -> bool:
    """Whether the terminal has room for the rows and their header: what has scrolled away cannot be redrawn."""
    from shutil import get_terminal_size

    return rows + 1 < get_terminal_size().lines
