"""What reaches the terminal: server text as data, colours only where they are wanted, tables that are never cut."""

import io
import json

import pytest

from apexgpu import questions
from apexgpu.errors import ApexError, DeclinedError
from apexgpu.questions import Question
from apexgpu.render.screen import Screen
from apexgpu.results import error_json
from apexgpu.text import duration, safe, size, width


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def screen(
    *, terminal: bool = False, **environment: str
) -> tuple[Screen, io.StringIO, io.StringIO]:
    out, err = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
    return Screen(out=out, err=err, stdin=io.StringIO(), environment=environment), out, err


GO_AHEAD = Question("Go ahead?", "继续吗？")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
        ("a\rb\nc\td", "a\\rb\\nc\\td"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("line\u2028end\u2029", "line\\u2028end\\u2029"),
        ("容器 é [bold]x[/bold]", "容器 é [bold]x[/bold]"),
    ],
)
def test_what_a_server_says_is_shown_and_not_done(text: str, shown: str) -> None:
    assert safe(text) == shown
    view, out, err = screen(terminal=True, NO_COLOR="1")
    view.reporter.note(text)
    view.reporter.warn(text, hint=text)
    view.reporter.error(ApexError(text, hint=text), host="gpu2")
    view.reporter.success(text)
    view.table(("NAME",), [(text,)])
    for said in (out.getvalue(), err.getvalue()):
        assert text not in said or text == shown
        assert shown in said
        assert "\x1b" not in said


def test_reports_differences_and_what_lives_on_the_terminal_obey_no_server_either() -> None:
    view, out, err = screen(terminal=True, NO_COLOR="1")
    view.verdict("ok", "\x1b[1m", "\x1b[2J", hint="\x1b[3m")
    view.reporter.diff("+ \x1b[4m\n- \x9b5m")
    assert "\x1b" not in out.getvalue() + err.getvalue()
    assert "\x9b" not in err.getvalue()
    for shown in ("[1m", "[2J", "[3m"):
        assert f"\\x1b{shown}" in out.getvalue()
    for shown in ("\\x1b[4m", "\\x9b5m"):
        assert shown in err.getvalue()


@pytest.mark.parametrize(
    ("typed", "yes"),
    [
        ("y\n", True),
        ("YES\n", True),
        ("是\n", True),
        ("\n", False),
        ("n\n", False),
        ("否\n", False),
        ("ｙ\n", True),
        ("ＹＥＳ\n", True),
        ("ｎ\n", False),
        ("yep\ny\n", True),
        ("yep\nn\n", False),
        ("yep\nperhaps\nsure\ny\n", False),
        ("y", True),
    ],
)
def test_nothing_but_yes_is_yes_in_any_width_and_in_chinese(typed: str, yes: bool) -> None:
    view = Screen(out=io.StringIO(), err=io.StringIO(), stdin=io.StringIO(typed))
    assert view.reporter.confirm(GO_AHEAD) is yes


def test_enter_alone_is_what_the_question_recommends() -> None:
    err = io.StringIO()
    view = Screen(out=io.StringIO(), err=err, stdin=io.StringIO("\nwhat\nno\n"))
    recommended = questions.SNAPSHOT_FIRST.fill(host="gpu7")
    assert view.reporter.confirm(recommended)
    assert err.getvalue().endswith("first? [Y/n]: ")
    assert not view.reporter.confirm(recommended)


def test_a_question_has_its_chinese_form_on_a_line_of_its_own() -> None:
    err = io.StringIO()
    view = Screen(out=io.StringIO(), err=err, stdin=io.StringIO("是\n"))
    view.reporter.is_chinese = lambda: True
    assert view.reporter.confirm(questions.STOP.fill(hosts="gpu7"))
    assert err.getvalue() == (
        "Stop the running container on gpu7?\n停止 gpu7 上正在运行的容器吗？ [y/N]: "
    )


def test_the_end_of_input_is_no_answer() -> None:
    view = Screen(out=io.StringIO(), err=io.StringIO(), stdin=io.StringIO())
    with pytest.raises(DeclinedError):
        view.reporter.ask(questions.ACCOUNT.fill())


@pytest.mark.parametrize(
    ("stdin", "err", "can"),
    [
        (Terminal(), Terminal(), True),
        (Terminal(), io.StringIO(), False),
        (io.StringIO(), Terminal(), False),
    ],
)
def test_who_does_not_see_a_question_cannot_answer_it(
    stdin: io.StringIO, err: io.StringIO, can: bool
) -> None:
    assert Screen(out=io.StringIO(), err=err, stdin=stdin).reporter.can_ask is can


def test_a_terminal_that_knows_no_chinese_ends_no_command() -> None:
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="ascii")
    Screen(out=out, err=io.StringIO(), stdin=io.StringIO()).result("容器 ok")
    assert written.getvalue() == b"\\u5bb9\\u5668 ok\n"


def test_symbols_have_a_letter_that_every_terminal_knows() -> None:
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="ascii")
    Screen(out=out, err=io.StringIO(), stdin=io.StringIO()).result("✓ 2 × a… ███░ · ⠋ “x” → 容")
    assert written.getvalue() == b'+ 2 x a~ ###. - * "x" > \\u5bb9\n'


def test_markup_is_letters() -> None:
    view, _, err = screen(terminal=True)
    view.reporter.note("[red]no[/red] :smile:")
    assert "[red]no[/red] :smile:" in err.getvalue()


@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": ""}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    terminal: bool, environment: dict[str, str], coloured: bool
) -> None:
    view, out, err = screen(terminal=terminal, **environment)
    view.reporter.success("done")
    view.table(("A",), [("b",)], styles=lambda _: "red")
    assert ("\x1b" in err.getvalue()) is coloured
    assert ("\x1b" in out.getvalue()) is coloured


def test_json_is_one_document_and_the_only_thing_on_stdout() -> None:
    view, out, err = screen()
    view.as_json = True
    view.result("for people")
    view.table(("A",), [("b",)])
    view.reporter.note("beside")
    view.document({"ok": True, "name": "爱丽丝\x1b"})
    assert json.loads(out.getvalue()) == {"schema": 1, "ok": True, "name": "爱丽丝\x1b"}
    assert "\x1b" not in out.getvalue()
    assert err.getvalue() == "beside\n"


def test_without_json_there_is_no_document() -> None:
    view, out, _ = screen()
    view.document({"ok": True})
    assert out.getvalue() == ""


def test_an_error_as_a_value() -> None:
    assert error_json(None) is None
    assert error_json(ApexError("it broke", hint="mend it", code="broken")) == {
        "code": "broken",
        "message": "it broke",
        "hint": "mend it",
    }


def test_a_chinese_letter_takes_two_cells() -> None:
    assert width("主机") == 4


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3_040_870, "2.9 MiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (90, "1 min 30 s"),
        (7200, "2 h"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
