"""Archives keep the names under which they were printed: damaged ones, undone ones, those without a manifest."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from apexgpu.models import Reply
from tests.cli.backups import TAR, Hook, Scene, digest, raising, saved, thesis

MANIFEST = r".*# Write the manifest beside.*"

pytestmark = pytest.mark.timeout(300)  # whole commands in a row, on a machine that may be busy


@pytest.fixture
def scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Scene]:
    """Three hosts with alice's containers; the one on gpu2 runs and was saved once, as "first"."""
    with saved(tmp_path, monkeypatch, capsys) as scene:
        yield scene


def rot(path: Path) -> None:
    """Other bytes under the same size and time, as a bad disk leaves them."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def without_manifest(scene: Scene) -> None:
    """The manifest of the next snapshot is not written, as on a NAS that is full for everybody but root."""

    def unwritten(reply: Reply) -> Reply:
        (scene.nas / "alice.tar.gz.json").unlink()
        return replace(reply, out="end\n")

    scene.hooks.append(Hook("gpu2", MANIFEST, after=unwritten))


class TestDamaged:
    def test_rot_is_listed_under_the_name(self, scene: Scene) -> None:
        name = scene.snapshots()[0]["name"]
        whole = scene.own.read_bytes()
        stat = scene.own.stat()
        rot(scene.own)
        assert scene("snapshots", "verify", "first") == 1
        (one,) = scene.snapshots()
        assert (one["name"], one["host"], one["verified"]) == (name, "gpu2", None)
        assert one["damage"]
        assert scene("snapshots") == 0
        assert "damaged" in scene.out
        assert f"{name} is damaged: " in scene.err
        for wanted in ("first", name):
            assert scene("recover", "gpu2", "--from", wanted, "--yes") == 6
            assert "cannot be trusted" in scene.err
        assert scene("recover", "gpu2", "--yes") == 6
        assert f"{name} (gpu2, " in scene.err
        # The NAS was at fault after all: the archive is what was verified.
        scene.own.write_bytes(whole)
        os.utime(scene.own, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert scene("snapshots", "verify", "first") == 0, scene.err
        assert scene.snapshots()[0]["verified"]

    def test_one_that_was_cut_keeps_its_name(self, scene: Scene) -> None:
        name = scene.snapshots()[0]["name"]
        os.truncate(scene.own, scene.own.stat().st_size - 20)
        (one,) = scene.snapshots()
        assert (one["name"], one["verified"], one["changed"]) == (name, None, True)
        assert scene("snapshots") == 0
        assert "is not the file that was verified" in scene.err
        assert f"hint: apexgpu snapshots verify {name}\n" in scene.err
        assert scene("recover", "gpu2", "--from", "first", "--yes") == 6
        assert "cannot be trusted" in scene.err
        (one,) = scene.snapshots()
        assert one["name"].endswith("-first")
        assert one["damage"]

    def test_one_that_was_moved_away_and_cut_keeps_its_name(self, scene: Scene) -> None:
        assert scene("snapshot", "gpu2", "--name", "second", "--yes") == 0, scene.err
        (path,) = scene.nas.glob("*-first.tar.gz")
        os.truncate(path, path.stat().st_size - 20)
        assert scene("snapshots", "verify", "first") == 1
        damaged = {one["name"].partition("Z-")[2]: bool(one["damage"]) for one in scene.snapshots()}
        assert damaged == {"first": True, "second": False}

    def test_another_whole_archive_in_its_place_is_not_called_damaged(self, scene: Scene) -> None:
        """A plain `ssh gpu3-manage snapshot TOKEN` has overwritten it."""
        other = (scene.nas / "template.tar.gz").read_bytes()
        scene.own.write_bytes(other)
        assert scene("snapshots", "verify", "first") == 0, scene.err
        (one,) = scene.snapshots()
        assert one["verified"]
        assert not one["name"].endswith("-first")
        assert scene("recover", "gpu2", "--from", "first", "--yes") == 6
        assert "there is no snapshot first" in scene.err

    def test_it_is_moved_away_under_a_name_of_nobody(self, scene: Scene) -> None:
        scene.own.write_bytes((scene.nas / "template.tar.gz").read_bytes())
        (scene.nas / "alice.tar.gz.json").touch()
        other = digest(scene.own)
        assert scene("snapshot", "gpu2", "--name", "second", "--yes") == 0, scene.err
        (kept,) = scene.nas.glob("alice-unknown-*.tar.gz")
        assert digest(kept) == other


class TestWithoutManifest:
    def test_it_is_listed_and_found_under_the_name_that_was_printed(self, scene: Scene) -> None:
        without_manifest(scene)
        (scene.home("gpu2") / "thesis").write_text("second")
        row = scene.hosts("snapshot", "gpu2", "--name", "second", "--yes")["gpu2"]
        name = row["snapshot"]["name"]
        assert name.endswith("-second")
        assert name in [one["name"] for one in scene.snapshots()]
        (scene.home("gpu2") / "thesis").write_text("third")
        assert scene("recover", "gpu2", "--from", name, "--no-snapshot", "--yes") == 0, scene.err
        assert thesis(scene) == "second"

    def test_one_that_cannot_be_renamed_either_is_found_by_its_time(self, scene: Scene) -> None:
        without_manifest(scene)

        def refused(reply: Reply) -> Reply:
            (renamed,) = scene.nas.glob("*-second.tar.gz")
            renamed.rename(scene.own)
            return replace(reply, out="failed it can neither be renamed nor copied there\nend\n")

        scene.hooks.append(Hook("gpu2", r".*neither be renamed.*-second.tar.gz.*", after=refused))
        row = scene.hosts("snapshot", "gpu2", "--name", "second", "--yes")["gpu2"]
        name = row["snapshot"]["name"]
        assert name not in [one["name"] for one in scene.snapshots()]
        (scene.home("gpu2") / "thesis").write_text("broken")
        assert scene("recover", "gpu2", "--from", name, "--no-snapshot", "--yes") == 0, scene.err
        assert thesis(scene) == "first"

    def test_a_full_nas_leaves_no_part_of_a_manifest(self, scene: Scene) -> None:
        shim = Path(scene.lab.layout.home) / "bin" / "mv"
        shim.write_text('#!/bin/sh\ncase "$*" in *.json.part*) exit 1;; esac\nexec /bin/mv "$@"\n')
        shim.chmod(0o755)
        row = scene.hosts("snapshot", "gpu2", "--name", "second", "--yes")["gpu2"]
        assert row["ok"]
        assert not list(scene.nas.glob("*.part"))
        assert row["snapshot"]["name"] in [one["name"] for one in scene.snapshots()]


class TestUndone:
    def test_a_whole_archive_stays_under_its_name(self, scene: Scene) -> None:
        first = digest(scene.own)
        scene.hooks.append(Hook("gpu2", "", before=raising(KeyboardInterrupt())))
        assert scene("snapshot", "gpu2", "--name", "second", "--yes") == 130
        assert scene("snapshot", "gpu2", "--undo") == 0, scene.err
        assert "the archive is whole and stays: alice-gpu2-" in scene.err
        assert sorted(one["name"].partition("Z-")[2] for one in scene.snapshots()) == [
            "first",
            "second",
        ]
        assert all(one["verified"] for one in scene.snapshots())
        assert first in scene.good_ones()
        assert scene.state("gpu2") == "RUNNING"

    def test_half_an_archive_makes_room_for_the_previous_one(self, scene: Scene) -> None:
        first = digest(scene.own)
        scene.hooks.append(Hook("gpu2", "", before=raising(KeyboardInterrupt())))
        assert scene("snapshot", "gpu2", "--name", "second", "--yes") == 130
        os.truncate(scene.own, scene.own.stat().st_size // 2)
        assert scene("snapshot", "gpu2", "--undo") == 0, scene.err
        assert digest(scene.own) == first
        (one,) = scene.snapshots()
        assert one["name"].endswith("-first")

    def test_half_of_the_first_one_is_listed_as_damaged(self, scene: Scene) -> None:
        for path in scene.nas.glob("alice*"):
            path.unlink()
        scene.hooks.append(Hook("gpu2", "", before=raising(KeyboardInterrupt())))
        assert scene("snapshot", "gpu2", "--name", "second", "--yes") == 130
        os.truncate(scene.own, scene.own.stat().st_size // 2)
        assert scene("snapshot", "gpu2", "--undo") == 0, scene.err
        (one,) = scene.snapshots()
        assert one["name"].endswith("-second")
        assert one["damage"]

    def test_nothing_written_leaves_the_previous_one_in_its_place(self, scene: Scene) -> None:
        first = digest(scene.own)
        scene.hooks.append(Hook("gpu2", TAR, before=raising(KeyboardInterrupt())))
        assert scene("snapshot", "gpu2", "--yes") == 130
        assert scene("snapshot", "gpu2", "--undo") == 0, scene.err
        assert digest(scene.own) == first
        assert sorted(path.name for path in scene.nas.glob("alice*")) == [
            "alice.tar.gz",
            "alice.tar.gz.json",
        ]


def test_a_manifest_of_a_bad_archive_is_none_for_an_earlier_version(scene: Scene) -> None:
    rot(scene.own)
    assert scene("snapshots", "verify", "first") == 1
    manifest = json.loads((scene.nas / "alice.tar.gz.json").read_text())
    assert (manifest["schema"], manifest["verified"]) == (1, None)


def test_a_silent_host_is_named_and_no_wait_is_promised(scene: Scene) -> None:
    """A link that was down for a moment: two containers could look when the hint is read."""
    assert scene("up", "gpu3") == 0, scene.err
    scene.at(TAR, "drop")

    def links_down() -> None:
        for number in (3, 4):
            scene.lab.fault(f"gpu{number}", "dead")

    scene.hooks.append(Hook("gpu2", TAR, before=links_down))
    assert scene("snapshot", "gpu2", "--yes", "--timeout", "2") == 5
    assert "these hosts did not answer when they were asked: gpu3, gpu4" in scene.err
    assert "wait" not in scene.err
    for number in (3, 4):
        scene.lab.clear(f"gpu{number}", "dead")
    assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
    assert scene.sent.count("gpu2 snapshot TOKEN") == 1
