"""recover and rebuild against what would cost the container: private, moved and foreign archives, reboots, cuts."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu.archives import archivehost, recovery
from apexgpu.files import locked
from tests.cli.backups import (
    STAT,
    TOKEN,
    UNPACK,
    Hook,
    Scene,
    digest,
    lost,
    no_rename,
    plain_ssh,
    raising,
    saved,
    thesis,
)

NAS = "/NAS/Workspaces/lxc-snapshot"

pytestmark = pytest.mark.timeout(300)  # whole commands in a row, on a machine that may be busy


@pytest.fixture
def scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Scene]:
    """Three hosts; gpu2's container runs, was saved with the file `thesis` as "first", and has changed since."""
    with saved(tmp_path, monkeypatch, capsys) as scene:
        (scene.home("gpu2") / "thesis").write_text("second")
        yield scene


def assert_untouched(scene: Scene) -> None:
    """Nothing was deleted, and the container is where it was."""
    assert thesis(scene) == "second"
    assert scene.state("gpu2") == "RUNNING"
    assert all("recover TOKEN" not in command for command in scene.sent)
    assert not scene.hosts("status")["gpu2"]["interrupted"]


def aside(scene: Scene) -> Path:
    """A private copy of "first", under its own name."""
    assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
    (copy,) = scene.nas.glob("alice-gpu2-*-first.tar.gz")
    assert copy.stat().st_mode & 0o777 == 0o600
    scene.sent.clear()
    return copy


