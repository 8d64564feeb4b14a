"""A table whose rows arrive host by host: what is there is shown at once, and a slow host delays no other row.

On a terminal the table is drawn in place and printed at the end. In a pipe, rows are printed as they arrive: all in
order, unless some are late. With `--watch` on a terminal it fills the alternate screen, with a clock, until the user
presses q or Ctrl-C; then the last table stays on the screen. With `--watch` in a pipe there is a block of lines for
each round. With `--json` nothing is shown, because the document at the end has it all; with `--watch` there is a
document for each round, on a line of its own.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

from apexgpu.models import Host, Outcome
from apexgpu.platforms.terminalkeys import line_mode, reading_keys
from apexgpu.reporter import HostRows
from apexgpu.results import Result
from apexgpu.tables import Column, Row, aligned, lay_out, natural_widths
from apexgpu.text import safe

if TYPE_CHECKING:
    from rich.console import RenderableType

    from apexgpu.errorgroups import ErrorsAsTheyCome
    from apexgpu.render.screen import Screen

_KEY_WAIT = 0.2  # seconds until a new size of the window is noticed

PAUSE = 0.2
"""Seconds without a new row after which a pipe gets those that have come, out of order if need be."""


@dataclass(frozen=True)
class RowsView:
    """How the rows of one kind of result look.

    `waiting` is a host's row until it answers, `rows` makes its rows then; its second argument is whether they are
    drawn on a terminal. `late_widths` are the widths, one for each
    column, that rows may need that arrive after a pipe got the first ones. `compact`, if there is one, has a single
    row for each host, for a terminal that is too low for all rows.
    """

    columns: Sequence[Column]
    waiting: Callable[[Host], Row]
    rows: Callable[[Outcome[Any], bool], Sequence[Row]]
    styles: Callable[[Row], str]
    late_widths: Sequence[int]
    compact: "RowsView | None" = None


@dataclass(frozen=True)
class BlocksView:
    """Several lines for each host instead of rows, printed when the host has answered. An error alone has none.

    The last argument of `show` is whether it is the only host.
    """

    show: "Callable[[Outcome[Any], Screen, bool], None]"


@contextmanager
def live_rows(
    screen: "Screen", kind: type, hosts: Sequence[Host], *, watch: float | None
) -> Iterator[HostRows]:
    """The rows of `hosts` for results of the class `kind`, whose module in `apexgpu.render` has their `ROWS`."""
    if screen.as_json:
        yield HostRows() if watch is None else _Documents(screen, watch)
        return
    module = kind.__module__.rpartition(".")[2]
    view: RowsView | BlocksView = import_module(f"apexgpu.render.{module}").ROWS[kind]
    if isinstance(view, BlocksView):
        with screen.reporter.errors_as_they_come() as errors:
            yield _Blocks(screen, view, errors, is_only_host=len(hosts) == 1)
    elif screen.draws and watch is not None:
        watched = _WatchedRows(screen, view, hosts, watch)
        try:
            with watched.on_alternate_screen():
                yield watched
        except KeyboardInterrupt:
            watched.print_all()
            raise
        watched.print_all()
    elif watch is not None:
        yield _RepeatedRows(screen, view, hosts, watch)
    elif screen.draws and _fits(len(hosts)):
        drawn = _DrawnRows(screen, view, hosts)
        with drawn.in_place():
            yield drawn
        drawn.print_all()
    else:
        printed = _PrintedRows(screen, view, hosts)
        yield printed
        printed.end()


class _Blocks(HostRows):
    """The lines of each host, printed when it has answered."""

    def __init__(
        self,
        screen: "Screen",
        view: BlocksView,
        errors: "ErrorsAsTheyCome",
        *,
        is_only_host: bool,
    ) -> None:
        self._screen = screen
        self._view = view
        self._errors = errors
        self._is_only_host = is_only_host

    def put(self, outcome: Outcome[Any]) -> None:
        """See HostRows."""
        if outcome.value is None:
            self._errors.put(outcome)
        else:
            self._view.show(outcome, self._screen, self._is_only_host)


class _Rows(HostRows):
    """The rows as they are now, in the hosts' order."""

    def __init__(self, screen: "Screen", view: RowsView, hosts: Sequence[Host]) -> None:
        self._screen = screen
        self._view = view
        self._hosts = {host.name: host for host in hosts}
        self._outcomes: dict[str, Outcome[Any]] = {}
        self._lock = threading.RLock()

    def put(self, outcome: Outcome[Any]) -> None:
        """See HostRows."""
        with self._lock:
            self._outcomes[outcome.host.name] = outcome

    def _rows_of(self, name: str, view: RowsView) -> Sequence[Row]:
        outcome = self._outcomes.get(name)
        if outcome is None:
            return [view.waiting(self._hosts[name])]
        return view.rows(outcome, self._screen.draws)

    def _all_rows(self, view: RowsView) -> list[Row]:
        with self._lock:
            return [row for name in self._hosts for row in self._rows_of(name, view)]

    def _silent_hosts(self) -> list[str]:
        """The hosts that failed and have no row that shows it."""
        return [
            name
            for name, outcome in self._outcomes.items()
            if outcome.error is not None and not self._rows_of(name, self._view)
        ]

    def print_all(self) -> None:
        """Print the whole table as a result."""
        self._screen.table(self._view.columns, self._all_rows(self._view), styles=self._view.styles)


