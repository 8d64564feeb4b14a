"""Containers of the tests' own, and a laptop before them."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import openssh
from tests.real import nvidia, rootfs

from apexgpu import cli
from apexgpu.session import Session


@dataclass
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def host(self) -> dict[str, Any]:
        """Its only host."""
        (found,) = self.document["hosts"]
        assert isinstance(found, dict)
        return found


@dataclass
class Laptop:
    """The command line in this process, which knows one host."""

    capsys: pytest.CaptureFixture[str]

    def environment(self, root: rootfs.Root) -> dict[str, str]:
        """What a process of apexgpu needs to know the host."""
        openssh.remember(root.host)
        return {**os.environ, "APEXGPU_SSH_CONFIG": str(root.config)}

    def run(self, root: rootfs.Root, *words: str) -> Said:
        """A command."""
        environment = self.environment(root)
        self.capsys.readouterr()
        code = cli.main(words, Session(environment=environment, pause=lambda _: None))
        return Said(code, *self.capsys.readouterr())


@pytest.fixture
def laptop(capsys: pytest.CaptureFixture[str]) -> Laptop:
    """A laptop that knows one host at a time."""
    return Laptop(capsys)


@pytest.fixture(scope="session")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the NAS has: the CUDA installer and a cuDNN 7.0.5."""
    room = tmp_path_factory.mktemp("share")
    nvidia.installer(room)
    nvidia.archive(room)
    return room


@pytest.fixture
def own(tmp_path: Path, share: Path) -> Iterator[rootfs.Root]:
    """A container of one test's own, with nothing in it."""
    root = rootfs.start(tmp_path, share)
    try:
        yield root
    finally:
        root.stop()
