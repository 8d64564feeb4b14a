"""The journal of work under way: written before each stage, read by the next command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from apexgpu.archives.catalog import FileStamp
from apexgpu.archives.journal import (
    INTERRUPTED_AT,
    Grant,
    Journal,
    ReplacementEntry,
    SnapshotEntry,
    Stage,
    Work,
)
from apexgpu.errors import ConfigError
from apexgpu.files import locked
from apexgpu.manageshell.hostlock import in_use
from apexgpu.models import Host, PublicKey

GPU2 = Host("gpu2", "10.0.0.2", "alice", 22001)
SNAPSHOT = SnapshotEntry(
    host="gpu2",
    what=Work.SNAPSHOT,
    began=1_700_000_000,
    directory="/NAS",
    path="/NAS/alice.tar.gz",
    was_running=True,
    port_maps=(6006, 8888),
    restart=True,
    label="before-upgrade",
    previous=FileStamp(100, 1_600_000_000),
)
RECOVER = ReplacementEntry(
    host="gpu3",
    what=Work.RECOVER,
    began=1_700_000_000,
    directory="/NAS",
    path="/NAS/alice-gpu3-20231114T221320Z.tar.gz",
    was_running=False,
    archive_name="alice-gpu3-20231114T221320Z",
    server_path="/NAS/alice.tar.gz",
    checked=FileStamp(100, 1_600_000_000),
    mode=0o600,
    host_keys=(PublicKey("ssh-ed25519", "AAAA", "root@gpu3"),),
    authorized_keys=("ssh-ed25519 BBBB alice",),
    grants=(Grant("/NAS/alice-gpu3-20231114T221320Z.tar.gz", 0o600),),
    moved_from="/NAS/alice.tar.gz",
)
RECORDED = Path(__file__).parent.parent / "data" / "journal"


def test_an_entry_is_read_as_it_was_recorded(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.find("gpu2") is None
    journal.record(SNAPSHOT)
    tar = replace(SNAPSHOT, stage=Stage.TAR, rootfs_size="1.2G", tar_began=1_700_000_060)
    assert journal.record(tar) == tar
    assert journal.find("gpu2") == tar
    assert tar.to_json() == {
        "what": "snapshot",
        "stage": "tar",
        "began": "2023-11-14T22:13:20+00:00",
    }
    assert "its tar may still be running" in tar.describe()
    assert journal.find("gpu3") is None
    assert journal.record(RECOVER) == journal.find("gpu3") == RECOVER
    assert journal.hosts() == ["gpu2", "gpu3"]
    journal.end(tar)
    journal.end(tar)
    assert journal.find("gpu2") is None


def test_no_archive_is_given_up_that_is_needed_to_continue(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record(replace(SNAPSHOT, path="/NAS/a", moved_to="/NAS/b"))
    journal.record(replace(RECOVER, path="/NAS/c", moved_from="/NAS/d"))
    assert journal.archives_needed() == {"/NAS/a", "/NAS/b", "/NAS/c", "/NAS/d"}


def test_the_recover_that_a_snapshot_is_for_is_read_back_and_needs_its_archives(
    tmp_path: Path,
) -> None:
    then = replace(RECOVER, host="gpu2", wanted="before upgrade", moved_from=None)
    entry = replace(SNAPSHOT, then=then, previous_stayed=False)
    journal = Journal(tmp_path)
    assert journal.record(entry) == journal.find("gpu2") == entry
    assert then.path in journal.archives_needed()
    assert entry.resume_command == "apexgpu recover gpu2 --from 'before upgrade'"
    path = tmp_path / "journal" / "gpu2.json"
    document = json.loads(path.read_text())
    document["then"]["what"] = "snapshot"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="cannot be read"):
        journal.find("gpu2")


def test_an_entry_of_an_earlier_version_knows_no_words(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record(RECOVER)
    journal.record(SNAPSHOT)
    for name, key in (("gpu3", "wanted"), ("gpu2", "then")):
        path = tmp_path / "journal" / f"{name}.json"
        document = json.loads(path.read_text())
        del document[key]
        path.write_text(json.dumps(document))
    assert (journal.find("gpu3"), journal.find("gpu2")) == (RECOVER, SNAPSHOT)


@pytest.mark.parametrize(
    ("began_with", "what", "wanted", "resumes"),
    [
        (None, Work.RECOVER, None, True),
        ("x", Work.RECOVER, None, True),
        ("x", Work.RECOVER, "x", True),
        ("x", Work.RECOVER, "y", False),
        (None, Work.RECOVER, "x", False),
        (None, Work.REBUILD, None, False),
        (None, Work.SNAPSHOT, None, False),
    ],
)
def test_the_same_words_go_on_with_a_recover(
    began_with: str | None, what: Work, wanted: str | None, resumes: bool
) -> None:
    entry = replace(RECOVER, wanted=began_with)
    assert entry.is_resumed_by(what, wanted) is resumes
    rebuild = replace(entry, what=Work.REBUILD)
    assert not rebuild.is_resumed_by(what, wanted)


def test_what_was_interrupted_is_described_with_its_archive() -> None:
    assert RECOVER.archive_name in RECOVER.describe()
    rebuild = replace(RECOVER, what=Work.REBUILD)
    assert "a rebuild on gpu3 from the template was interrupted" in rebuild.describe()


def test_it_is_private(tmp_path: Path) -> None:
    Journal(tmp_path).record(SNAPSHOT)
    assert (tmp_path / "journal" / "gpu2.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["gpu2.json"]


def recorded(tmp_path: Path, name: str) -> SnapshotEntry | ReplacementEntry | None:
    """An entry that an earlier version wrote, as it is read now."""
    path = tmp_path / "journal" / "gpu2.json"
    path.parent.mkdir()
    path.write_bytes((RECORDED / name).read_bytes())
    return Journal(tmp_path).find("gpu2")


def test_a_snapshot_of_version_1_is_read(tmp_path: Path) -> None:
    assert recorded(tmp_path, "v1-snapshot-tar.json") == SnapshotEntry(
        host="gpu2",
        what=Work.SNAPSHOT,
        stage=Stage.TAR,
        began=1795877007.79646,
        directory="/NAS/Workspaces/lxc-snapshot",
        path="/NAS/Workspaces/lxc-snapshot/alice.tar.gz",
        was_running=True,
        port_maps=(8888,),
        restart=True,
        label="second",
        previous=FileStamp(2282, 1795877007),
        moved_to="/NAS/Workspaces/lxc-snapshot/alice-gpu2-20261128T144327Z-first.tar.gz",
        rootfs_size="152K",
        tar_began=1795877007,
    )


def test_a_first_snapshot_of_version_1_is_read(tmp_path: Path) -> None:
    entry = recorded(tmp_path, "v1-snapshot-stop.json")
    assert isinstance(entry, SnapshotEntry)
    assert (entry.stage, entry.previous, entry.moved_to) == (Stage.STOP, None, None)
    assert (entry.rootfs_size, entry.tar_began) == (None, None)


def test_a_recover_of_version_1_is_read(tmp_path: Path) -> None:
    entry = recorded(tmp_path, "v1-recover-unpack.json")
    assert isinstance(entry, ReplacementEntry)
    assert (entry.what, entry.stage) == (Work.RECOVER, Stage.UNPACK)
    assert entry.path.endswith("/alice-gpu2-20261128T144327Z-second.tar.gz")
    assert entry.moved_from == entry.server_path == "/NAS/Workspaces/lxc-snapshot/alice.tar.gz"
    assert entry.archive_name == "alice-gpu2-20261128T144327Z-second"
    assert (entry.checked, entry.mode) == (FileStamp(2295, 1795877007), 0o600)
    assert [key.kind for key in entry.host_keys] == ["ssh-ed25519"]
    assert [line.split()[-1] for line in entry.authorized_keys] == ["alice@laptop"]
    assert entry.grants == (Grant(entry.path, 0o600),)
    # What an update reads, the next stage writes in today's form.
    assert Journal(tmp_path).record(entry) == Journal(tmp_path).find("gpu2")


def test_a_rebuild_of_version_1_is_read(tmp_path: Path) -> None:
    entry = recorded(tmp_path, "v1-rebuild-start.json")
    assert isinstance(entry, ReplacementEntry)
    assert (entry.what, entry.stage) == (Work.REBUILD, Stage.START)
    assert (entry.moved_from, entry.grants) == (None, ())


def test_an_unverified_rebuild_of_version_1_is_read(tmp_path: Path) -> None:
    assert recorded(tmp_path, "v1-rebuild-start.json")
    path = tmp_path / "journal" / "gpu2.json"
    document = json.loads(path.read_text())
    document["details"] |= {"seen": None, "mode": None, "keys": []}
    path.write_text(json.dumps(document))
    entry = Journal(tmp_path).find("gpu2")
    assert isinstance(entry, ReplacementEntry)
    assert (entry.checked, entry.mode, entry.host_keys) == (None, None, ())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"host": "gpu2"}',
        '{"version": 3, "host": "gpu2", "what": "snapshot"}',
        '{"host": "gpu2", "what": "snapshot", "stage": "tar", "began": 1, "details": {}}',
        '{"host": "gpu2", "what": "snapshot", "stage": "tar", "began": 1, "details": []}',
    ],
)
def test_what_cannot_be_read_is_never_taken_for_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "journal" / "gpu2.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigError, match="cannot be read"):
        Journal(tmp_path).find("gpu2")


def test_a_stage_that_is_not_known_is_not_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record(SNAPSHOT)
    path = tmp_path / "journal" / "gpu2.json"
    document = json.loads(path.read_text())
    assert document["version"] == 2
    path.write_text(json.dumps({**document, "stage": "verify"}))
    with pytest.raises(ConfigError, match="cannot be read"):
        journal.find("gpu2")


def test_every_stage_has_a_description() -> None:
    assert set(INTERRUPTED_AT) == set(Stage)
    assert {stage.value for stage in Stage} == {"stop", "tar", "test", "unpack", "start"}


def test_work_that_is_going_on_is_told_from_what_was_interrupted(tmp_path: Path) -> None:
    assert not in_use(tmp_path, GPU2)
    with locked(tmp_path / "locks" / "gpu2.lock", what="gpu2"):
        assert in_use(tmp_path, GPU2)
    assert not in_use(tmp_path, GPU2)
