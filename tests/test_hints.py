"""Every `apexgpu …` that the program tells somebody to type is there: the command, the word below it, its options."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu.commands.table import COMMANDS
from apexgpu.completion_table import TABLE

SOURCE = Path(__file__).parent.parent / "src" / "apexgpu"

# Commands of cli.md that are named already and are not there yet. A test below says when one has come.
COMING: set[str] = set()
# What follows the name in a sentence, where nothing is to be typed.
PROSE = {"added", "cannot", "does", "has", "itself", "owns", "wants", "wrote"}
_CALL = re.compile(r"\bapexgpu((?: +(?:--?[a-z][a-z-]*|[a-z][a-z0-9-]*))+)")


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The string constants with their lines, docstrings left out; what an f-string fills in is an X."""
    silent: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr):
                silent.add(id(first.value))
        elif isinstance(node, ast.JoinedStr):
            silent |= {id(part) for part in node.values}
            yield (
                node.lineno,
                "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "X"
                    for part in node.values
                ),
            )
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in silent
        ):
            yield node.lineno, node.value


def calls() -> Iterator[tuple[str, list[str]]]:
    """Where something like a call stands, and its words."""
    for path in sorted(SOURCE.rglob("*.py")):
        if path.name in {"completion.py", "completion_table.py"}:  # scripts of other languages
            continue
        for line, text in strings(ast.parse(path.read_text())):
            for match in _CALL.finditer(text):
                yield f"{path.relative_to(SOURCE)}:{line}", match[1].split()


def wrong(words: list[str]) -> str | None:
    """What is not there of a call, None when all of it is."""
    first, *rest = words
    if first.startswith("-"):
        return None if first in TABLE[""][2] else first
    if first in PROSE | COMING:
        return None
    if first not in COMMANDS:
        return first
    path = first
    if first == "explain" and rest and not rest[0].startswith("-"):
        return None if rest[0] in TABLE[first][1] else rest[0]  # a code
    if TABLE[path][1] and rest and not rest[0].startswith("-"):
        path = f"{first} {rest.pop(0)}"
        if path not in TABLE:
            return path
    return next(
        (word for word in rest if word.startswith("--") and word not in TABLE[path][2]), None
    )


def test_what_is_to_be_typed_exists() -> None:
    found = list(calls())
    assert len(found) > 60
    assert [f"{where}: apexgpu {' '.join(words)}" for where, words in found if wrong(words)] == []


def test_what_was_coming_and_has_come_is_taken_off_the_list() -> None:
    assert COMING & COMMANDS.keys() == set()
    assert {words[0] for _, words in calls()} >= COMING


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("nothing", "nothing"),
        ("config nothing", "config nothing"),
        ("login --nothing", "--nothing"),
        ("config sync --nothing", "--nothing"),
        ("config sync --include", None),
        ("up gpu", None),
    ],
)
def test_a_call_that_is_wrong_is_found(call: str, found: str | None) -> None:
    assert wrong(call.split()) == found


# Hints, wherever they are made

_PROGRAMS = set(
    [
        "Add-Content",
        "Add-WindowsCapability",
        "Get-Content",
        "Get-PSDrive",
        "Measure-Command",
        "Remove-Item",
        "Select-String",
        "Set-Service",
        "apexgpu",
        "attrib",
        "brew",
        "cat",
        "cd",
        "chmod",
        "curl",
        "curl.exe",
        "defaults",
        "df",
        "dir",
        "du",
        "echo",
        "eval",
        "export",
        "fsutil",
        "getent",
        "git",
        "grep",
        "icacls",
        "id",
        "kill",
        "ls",
        "mkdir",
        "move",
        "mv",
        "open",
        "osascript",
        "pgrep",
        "printf",
        "puttygen",
        "sed",
        "setx",
        "sleep",
        "ssh",
        "ssh-add",
        "ssh-keygen",
        "sshfs",
        "sudo",
        "taskkill",
        "tail",
        "time",
        "unset",
        "whoami",
        "winget",
        "xhost",
        "xwininfo",
    ]
)
"""What a command to paste may begin with, on some system."""

