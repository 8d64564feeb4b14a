"""SIGKILL at every note that snapshot, recover and rebuild make of where they are: the next command goes on.

CI kills at every second note, the longer run at each; see tests/longruns.py.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.backups import Scene, digest, plain_ssh, saved, thesis
from tests.cli.killing import Mortals, mortal_runs
from tests.longruns import one_in

pytestmark = [
    pytest.mark.openssh,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork"),
    pytest.mark.timeout(600),  # dozens of whole commands, one after the other
]


@pytest.fixture
def scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Scene]:
    """Three hosts; gpu2's container runs and was saved with the file `thesis` as "first"."""
    with saved(tmp_path, monkeypatch, capsys) as scene:
        yield scene


@pytest.fixture
def mortals(scene: Scene, tmp_path: Path) -> Iterator[Mortals]:
    with mortal_runs(
        tmp_path / "report", [str(Path(os.environ["APEXGPU_STATE_DIR"]) / "journal")]
    ) as runs:
        yield runs


def notes(events: list[str]) -> list[int]:
    """The writes at which the journal changes: before each, the last note stands; after it, the new one."""
    return [
        number
        for number, event in enumerate(events, 1)
        if event.startswith(("os.rename", "os.remove"))
        and not (event.startswith("os.remove") and ".tmp" in event)
    ]


def assert_well(scene: Scene, first: str) -> None:
    assert first in scene.good_ones()
    assert scene.state("gpu2") == "RUNNING"
    assert scene("exec", "gpu2", "--", "true") == 0, scene.err
    assert not scene.hosts("status")["gpu2"]["interrupted"]


def test_a_snapshot_killed_at_every_note(scene: Scene, mortals: Mortals) -> None:
    first = digest(scene.own)
    killed, code, events, err = mortals.run("snapshot", "gpu2", "--yes")
    assert (killed, code) == (False, 0), err
    assert len(notes(events)) >= 6
    for last in one_in(2, notes(events)):
        assert mortals.run("snapshot", "gpu2", "--yes", last=last)[0], events[last - 1]
        assert first in scene.good_ones()
        assert scene("snapshot", "gpu2", "--yes") == 0, f"after {events[last - 1]}: {scene.err}"
        assert_well(scene, first)


def test_a_snapshot_killed_at_every_note_is_undone(scene: Scene, mortals: Mortals) -> None:
    first = digest(scene.own)
    _, _, events, _ = mortals.run("snapshot", "gpu2", "--yes")
    for last in one_in(2, notes(events)):
        assert mortals.run("snapshot", "gpu2", "--yes", last=last)[0], events[last - 1]
        assert scene("snapshot", "gpu2", "--undo") == 0, f"after {events[last - 1]}: {scene.err}"
        assert_well(scene, first)
        assert scene.own.exists()


@pytest.mark.parametrize("command", ["recover", "rebuild"])
def test_what_replaces_a_container_killed_at_every_note(
    scene: Scene, mortals: Mortals, command: str
) -> None:
    """From the archive that every snapshot overwrites, or from the template; then finished by the same words."""
    first = digest(scene.own)
    words = (command, "gpu2", "--no-snapshot", "--yes")
    killed, code, events, err = mortals.run(*words)
    assert (killed, code) == (False, 0), err
    assert len(notes(events)) >= 4
    for last in one_in(2, notes(events)):
        (scene.home("gpu2") / "thesis").write_text("second")
        assert mortals.run(*words, last=last)[0], events[last - 1]
        assert first in scene.good_ones()
        assert scene(*words) == 0, f"after {events[last - 1]}: {scene.err}"
        assert_well(scene, first)
        assert plain_ssh("gpu2").returncode == 0
        assert (
            not (scene.home("gpu2") / "thesis").exists()
            if command == "rebuild"
            else thesis(scene) == "first"
        )
        assert digest(scene.own) == first
        assert scene.own.stat().st_mode & 0o777 == 0o644
