"""Progress, questions and drawings of the reporters; what is written is in test_render.py."""

import io
import threading

import pytest

from apexgpu import reporter as reporters
from apexgpu.errors import ApexError, DeclinedError, SameCommand
from apexgpu.questions import Question
from apexgpu.reporter import CommandLine, PlainReporter, Reporter, TerminalReporter, Transferred
from apexgpu.results import Result

MIB = 1 << 20


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("done", "total", "rate", "shown"),
    [
        (0, None, 0.0, "x  0 B"),
        (
            512 * MIB,
            1024 * MIB,
            64.0 * MIB,
            "x   50 %  512.0 MiB of 1.0 GiB  64.0 MiB/s  8 s left",
        ),
        (1024 * MIB, 1024 * MIB, 0.0, "x  100 %  1.0 GiB of 1.0 GiB"),
        (2048 * MIB, 1024 * MIB, 0.0, "x  100 %  2.0 GiB of 1.0 GiB"),
    ],
)
def test_the_numbers_of_a_copy(done: int, total: int | None, rate: float, shown: str) -> None:
    assert Transferred("x", done, total, rate).describe() == shown


@pytest.mark.parametrize(
    ("words", "options_at", "hint"),
    [
        (("down", "gpu2"), 1, "apexgpu down --yes gpu2"),
        (("exec", "gpu2", "--", "echo", "a b"), 1, "apexgpu exec --yes gpu2 -- echo 'a b'"),
        (("keys", "remove", "x", "--yes"), 2, "apexgpu keys remove x --yes"),
        (("run", "gpu2", "--env", "TOKEN=hunter2", "--", "true"), 1, "apexgpu run --help"),
        (("run", "gpu2", "--env=TOKEN=hunter2", "--", "true"), 1, "apexgpu run --help"),
    ],
)
def test_a_hint_of_the_same_command_is_the_whole_command_without_secrets(
    words: tuple[str, ...], options_at: int, hint: str
) -> None:
    err = io.StringIO()
    reporter = PlainReporter(err=err)
    reporter.command_line = CommandLine(words, options_at)
    reporter.error(ApexError("x", hint=SameCommand("add --yes", "--yes")))
    assert err.getvalue() == f"error: x\n hint: {hint}\n"


def test_without_a_command_line_it_is_its_text() -> None:
    err = io.StringIO()
    PlainReporter(err=err).error(ApexError("x", hint=SameCommand("add --yes", "--yes")))
    assert err.getvalue() == "error: x\n hint: add --yes\n"


def test_ctrl_c_at_a_question_is_reported_on_a_line_of_its_own() -> None:
    class Interrupted(io.StringIO):
        def readline(self, *_: object) -> str:  # type: ignore[override]  # text, not bytes
            raise KeyboardInterrupt

    err = io.StringIO()
    reporter = PlainReporter(err=err, stdin=Interrupted())
    with pytest.raises(KeyboardInterrupt):
        reporter.confirm(Question("Start it?", "启动它吗？"))
    assert err.getvalue() == "Start it? [y/N]: \ninterrupted; nothing was sent\n"


def test_the_silent_reporter_answers_nothing_and_goes_on() -> None:
    silent = Reporter()
    silent.warn("x", hint="y")
    silent.error(ApexError("x"))
    with silent.working("x") as progress, silent.status_line() as show, silent.suspended():
        progress.update("y")
        progress.transferred(Transferred("", 1, 2, 3.0))
        show("z")
    with silent.host_rows(int, []) as rows:
        assert not rows.another_round(Result())
    assert not silent.can_ask
    with pytest.raises(DeclinedError):
        silent.confirm(Question("Go ahead?", "继续吗？"))


def test_a_log_is_told_now_and_then_that_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporters, "PLAIN_PERIOD", 0.01)
    err = io.StringIO()
    told = threading.Event()

    class Told(io.StringIO):
        def write(self, text: str) -> int:
            err.write(text)
            if "halfway" in text:
                told.set()
            return len(text)

    plain = PlainReporter(err=Told(), stdin=io.StringIO())
    with plain.working("copying") as progress:
        progress.update("halfway\x1b[2J")
        assert told.wait(30)
    assert "copying … 0 s  halfway\\x1b[2J\n" in err.getvalue()


def test_a_terminal_shows_the_newest_of_two_drawings_and_takes_all_away() -> None:
    err = Terminal()
    terminal = TerminalReporter(err=err, stdin=Terminal(), colour=False)
    with terminal.status_line() as show:
        show("the outer line\x1b[2J")
        with terminal.drawn("the inner line"):
            pass
        terminal.note("a lasting line")
        with terminal.suspended():
            before = err.getvalue()
    text = err.getvalue()
    assert "the inner line" in text
    assert "a lasting line\n" in text
    assert "the outer line\\x1b[2J" in text
    assert text[len(before) :].count("the outer line") >= 1  # drawn again after the pause
    assert text.endswith("\x1b[2K")  # and erased in the end


def test_work_that_is_over_at_once_draws_nothing() -> None:
    err = Terminal()
    terminal = TerminalReporter(err=err, stdin=Terminal())
    with terminal.working("looking"):
        pass
    assert err.getvalue() == ""


@pytest.mark.parametrize("cells", [20, 60, 140])
def test_a_spinner_fits_on_one_line(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setattr(reporters, "DRAW_AFTER", 0.0)
    out = io.StringIO()
    spinner = reporters._Spinner("starting on gpu7")
    spinner.update("the host says something that is much longer than any line of a terminal " * 3)
    Console(file=out, width=cells, force_terminal=True, no_color=True).print(spinner)
    (line,) = out.getvalue().splitlines()
    assert len(line) <= cells + 2
    assert "…" in line
    spinner.transferred(Transferred("sending", 5 * MIB, 10 * MIB, 1.0 * MIB))
    out.truncate(0)
    Console(file=out, width=cells, force_terminal=True, no_color=True).print(spinner)
    assert len(out.getvalue().splitlines()) == 1
