"""The command line in this process or at a terminal, pointed at a lab."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pexpect
import pytest

from apexgpu import cli
from apexgpu.session import Session
from apexgpu_lab.inprocess import Lab
from tests.cli.newcomer import LIMIT
from tests.terminals import spawn


@dataclass
class Product:
    """The command line in this process, pointed at a lab."""

    lab: Lab
    capsys: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    def __call__(self, *words: str) -> int:
        self.capsys.readouterr()
        code = cli.main(words, Session(environment=os.environ))
        self.out, self.err = self.capsys.readouterr()
        return code

    def json(self, *words: str) -> Any:
        self(*words, "--json")
        document = json.loads(self.out)
        assert document["schema"] == 1
        return document

    def hosts(self, *words: str) -> dict[str, Any]:
        return {row["host"]: row for row in self.json(*words)["hosts"]}


def product_of(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Product:
    for name, value in lab.environment.items():
        monkeypatch.setenv(name, value)
    (Path(lab.environment["APEXGPU_CONFIG_DIR"]) / "config.toml").write_text(
        "keep_connections = false\n"
    )
    return Product(lab, capsys)


class Line:
    """A stdin that is no terminal and holds one line."""

    def __init__(self, text: str) -> None:
        self._text = text

    def readline(self) -> str:
        return f"{self._text}\n"

    def isatty(self) -> bool:
        return False


@contextmanager
def at_terminal(*words: str, lines: int = 50) -> "Iterator[pexpect.spawn[str]]":
    # Python's own environment: readline, once loaded, has put LINES and COLUMNS of another terminal into C's.
    child = spawn(
        sys.executable,
        ["-m", "apexgpu", *words],
        timeout=LIMIT,
        dimensions=(lines, 200),
        echo=False,
        env=dict(os.environ),
    )
    try:
        yield child
    finally:
        child.close(force=True)
