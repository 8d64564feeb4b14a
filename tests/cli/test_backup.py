"""snapshot and snapshots against a lab that overwrites, lies with exit 0, drops, and fills up."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from apexgpu.files import locked
from apexgpu.models import Reply
from tests.cli.backups import LOOK, TAR, Hook, Scene, digest, saved

pytestmark = pytest.mark.timeout(300)  # whole commands in a row, on a machine that may be busy


@pytest.fixture
def scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Scene]:
    """Three hosts with alice's containers; the one on gpu2 runs and holds a file, and was saved once."""
    with saved(tmp_path, monkeypatch, capsys) as scene:
        yield scene


class TestSnapshot:
    def test_is_tested_noted_and_the_container_is_up_again(self, scene: Scene) -> None:
        before = scene.good_ones()
        row = scene.hosts("snapshot", "gpu2", "--name", "second", "--yes")["gpu2"]
        saved = row["snapshot"]
        assert row["ok"]
        assert saved["host"] == "gpu2"
        assert saved["name"].startswith("alice-gpu2-")
        assert saved["name"].endswith("-second")
        assert saved["sha256"] == digest(scene.own)
        assert saved["bytes"] == scene.own.stat().st_size
        assert saved["verified"]
        assert (
            json.loads((scene.nas / "alice.tar.gz.json").read_text())["sha256"] == saved["sha256"]
        )
        assert row["restarted"]
        assert scene.state("gpu2") == "RUNNING"
        assert before.keys() < scene.good_ones().keys()

    def test_the_previous_one_is_kept_private_under_its_own_name(self, scene: Scene) -> None:
        old = digest(scene.own)
        assert scene("snapshot", "gpu2", "--yes") == 0
        assert "the archive that is there: alice-gpu2-" in scene.err
        (kept,) = [one for one in scene.snapshots() if one["sha256"] == old]
        assert kept["name"].endswith("-first")
        path = scene.nas / f"{kept['name']}.tar.gz"
        assert digest(path) == old
        assert path.stat().st_mode & 0o777 == 0o600

    def test_an_archive_of_unknown_origin_is_kept_too(self, scene: Scene) -> None:
        (scene.nas / "alice.tar.gz.json").unlink()
        os.utime(scene.own, (1_700_000_000, 1_700_000_000))
        old = digest(scene.own)
        assert scene("snapshot", "gpu2", "--yes") == 0
        assert digest(scene.nas / "alice-unknown-20231114T221320Z.tar.gz") == old

    def test_without_a_terminal_nothing_happens(self, scene: Scene) -> None:
        old = digest(scene.own)
        assert scene("snapshot", "gpu2") == 7
        assert "--yes" in scene.err
        assert scene.state("gpu2") == "RUNNING"
        assert digest(scene.own) == old

    def test_no_restart_leaves_it_stopped_but_tested(self, scene: Scene) -> None:
        row = scene.hosts("snapshot", "gpu2", "--no-restart", "--yes")["gpu2"]
        assert row["snapshot"]["verified"]
        assert not row["restarted"]
        assert scene.state("gpu2") == "STOPPED"

    def test_a_stopped_container_is_stopped_again_in_the_end(self, scene: Scene) -> None:
        assert scene("snapshot", "gpu3", "--yes") == 0, scene.err
        assert scene.state("gpu3") == "STOPPED"
        assert {one["host"] for one in scene.snapshots()} == {"gpu2", "gpu3"}

    def test_all_stopped_is_looked_at_by_a_container_that_is_started_for_it(
        self, scene: Scene
    ) -> None:
        scene("down", "gpu2", "--yes")
        assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
        assert [scene.state(host) for host in ("gpu2", "gpu3", "gpu4")] == ["STOPPED"] * 3
        assert len(scene.good_ones()) == 2

    def test_port_maps_are_made_again(self, scene: Scene) -> None:
        subprocess.run(
            ["ssh", "-F", os.environ["APEXGPU_SSH_CONFIG"], "gpu2-manage", "port", "6006"],
            check=True,
            capture_output=True,
            timeout=30,
        )
        assert scene("snapshot", "gpu2", "--yes") == 0
        assert "port 6006 is mapped again" in scene.err

    def test_others_archives_are_nobodys_business(self, scene: Scene) -> None:
        for name in ("alice-b.tar.gz", "alice-b-gpu2-20260101T000000Z.tar.gz", "bob.tar.gz"):
            (scene.nas / name).write_bytes(b"x")
        assert len(scene.snapshots()) == 1
        assert scene("snapshot", "gpu2", "--name", "../evil") == 2
        assert scene("snapshot", "gpu*", "--yes") == 2


