"""Text of a server that tries to control the terminal, through every result of every command, in every form."""

import dataclasses
import importlib
import io
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from tests.quick.test_views import MODULES, returned

import apexgpu.archives.journal
import apexgpu.manageshell.starting
from apexgpu import questions
from apexgpu.errors import ApexError, RefusedError
from apexgpu.models import Finding, Host, Outcome
from apexgpu.render.screen import Screen
from apexgpu.reporter import PlainReporter
from apexgpu.results import Result
from apexgpu.secret import Secret
from apexgpu.text import safe, safe_json, safe_lines

HOSTILE = (
    "x\x1b]0;evil\x07\x1b[31m\x9b31m\x7f\r\n\x00\u202eevil\u2066\u061c\ufeff\u2028\udc80"
    "\U000e0041[bold red]y[/bold red]"
)
HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    "\U000e0000-\U000e0fff]"
)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""What rich itself writes."""

VERBATIM = {"ConfigBlock", "CompletionScript", "LabEnvironment", "CommandOutputs"}
"""Results that are written as they are: our own text for files and shells, and the output of a user's own program."""

GIVEN = {
    ("PublicKey", "blob"): "AAAA",
    ("Forward", "destination"): "localhost:6006",
    ("Offer", "by_uuid"): False,
}
"""Fields that have been checked before they get into a result."""

HOST = Host(HOSTILE, HOSTILE, HOSTILE, 22001)
ERROR = RefusedError(HOSTILE, hint=HOSTILE)


class Tty(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def hostile(kind: Any, known: Mapping[str, Any]) -> Any:  # noqa: C901 - a case per kind of type
    """A value of a type, with hostile text wherever it may contain text."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, typing.TypeVar):
        return known.get(kind.__name__)
    if origin in {typing.Union, types.UnionType}:
        return hostile(next(one for one in arguments if one is not type(None)), known)
    if origin is typing.Literal:
        return arguments[0]
    if origin is Outcome:
        return Outcome(HOST, hostile(arguments[0], known), ERROR)
    if origin in {tuple, Sequence, list, frozenset, set}:
        if origin is tuple and arguments[-1] is not ...:
            return tuple(hostile(one, known) for one in arguments)
        items = [] if not arguments else [hostile(arguments[0], known)]
        return tuple(items) if origin in {tuple, Sequence} else origin(items)
    if origin in {dict, Mapping}:
        return {hostile(arguments[0], known): hostile(arguments[1], known)}
    if kind in {ApexError, RefusedError}:
        return ERROR
    if kind is Host:
        return HOST
    if kind is Secret:
        return Secret(HOSTILE)
    return hostile_instance(kind, known)


def hostile_instance(kind: Any, known: Mapping[str, Any]) -> Any:
    """A value of a class."""
    simple: dict[Any, Any] = {
        str: HOSTILE,
        bytes: HOSTILE.encode("utf-8", "surrogatepass"),
        bool: True,
        int: 22,
        float: 22.0,
        object: HOSTILE,
        Any: HOSTILE,
        Path: Path("/" + HOSTILE.replace("\0", "")),
        type(None): None,
        datetime: datetime.now(UTC),
    }
    if kind in simple:
        return simple[kind]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(iter(kind))
    if isinstance(kind, type) and issubclass(kind, ApexError):
        return ERROR
    if dataclasses.is_dataclass(kind):
        names = vars(importlib.import_module(kind.__module__)) | vars(apexgpu.archives.journal)
        names |= vars(apexgpu.manageshell.starting)
        hints = typing.get_type_hints(kind, globalns=names)
        values = {}
        type_name = getattr(kind, "__name__", "")
        for field in dataclasses.fields(kind):
            if field.init:
                given = GIVEN.get((type_name, field.name))
                values[field.name] = hostile(hints[field.name], known) if given is None else given
        make: Any = kind
        return make(**values)
    pytest.fail(f"no hostile value for {kind}")


def results() -> list[type[Result]]:
    """Every result of every command."""
    found = [result for module in MODULES for result in returned(module)]
    # The lab on this machine reports its own state.
    return [result for result in found if not result.__module__.startswith("apexgpu_lab")]


def value_of(kind: type[Result]) -> Any:
    """What the outcomes of a result on several hosts contain."""
    for base in kind.__orig_bases__ if hasattr(kind, "__orig_bases__") else ():
        if typing.get_args(base):
            names = vars(importlib.import_module(kind.__module__))
            value = typing.get_args(base)[0]
            return names.get(value, value) if isinstance(value, str) else value
    return None


def example(kind: type[Result]) -> Result:
    """A result that is hostile in every part."""
    value = value_of(kind)
    known = {} if value is None else {"T": hostile(value, {})}
    made: Result = hostile_instance(kind, known)
    return made


def forms() -> list[Any]:
    """Every result in every form in which its text is escaped."""
    found = []
    for kind in results():
        for form in ("pipe", "terminal", "json"):
            if form == "json" or kind.__name__ not in VERBATIM:
                found.append(pytest.param(kind, form, id=f"{kind.__name__}-{form}"))
    return found


@pytest.mark.parametrize(("kind", "form"), forms())
def test_nothing_harmful_reaches_the_terminal(kind: type[Result], form: str) -> None:
    out = Tty() if form == "terminal" else io.StringIO()
    err = Tty() if form == "terminal" else io.StringIO()
    screen = Screen(out=out, err=err, stdin=io.StringIO(), environment={"TERM": "xterm"})
    screen.as_json = form == "json"
    result = example(kind)
    screen.show(result)
    for text in (out.getvalue(), err.getvalue()):
        plain = COLOURS.sub("", text).replace("\r\n", "\n")
        assert HARMFUL.search(plain) is None, ascii(plain)
        if "bold red" in plain:
            assert "[bold red]y" in plain
    if form == "json":
        json.loads(out.getvalue())


def test_a_question_is_escaped() -> None:
    err = Tty()
    reporter = PlainReporter(err=err, stdin=io.StringIO("y\n"))
    assert reporter.confirm(questions.STOP.fill(hosts=HOSTILE))
    assert HARMFUL.search(err.getvalue()) is None


@pytest.mark.parametrize("write", ["success", "note", "warn", "diff"])
def test_a_report_is_escaped(write: str) -> None:
    err = io.StringIO()
    getattr(PlainReporter(err=err, stdin=io.StringIO()), write)(HOSTILE)
    assert HARMFUL.search(err.getvalue()) is None


def test_a_check_of_doctor_is_escaped() -> None:
    out = Tty()
    screen = Screen(out=out, err=io.StringIO(), stdin=io.StringIO(), environment={})
    screen.finding(Finding.problem(HOSTILE, HOSTILE, HOSTILE))
    assert HARMFUL.search(COLOURS.sub("", out.getvalue())) is None


def test_escapes_in_json_mean_the_same_text() -> None:
    text = HOSTILE.replace("\udc80", "")
    document = safe_json(json.dumps({"text": text}, ensure_ascii=False, indent=2))
    assert HARMFUL.search(document) is None
    assert json.loads(document) == {"text": text}


def test_safe_text_stays_as_it_is() -> None:
    for text in ("王芳", "größer 🎉️", "a\\x1b", "é", "مرحبا"):
        assert safe(text) == safe_lines(text) == safe_json(text) == text
    assert safe(safe(HOSTILE)) == safe(HOSTILE)
    assert safe_lines("a\tb\nc") == "a\tb\nc"
