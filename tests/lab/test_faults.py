"""Every kind of misbehaviour, seen from outside."""

import socket
import subprocess
from pathlib import Path

import pytest
from tests.lab.calls import (
    LIMIT,
    Said,
    fetch,
    rootfs_of,
    ssh,
    started,
    state_of,
    token_of,
    wait_until,
)
from tests.lab.scene import scene_of

from apexgpu.errors import UnknownHostError, UsageError
from apexgpu_lab.faults import HOST_KINDS, IAM_KINDS, KINDS, FaultBoard
from apexgpu_lab.inprocess import Lab

openssh = pytest.mark.openssh
ALICES = "/NAS/Workspaces/lxc-snapshot/alice.tar.gz"


def manage(lab: Lab, *words: str) -> Said:
    """A call to gpu2's manage shell."""
    return ssh(lab, "gpu2-manage", *words)


def manage_address(lab: Lab, host: str = "gpu2") -> tuple[str, int]:
    """Where a manage shell listens."""
    found = next(one for one in lab.status()["hosts"] if one["host"] == host)
    return found["address"], found["port"]


class TestBoard:
    def test_times_are_used_up(self) -> None:
        changes: list[tuple[str, str]] = []
        board = FaultBoard(lambda where, kind: changes.append((where, kind)))
        board.set("gpu2", "drop", 2)
        assert [board.take("gpu2", "drop") for _ in range(3)] == [True, True, False]
        assert changes == [("gpu2", "drop")] * 2

    def test_without_times_it_stays_until_cleared(self) -> None:
        board = FaultBoard(lambda *_: None)
        board.set("iam", "slow")
        assert all(board.take("iam", "slow") for _ in range(3))
        assert board.listed() == [{"host": "iam", "kind": "slow", "times": None}]
        board.clear("iam", "slow")
        board.clear("iam", "slow")
        assert not board.active("iam", "slow")

    @pytest.mark.parametrize(
        ("where", "kind"), [("gpu2", "html"), ("iam", "dead"), ("gpu2", "nonsense")]
    )
    def test_a_kind_belongs_to_a_place(self, where: str, kind: str) -> None:
        with pytest.raises(UsageError, match="is no fault of"):
            FaultBoard(lambda *_: None).set(where, kind)

    def test_no_times_at_all_is_refused(self) -> None:
        with pytest.raises(UsageError):
            FaultBoard(lambda *_: None).set("gpu2", "drop", 0)

    def test_the_list_for_people_has_every_kind(self) -> None:
        assert set(KINDS) == set(HOST_KINDS) | set(IAM_KINDS)
        assert "iam: " in KINDS["hang"]

    def test_a_host_that_is_not_there(self, lab: Lab) -> None:
        with pytest.raises(UnknownHostError):
            lab.fault("gpu99", "dead")