class TestSnapshotFaults:
    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ("nas-full", "No space left"),
            ("nas-readonly", "Cannot open: Read-only"),
            ("damaged-archive", "gzip -t"),
        ],
    )
    def test_a_bad_snapshot_is_called_bad_and_the_previous_one_is_there(
        self, scene: Scene, fault: str, words: str
    ) -> None:
        old = digest(scene.own)
        scene.lab.fault("gpu2", fault)
        assert scene("snapshot", "gpu2", "--yes") == 1, scene.err
        assert "the snapshot on gpu2 is bad" in scene.err
        assert words in scene.err
        assert digest(scene.own) == old
        assert scene.state("gpu2") == "RUNNING"
        assert scene.snapshots()[0]["verified"]
        assert not scene.hosts("status")["gpu2"]["interrupted"]

    def test_a_first_snapshot_that_is_bad_is_never_called_good(self, scene: Scene) -> None:
        for path in scene.nas.glob("alice*"):
            path.unlink()
        scene.lab.fault("gpu2", "damaged-archive")
        row = scene.hosts("snapshot", "gpu2", "--yes")["gpu2"]
        assert row["error"]["code"] == "snapshot_bad"
        assert [one["verified"] for one in scene.snapshots()] == [None]
        assert scene("snapshots", "verify", "alice") == 1

    def test_an_expired_token_is_asked_for_again(self, scene: Scene) -> None:
        scene.at("recover", "expired-token")
        assert scene("snapshot", "gpu2", "--yes") == 0
        assert "asking for a new one" in scene.err

    def test_tokens_that_are_never_valid_end_it_and_all_is_as_before(self, scene: Scene) -> None:
        old = digest(scene.own)
        scene.lab.fault("gpu2", "expired-token")
        assert scene("snapshot", "gpu2", "--yes") == 6
        assert digest(scene.own) == old
        assert scene.state("gpu2") == "RUNNING"

    def test_iam_down_after_the_stop_is_taken_up_later(self, scene: Scene) -> None:
        old = digest(scene.own)
        scene.hooks.append(Hook("gpu2", "snapshot", before=lambda: scene.lab.fault("iam", "down")))
        assert scene("snapshot", "gpu2", "--yes") == 6
        assert old in scene.good_ones()
        assert "could not be put back" in scene.err
        scene.lab.clear("iam", "down")
        assert scene.hosts("status")["gpu2"]["interrupted"]["what"] == "snapshot"
        assert scene("status") == 0
        assert "a snapshot on gpu2 was interrupted" in scene.err
        assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
        assert scene.state("gpu2") == "RUNNING"
        assert old in scene.good_ones()
        assert len(scene.good_ones()) == 2

    def test_a_second_apexgpu_waits_or_goes(self, scene: Scene) -> None:
        with locked(Path(os.environ["APEXGPU_STATE_DIR"]) / "locks" / "gpu2.lock", what="gpu2"):
            assert scene("snapshot", "gpu2", "--yes") == 1
        assert "in use by another apexgpu" in scene.err
        assert all("TOKEN" not in command for command in scene.sent)

    def test_a_snapshot_on_another_host_that_overwrites_ours_is_noticed_and_kept(
        self, scene: Scene
    ) -> None:
        old = digest(scene.own)

        def gpu3_too(reply: Reply) -> Reply:
            config = os.environ["APEXGPU_SSH_CONFIG"]
            ask = ["ssh", "-F", config, "gpu3-manage", "snapshot"]
            said = subprocess.run(
                ask, check=True, capture_output=True, text=True, timeout=30
            ).stdout
            token = said.rpartition("snapshot ")[2][:8]
            subprocess.run([*ask, token], check=True, capture_output=True, timeout=30)
            return reply

        scene.hooks.append(Hook("gpu2", TAR, after=gpu3_too))
        assert scene("snapshot", "gpu2", "--yes") == 1
        assert "contains the container of gpu3" in scene.err
        assert len(scene.good_ones()) == 2
        assert old in scene.good_ones()

    def test_an_archive_that_is_being_written_is_not_moved(self, scene: Scene) -> None:
        (scene.nas / "alice.tar.gz.json").unlink()
        scene.own.touch()

        def grow(reply: Reply) -> Reply:
            with scene.own.open("ab") as stream:
                stream.write(b"more")
            return reply

        scene.hooks.append(Hook("gpu2", LOOK, after=grow, times=3))
        assert scene("snapshot", "gpu2", "--yes") == 6
        assert "somebody is writing" in scene.err
        assert scene.state("gpu2") == "RUNNING"

    def test_a_directory_that_may_not_be_written_is_said_and_nothing_is_replaced(
        self, scene: Scene
    ) -> None:
        old = digest(scene.own)

        def not_writable(reply: Reply) -> Reply:
            return replace(reply, out=reply.out.replace("writable\n", ""))

        def refused(reply: Reply) -> Reply:
            (moved,) = scene.nas.glob("alice-*.tar.gz")
            moved.rename(scene.own)
            return replace(reply, out="failed it can neither be renamed nor copied there\nend\n")

        scene.hooks.append(Hook("gpu2", LOOK, after=not_writable, times=99))
        scene.hooks.append(Hook("gpu2", r".*neither be renamed.*", after=refused))
        assert scene("snapshot", "gpu2", "--yes") == 6
        assert "is read-only for you" in scene.err
        assert digest(scene.own) == old
        assert scene.state("gpu2") == "RUNNING"
        assert scene("snapshot", "gpu2", "--yes", "--replace") == 0, scene.err
        assert digest(scene.own) != old

    def test_a_bad_one_that_could_replace_the_old_one_says_so(self, scene: Scene) -> None:
        def refused(reply: Reply) -> Reply:
            (moved,) = scene.nas.glob("alice-*.tar.gz")
            moved.rename(scene.own)
            return replace(reply, out="failed it can neither be renamed nor copied there\nend\n")

        def cut(reply: Reply) -> Reply:
            os.truncate(scene.own, scene.own.stat().st_size - 100)
            return reply

        scene.hooks.append(Hook("gpu2", r".*neither be renamed.*", after=refused))
        scene.hooks.append(Hook("gpu2", TAR, after=cut))
        assert scene("snapshot", "gpu2", "--yes", "--replace") == 1
        assert "the previous one was given up for it (--replace)" in scene.err

    def test_a_dead_host_costs_nothing(self, scene: Scene) -> None:
        scene.lab.fault("gpu3", "dead")
        assert scene("snapshot", "gpu3", "--yes", "--timeout", "2") == 5
        assert len(scene.good_ones()) == 1


