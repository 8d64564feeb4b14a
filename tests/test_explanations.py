"""The catalogue of codes: every code of the program has an entry, in plain English and in natural Chinese."""

import ast
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu import cli
from apexgpu.errors import StoppedError
from apexgpu.explanations import Explanation, catalogue
from apexgpu.render.screen import Screen
from apexgpu.session import Session
from apexgpu.xserver import localchecks
from tests.test_hints import wrong
from tests.test_words import stumbling_blocks
from tests.test_words_zh import HAN, WRONG_WORDS

SOURCE = Path(__file__).parent.parent / "src"
CODE = re.compile(r"[a-z][a-z0-9_]*")
# Calls whose code is not named `code`: the class or method, and the place of the code among the arguments.
POSITIONAL = {"_Rule": 2, "_SmiFailure": 1, "problem": 2, "_Failure": 3}
# Codes that are made of something else: causes of the container's answers, Ctrl-C, the codes of programs.
MADE_ELSEWHERE = {"no_sudo", "no_apt", "no_room", "interrupted", "problem", "crashed"}


def codes_in_source() -> Iterator[tuple[str, str]]:
    """Each code that an error or a finding may have, and the file that has it."""
    for path in sorted(SOURCE.rglob("*.py")):
        where = path.relative_to(SOURCE).as_posix()
        if "programs/" in where:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            for value in code_values(node):
                yield value, where
    for name in ("_NO_SERVER", "_NO_XAUTH"):
        yield getattr(localchecks, name), "apexgpu/xserver/localchecks.py"
    for code in MADE_ELSEWHERE:
        yield code, "made elsewhere"


def code_values(node: ast.AST) -> Iterator[str]:
    """The constants that a node gives as a code."""
    if isinstance(node, ast.Call):
        values = code_arguments(node)
    elif isinstance(node, ast.ClassDef):
        values = code_attributes(node)
    else:
        return
    for value in values:
        if isinstance(value, ast.Subscript):  # a reply of the lab: its code is one of these
            continue
        for part in ast.walk(value):
            text = part.value if isinstance(part, ast.Constant) else None
            if isinstance(text, str) and CODE.fullmatch(text):
                yield text


def code_arguments(call: ast.Call) -> list[ast.expr]:
    values = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
    called = call.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    place = POSITIONAL.get(name)
    if place is not None and len(call.args) > place:
        values.append(call.args[place])
    return values


def code_attributes(node: ast.ClassDef) -> list[ast.expr]:
    values = []
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            names = {getattr(target, "id", "") for target in statement.targets}
            if "code" in names or node.name == "CauseCode":
                values.append(statement.value)
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            is_code = getattr(statement.target, "id", "") == "code"
            values += [statement.value] if is_code else []
    return values


def test_every_code_has_an_entry() -> None:
    missing = {code: where for code, where in codes_in_source() if code not in catalogue()}
    assert missing == {}


def test_every_entry_is_of_a_code() -> None:
    assert set(catalogue()) - {code for code, _ in codes_in_source()} == set()


def test_the_entries_are_in_alphabetical_order() -> None:
    assert list(catalogue()) == sorted(catalogue())


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: str(entry.code))
def test_an_entry_is_plain_english_and_chinese_of_the_field(entry: Explanation) -> None:
    english = (entry.english.meaning, entry.english.why, entry.english.what_to_do)
    chinese = (entry.chinese.meaning, entry.chinese.why, entry.chinese.what_to_do)
    for text in english:
        assert list(stumbling_blocks(text)) == []
        assert text.isascii()
        assert len(text) < 170
    for text in english[:2]:
        assert text.endswith(".")
    for text in chinese:
        assert re.search(HAN, text)
        prose = re.sub("`[^`]+`", "`", text)
        assert not re.search(f"{HAN}[,;:!?()]|[,;:!?()]{HAN}|{HAN} +{HAN}", prose), text
        for pattern in WRONG_WORDS:
            assert not re.search(pattern, prose), (pattern, text)
    for text in chinese[:2]:
        assert text.endswith("。")


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: str(entry.code))
def test_both_languages_name_the_same_command_and_it_exists(entry: Explanation) -> None:
    english = entry.english.what_to_do.partition(": ")[2]
    chinese = entry.chinese.what_to_do.partition("：")[2]
    assert english
    assert english == chinese
    match = re.match(r"apexgpu((?: +(?:--?[a-z][a-z-]*|[a-z][a-z0-9-]*))+)", english)
    if match is not None:
        assert not wrong(match[1].split()), english


def test_explain_shows_a_page_in_both_languages(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "not-registered"], Session()) == 0
    out = capsys.readouterr().out
    assert "You are not registered on this host" in out
    assert "What to do: Register:\n  apexgpu register HOST\n" in out
    assert "处理：注册：\n  apexgpu register HOST\n" in out
    assert cli.main(["explain", "--json"], Session()) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["codes"]) == len(catalogue())
    assert not re.search(HAN, json.dumps(document, ensure_ascii=False))
    assert cli.main(["explain", "not_regstered"], Session()) == 2
    assert "hint: apexgpu explain not_registered" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "config", "shown"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "", True),
        ({"LC_MESSAGES": "zh_TW.UTF-8", "LANG": "en_US.UTF-8"}, "", True),
        ({"LC_ALL": "C", "LANG": "zh_CN.UTF-8"}, "", False),
        ({"LANG": "en_US.UTF-8"}, 'language = "zh"', True),
        ({"LANG": "zh_CN.UTF-8"}, 'language = "en"', False),
        ({"LANG": "zh_CN.UTF-8"}, "timeout = [", True),
        ({}, "", False),
    ],
)
def test_an_error_has_its_chinese_line_where_that_is_the_language(
    tmp_path: Path, environment: dict[str, str], config: str, shown: bool
) -> None:
    (tmp_path / "config.toml").write_text(config)
    directories = {
        "APEXGPU_CONFIG_DIR": str(tmp_path),
        "APEXGPU_STATE_DIR": str(tmp_path / "state"),
    }
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out=out, err=err)
    words = ["up", "gpu7", "--json"]
    code = cli.main(words, Session(environment={**environment, **directories}), screen)
    assert code in {2, 4}
    expected = catalogue()["login" if code == 4 else "config"].chinese.meaning
    assert (f"\n 说明: {expected}\n" in err.getvalue()) is shown
    assert not re.search(HAN, out.getvalue()), "JSON is never translated"


def test_a_terminal_that_cannot_write_chinese_gets_none() -> None:
    err = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    screen = Screen(out=io.StringIO(), err=err)
    screen.reporter.is_chinese = lambda: True
    screen.reporter.error(StoppedError("the container on gpu7 is stopped", hint="apexgpu up gpu7"))
    err.flush()
    err.seek(0)
    assert err.read() == "error: the container on gpu7 is stopped\n hint: apexgpu up gpu7\n"
