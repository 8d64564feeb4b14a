"""The tables of tests that are left out in an emulation: each entry names tests that exist, and why."""

import ast
from pathlib import Path

import pytest

from tests import macos_emulation, windows_emulation

TESTS = Path(__file__).parent
TABLES = [
    pytest.param(macos_emulation.NOT_EMULATED, ["quick", "cli"], id="macOS"),
    pytest.param(windows_emulation.NOT_EMULATED, ["quick"], id="Windows"),
]


def names_in(file: Path) -> set[str]:
    """The classes and functions of a file of tests, and `Class::function`."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.add(node.name)
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    found.add(f"{node.name}::{inner.name}")
    return found


@pytest.mark.parametrize(("table", "directories"), TABLES)
def test_each_entry_names_tests_that_exist_and_a_reason(
    table: dict[str, str], directories: list[str]
) -> None:
    wrong = []
    for part, reason in table.items():
        file, _, name = part.partition("::")
        found = set()
        for directory in directories:
            path = TESTS / directory / file
            if path.exists():
                found |= names_in(path)
        # A parameter is not looked at; an entry without one may be the beginning of several names.
        wanted = name.partition("[")[0]
        if not any(test.startswith(wanted) for test in found) or len(reason) < 12:
            wrong.append(part)
    assert wrong == []


@pytest.mark.parametrize(("table", "directories"), TABLES)
def test_most_tests_are_not_left_out(table: dict[str, str], directories: list[str]) -> None:
    """What is left out is a part: an emulation that runs nothing would pass always."""
    files = [path for name in directories for path in (TESTS / name).glob("test_*.py")]
    whole = [path for path in files if path.name in table]
    assert len(files) > 50
    assert len(whole) < len(files) / 4
