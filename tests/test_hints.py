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