class TestDroppedTar:
    def test_it_is_waited_out_and_never_sent_twice(self, scene: Scene) -> None:
        scene("up", "gpu3")
        scene.at(TAR, "drop")
        assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
        assert "keeps running on the server" in scene.err
        assert scene.sent.count("gpu2 snapshot TOKEN") == 1
        assert len(scene.good_ones()) == 2

    def test_a_container_elsewhere_is_started_to_see_it(self, scene: Scene) -> None:
        scene.at(TAR, "drop")
        assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
        assert "starting the container on gpu3 briefly" in scene.err
        assert scene.state("gpu3") == "STOPPED"
        assert scene.state("gpu2") == "RUNNING"

    @pytest.mark.parametrize("command", ["help", "rebuild", "stop", "snapshot", ""])
    def test_a_drop_of_any_other_command_is_got_over(self, scene: Scene, command: str) -> None:
        scene.at(command, "drop")
        assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
        assert scene.state("gpu2") == "RUNNING"
        assert len(scene.good_ones()) == 2
        assert scene("exec", "gpu2", "--", "true") == 0

    @pytest.mark.parametrize(
        "script",
        [LOOK, r".*neither be renamed.*", r".*sha256sum.*", r".*Write the manifest beside.*"],
    )
    def test_a_drop_of_what_the_container_does_is_got_over(self, scene: Scene, script: str) -> None:
        old = digest(scene.own)
        scene.at(script, "drop")
        assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
        assert scene.hooks[-1].times == 0, "the drop has struck"
        assert old in scene.good_ones()
        assert len(scene.good_ones()) == 2

    def test_a_host_that_reboots_under_tar_leaves_the_previous_one(self, scene: Scene) -> None:
        old = digest(scene.own)
        scene.at(TAR, "drop")
        scene.at(TAR, "damaged-archive")
        assert scene("snapshot", "gpu2", "--yes") == 1
        assert digest(scene.own) == old

    def test_with_nobody_to_see_it_the_journal_remembers(self, lonely: Scene) -> None:
        lonely.at(TAR, "drop")
        assert lonely("snapshot", "gpu2", "--yes") == 5
        assert "do not start the container" in lonely.err
        assert lonely.hosts("status")["gpu2"]["interrupted"]["stage"] == "tar"
        assert lonely("up", "gpu2") == 6
        assert "would spoil the archive" in lonely.err
        assert (
            lonely("tunnel", "gpu2", "8888", "--once", "--yes") == 6
        )  # a yes to a start, not to a spoilt archive
        assert lonely.state("gpu2") == "STOPPED"
        assert lonely("snapshot", "gpu2") == 7
        assert "--undo" in lonely.err
        assert lonely("snapshot", "gpu2", "--yes") == 5
        # Ages are whole seconds: on a fast machine tar and this start share one, which counts as a
        # start under tar. The user is slower than that.
        long_ended = lonely.own.stat().st_mtime - 10
        os.utime(lonely.own, (long_ended, long_ended))
        assert lonely("up", "gpu2", "--yes") == 0
        assert lonely("snapshot", "gpu2", "--yes") == 0, lonely.err
        assert lonely.sent.count("gpu2 snapshot TOKEN") == 1
        assert len(lonely.good_ones()) == 2
        assert not lonely.hosts("status")["gpu2"]["interrupted"]

    def test_an_interrupted_one_can_be_undone(self, scene: Scene) -> None:
        old = digest(scene.own)

        def interrupt() -> None:
            raise KeyboardInterrupt

        scene.hooks.append(Hook("gpu2", TAR, before=interrupt))
        assert scene("snapshot", "gpu2", "--yes") == 130
        assert "a snapshot on gpu2 was interrupted" in scene.err
        assert scene.state("gpu2") == "STOPPED"
        assert scene("snapshot", "gpu2", "--undo") == 0, scene.err
        assert scene.state("gpu2") == "RUNNING"
        assert old in scene.good_ones()
        assert scene("snapshot", "gpu2", "--undo") == 0
        assert "nothing was interrupted" in scene.err