@openssh
class TestConnections:
    def test_refuse_a_number_of_times_resets(self, lab: Lab) -> None:
        lab.fault("gpu2", "refuse", 1)
        assert manage(lab, "help").code == 255
        assert manage(lab, "help").code == 0

    def test_refuse_closes_the_manage_port_only(self, lab: Lab) -> None:
        started(lab)
        lab.fault("gpu2", "refuse")
        assert "Connection refused" in manage(lab, "help").err
        assert ssh(lab, "gpu2", "true") == Said(0, "", "")
        lab.clear("gpu2", "refuse")
        assert manage(lab, "help").code == 0
        assert ssh(lab, "gpu2", "true").code == 0

    def test_dead_closes_everything_and_cuts(self, lab: Lab) -> None:
        started(lab)
        with socket.create_connection(manage_address(lab), timeout=LIMIT) as client:
            assert client.recv(4) == b"SSH-"
            lab.fault("gpu2", "dead")
            while client.recv(4096):
                pass
        assert "Connection refused" in manage(lab, "help").err
        assert "Connection refused" in ssh(lab, "gpu2", "true").err
        assert ssh(lab, "gpu3-manage", "help").code == 0
        lab.clear("gpu2", "dead")
        assert manage(lab, "help").code == 0
        assert ssh(lab, "gpu2", "true").code == 0

    def test_silent_accepts_and_says_nothing(self, lab: Lab) -> None:
        lab.fault("gpu2", "silent", 1)
        with (
            socket.create_connection(manage_address(lab), timeout=0.3) as client,
            pytest.raises(TimeoutError),
        ):
            client.recv(1)
        assert manage(lab, "help").code == 0

    def test_slow_answers_late(self, lab: Lab) -> None:
        lab.call(lambda world: setattr(world, "slow_seconds", 0.4))
        lab.fault("gpu2", "slow", 1)
        with socket.create_connection(manage_address(lab), timeout=0.1) as client:
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.settimeout(LIMIT)
            assert client.recv(4) == b"SSH-"

    def test_denied_refuses_every_key(self, lab: Lab) -> None:
        started(lab)
        lab.fault("gpu2", "denied", 2)
        assert "Permission denied (publickey" in manage(lab, "help").err
        assert "Permission denied (publickey" in ssh(lab, "gpu2", "true").err
        assert manage(lab, "help").code == 0

    def test_host_key_changed(self, lab: Lab) -> None:
        lab.fault("gpu2", "host-key-changed")
        said = ssh(lab, "-o", "LogLevel=INFO", "gpu2-manage", "help")
        assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in said.err
        lab.clear("gpu2", "host-key-changed")
        assert manage(lab, "help").code == 0

    def test_drop_cuts_a_tunnel_when_it_is_used(self, lab: Lab) -> None:
        started(lab)
        lab.fault("gpu2", "drop", 1)
        assert ssh(lab, "-W", "localhost:1", "gpu2").code == 255
        assert ssh(lab, "gpu2", "true").code == 0


@openssh
class TestReboot:
    def test_a_snapshot_that_was_being_written_is_cut_and_the_host_is_back_with_stopped_containers(
        self, lab: Lab
    ) -> None:
        started(lab)
        assert manage(lab, "stop").code == 0
        token = token_of(lab)
        lab.fault("gpu2", "reboot", 1)
        said = manage(lab, "snapshot", token)
        assert said.code == 255
        assert "Saved to" not in said.out
        wait_until(lambda: manage(lab, "help").code == 0, lab)
        assert state_of(lab) == "STOPPED"
        archive = Path(lab.status()["nas"]) / "Workspaces" / "lxc-snapshot" / "alice.tar.gz"
        assert subprocess.run(
            ["gzip", "-t", archive], check=False, capture_output=True, timeout=LIMIT
        ).returncode

    def test_any_other_command_meets_it_too(self, lab: Lab) -> None:
        started(lab)
        lab.fault("gpu2", "reboot", 1)
        assert manage(lab, "help").code == 255
        wait_until(lambda: manage(lab, "help").code == 0, lab)
        assert state_of(lab) == "STOPPED"
        started(lab)
        assert ssh(lab, "gpu2", "true").code == 0


