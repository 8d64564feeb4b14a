"""How work reports what it does, and how it asks: one interface, whoever is at the other end.

`Reporter` itself is silent: nothing is shown, and nobody can be asked. `PlainReporter` writes lines to stderr, for
pipes and log files. `TerminalReporter` draws with rich, on stderr too, because stdout belongs to results.

Text may come from a server, so every method escapes control characters before it writes (see `text.safe`), and rich
never reads the text as markup.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any

from apexgpu.errors import ApexError, DeclinedError, SameCommand
from apexgpu.platforms.console import symbols
from apexgpu.platforms.system import current
from apexgpu.questions import Question
from apexgpu.tables import Column, aligned, as_columns, lay_out
from apexgpu.text import duration, safe, size, split_last_sentence, width, wrapped

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from apexgpu.errorgroups import ErrorsAsTheyCome
    from apexgpu.models import Host, Outcome
    from apexgpu.results import Result

YES = {"y", "yes", "是", "是的", "好", "对"}
NO = {"n", "no", "否", "不", "不是"}
"""The answers to a y/N question. Their letters may be full-width, as an input method types them."""

_MOST_ASKED = 3
"""So many times a y/N question is asked until it has one of these answers."""

PLAIN_PERIOD = 10.0
"""Seconds between two lines of long work in a log."""

DRAW_AFTER = 0.2
"""Seconds that work may take before a spinner is drawn: most commands are over by then, without flicker."""

DRAWINGS_PER_SECOND = 10

INDENT = 2
"""Cells before a table that belongs to a question."""

BAR_WIDTH = 20
"""Terminal cells of a progress bar."""


@dataclass(frozen=True)
class CommandLine:
    """The words after `apexgpu`, and where among them options of ours can be added."""

    words: tuple[str, ...]
    options_at: int


@dataclass(frozen=True)
class Transferred:
    """How far a copy is: `done` of `total` bytes (None while unknown), at `rate` bytes per second.

    `step` is the step of the copy, such as "comparing".
    """

    step: str
    done: int
    total: int | None
    rate: float

    @property
    def seconds_left(self) -> float | None:
        """The remaining time at this rate; None where it cannot be told."""
        if not self.total or self.rate <= 0 or self.done >= self.total:
            return None
        return (self.total - self.done) / self.rate

    def describe(self, bar: str = "") -> str:
        """The numbers for a person, with `bar` where a terminal draws one."""
        parts = [self.step] if self.step else []
        if self.total:
            percent = min(100.0, 100 * self.done / self.total)
            parts.append(f"{bar}{percent:3.0f} %")
            parts.append(f"{size(self.done)} of {size(self.total)}")
        else:
            parts.append(size(self.done))
        if self.rate > 0:
            parts.append(f"{size(int(self.rate))}/s")
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return "  ".join(parts)


class Progress:
    """One piece of long work, while it lasts. Silent: the base of the others."""

    def update(self, text: str) -> None:
        """Show the newest line of what is going on, beside the elapsed time."""

    def transferred(self, progress: Transferred) -> None:
        """Show how far a copy is."""


class HostRows:
    """A table whose rows arrive host by host. Silent: the base of the others.

    `is_watched` if it stays on a terminal until the user quits, so that new rows are worth having at any time.
    """

    is_watched = False

    def put(self, outcome: "Outcome[Any]") -> None:
        """A host has answered, or has answered anew."""

    def another_round(self, result: "Result") -> bool:
        """Whether to ask the hosts again: after a pause where somebody is watching, otherwise not at all.

        `result` is what this round would return; where nobody watches a terminal, it is printed now.
        """
        return False


MakeRows = Callable[[type, "Sequence[Host]", float | None], AbstractContextManager[HostRows]]
"""Makes the table of `Reporter.host_rows`."""


def _silent_rows(
    _kind: type, _hosts: "Sequence[Host]", _watch: float | None
) -> AbstractContextManager[HostRows]:
    return nullcontext(HostRows())


class Reporter:
    """The silent reporter: for the Python API and for tests.

    `command_line` is what the user typed, for hints that mean the same command; None if nobody typed one.
    """

    command_line: CommandLine | None = None

    is_chinese: Callable[[], bool] = staticmethod(lambda: False)
    """Whether questions and errors have a Chinese line. Asked when one is written: the setting may be wrong."""

    notify: Callable[[str], None] = staticmethod(lambda _text: None)
    """Shows a notification to a user who may have walked away."""

    @cached_property
    def completed(self) -> list[str]:
        """What this run has done for good, for the message after a "no" or Ctrl-C."""
        return []

    @property
    def can_ask(self) -> bool:
        """Whether a person sees questions and can answer them."""
        return False

    @property
    def draws(self) -> bool:
        """Whether progress is drawn in place; otherwise lines are written."""
        return False

    # What happened

    def success(self, text: str) -> None:
        """Report a step that is done."""

    def note_done(self, text: str) -> None:
        """Note a step that is done, without showing it: it is named if the user ends the command after it."""
        self.completed.append(text)

    def outcome_so_far(self) -> str:
        """What a command that ends now has done: "nothing was changed", or the steps."""
        if not self.completed:
            return "nothing was changed"
        return f"done before: {'; '.join(self.completed)}"

    def note(self, text: str) -> None:
        """Report something worth knowing."""

    def warn(self, text: str, *, hint: str | None = None) -> None:
        """Report something to look after; `hint` is a command to paste."""

    def error(self, error: ApexError, *, host: str | None = None) -> None:
        """Report a failure that does not end the command, such as that of one host among many."""

    def errors(self, outcomes: "Sequence[Outcome[Any]]") -> None:
        """Report the errors of hosts. The same problem on several of them is one error that names them all."""

    @contextmanager
    def errors_as_they_come(self) -> "Iterator[ErrorsAsTheyCome]":
        """As `errors`, for outcomes that are put in one by one until the block ends."""
        from apexgpu.errorgroups import ErrorsAsTheyCome  # for several hosts only

        arriving = ErrorsAsTheyCome(self.errors)
        try:
            yield arriving
        finally:
            arriving.flush()

    def diff(self, text: str) -> None:
        """Show the lines of a difference (`+ added`, `- removed`)."""

    def table(
        self, columns: Sequence[Column] | Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        """Show a small table, such as what a question is about."""

    # What is going on

    def working(self, what: str) -> AbstractContextManager[Progress]:
        """Show long work until the block ends; `what` describes it: "starting on gpu7"."""
        return nullcontext(Progress())

    def status_line(self) -> AbstractContextManager[Callable[[str], None]]:
        """A line that stays at the end of the output and is replaced by each call, until the block ends."""
        return nullcontext(lambda _text: None)

    def host_rows(
        self, kind: type, hosts: "Sequence[Host]", *, watch: float | None = None
    ) -> AbstractContextManager[HostRows]:
        """A table of `hosts` whose rows show values of the class `kind`, until the block ends.

        `watch` is the pause in seconds between two rounds: it is kept up to date until the user quits (see
        `HostRows.another_round`). Without it there is one round.
        """
        return _silent_rows(kind, hosts, watch)

    def drawn(self, drawing: "RenderableType", *, after: float = 0) -> AbstractContextManager[None]:
        """Keep `drawing` at the end of a terminal's output until the block ends; it appears `after` some seconds."""
        return nullcontext()

    def suspended(self) -> AbstractContextManager[None]:
        """Nothing is drawn within the block, so that something else can use the terminal."""
        return nullcontext()

    def behind(
        self, lifted: Callable[[], AbstractContextManager[None]]
    ) -> AbstractContextManager[None]:
        """Something fills the whole terminal within the block; within `lifted()`, it does not for a moment."""
        return nullcontext()

    # Questions

    def ask(self, question: Question, *, suffix: str = "") -> str:
        """One line of text from the user. DeclinedError when there is no answer.

        `suffix` follows the question: ` [y/N]`.
        """
        raise DeclinedError("no answer was given")

    def confirm(self, question: Question) -> bool:
        """Whether the user agrees to a y/N question. DeclinedError when there is no answer.

        What is neither yes nor no is asked again; in the end it counts as no.
        """
        suffix = " [Y/n]" if question.default else " [y/N]"
        for _ in range(_MOST_ASKED):
            answer = with_ordinary_letters(self.ask(question, suffix=suffix)).casefold()
            if not answer:
                return question.default
            if answer in YES:
                return True
            if answer in NO:
                return False
            self.note("please answer y or n")
        return False

    def secret(self, question: Question) -> str:
        """As `ask`, without showing what is typed."""
        raise DeclinedError("no answer was given")

    def piped_line(self) -> str:
        """The first line of standard input, without its end, for secrets that a script passes; "" at its end."""
        return ""