class TestSnapshots:
    def test_nobody_to_see_them_is_said(self, scene: Scene) -> None:
        scene("down", "gpu2", "--yes")
        assert scene("snapshots") == 6
        assert "apexgpu up" in scene.err

    def test_verify_tells_rot_from_soundness(self, scene: Scene) -> None:
        assert scene("snapshots", "verify", "first") == 0
        data = bytearray(scene.own.read_bytes())
        data[len(data) // 2] ^= 0xFF
        stat = scene.own.stat()
        scene.own.write_bytes(data)
        os.utime(scene.own, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert scene("snapshots", "verify", "first") == 1
        assert "is damaged" in scene.err

    def test_remove_asks(self, scene: Scene) -> None:
        assert scene("snapshots", "remove", "first") == 7
        assert "no verified snapshot would be left" in scene.err
        assert scene("snapshots", "remove", "first", "--yes") == 0
        assert scene.snapshots() == []
        assert not list(scene.nas.glob("alice*"))
        assert scene("snapshots", "remove", "first", "--yes") == 6

    def test_keep_never_takes_the_last_verified_one(self, scene: Scene) -> None:
        assert scene("snapshots", "keep", "1", "--yes") == 0
        assert scene("snapshot", "gpu2", "--name", "second", "--yes") == 0
        assert scene("snapshot", "gpu2", "--name", "third", "--yes") == 0
        (scene.nas / "alice.tar.gz.json").unlink()
        assert scene("snapshots", "keep", "1") == 7
        assert scene("snapshots", "keep", "1", "--yes") == 0
        assert scene.own.exists()
        assert len([one for one in scene.snapshots() if one["verified"]]) == 1

    def test_a_host_narrows_the_list(self, scene: Scene) -> None:
        assert scene.json("snapshots", "gpu3")["snapshots"] == []
        assert len(scene.json("snapshots", "gpu2")["snapshots"]) == 1
        assert scene("snapshots", "nothere") == 2