class TestArchive:
    def test_a_private_one_that_cannot_be_opened_is_never_sent(self, scene: Scene) -> None:
        aside(scene)
        shim = Path(scene.lab.layout.home) / "bin" / "chmod"
        shim.write_text("#!/bin/sh\nexit 1\n")
        shim.chmod(0o755)
        assert scene("recover", "gpu2", "--from", "first", "--no-snapshot", "--yes") == 6
        assert "is private and could not be made readable" in scene.err
        assert_untouched(scene)

    def test_one_that_is_not_in_the_list_is_opened_too(self, scene: Scene) -> None:
        other = scene.nas.parent / "mine.tar.gz"
        other.write_bytes(scene.own.read_bytes())
        other.chmod(0o600)
        modes: list[int] = []
        scene.hooks.append(
            Hook("gpu2", UNPACK, before=lambda: modes.append(other.stat().st_mode & 0o777))
        )
        path = "/NAS/Workspaces/mine.tar.gz"
        assert scene("recover", "gpu2", "--from", path, "--no-snapshot", "--yes") == 0, scene.err
        assert "not one of your archives" in scene.err
        assert "1970" not in scene.err
        assert modes == [0o644]
        assert other.stat().st_mode & 0o777 == 0o600
        assert thesis(scene) == "first"

    def test_one_that_an_interrupted_recover_opened_is_closed_by_the_next(
        self, scene: Scene
    ) -> None:
        copy = aside(scene)
        scene.at(UNPACK, "drop")
        assert scene("recover", "gpu2", "--from", "first", "--no-snapshot", "--yes") == 5
        assert copy.stat().st_mode & 0o777 == 0o644
        assert scene("recover", "gpu2", "--from", f"{NAS}/alice.tar.gz", "--yes") == 0, scene.err
        assert copy.stat().st_mode & 0o777 == 0o600
        assert thesis(scene) == "second"

    @pytest.mark.parametrize(
        "where", ["a b", "it's", "x*", "$HOME", "a;b", "a\nb", "a\tb", "a\\b", "\x1b[m", "<x>", ""]
    )
    def test_words_that_a_shell_would_read_are_refused_before_anything_is_sent(
        self, scene: Scene, where: str
    ) -> None:
        assert (
            scene("recover", "gpu2", "--from", f"{NAS}/{where}.tar.gz" if where else "", "--yes")
            == 2
        )
        assert scene.sent == []

    def test_one_whose_name_cannot_be_sent_is_refused_before_the_stop(self, scene: Scene) -> None:
        for path in scene.nas.glob("alice.*"):
            path.rename(
                path.with_name(path.name.replace("alice", "alice-gpu2-20991231T000000Z-a b"))
            )
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 6
        assert "cannot be sent to a manage shell" in scene.err
        assert_untouched(scene)

    @pytest.mark.parametrize("path", ["/home/alice/mine.tar.gz", "/NAS/../home/alice/mine.tar.gz"])
    def test_one_that_the_server_may_not_see_is_refused(self, scene: Scene, path: str) -> None:
        (scene.home("gpu2") / "mine.tar.gz").write_bytes(scene.own.read_bytes())
        assert scene("recover", "gpu2", "--from", path, "--yes") == 6
        assert "is not on the NAS" in scene.err
        assert_untouched(scene)

    def test_one_that_changes_after_the_test_is_never_sent(self, scene: Scene) -> None:
        scene.hooks.append(
            Hook("gpu2", STAT, before=lambda: os.utime(scene.own, (1_600_000_000, 1_600_000_000)))
        )
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 6
        assert "has changed since it was checked" in scene.err
        assert_untouched(scene)

    @pytest.mark.parametrize("path", ["/", "/NAS", "/NAS/nothere.tar.gz", f"{NAS}"])
    def test_what_is_no_archive_is_said(self, scene: Scene, path: str) -> None:
        assert scene("recover", "gpu2", "--from", path, "--yes") == 6
        assert "sees no archive" in scene.err
        assert_untouched(scene)

    def test_the_servers_own_archive_is_known_by_any_of_its_names(self, scene: Scene) -> None:
        moved: list[bool] = []
        scene.hooks.append(
            Hook("gpu2", UNPACK, before=lambda: moved.append(not scene.own.exists()))
        )
        path = "//NAS/Workspaces/./lxc-snapshot//alice.tar.gz"
        assert scene("recover", "gpu2", "--from", path, "--no-snapshot", "--yes") == 0, scene.err
        assert moved == [True]

    def test_a_snapshot_on_another_host_meanwhile_does_not_overwrite_what_is_unpacked(
        self, scene: Scene
    ) -> None:
        old = digest(scene.own)

        def gpu3_saves() -> None:
            ask = ["ssh", "-F", os.environ["APEXGPU_SSH_CONFIG"], "gpu3-manage", "snapshot"]
            said = subprocess.run(
                ask, check=True, capture_output=True, text=True, timeout=30
            ).stdout
            token = said.rpartition("snapshot ")[2][:8]
            subprocess.run([*ask, token], check=True, capture_output=True, timeout=30)

        scene.hooks.append(Hook("gpu2", "stop", before=gpu3_saves))
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 0, scene.err
        assert thesis(scene) == "first"
        assert old in scene.good_ones()
        assert len(scene.good_ones()) == 2

    def test_where_it_can_only_be_copied_the_copy_goes_again(self, scene: Scene) -> None:
        no_rename(scene)
        old = digest(scene.own)
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 0, scene.err
        assert thesis(scene) == "first"
        assert list(scene.nas.glob("alice*.tar.gz")) == [scene.own]
        assert digest(scene.own) == old

    def test_afterwards_it_lies_where_it_lay_and_all_can_read_it(self, scene: Scene) -> None:
        old = digest(scene.own)
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 0, scene.err
        assert digest(scene.own) == old
        assert scene.own.stat().st_mode & 0o777 == 0o644
        assert [one["verified"] is not None for one in scene.snapshots()] == [True]

    def test_one_found_damaged_counts_as_verified_no_more(self, scene: Scene) -> None:
        stat = scene.own.stat()
        data = bytearray(scene.own.read_bytes())
        data[len(data) // 2] ^= 0xFF
        scene.own.write_bytes(data)
        os.utime(scene.own, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert scene("recover", "gpu2", "--yes") == 6
        assert [one["verified"] for one in scene.snapshots()] == [None]
        assert_untouched(scene)

    def test_another_whole_one_under_the_same_name_size_and_time_is_found_out(
        self, scene: Scene
    ) -> None:
        """gzip and tar are content with it; only the SHA-256 that was noted tells."""
        stat = scene.own.stat()
        data = bytearray(scene.own.read_bytes())
        data[4] ^= 0xFF  # the time in gzip's header, which no checksum covers (RFC 1952)
        scene.own.write_bytes(data)
        os.utime(scene.own, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert scene("recover", "gpu2", "--yes") == 6
        assert "SHA-256 differs from the one that was noted" in scene.err
        assert [one["verified"] for one in scene.snapshots()] == [None]
        assert_untouched(scene)


class TestWhatIsThere:
    def test_a_stopped_container_is_saved_before_it_is_destroyed(self, scene: Scene) -> None:
        assert scene("up", "gpu3") == 0
        assert scene("down", "gpu2", "--yes") == 0
        assert scene("recover", "gpu2", "--yes") == 0, scene.err
        assert thesis(scene) == "first"
        assert len(scene.good_ones()) == 2
        assert (
            scene("recover", "gpu2", "--from", "before-recover", "--no-snapshot", "--yes") == 0
        ), scene.err
        assert thesis(scene) == "second"

    def test_a_container_without_files_has_nothing_to_save(self, scene: Scene) -> None:
        assert scene("up", "gpu3") == 0
        assert scene("down", "gpu2", "--yes") == 0
        subprocess.run(["rm", "-rf", scene.container("gpu2").rootfs], check=True, timeout=30)
        assert scene("recover", "gpu2", "--yes") == 0, scene.err
        assert "there is nothing to save" in scene.err
        assert thesis(scene) == "first"

    def test_a_rebuild_of_a_stopped_container_keeps_its_keys_too(self, scene: Scene) -> None:
        other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKzh5Q7tJdqLq0ptx7NgNh8sOgK+TUov1qSyVahIboMz by-hand"
        with (scene.home("gpu2") / ".ssh" / "authorized_keys").open("a") as stream:
            stream.write(f"{other}\n")
        assert scene("up", "gpu3") == 0
        assert scene("down", "gpu2", "--yes") == 0
        row = scene.hosts("rebuild", "gpu2", "--no-snapshot", "--yes")["gpu2"]
        assert row["keys_put_back"] == 1
        assert other in (scene.home("gpu2") / ".ssh" / "authorized_keys").read_text()


@pytest.mark.parametrize(
    ("shown", "seconds"),
    [(None, 20), ("148K", 20), ("999M", 20), ("1.2G", 25), ("12G", 255), ("120G", 255)],
)
def test_how_long_a_rounded_size_must_stay_the_same(shown: str | None, seconds: int) -> None:
    """`du -h` shows 12G until another whole GiB is there, and a slow tar takes minutes for that."""
    assert recovery._checks_needed(shown) * archivehost.CHECK_INTERVAL == seconds


_RELAY = """
import os, socket, sys, threading
link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def inward():
    while data := os.read(0, 65536):
        link.sendall(data)
threading.Thread(target=inward, daemon=True).start()
while data := link.recv(65536):
    os.write(1, data)
"""


@pytest.mark.openssh
def test_all_of_it_through_the_openssh_client(scene: Scene, tmp_path: Path) -> None:
    """A ProxyCommand is what paramiko leaves to ssh: a long tar, a cut one, words on stderr, host keys, silence."""
    relay = tmp_path / "relay.py"
    relay.write_text(_RELAY)
    with Path(os.environ["APEXGPU_SSH_CONFIG"]).open("a") as config:
        config.write(f"    ProxyCommand {sys.executable} {relay} %h %p\n")
    scene.at(rf"snapshot {TOKEN}", "drop")
    assert scene("snapshot", "gpu2", "--name", "second", "--yes") == 0, scene.err
    assert "keeps running on the server" in scene.err
    scene.lab.fault("gpu2", "nas-full", 1)
    assert scene("snapshot", "gpu2", "--yes") == 1
    assert "No space left" in scene.err
    scene.at(UNPACK, "reboot")
    assert scene("recover", "gpu2", "--from", "first", "--no-snapshot", "--yes") == 5
    assert scene("recover", "gpu2", "--yes") == 0, scene.err
    assert thesis(scene) == "first"
    assert scene("rebuild", "gpu2", "--no-snapshot", "--yes") == 0, scene.err
    assert plain_ssh("gpu2").stderr == ""
    assert len(scene.good_ones()) == 2


def test_the_servers_tar_alone_has_no_time_limit(scene: Scene) -> None:
    """It says nothing for hours; our own readings tell how far they are, and whatever else there is has an end."""
    no_rename(scene)
    assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
    assert scene("recover", "gpu2", "--from", "first", "--no-snapshot", "--yes") == 0, scene.err
    endless = {
        command: one.silence for command, one in scene.limits.items() if one and one.total is None
    }
    tars = {command for command, silence in endless.items() if silence is None}
    assert {command.split(" ")[0] for command in tars} == {"snapshot", "recover"}
    assert all("TOKEN" in command for command in tars)
    assert {silence for silence in endless.values() if silence is not None} == {600}


class TestTwice:
    @pytest.mark.parametrize(
        ("command", "lock"),
        [("recover", "gpu2"), ("rebuild", "+archive"), ("snapshot", "+archive")],
    )
    def test_a_second_apexgpu_changes_nothing(self, scene: Scene, command: str, lock: str) -> None:
        """On the same host, or on another one: the archive is the same for all."""
        with locked(Path(os.environ["APEXGPU_STATE_DIR"]) / "locks" / f"{lock}.lock", what="x"):
            assert scene(command, "gpu2", "--yes") == 1
        assert "in use by another apexgpu" in scene.err
        assert all("TOKEN" not in command for command in scene.sent)
        assert_untouched(scene)


class TestCut:
    def test_a_host_that_reboots_while_unpacking(self, scene: Scene) -> None:
        old = digest(scene.own)
        scene.at(UNPACK, "reboot")
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 5
        assert "its files are deleted or incomplete" in scene.err
        assert scene("recover", "gpu2", "--yes") == 0, scene.err
        assert thesis(scene) == "first"
        assert plain_ssh("gpu2").returncode == 0
        assert digest(scene.own) == old

    @pytest.mark.parametrize("command", ["help", "stop", "recover", ""])
    def test_a_host_that_reboots_before_or_after_it(self, scene: Scene, command: str) -> None:
        scene.at(command, "reboot")
        scene("recover", "gpu2", "--no-snapshot", "--yes")
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 0, scene.err
        assert thesis(scene) == "first"
        assert scene.state("gpu2") == "RUNNING"
        assert len(scene.good_ones()) == 1
        assert scene.own.exists()

    def test_what_replaces_an_interrupted_one_knows_that_files_are_gone(self, scene: Scene) -> None:
        scene.at(UNPACK, "drop")
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 5
        scene.at(UNPACK, "iam-down")
        assert scene("recover", "gpu2", "--from", "first", "--yes") == 6
        assert "its files are deleted or incomplete" in scene.err
        assert scene.hosts("status")["gpu2"]["interrupted"]["stage"] == "unpack"
        assert scene("recover", "gpu2", "--from", "first", "--yes") == 0, scene.err
        assert thesis(scene) == "first"

    def test_what_the_server_unpacks_on_is_waited_for(self, scene: Scene) -> None:
        """Its tar does not end with our connection, and two of them in one place would mix."""
        scene.at(UNPACK, "drop")
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 5
        scene.sent.clear()
        assert scene("recover", "gpu2", "--yes") == 0, scene.err
        unpacked = next(
            number for number, one in enumerate(scene.sent) if one.startswith("gpu2 recover TOKEN")
        )
        assert scene.sent[:unpacked].count("gpu2 snapshot") > archivehost.STABLE_CHECKS

    def test_an_undo_makes_the_maps_again(self, scene: Scene) -> None:
        assert scene("port", "gpu2", "8888") == 0, scene.err
        scene.hooks.append(Hook("gpu2", "recover", before=raising(KeyboardInterrupt())))
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 130
        assert scene("recover", "gpu2", "--undo") == 0, scene.err
        assert "port 8888 is mapped again" in scene.err

    def test_a_cut_between_the_note_and_the_move_is_found_out(self, scene: Scene) -> None:
        """The archive was noted under the name that it was going to have."""
        scene.hooks.append(
            Hook("gpu2", r".*neither be renamed.*", before=raising(KeyboardInterrupt()))
        )
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 130
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 0, scene.err
        assert thesis(scene) == "first"
        assert scene.own.exists()

    def test_words_that_nobody_knows_mean_that_files_may_be_gone(self, scene: Scene) -> None:
        scene.at(UNPACK, "garble")
        assert scene("recover", "gpu2", "--no-snapshot", "--yes") == 6
        assert "its files are deleted or incomplete" in scene.err
        assert scene("recover", "gpu2", "--yes") == 0, scene.err
        assert thesis(scene) == "first"

    def test_new_host_keys_that_are_cut_lock_nobody_out(self, scene: Scene) -> None:
        scene.hooks.append(
            Hook("gpu2", r".*mv -f new-host-keys.*", before=raising(KeyboardInterrupt()))
        )
        assert scene("rebuild", "gpu2", "--no-snapshot", "--yes") == 130
        assert plain_ssh("gpu2").returncode == 0
        scene.hooks.append(Hook("gpu2", r".*mv -f new-host-keys.*", after=lost))
        assert scene("rebuild", "gpu2", "--no-snapshot", "--yes") == 0, scene.err
        assert plain_ssh("gpu2").returncode == 0

    def test_known_hosts_keeps_hashed_names_line_ends_and_strangers(self, scene: Scene) -> None:
        """A real client with checking on; the file was hashed by ssh-keygen."""
        file = scene.lab.layout.known_hosts
        subprocess.run(
            ["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True, timeout=30
        )
        key = b"AAAAC3NzaC1lZDI1NTE5AAAAIKHEChdB5LANBdCmZAPaJr0vJNbyT2SqlpSdkkeoASXY"
        stranger = b"elsewhere.example ssh-ed25519 " + key + b"\r\n"
        file.write_bytes(file.read_bytes() + stranger)
        for command in ("rebuild", "recover"):
            assert scene(command, "gpu2", "--no-snapshot", "--yes") == 0, scene.err
            said = plain_ssh("gpu2")
            assert (said.returncode, said.stderr) == (0, "")
            assert stranger in file.read_bytes()
            assert b"\n[127." not in file.read_bytes()
        kept = Path(os.environ["APEXGPU_STATE_DIR"]) / "known_hosts"
        assert stranger in max(kept.iterdir()).read_bytes()
        assert len(list(kept.iterdir())) >= 2

    def test_an_archive_replaced_after_the_cut_is_not_taken_for_the_tested_one(
        self, scene: Scene
    ) -> None:
        copy = aside(scene)
        scene.at(UNPACK, "drop")
        assert scene("recover", "gpu2", "--from", "first", "--no-snapshot", "--yes") == 5
        copy.write_bytes(b"not an archive")
        assert scene("recover", "gpu2", "--yes") == 6
        assert "has changed since it was checked" in scene.err
        assert "--from" in scene.err
        assert scene("recover", "gpu2", "--from", f"{NAS}/alice.tar.gz", "--yes") == 0, scene.err
        assert thesis(scene) == "second"