@openssh
class TestManageShell:
    def test_garble(self, lab: Lab) -> None:
        lab.fault("gpu2", "garble", 1)
        said = manage(lab, "help")
        assert said.code == 0
        assert "==========" not in said.out
        assert "\x1b]0;" in said.out
        assert manage(lab, "help").out.startswith("==========")

    def test_hang(self, lab: Lab) -> None:
        lab.fault("gpu2", "hang", 1)
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(
                ["ssh", "-F", lab.layout.ssh_config, "gpu2-manage", "help"],
                timeout=0.5,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        assert manage(lab, "help").code == 0

    def test_iam_down_here_and_everywhere(self, lab: Lab) -> None:
        lab.fault("gpu2", "iam-down", 1)
        said = manage(lab, "help")
        assert said.code == 1
        assert "Failed to get your allocated port." in said.out
        assert manage(lab, "help").code == 0
        lab.fault("iam", "down")
        assert manage(lab, "help").code == ssh(lab, "gpu3-manage", "help").code == 1

    def test_start_fails(self, lab: Lab) -> None:
        lab.fault("gpu2", "start-fails", 1)
        assert "Fail. Please contact administrators" in manage(lab).out
        assert state_of(lab) == "STOPPED"
        assert "The container is up" in manage(lab).out

    def test_no_address_polls_until_there_is_one(self, lab: Lab) -> None:
        lab.fault("gpu2", "no-address")
        argv = ["ssh", "-F", str(lab.layout.ssh_config), "-T", "gpu2-manage"]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
            wait_until(lambda: state_of(lab) == "RUNNING", lab)
            assert "IP: " not in manage(lab, "help").out.replace("(IP: ", "")
            lab.clear("gpu2", "no-address")
            out, _ = client.communicate(timeout=LIMIT)
        assert b"The container is up" in out
        assert "IP:             10.0.3." in manage(lab, "help").out

    def test_no_forward_strikes_running_containers_at_once_and_is_cured(self, lab: Lab) -> None:
        manage(lab)
        lab.fault("gpu2", "no-forward", 1)
        assert "Connection refused" in ssh(lab, "gpu2", "true").err
        assert "=>" not in manage(lab, "port").out
        manage(lab, "stop")
        manage(lab)
        assert ssh(lab, "gpu2", "true").code == 0

    def test_no_forward_strikes_the_next_start(self, lab: Lab) -> None:
        lab.fault("gpu2", "no-forward", 1)
        assert "The container is up" in manage(lab).out
        assert "Connection refused" in ssh(lab, "gpu2", "true").err

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            ("driver-mismatch", "You might need to manually install the driver"),
            ("driver-install", "Successfully installed NVIDIA driver."),
        ],
    )
    def test_drivers(self, lab: Lab, kind: str, words: str) -> None:
        lab.fault("gpu2", kind, 1)
        assert words in manage(lab).out
        assert (
            ssh(
                lab, "gpu2", "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
            ).out
            == "390.48\n" * 4
        )

    def test_two_addresses(self, lab: Lab) -> None:
        manage(lab)
        lab.fault("gpu2", "two-addresses")
        assert "IP:             172.17.0.1" in manage(lab, "help").out
        assert "=>" not in manage(lab, "port").out

    def test_an_older_shell_has_no_port_command(self, lab: Lab) -> None:
        lab.fault("gpu2", "no-port-command")
        said = manage(lab, "port")
        assert said.code == 1
        assert "Unknown command" in said.out
        assert "Port forward" not in said.out


@openssh
class TestArchives:
    def archive(self, lab: Lab) -> Path:
        return lab.layout.home / "nas" / "Workspaces" / "lxc-snapshot" / "alice.tar.gz"

    def good(self, lab: Lab) -> bool:
        return (
            subprocess.run(
                ["gzip", "-t", self.archive(lab)], capture_output=True, check=False, timeout=LIMIT
            ).returncode
            == 0
        )

    def take(self, lab: Lab) -> Said:
        return manage(lab, f"snapshot {token_of(lab)}")

    def test_expired_token(self, lab: Lab) -> None:
        lab.fault("gpu2", "expired-token", 1)
        tokens = [manage(lab, "snapshot").out.split("snapshot ")[-1][:8] for _ in range(2)]
        assert "Invalid token" in manage(lab, f"snapshot {tokens[0]}").out
        assert "Saved to:" in manage(lab, f"snapshot {tokens[1]}").out

    def test_nas_full(self, lab: Lab) -> None:
        lab.fault("gpu2", "nas-full", 1)
        said = self.take(lab)
        assert (said.code, "Saved to:" in said.out) == (0, True)
        assert "No space left on device" in said.err
        assert not self.good(lab)
        assert self.take(lab).err == ""
        assert self.good(lab)

    def test_nas_readonly_shows_the_old_size(self, lab: Lab) -> None:
        self.take(lab)
        before = self.archive(lab).stat()
        lab.fault("gpu2", "nas-readonly", 1)
        said = self.take(lab)
        assert "Read-only file system" in said.err
        assert f"\t{ALICES}\n" in said.out
        assert self.archive(lab).stat().st_mtime_ns == before.st_mtime_ns

    def test_a_damaged_archive_looks_fine_and_costs_the_container(self, lab: Lab) -> None:
        lab.fault("gpu2", "damaged-archive", 1)
        assert self.take(lab).err == ""
        assert not self.good(lab)
        said = manage(lab, f"recover {token_of(lab)} {ALICES}")
        assert "unexpected end of file" in said.err
        assert "========== Done\n" in said.out
        assert manage(lab).code == 1
        manage(lab, f"recover {token_of(lab)} /NAS/Workspaces/lxc-snapshot/template.tar.gz")
        assert manage(lab).code == 0
        assert ssh(lab, "gpu2", "true").code == 0

    def test_user_not_made(self, lab: Lab) -> None:
        lab.fault("gpu2", "user-not-made", 1)
        said = manage(lab, f"recover {token_of(lab)} /NAS/Workspaces/lxc-snapshot/template.tar.gz")
        assert "useradd" in said.err
        assert "========== Done\n" in said.out
        assert manage(lab).code == 0
        assert "Permission denied" in ssh(lab, "gpu2", "true").err
        assert not (rootfs_of(lab) / "home" / "alice").exists()


