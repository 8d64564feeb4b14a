"""The laptops that the account and config commands are tried on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu_lab.inprocess import running
from tests.cli.backups import Scene, scene_of
from tests.cli.newcomer import Newcomer, newcomer


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Newcomer]:
    """An empty HOME before a lab of two hosts that knows nobody yet."""
    with newcomer(tmp_path, monkeypatch) as laptop:
        yield laptop


@pytest.fixture
def member(new: Newcomer) -> Newcomer:
    """The same after a login; what was counted until then is forgotten."""
    said = new.log_in()
    assert said.code == 0, said.err
    new.spy.posts.clear()
    new.spy.gets.clear()
    new.heard.clear()
    return new


@pytest.fixture
def lonely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Scene]:
    """One host only: while its container is stopped, nobody sees the NAS. It runs, and was saved once."""
    with running(tmp_path / "lab", hosts=1, registered=True) as lab:
        scene = scene_of(lab, monkeypatch, capsys)
        assert scene("up", "gpu2") == 0, scene.err
        assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
        scene.sent.clear()
        yield scene
