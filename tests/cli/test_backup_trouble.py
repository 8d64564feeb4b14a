"""snapshot against what is rare and costs a thesis: reboots, half answers, other hosts, other hands, and death."""

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from apexgpu.errors import CommandTimeoutError, ConnectionLostError
from apexgpu.models import Reply
from tests.cli.backups import STAT, TAR, Hook, Scene, digest, lost, no_rename, raising, saved

ASIDE = r".*neither be renamed.*"

pytestmark = pytest.mark.timeout(300)  # whole commands in a row, on a machine that may be busy


@pytest.fixture
def scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Scene]:
    """Three hosts with alice's containers; the one on gpu2 runs and was saved once, as "first"."""
    with saved(tmp_path, monkeypatch, capsys) as scene:
        yield scene


def interrupted(scene: Scene) -> object:
    return scene.hosts("status")["gpu2"]["interrupted"]


class TestServer:
    def test_a_host_that_reboots_under_tar_leaves_the_previous_one(self, scene: Scene) -> None:
        old = digest(scene.own)
        scene.at(TAR, "reboot")
        assert scene("snapshot", "gpu2", "--yes") == 1
        assert "the snapshot on gpu2 is bad" in scene.err
        assert "the previous one is back in its place" in scene.err
        assert digest(scene.own) == old
        assert scene.own.stat().st_mode & 0o777 == 0o644
        assert scene.state("gpu2") == "RUNNING"
        assert scene("exec", "gpu2", "--", "true") == 0
        assert not interrupted(scene)

    @pytest.mark.parametrize("command", ["help", "rebuild", "stop", "snapshot", "recover"])
    def test_a_host_that_reboots_before_tar_costs_nothing(self, scene: Scene, command: str) -> None:
        old = digest(scene.own)
        scene.at(command, "reboot")
        scene("snapshot", "gpu2", "--yes")
        assert old in scene.good_ones()
        scene("snapshot", "gpu2", "--yes")
        assert scene("up", "gpu2", "--yes") == 0
        assert old in scene.good_ones()
        assert len([one for one in scene.snapshots() if one["verified"]]) >= 2
        assert not interrupted(scene)

    def test_words_that_nobody_knows_are_no_proof_that_nothing_was_written(
        self, scene: Scene
    ) -> None:
        old = digest(scene.own)
        scene.at(TAR, "garble")
        assert scene("snapshot", "gpu2", "--yes") == 1
        assert "the server wrote no archive" in scene.err
        assert digest(scene.own) == old
        assert scene.state("gpu2") == "RUNNING"

    def test_an_answer_that_lost_its_end_is_judged_by_the_archive(self, scene: Scene) -> None:
        scene.hooks.append(
            Hook("gpu2", TAR, after=lambda reply: replace(reply, out=reply.out.split("Saved")[0]))
        )
        assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
        assert len(scene.good_ones()) == 2

    def test_a_whole_archive_of_which_the_server_complains_is_bad_but_not_thrown_away(
        self, scene: Scene
    ) -> None:
        words = "tar: rootfs/home/alice/x: Cannot open: Permission denied\n"
        scene.hooks.append(Hook("gpu2", TAR, after=lambda reply: replace(reply, err=words)))
        assert scene("snapshot", "gpu2", "--yes") == 1
        assert "Permission denied" in scene.err
        assert "the previous one is still there: /NAS/" in scene.err
        assert len(scene.good_ones()) == 2

    def test_lines_that_do_no_harm_are_none(self, scene: Scene) -> None:
        words = "tar: rootfs/run/x.sock: socket ignored\n"
        scene.hooks.append(Hook("gpu2", TAR, after=lambda reply: replace(reply, err=words)))
        assert scene("snapshot", "gpu2", "--yes") == 0, scene.err

    def test_another_size_than_the_server_shows_is_bad(self, scene: Scene) -> None:
        def bigger(reply: Reply) -> Reply:
            return replace(reply, out=re.sub(r"\n[0-9.]+K\t", "\n2.5G\t", reply.out))

        scene.hooks.append(Hook("gpu2", TAR, after=bigger))
        assert scene("snapshot", "gpu2", "--yes") == 1
        assert "the server shows 2.5G" in scene.err
        assert len(scene.good_ones()) == 2

    def test_a_server_that_would_write_elsewhere_is_stopped_before_it_does(
        self, scene: Scene
    ) -> None:
        def elsewhere(reply: Reply) -> Reply:
            return replace(reply, out=reply.out.replace("/alice.tar.gz", "/other.tar.gz"))

        old = digest(scene.own)
        scene.hooks.append(Hook("gpu2", "recover", after=elsewhere))
        assert scene("snapshot", "gpu2", "--yes") == 6
        assert "would write /NAS/Workspaces/lxc-snapshot/other.tar.gz" in scene.err
        assert "gpu2 snapshot TOKEN" not in scene.sent
        assert digest(scene.own) == old
        assert scene.state("gpu2") == "RUNNING"

    def test_a_tar_that_never_began_does_not_make_the_old_archive_a_new_one(
        self, scene: Scene
    ) -> None:
        """The previous one could only be copied, so it is still where the new one should be."""
        no_rename(scene)
        old = digest(scene.own)
        scene.hooks.append(
            Hook("gpu2", TAR, before=raising(ConnectionLostError("the connection was lost")))
        )
        assert scene("snapshot", "gpu2", "--yes") == 1
        assert "the archive is the old one" in scene.err
        assert old in scene.good_ones()

    def test_a_new_archive_of_the_size_and_second_of_the_renamed_one_is_good(
        self, scene: Scene
    ) -> None:
        def set_size_and_time() -> None:
            with scene.own.open("r+b") as stream:
                stream.truncate(1 << 16)  # gzip takes no notice of zeros behind an archive
            os.utime(scene.own, (1_700_000_000, 1_700_000_000))

        def after_tar(reply: Reply) -> Reply:
            set_size_and_time()
            return reply

        set_size_and_time()
        old = digest(scene.own)
        scene.hooks.append(Hook("gpu2", TAR, after=after_tar))
        assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
        assert digest(scene.own) != old
        assert scene.own.stat().st_mtime == 1_700_000_000

    def test_a_renamed_archive_that_somebody_has_put_back_is_no_new_one(self, scene: Scene) -> None:
        def put_back(reply: Reply) -> Reply:
            [moved] = scene.nas.glob("alice-gpu2-*.tar.gz")
            moved.replace(scene.own)
            return reply

        scene.hooks.append(Hook("gpu2", TAR, after=put_back))
        assert scene("snapshot", "gpu2", "--yes") == 1
        assert "the archive is the old one" in scene.err


