"""recover and rebuild against a lab that deletes before it unpacks, and calls everything Done."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.backups import UNPACK, Hook, Scene, digest, plain_ssh, saved, thesis
from tests.cli.newcomer import ended
from tests.cli.product import at_terminal

pytestmark = pytest.mark.timeout(300)  # whole commands in a row, on a machine that may be busy


@pytest.fixture
def scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Scene]:
    """Three hosts; gpu2's container runs, was saved with the file `thesis` as "first", and has changed since."""
    with saved(tmp_path, monkeypatch, capsys) as scene:
        (scene.home("gpu2") / "thesis").write_text("second")
        yield scene


class TestRecover:
    def test_brings_the_files_back_and_saves_what_was_there(self, scene: Scene) -> None:
        row = scene.hosts("recover", "gpu2", "--yes")["gpu2"]
        assert row["ok"]
        assert row["from"].endswith("-first")
        assert thesis(scene) == "first"
        assert scene.state("gpu2") == "RUNNING"
        assert len(scene.good_ones()) == 2
        assert (
            scene("recover", "gpu2", "--from", "before-recover", "--no-snapshot", "--yes") == 0
        ), scene.err
        assert thesis(scene) == "second"
        assert plain_ssh("gpu2").returncode == 0

    def test_a_private_copy_is_opened_for_the_moment_only(self, scene: Scene) -> None:
        assert scene("snapshot", "gpu2", "--yes") == 0
        (copy,) = scene.nas.glob("alice-gpu2-*-first.tar.gz")
        modes: list[int] = []
        scene.hooks.append(
            Hook("gpu2", UNPACK, before=lambda: modes.append(copy.stat().st_mode & 0o777))
        )
        assert scene("recover", "gpu2", "--from", "first", "--no-snapshot", "--yes") == 0, scene.err
        assert modes == [0o644]
        assert copy.stat().st_mode & 0o777 == 0o600
        assert thesis(scene) == "first"

    def test_without_a_terminal_nothing_happens(self, scene: Scene) -> None:
        assert scene("recover", "gpu2") == 7
        assert "gpu2 to be typed" in scene.err
        assert thesis(scene) == "second"
        assert scene.state("gpu2") == "RUNNING"

    @pytest.mark.parametrize("damage", ["cut", "garbage", "no-root"])
    def test_a_damaged_archive_is_refused_before_anything_is_touched(
        self, scene: Scene, damage: str
    ) -> None:
        if damage == "cut":
            os.truncate(scene.own, scene.own.stat().st_size // 2)
        elif damage == "garbage":
            scene.own.write_text("not an archive")
        else:
            subprocess.run(
                ["tar", "-czf", scene.own, "-C", scene.nas, "template.tar.gz"],
                check=True,
                timeout=30,
            )
        assert scene("recover", "gpu2", "--yes") == 6
        assert "no verified snapshot of gpu2" in scene.err or "no snapshot of gpu2" in scene.err
        assert scene("recover", "gpu2", "--from", "alice.tar.gz", "--yes") == 6
        assert "cannot be trusted" in scene.err
        assert thesis(scene) == "second"
        assert scene.state("gpu2") == "RUNNING"

    def test_an_archive_that_nobody_can_read_needs_unverified(self, scene: Scene) -> None:
        scene("down", "gpu2", "--yes")
        for host in ("gpu2", "gpu3", "gpu4"):
            scene.lab.fault(host, "start-fails")
        assert scene("recover", "gpu2", "--yes") == 6
        assert "the default is not known; name the archive with --from" in scene.err
        own = "/NAS/Workspaces/lxc-snapshot/alice.tar.gz"
        words = ("recover", "gpu2", "--unverified", "--from", own)
        assert f"hint: apexgpu {' '.join(words)}\n" in scene.err
        assert scene("recover", "gpu2", "--from", own, "--yes") == 6
        assert "none of your containers is running" in scene.err
        assert all("recover TOKEN" not in command for command in scene.sent)
        scene.lab.clear("gpu2", "start-fails")
        scene.at(r".*probe=.*", "drop")
        for host in ("gpu3", "gpu4"):
            scene.lab.fault(host, "dead")
        scene.lab.fault("gpu2", "start-fails", 1)
        assert scene(*words, "--yes", "--timeout", "2") == 0, scene.err
        assert "could not be checked" in scene.err
        assert thesis(scene) == "first"

    def test_no_snapshot_is_a_precondition(self, scene: Scene) -> None:
        assert scene("recover", "gpu2", "--from", "nothere", "--yes") == 6
        assert scene("recover", "gpu3", "--yes") == 6
        assert "--from alice-gpu2-" in scene.err
        for path in scene.nas.glob("alice*"):
            path.unlink()
        assert scene("recover", "gpu2", "--yes") == 6
        assert (
            scene("recover", "gpu2", "--from", "/NAS/Workspaces/lxc-snapshot/no.tar.gz", "--yes")
            == 6
        )
        assert scene.state("gpu2") == "RUNNING"

    def test_tokens_and_iam_that_fail_leave_all_as_it_was(self, scene: Scene) -> None:
        scene.at("recover", "expired-token")
        scene.at(UNPACK, "iam-down")
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 6
        assert thesis(scene) == "second"
        assert scene.state("gpu2") == "RUNNING"
        scene.at("recover", "expired-token")
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 0
        assert "asking for a new one" in scene.err
        assert thesis(scene) == "first"

    def test_a_snapshot_that_fails_first_keeps_the_container(self, scene: Scene) -> None:
        old = digest(scene.own)
        scene.lab.fault("gpu2", "nas-full")
        assert scene("recover", "gpu2", "--yes") == 1
        assert "the recover was not begun" in scene.err
        assert thesis(scene) == "second"
        assert digest(scene.own) == old

    def test_another_hosts_archive_can_be_named(self, scene: Scene) -> None:
        assert scene("recover", "gpu3", "--from", "first", "--yes") == 0, scene.err
        assert (scene.home("gpu3") / "thesis").read_text() == "first"


class TestInterruptedRecover:
    def test_a_drop_while_unpacking_is_finished_by_the_next_recover(self, scene: Scene) -> None:
        scene.at(UNPACK, "drop")
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 5
        assert "its files are deleted or incomplete" in scene.err
        assert scene.hosts("status")["gpu2"]["interrupted"] == {
            "what": "recover",
            "stage": "unpack",
            "began": scene.hosts("status")["gpu2"]["interrupted"]["began"],
        }
        assert scene("recover", "gpu2") == 7
        assert scene("recover", "gpu2", "--undo") == 6
        assert scene("recover", "gpu2", "--yes") == 0, scene.err
        assert thesis(scene) == "first"
        assert plain_ssh("gpu2").returncode == 0
        assert scene.hosts("status")["gpu2"]["interrupted"] is None

    def test_a_snapshot_after_a_drop_finishes_the_recover_first(self, scene: Scene) -> None:
        scene.at(UNPACK, "drop")
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 5
        assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
        assert "the interrupted recover is finished" in scene.err
        assert len(scene.good_ones()) == 2

    def test_an_archive_that_breaks_under_the_server_is_told_and_healed_from_another(
        self, scene: Scene
    ) -> None:
        assert scene("snapshot", "gpu2", "--name", "second", "--yes") == 0
        breaks = Hook(
            "gpu2",
            UNPACK,
            before=lambda: os.truncate(max(scene.nas.glob("alice*-second.tar.gz")), 1000),
        )
        scene.hooks.append(breaks)
        assert scene("recover", "gpu2", "--from", "second", "--no-snapshot", "--yes") == 1, (
            scene.err
        )
        assert "is stopped, and its files are deleted or incomplete" in scene.err
        assert scene("recover", "gpu2", "--from", "first", "--yes") == 0, scene.err
        assert thesis(scene) == "first"

    def test_a_container_that_does_not_start_afterwards_is_no_success(self, scene: Scene) -> None:
        scene.at(UNPACK, "start-fails")
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 6
        assert "does not start" in scene.err
        assert scene.hosts("status")["gpu2"]["interrupted"]["stage"] == "unpack", (
            "its files are to be replaced again"
        )
        assert scene("recover", "gpu2", "--yes") == 0, scene.err
        assert thesis(scene) == "first"

    def test_ctrl_c_before_anything_is_gone_is_put_back(self, scene: Scene) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        scene.hooks.append(Hook("gpu2", "recover", before=interrupt))
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 130
        assert scene.state("gpu2") == "STOPPED"
        assert scene("recover", "gpu2", "--undo") == 0, scene.err
        assert scene.state("gpu2") == "RUNNING"
        assert thesis(scene) == "second"


class TestRebuild:
    def test_keys_ports_and_own_host_keys_are_there_again(self, scene: Scene) -> None:
        config = os.environ["APEXGPU_SSH_CONFIG"]
        argv = ["ssh", "-F", config, "gpu2-manage", "port", "8888"]
        subprocess.run(argv, check=True, capture_output=True, timeout=30)
        public = (
            Path(os.environ["APEXGPU_SSH_CONFIG"])
            .with_name("id_ed25519.pub")
            .read_text()
            .split()[1]
        )
        other = f"ssh-ed25519 {public[:-2]}{'AA' if public[-2:] != 'AA' else 'AB'} by-hand"
        with (scene.home("gpu2") / ".ssh" / "authorized_keys").open("a") as stream:
            stream.write(f"{other}\n")
        row = scene.hosts("rebuild", "gpu2", "--yes")["gpu2"]
        assert row["ok"]
        assert row["keys_put_back"] == 1
        assert row["new_host_keys"]
        assert "port 8888 is mapped again" in scene.err
        assert other in (scene.home("gpu2") / ".ssh" / "authorized_keys").read_text()
        assert not (scene.home("gpu2") / "thesis").exists()
        said = plain_ssh("gpu2", "hostname")
        assert (said.returncode, said.stdout.strip()) == (0, "gpu2-alice")
        assert "WARNING" not in said.stderr
        assert len(scene.good_ones()) == 2

    def test_then_a_recover_brings_the_old_host_key_and_known_hosts_follows(
        self, scene: Scene
    ) -> None:
        assert scene("rebuild", "gpu2", "--no-snapshot", "--yes") == 0, scene.err
        assert scene("recover", "gpu2", "--no-snapshot", "--keep-host-keys", "--yes") == 0, (
            scene.err
        )
        assert scene.err.count("SHA256:") == 2
        said = plain_ssh("gpu2", "cat thesis")
        assert said.stdout == "first"
        assert "WARNING" not in said.stderr
        assert list((Path(os.environ["APEXGPU_STATE_DIR"]) / "known_hosts").iterdir())

    def test_a_user_that_was_not_made_is_no_success(self, scene: Scene) -> None:
        scene.lab.fault("gpu2", "user-not-made", 1)
        assert scene("rebuild", "gpu2", "--no-snapshot", "--yes") == 1
        assert "useradd" in scene.err
        assert "hint: apexgpu rebuild gpu2\n" in scene.err
        assert scene("rebuild", "gpu2", "--yes") == 0, scene.err
        assert plain_ssh("gpu2").returncode == 0
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 0, scene.err
        assert thesis(scene) == "first"

    def test_a_damaged_template_is_refused(self, scene: Scene) -> None:
        os.truncate(scene.nas / "template.tar.gz", 500)
        assert scene("rebuild", "gpu2", "--yes") == 6
        assert thesis(scene) == "second"


@pytest.mark.openssh
class TestAtATerminal:
    def test_the_typed_name_decides_and_a_snapshot_is_offered(self, scene: Scene) -> None:
        with at_terminal("recover", "gpu2", "--from", "first") as child:
            child.expect("This stops your container on gpu2, deletes and replaces all its files")
            child.expect("Type gpu2 to go ahead: ")
            child.sendline("gpu3")
            child.expect("gpu3. was typed, not gpu2: nothing was changed")
            assert ended(child) == 7
        assert thesis(scene) == "second"
        with at_terminal("recover", "gpu2", "--from", "first") as child:
            child.expect("Type gpu2 to go ahead: ")
            child.sendline("gpu2")
            child.expect("Take a snapshot of the container on gpu2 first")
            child.sendline("n")
            child.expect("was restored from alice-gpu2-")
            assert ended(child) == 0
        assert thesis(scene) == "first"

    def test_merely_pressing_enter_saves_what_is_there(self, scene: Scene) -> None:
        with at_terminal("recover", "gpu2") as child:
            child.expect("Type gpu2 to go ahead: ")
            child.sendline("gpu2")
            child.expect("Take a snapshot of the container on gpu2 first")
            child.sendline("")
            child.expect("the snapshot is good")
            child.expect("was restored from alice-gpu2-")
            assert ended(child) == 0
        assert thesis(scene) == "first"
        assert len(scene.good_ones()) == 2

    def test_what_was_interrupted_is_offered_to_be_finished(self, scene: Scene) -> None:
        scene.at(UNPACK, "drop")
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 5
        with at_terminal("recover", "gpu2") as child:
            child.expect(r"Finish the recover from alice-gpu2-\w+-first now")
            child.sendline("n")
            child.expect("--undo")
            assert ended(child) == 7
