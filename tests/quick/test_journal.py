"""The journal of what is under way: written before each stage, read by the next command."""

from pathlib import Path

import pytest

from apexgpu.archives.journal import STAGES, Journal
from apexgpu.errors import ConfigError
from apexgpu.files import locked
from apexgpu.manageshell.hostlock import in_use
from apexgpu.models import Host

GPU2 = Host("gpu2", "10.0.0.2", "alice", 22001)


def test_stages_and_details_add_up_and_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.find("gpu2") is None
    entry = journal.begin("gpu2", "snapshot", path="/NAS/alice.tar.gz", ran=True)
    assert entry.stage == "stop"
    reached = journal.reach(entry, "tar", rootfs="1.2G")
    found = journal.find("gpu2")
    assert found == reached
    assert found is not None
    assert found.details == {"path": "/NAS/alice.tar.gz", "ran": True, "rootfs": "1.2G"}
    assert found.value()["what"] == "snapshot"
    assert "it goes on without us" in found.words()
    assert journal.find("gpu3") is None
    journal.end(found)
    journal.end(found)
    assert journal.find("gpu2") is None


def test_no_archive_is_given_up_that_is_needed_to_go_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin("gpu2", "snapshot", path="/NAS/a", aside="/NAS/b")
    journal.begin("gpu3", "recover", path="/NAS/c", home="/NAS/d")
    assert journal.needed() == {"/NAS/a", "/NAS/b", "/NAS/c", "/NAS/d"}


def test_it_is_private(tmp_path: Path) -> None:
    Journal(tmp_path).begin("gpu2", "recover")
    assert (tmp_path / "journal" / "gpu2.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["gpu2.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "gpu2"}'])
def test_what_cannot_be_read_is_never_taken_for_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "journal" / "gpu2.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigError, match="cannot be read"):
        Journal(tmp_path).find("gpu2")


def test_every_stage_has_words() -> None:
    assert set(STAGES) == {"stop", "tar", "test", "unpack", "start"}


def test_work_that_is_going_on_is_told_from_what_was_interrupted(tmp_path: Path) -> None:
    assert not in_use(tmp_path, GPU2)
    with locked(tmp_path / "locks" / "gpu2.lock", what="gpu2"):
        assert in_use(tmp_path, GPU2)
    assert not in_use(tmp_path, GPU2)