class TestOthers:
    def test_an_archive_that_grows_while_it_is_moved_is_moved_back(self, scene: Scene) -> None:
        def grow() -> None:
            with scene.own.open("ab") as stream:
                stream.write(b"more")

        scene.hooks.append(Hook("gpu2", ASIDE, before=grow))
        before = scene.own.stat().st_ino
        assert scene("snapshot", "gpu2", "--yes") == 6
        assert "was written to while it was being renamed" in scene.err
        assert scene.own.stat().st_ino == before
        assert scene.state("gpu2") == "RUNNING"
        assert all("stop" not in command for command in scene.sent)

    def test_a_growing_one_is_seen_whatever_the_clocks_say(self, scene: Scene) -> None:
        (scene.nas / "alice.tar.gz.json").unlink()
        os.utime(scene.own, (1_500_000_000, 1_500_000_000))

        def grow() -> None:
            with scene.own.open("ab") as stream:
                stream.write(b"more")
            os.utime(scene.own, (1_500_000_000, 1_500_000_000))

        scene.hooks.append(Hook("gpu2", STAT, before=grow))
        assert scene("snapshot", "gpu2", "--yes") == 6
        assert "somebody is writing" in scene.err

    def test_a_copy_is_made_where_only_the_owner_may_rename(self, scene: Scene) -> None:
        no_rename(scene)
        old = digest(scene.own)
        assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
        assert len(scene.good_ones()) == 2
        (copy,) = scene.nas.glob("alice-gpu2-*-first.tar.gz")
        assert digest(copy) == old
        assert copy.stat().st_mode & 0o777 == 0o600

    def test_a_copy_that_is_not_needed_in_the_end_is_taken_away(self, scene: Scene) -> None:
        no_rename(scene)
        old = digest(scene.own)
        scene.hooks.append(
            Hook("gpu2", "snapshot", before=lambda: scene.lab.fault("gpu2", "iam-down", 1))
        )
        assert scene("snapshot", "gpu2", "--yes") == 6
        assert digest(scene.own) == old
        assert list(scene.nas.glob("alice*.tar.gz")) == [scene.own]
        assert scene.snapshots()[0]["verified"]

    def test_one_that_can_neither_be_renamed_nor_copied_is_replaced_only_when_that_is_wished(
        self, scene: Scene
    ) -> None:
        """A full directory, say: a name can still be made in it, so it looks as if it could be written."""
        no_rename(scene)
        shim = Path(scene.lab.layout.home) / "bin" / "cp"
        shim.write_text("#!/bin/sh\nexit 1\n")
        shim.chmod(0o755)
        old = digest(scene.own)
        scene.sent.clear()
        assert scene("snapshot", "gpu2", "--yes") == 6
        assert "can neither be renamed nor copied" in scene.err
        assert digest(scene.own) == old
        assert scene.state("gpu2") == "RUNNING"
        assert all("stop" not in command for command in scene.sent)
        assert scene("snapshot", "gpu2", "--replace", "--yes") == 0, scene.err
        assert old not in scene.good_ones()
        assert len(scene.good_ones()) == 1

    def test_a_drop_after_the_copy_was_made_is_got_over(self, scene: Scene) -> None:
        no_rename(scene)
        scene.hooks.append(Hook("gpu2", ASIDE, after=lost))
        assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
        assert len(scene.good_ones()) == 2

    def test_a_drop_while_it_is_put_back_does_not_make_the_words_untrue(self, scene: Scene) -> None:
        old = digest(scene.own)
        scene.lab.fault("gpu2", "nas-full", 1)
        scene.at(r".*failed it cannot be renamed.*", "drop")
        assert scene("snapshot", "gpu2", "--yes") == 1
        assert "the previous one is back in its place" in scene.err
        assert digest(scene.own) == old
        assert (scene.nas / "alice.tar.gz.json").exists()

    def test_a_nas_that_hangs_is_said(self, scene: Scene) -> None:
        scene.hooks.append(
            Hook("gpu2", r".*sha256sum.*", before=raising(CommandTimeoutError("too slow")))
        )
        assert scene("snapshots", "verify", "first") == 5
        assert "the NAS does not answer" in scene.err

    def test_a_stopped_container_of_another_interrupted_snapshot_is_not_started_to_look(
        self, scene: Scene
    ) -> None:
        scene.hooks.append(Hook("gpu3", TAR, before=raising(KeyboardInterrupt())))
        assert scene("snapshot", "gpu3", "--yes") == 130
        assert scene("down", "gpu2", "--yes") == 0
        scene.lab.fault("gpu4", "dead")
        scene.sent.clear()
        assert scene("snapshot", "gpu2", "--no-restart", "--yes", "--timeout", "2") == 0, scene.err
        assert "gpu3" not in scene.sent