_TO_FILL_IN = re.compile(
    r"\b(?:[A-Z]+_KEY|[A-Z]+_MACHINE|HOST|NAME|PATH|DIR|CMD|COMMAND|PORT|USER|FILE|RECIPE|VALUE|SRC|DST|N)\b(?![=_])"
    r"|<[a-z]|\.\.\.|…|gpu7|example\.org|/path/of"
)
_FILLED_IN = "\N{REPLACEMENT CHARACTER}"


def hint_texts(tree: ast.AST, *, is_hints_module: bool) -> Iterator[tuple[int, str]]:
    """The texts of hints with their lines; what is filled in is one character. Texts that are made elsewhere are not."""
    for node in ast.walk(tree):
        values: list[ast.expr | None] = []
        if isinstance(node, ast.Call):
            values += [keyword.value for keyword in node.keywords if "hint" in (keyword.arg or "")]
            values += hint_arguments(node)
        elif (
            (isinstance(node, ast.Assign) and any("hint" in name_of(one) for one in node.targets))
            or (isinstance(node, ast.AnnAssign) and "hint" in name_of(node.target))
            or (isinstance(node, ast.Return) and is_hints_module)
        ):
            values.append(node.value)
        for value in values:
            for text in texts_of(value):
                yield value.lineno if value is not None else 0, text


def name_of(node: ast.expr | None) -> str:
    name = getattr(node, "id", getattr(node, "attr", ""))
    return str(name).lower()


def hint_arguments(call: ast.Call) -> list[ast.expr]:
    """The arguments that are hints by their place: of findings, and of tables of failures."""
    places = {"problem": 2, "note": 2, "broken": 2, "unknown": 2, "finding": 3}
    places |= {"_knownfailure": 2, "_rule": 4}
    name = name_of(call.func)
    place = places.get(name)
    if name == "problem" and name_of(getattr(call.func, "value", None)) == "failure":
        place = 1  # the check is known there
    if place is None or len(call.args) <= place:
        return []
    return [call.args[place]]


def texts_of(value: ast.expr | None) -> Iterator[str]:
    """The texts that an expression may be."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.JoinedStr):
        parts = []
        for part in value.values:
            parts.append(str(part.value) if isinstance(part, ast.Constant) else _FILLED_IN)
        yield "".join(parts)
    elif isinstance(value, ast.IfExp):
        yield from texts_of(value.body)
        yield from texts_of(value.orelse)
    elif isinstance(value, ast.BoolOp):
        for part in value.values:
            yield from texts_of(part)
    elif isinstance(value, ast.Call) and name_of(value.func) == "_choose":
        for keyword in value.keywords:
            yield from texts_of(keyword.value)
    elif isinstance(value, ast.Call) and name_of(value.func) in {"format", "rstrip"}:
        yield from texts_of(getattr(value.func, "value", None))


def bad_hint(text: str) -> bool:
    """Whether a hint is no command, or has something to fill in."""
    words = text.split()
    # Variables of the shell have values.
    if not words or _TO_FILL_IN.search(re.sub(r"\$\{?[\w:]+", "", text)):
        return bool(words)
    first = words[0]
    is_quoted = first.startswith(("&", "$", "[", "'"))  # PowerShell
    return not (is_quoted or _FILLED_IN in first or "{" in first or first in _PROGRAMS)


def test_no_hint_has_anything_to_fill_in_and_each_begins_with_a_program() -> None:
    bad = []
    count = 0
    for path in sorted(SOURCE.rglob("*.py")):
        where = path.relative_to(SOURCE).as_posix()
        tree = ast.parse(path.read_text())
        for line, text in hint_texts(tree, is_hints_module=where == "platforms/hints.py"):
            count += 1
            if bad_hint(text):
                bad.append(f"{where}:{line}: {text}")
    assert count > 350
    assert bad == []


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ('raise UsageError(message, hint="apexgpu login USER")', True),
        ('hint = "ssh -X THIS_MACHINE"', True),
        ('Finding.broken("X server", fact, "end it, and start it again")', True),
        ('hint = f"apexgpu cp {name} gpu7:" if name else None', True),
        ('raise UsageError(message, hint=f"apexgpu up {host.name}")', False),
        ("hint = 'echo \"ssh -X $USER@$(hostname)\"'", False),
    ],
)
def test_a_hint_with_something_to_fill_in_is_found(source: str, bad: bool) -> None:
    texts = [text for _, text in hint_texts(ast.parse(source), is_hints_module=False)]
    assert [bad_hint(text) for text in texts] == [bad]