class _DrawnRows(_Rows):
    """The table at the end of a terminal's output, redrawn as rows arrive."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Draw it until the block ends, and then take it away."""
        with self._screen.reporter.drawn(self):
            yield

    def __rich__(self) -> "RenderableType":
        """What rich draws, anew at each refresh."""
        drawn, _ = self._draw(lines_above=0)
        return drawn

    def _draw(self, lines_above: int) -> tuple["RenderableType", Sequence[str]]:
        """The table, and the titles of the columns for which there is no room.

        `lines_above` are lines of the terminal that the table cannot have.
        """
        from apexgpu.render.richtables import table

        view, rows = self._view, self._all_rows(self._view)
        if not _fits(len(rows) + lines_above) and view.compact is not None:
            view = view.compact
            rows = self._all_rows(view)
        layout = lay_out(view.columns, rows, self._screen.console.width)
        return table(view.columns, rows, layout, view.styles), layout.dropped


class _WatchedRows(_DrawnRows):
    """The table on the alternate screen, under a line with the time, until the user quits."""

    is_watched = True

    def __init__(
        self, screen: "Screen", view: RowsView, hosts: Sequence[Host], seconds: float
    ) -> None:
        super().__init__(screen, view, hosts)
        self._seconds = seconds

    @contextmanager
    def on_alternate_screen(self) -> Iterator[None]:
        """Fill the screen until the block ends; what was on the terminal before is there again then."""
        with self._screen.reporter.behind(self._lifted), self._filling():
            yield

    @contextmanager
    def _filling(self) -> Iterator[None]:
        from rich.live import Live

        # Once a second for the clock; `put` draws what is new at once.
        self._live = Live(
            console=self._screen.console,
            get_renderable=self._page,
            screen=True,
            refresh_per_second=1,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._size = shutil.get_terminal_size()
        with reading_keys() as self._key_pressed, self._live:
            yield

    @contextmanager
    def _lifted(self) -> Iterator[None]:
        """Let something else use the terminal as it was before: a question, a warning."""
        live = self._live
        if not live.is_started:
            yield
            return
        live.stop()
        with line_mode():
            yield
        live.start(refresh=True)

    def put(self, outcome: Outcome[Any]) -> None:
        """See HostRows."""
        super().put(outcome)
        self._live.refresh()

    def another_round(self, result: Result) -> bool:
        """See HostRows."""
        end = time.monotonic() + self._seconds
        while True:
            left = end - time.monotonic()
            if left <= 0:
                return True
            if self._key_pressed(min(left, _KEY_WAIT)) in {"q", "Q"}:
                return False
            self._follow_size()

    def _follow_size(self) -> None:
        """Draw anew in a window of another size, on an empty screen: some terminals have moved what was there."""
        size = shutil.get_terminal_size()
        if size != self._size:
            self._size = size
            self._screen.console.clear()
            self._live.refresh()

    def _page(self) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        drawn, dropped = self._draw(lines_above=2)
        words = [time.strftime("%H:%M:%S"), f"every {self._seconds:g} s", "q or Ctrl-C quits"]
        if dropped:
            words.append(f"not shown in this width: {', '.join(dropped)}")
        head = Text("   ".join(words), style="dim", no_wrap=True, overflow="ellipsis")
        parts: list[RenderableType] = [head, Text(""), drawn]
        with self._lock:
            silent = self._silent_hosts()
        if silent:
            text = f"no answer: {', '.join(silent)}"
            parts += [Text(""), Text(safe(text), no_wrap=True, overflow="ellipsis")]
        return Group(*parts)


class _RepeatedRows(_Rows):
    """A block of lines for each round: the time, and the table."""

    def __init__(
        self, screen: "Screen", view: RowsView, hosts: Sequence[Host], seconds: float
    ) -> None:
        super().__init__(screen, view, hosts)
        self._seconds = seconds
        self._is_first = True

    def another_round(self, result: Result) -> bool:
        """See HostRows."""
        if not self._is_first:
            self._screen.line("")
        self._is_first = False
        self._screen.line(time.strftime("%Y-%m-%d %H:%M:%S %z"))
        self._screen.write_aligned(aligned(self._view.columns, self._all_rows(self._view)))
        self._screen.reporter.errors([self._outcomes[name] for name in self._silent_hosts()])
        time.sleep(self._seconds)
        return True


class _Documents(HostRows):
    """A JSON document for each round, on a line of its own."""

    def __init__(self, screen: "Screen", seconds: float) -> None:
        self._screen = screen
        self._seconds = seconds

    def another_round(self, result: Result) -> bool:
        """See HostRows."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        self._screen.document_line({"time": now, **result.to_json()})
        time.sleep(self._seconds)
        return True


class _PrintedRows(_Rows):
    """Rows that are printed as they arrive, in columns that leave room for the late ones."""

    def __init__(self, screen: "Screen", view: RowsView, hosts: Sequence[Host]) -> None:
        super().__init__(screen, view, hosts)
        self._unprinted = list(self._hosts)
        self._newest = 0.0
        self._timer: threading.Timer | None = None

    def put(self, outcome: Outcome[Any]) -> None:
        """See HostRows."""
        with self._lock:
            super().put(outcome)
            self._newest = time.monotonic()
            if len(self._outcomes) < len(self._hosts) and self._timer is None:
                self._print_after(PAUSE)

    def end(self) -> None:
        """Print what has not been printed."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._print()

    def _print_after(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._print_meanwhile)
        self._timer.daemon = True
        self._timer.start()

    def _print_meanwhile(self) -> None:
        """Print what has come, unless rows are still arriving one after the other."""
        with self._lock:
            if self._timer is None:
                return  # `end` was quicker
            self._timer = None
            wait = self._newest + PAUSE - time.monotonic()
            if wait > 0:
                self._print_after(wait)
            else:
                self._print()

    def _print(self) -> None:
        """Print the rows that have come since the last time: the first time below a header.

        A table without any host is its header.
        """
        names = [name for name in self._unprinted if name in self._outcomes]
        if not names and self._hosts:
            return
        is_first = len(self._unprinted) == len(self._hosts)
        is_whole = len(names) == len(self._hosts)
        rows = [row for name in names for row in self._rows_of(name, self._view)]
        # Rows that come later must fit below these.
        widths = [] if is_whole else self._late_widths()
        lines = aligned(self._view.columns, rows, widths)
        if not is_first:
            lines = lines[1:]  # the header is out already
        self._screen.write_aligned(lines)
        self._unprinted = [name for name in self._unprinted if name not in names]

    def _late_widths(self) -> list[int]:
        """Widths with room for every row that is known, waiting ones included, and for those to come."""
        widths = natural_widths(self._view.columns, self._all_rows(self._view))
        return [max(pair) for pair in zip(widths, self._view.late_widths, strict=True)]


def _fits(rows: int) -> bool:
    """Whether the terminal has room for the rows and their header: what has scrolled away cannot be redrawn."""
    return rows + 1 < shutil.get_terminal_size().lines