def can_encode_chinese(stream: IO[str]) -> bool:
    """Whether the encoding of `stream` has Chinese letters."""
    try:
        "中".encode(getattr(stream, "encoding", None) or "utf-8")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def with_ordinary_letters(text: str) -> str:
    """An answer with ordinary letters where an input method has typed full-width ones."""
    from unicodedata import normalize

    return normalize("NFKC", text).strip()


class PlainReporter(Reporter):
    """Lines on stderr, answers from stdin."""

    def __init__(
        self,
        *,
        err: IO[str] | None = None,
        stdin: IO[str] | None = None,
        rows: MakeRows = _silent_rows,
    ) -> None:
        self._err = err or sys.stderr
        self._stdin = stdin or sys.stdin
        self._rows = rows
        # One writer at a time: hosts are asked in threads, and each may report.
        self._lock = threading.RLock()
        self._asking = False

    @property
    def can_ask(self) -> bool:
        """A terminal at both ends: one to answer at, and one on which the question is seen."""
        return self._stdin.isatty() and self._err.isatty()

    def success(self, text: str) -> None:
        """See Reporter."""
        self.note_done(text)
        self._write(f"{symbols(current()).done} ", "green", text)

    def note(self, text: str) -> None:
        """See Reporter."""
        self._write("", "", text)

    def warn(self, text: str, *, hint: str | None = None) -> None:
        """See Reporter."""
        with self._lock:
            self._write("warning: ", "yellow", text)
            if hint:
                self._write("   hint: ", "yellow", self._command(hint))

    def error(self, error: ApexError, *, host: str | None = None) -> None:
        """See Reporter."""
        prefix = f"{host}: " if host and host not in error.message else ""
        with self._lock:
            self._write("error: ", "red", prefix + error.message)
            self._write_chinese(error.code)
            if error.hint:
                self._write(" hint: ", "red", self._command(error.hint))

    def errors(self, outcomes: "Sequence[Outcome[Any]]") -> None:
        """See Reporter."""
        from apexgpu.errorgroups import joined

        for error, host in joined(outcomes):
            self.error(error, host=host)

    def _command(self, hint: str) -> str:
        """A hint as a command to paste."""
        if isinstance(hint, SameCommand) and self.command_line is not None:
            return hint.with_options(self.command_line.words, self.command_line.options_at)
        return hint

    def _write_chinese(self, code: str) -> None:
        """The Chinese line of an error, where the user has that language."""
        if not self.shows_chinese:
            return
        from apexgpu.explanations import chinese_line

        line = chinese_line(code)
        if line is not None:
            self._write(" 说明: ", "red", line)

    def diff(self, text: str) -> None:
        """See Reporter."""
        colours = {"+": "green", "-": "red"}
        with self._lock:
            for line in text.splitlines():
                sign = line[:1] if line[:1] in colours else ""
                self._write(sign, colours.get(sign, ""), line.removeprefix(sign))

    def table(
        self, columns: Sequence[Column] | Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        """See Reporter."""
        with self._lock:
            for line in aligned(as_columns(columns), rows):
                self._write("", "", f"{' ' * INDENT}{line}")

    @contextmanager
    def working(self, what: str) -> Iterator[Progress]:
        """See Reporter."""
        progress = _PlainProgress(self, what)
        progress.start()
        try:
            yield progress
        finally:
            progress.stop()

    def host_rows(
        self, kind: type, hosts: "Sequence[Host]", *, watch: float | None = None
    ) -> AbstractContextManager[HostRows]:
        """See Reporter."""
        return self._rows(kind, hosts, watch)

    def ask(self, question: Question, *, suffix: str = "") -> str:
        """See Reporter."""
        with self._question():
            self._err.write(self._prompt(question, suffix))
            self._err.flush()
            line = self._stdin.readline()
        if not line:
            self._write("", "", "")  # the shell's prompt must not follow the question on its line
            raise DeclinedError(f"no answer was given; {self.outcome_so_far()}")
        return line.strip()

    def secret(self, question: Question) -> str:
        """See Reporter."""
        import getpass

        try:
            with self._question():
                return getpass.getpass(self._prompt(question))
        except EOFError:
            raise DeclinedError(f"no answer was given; {self.outcome_so_far()}") from None

    def _prompt(self, question: Question, suffix: str = "") -> str:
        """The question with its suffix; in Chinese too, on a line of its own, for who has that language."""
        english = safe(question.english)
        if not self.shows_chinese:
            return self._broken(english, f"{suffix}: ")
        colon = ": " if suffix else "："
        chinese = self._broken(safe(question.chinese), f"{suffix}{colon}")
        return f"{self._broken(english)}\n{chinese}"

    def _broken(self, question: str, ending: str = "") -> str:
        """A question with its ending. It is one line where nobody knows how long a line may be."""
        return f"{question}{ending}"

    @property
    def shows_chinese(self) -> bool:
        """Whether Chinese is wanted, and stderr can write it."""
        return self.is_chinese() and can_encode_chinese(self._err)

    def piped_line(self) -> str:
        """See Reporter."""
        binary = getattr(self._stdin, "buffer", None)
        if binary is None:
            return self._stdin.readline().rstrip("\r\n")
        # As UTF-8, which PowerShell 7 and every other shell write, whatever the code page of Windows is.
        line: bytes = binary.readline()
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = line.decode(getattr(self._stdin, "encoding", None) or "utf-8", "replace")
        return text.rstrip("\r\n")

    def still_working(self, text: str) -> None:
        """Write a line about long work that still runs; not in the middle of a question."""
        with self._lock:
            if not self._asking:
                self.note(text)

    def _write(self, label: str, colour: str, text: str) -> None:
        """Write a line; `colour` is the label's, on a terminal that has colours."""
        with self._lock, self.suspended():
            self._err.write(f"{label}{safe(text)}\n")
            self._err.flush()

    @contextmanager
    def _question(self) -> Iterator[None]:
        """Nothing is drawn or written over a question while it waits for its answer."""
        with self.suspended():
            self._asking = True
            try:
                yield
            except KeyboardInterrupt:
                # On a line of its own: the terminal shows ^C behind the question.
                done = self.outcome_so_far() if self.completed else "nothing was sent"
                self._err.write(f"\ninterrupted; {safe(done)}\n")
                self._err.flush()
                raise
            finally:
                self._asking = False


class _PlainProgress(Progress):
    """A line every `PLAIN_PERIOD` seconds."""

    def __init__(self, reporter: PlainReporter, what: str) -> None:
        self._reporter = reporter
        self._what = what
        self._last = ""
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def update(self, text: str) -> None:
        """See Progress."""
        self._last = text

    def transferred(self, progress: Transferred) -> None:
        """See Progress."""
        self._last = progress.describe()

    def start(self) -> None:
        """Begin to write lines."""
        self._thread.start()

    def stop(self) -> None:
        """Write no more lines; returns when none is being written."""
        self._over.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._over.wait(PLAIN_PERIOD):
            elapsed = time.monotonic() - self._began
            line = f"{self._what} … {duration(elapsed)}"
            if self._last:
                line += f"  {self._last}"
            self._reporter.still_working(line)


class TerminalReporter(PlainReporter):
    """Colours, spinners and bars, drawn by rich on a terminal. rich is loaded when something is first written."""

    def __init__(
        self,
        *,
        err: IO[str] | None = None,
        stdin: IO[str] | None = None,
        rows: MakeRows = _silent_rows,
        colour: bool = True,
    ) -> None:
        super().__init__(err=err, stdin=stdin, rows=rows)
        self._colour = colour
        # What is drawn at the end of the output: the newest of these, as long as there are any.
        self._drawings: list[RenderableType] = []
        self._live: Live | None = None
        self._curtain: Callable[[], AbstractContextManager[None]] | None = None

    @property
    def draws(self) -> bool:
        """See Reporter."""
        return True

    @cached_property
    def console(self) -> "Console":
        """rich's view of stderr."""
        from rich.console import Console

        return Console(
            file=self._err,
            force_terminal=True,
            # Without a colour system, rich writes no attribute at all, not even bold.
            color_system="auto" if self._colour else None,
            legacy_windows=False,  # the screen has asked the console already
            highlight=False,
            markup=False,
            emoji=False,
        )

    @contextmanager
    def working(self, what: str) -> Iterator[Progress]:
        """See Reporter."""
        spinner = _Spinner(what)
        with self.drawn(spinner, after=DRAW_AFTER):
            yield spinner

    @contextmanager
    def status_line(self) -> Iterator[Callable[[str], None]]:
        """See Reporter."""
        line = _StatusLine()
        with self.drawn(line):
            yield line.replace

    @contextmanager
    def drawn(self, drawing: "RenderableType", *, after: float = 0) -> Iterator[None]:
        """See Reporter."""
        with self._lock:
            self._drawings.append(drawing)
        timer = threading.Timer(after, self._show)
        timer.daemon = True
        if after:
            timer.start()
        else:
            self._show()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._drawings.remove(drawing)
                if not self._drawings:
                    self._hide()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """See Reporter."""
        # The lock is held throughout: what other threads report while a question waits is shown after it.
        with self._lock, self._lifted_curtain():
            was_drawing = self._live is not None
            self._hide()
            try:
                yield
            finally:
                if was_drawing:
                    self._show()

    @contextmanager
    def behind(self, lifted: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        """Something fills the whole terminal within the block; within `lifted()`, it does not for a moment."""
        self._curtain = lifted
        try:
            yield
        finally:
            self._curtain = None

    def _lifted_curtain(self) -> AbstractContextManager[None]:
        if self._curtain is None:
            return nullcontext()
        return self._curtain()

    def table(
        self, columns: Sequence[Column] | Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        """See Reporter."""
        from rich.padding import Padding

        from apexgpu.render.richtables import table

        columns = as_columns(columns)
        layout = lay_out(columns, rows, self.console.width - INDENT)
        with self.suspended():
            self.console.print(Padding(table(columns, rows, layout), (0, 0, 0, INDENT)))

    def _broken(self, question: str, ending: str = "") -> str:
        room = self.console.width
        if width(question + ending) <= room:
            return f"{question}{ending}"
        # The last sentence asks; what comes before it explains.
        before, asked = split_last_sentence(question)
        lines = wrapped(asked, room)
        if width(lines[-1] + ending) > room:
            lines = wrapped(asked, room - width(ending))
        if before:
            lines = [*wrapped(before, room), *lines]
        return "\n".join(lines) + ending

    def _show(self) -> None:
        from rich.live import Live

        with self._lock:
            if self._live is not None:
                self._live.refresh()
            elif self._drawings:
                self._live = Live(
                    console=self.console,
                    get_renderable=self._newest_drawing,
                    transient=True,
                    refresh_per_second=DRAWINGS_PER_SECOND,
                    redirect_stdout=False,
                    redirect_stderr=False,
                )
                self._live.start(refresh=True)

    def _hide(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _newest_drawing(self) -> "RenderableType":
        # rich's own thread may ask when the last drawing has just gone.
        return self._drawings[-1] if self._drawings else ""

    def _write(self, label: str, colour: str, text: str) -> None:
        from rich.text import Text

        # The text has the terminal's own colour: yellow is pale on a light background.
        line = Text.assemble((label, colour), safe(text))
        with self.suspended():
            # Long lines are left to the terminal to wrap, so that they can be copied as one.
            self.console.print(line, soft_wrap=True)


class _Spinner(Progress):
    """A spinner, what is being done, the elapsed time, and the newest line or a bar."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._last = ""
        self._transferred: Transferred | None = None
        self._began = time.monotonic()

    def update(self, text: str) -> None:
        """See Progress."""
        self._last = text

    def transferred(self, progress: Transferred) -> None:
        """See Progress."""
        self._transferred = progress

    @cached_property
    def _dots(self) -> "RenderableType":
        from rich.spinner import Spinner

        return Spinner(symbols(current()).spinner)

    def __rich__(self) -> "RenderableType":
        """What rich draws, anew at each refresh."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        elapsed = duration(time.monotonic() - self._began)
        drawn = symbols(current())
        what = Text(f"{safe(self._what)} {drawn.ellipsis} {elapsed}")
        cells: list[RenderableType] = [self._dots, what]
        if self._transferred is not None:
            if self._transferred.total:
                done = min(self._transferred.done, self._transferred.total)
                if drawn.is_ascii:
                    full = BAR_WIDTH * done // self._transferred.total
                    cells.append(Text(drawn.full * full + drawn.empty * (BAR_WIDTH - full)))
                else:
                    cells.append(ProgressBar(self._transferred.total, done, width=BAR_WIDTH))
            cells.append(Text(safe(self._transferred.describe())))
        elif self._last:
            cells.append(Text(safe(self._last)))
        line = Table.grid(padding=(0, 1))
        for _ in cells:
            line.add_column(no_wrap=True, overflow="ellipsis")
        line.add_row(*cells)
        return line


class _StatusLine:
    """A line that is replaced in place."""

    def __init__(self) -> None:
        self._text = ""

    def replace(self, text: str) -> None:
        """Show `text` from now on."""
        self._text = text

    def __rich__(self) -> "RenderableType":
        """What rich draws, anew at each refresh."""
        from rich.text import Text

        return Text(safe(self._text), no_wrap=True, overflow="ellipsis")