@openssh
class TestRegister:
    def test_register_overwritten_is_cured_by_a_push(self, lab: Lab) -> None:
        fetch(lab.iam_url, "/manage/ssh-key/bob")
        lab.fault("gpu2", "register-overwritten")
        assert "Permission denied" in ssh(lab, "register@gpu2-manage", "bob").err
        assert ssh(lab, "register@gpu3-manage", "bob").out.endswith("Done!\n")
        lab.call(lambda world: world.push(world.hosts["gpu2"], "alice"))
        assert ssh(lab, "register@gpu2-manage", "bob").out.endswith("Done!\n")

    def test_half_made_accounts_are_deleted_when_it_is_cleared(self, lab: Lab) -> None:
        lab.fault("gpu2", "half-made")
        said = manage(lab, "help")
        assert (said.code, said.out) == (127, "")
        assert "command not found" in said.err
        assert ssh(lab, "register@gpu2-manage", "alice").out == "User alice already exist\n"
        lab.clear("gpu2", "half-made")
        assert "Permission denied" in manage(lab, "help").err
        assert ssh(lab, "register@gpu2-manage", "alice").out.endswith("Done!\n")
        assert "State:          STOPPED" in manage(lab, "help").out

    def test_half_made_strikes_a_register_that_says_done(self, lab: Lab) -> None:
        fetch(lab.iam_url, "/manage/ssh-key/bob")
        lab.fault("gpu2", "half-made")
        assert ssh(lab, "register@gpu2-manage", "bob").out.endswith("Done!\n")
        assert lab.call(lambda world: world.hosts["gpu2"].accounts["bob"].half_made)


class TestWords:
    """What needs no socket."""

    def test_a_token_is_for_everybody_in_a_window_of_five_minutes(self, tmp_path: Path) -> None:
        scene = scene_of(tmp_path, "alice")
        scene.world.clock = lambda: 3000.0
        first = scene.world.token()
        scene.world.clock = lambda: 3299.0
        assert scene.world.token() == first
        scene.world.clock = lambda: 3300.0
        assert scene.world.token() != first

    def test_maps_end_with_a_stop(self, tmp_path: Path) -> None:
        scene = scene_of(tmp_path, "alice")
        scene.set("running")
        scene.run("port 6006")
        scene.run("stop")
        scene.run(None)
        assert "6006" not in scene.run("port").out

    def test_an_unmapped_number_is_not_taken_for_its_beginning(self, tmp_path: Path) -> None:
        scene = scene_of(tmp_path, "alice")
        scene.set("running")
        scene.run("port 600")
        assert "=> container:6006..." in scene.run("port 6006").out

    def test_a_snapshot_on_one_host_replaces_that_of_another(self, tmp_path: Path) -> None:
        scene = scene_of(tmp_path, "alice")
        scene.set("stopped")
        for text in ("one", "two"):
            (scene.container.home / "file").write_text(text, encoding="utf-8")
            scene.run(f"snapshot {scene.world.token()}")
        scene.run(f"recover {scene.world.token()} {ALICES}")
        assert (scene.container.home / "file").read_text(encoding="utf-8") == "two"
        assert [path.name for path in scene.snapshots.iterdir()].count("alice.tar.gz") == 1