class TestAsking:
    def test_nobody_to_ask_and_nobody_to_look_starts_nothing(self, scene: Scene) -> None:
        assert scene("down", "gpu2", "--yes") == 0
        scene.sent.clear()
        for command in ("snapshot", "recover", "rebuild"):
            assert scene(command, "gpu2") == 7
            assert "--yes" in scene.err
        assert set(scene.sent) <= {
            f"gpu{number} {word}" for number in (2, 3, 4) for word in ("help", "rebuild")
        }
        assert [scene.state(host) for host in ("gpu2", "gpu3", "gpu4")] == ["STOPPED"] * 3

    def test_one_that_asks_nothing_needs_nobody(self, scene: Scene) -> None:
        """A stopped container, nothing to replace, and a running one elsewhere to look."""
        for path in scene.nas.glob("alice*"):
            path.unlink()
        assert scene("snapshot", "gpu3") == 0, scene.err
        assert scene.state("gpu3") == "STOPPED"


class TestLonely:
    def test_a_container_that_runs_under_tar_makes_the_archive_worthless(
        self, lonely: Scene
    ) -> None:
        lonely.at(TAR, "drop")
        assert lonely("snapshot", "gpu2", "--yes") == 5
        assert lonely("up", "gpu2", "--yes") == 0
        data = lonely.own.read_bytes()
        lonely.own.write_bytes(data[: len(data) // 2])
        lonely.hooks.append(
            Hook("gpu2", STAT, after=lambda reply: (lonely.own.write_bytes(data), reply)[1])
        )
        assert lonely("snapshot", "gpu2", "--yes") == 1
        assert "started while tar was still saving it" in lonely.err
        assert len(lonely.good_ones()) == 2

    def test_a_big_one_is_given_more_time_than_a_small_one(self, lonely: Scene) -> None:
        lonely.at(TAR, "drop")
        assert lonely("snapshot", "gpu2", "--yes") == 5
        assert "wait 10 minutes" in lonely.err
        path = Path(os.environ["APEXGPU_STATE_DIR"]) / "journal" / "gpu2.json"
        entry = json.loads(path.read_text())
        entry |= {"rootfs_size": "100G", "tar_began": entry["tar_began"] - 3600}
        path.write_text(json.dumps(entry))
        assert lonely("snapshot", "gpu2", "--yes") == 5
        assert "wait 367 minutes" in lonely.err
        entry["tar_began"] -= 100_000
        path.write_text(json.dumps(entry))
        assert lonely("snapshot", "gpu2", "--yes") == 0, lonely.err
        assert len(lonely.good_ones()) == 2


class TestSnapshots:
    def test_what_is_found_damaged_counts_as_verified_no_more(self, scene: Scene) -> None:
        stat = scene.own.stat()
        data = bytearray(scene.own.read_bytes())
        data[len(data) // 2] ^= 0xFF
        scene.own.write_bytes(data)
        os.utime(scene.own, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert scene.snapshots()[0]["verified"]
        assert scene("snapshots", "verify", "first") == 1
        assert [one["verified"] for one in scene.snapshots()] == [None]

    def test_what_was_not_shown_is_not_removed(self, scene: Scene) -> None:
        scene.hooks.append(Hook("gpu2", r".*echo changed.*", before=lambda: replaced(scene.own)))
        assert scene("snapshots", "remove", "first", "--yes") == 6
        assert "has changed since it was shown" in scene.err
        assert scene.own.read_bytes() == b"another one"

    def test_what_was_interrupted_keeps_its_archives(self, scene: Scene) -> None:
        scene.hooks.append(Hook("gpu2", TAR, before=raising(KeyboardInterrupt())))
        assert scene("snapshot", "gpu2", "--yes") == 130
        assert scene("up", "gpu3") == 0
        assert scene("snapshots", "remove", "first", "--yes") == 6
        assert "is needed by what was interrupted" in scene.err
        (scene.nas / "alice-gpu2-20991231T000000Z.tar.gz").write_bytes(b"newer")
        assert scene("snapshots", "keep", "1", "--yes") == 0
        assert len(scene.good_ones()) == 1
        assert scene("snapshot", "gpu2", "--undo") == 0, scene.err
        assert scene.own.exists()

    def test_an_undo_waits_for_the_tar_that_may_run_and_makes_the_maps_again(
        self, scene: Scene
    ) -> None:
        """A start under the server's tar would spoil what it writes."""
        assert scene("up", "gpu3") == 0
        assert scene("port", "gpu2", "8888") == 0, scene.err
        scene.hooks.append(Hook("gpu2", TAR, before=raising(KeyboardInterrupt())))
        assert scene("snapshot", "gpu2", "--yes") == 130
        scene.limits.clear()
        assert scene("snapshot", "gpu2", "--undo") == 0, scene.err
        commands = list(scene.limits)
        assert next(
            n for n, one in enumerate(commands) if re.fullmatch(STAT, one, re.DOTALL)
        ) < commands.index("")
        assert "port 8888 is mapped again" in scene.err

    def test_a_dead_host_delays_nobody(self, scene: Scene) -> None:
        scene.lab.fault("gpu3", "silent")
        began = time.monotonic()
        assert scene("snapshots", "--timeout", "60") == 0, scene.err
        assert time.monotonic() - began < 55


def replaced(path: Path) -> None:
    path.write_bytes(b"another one")
