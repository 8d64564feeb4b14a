"""Every kind of misbehaviour, seen from outside."""

import socket
import subprocess
from pathlib import Path

import pytest
from tests.lab.calls import (
    LIMIT,
    Finished,
    fetch,
    rootfs_of,
    ssh,
    started,
    state_of,
    token_of,
    wait_until,
)
from tests.lab.situations import make_situation

from apexgpu.errors import UnknownHostError, UsageError
from apexgpu_lab.faults import HOST_KINDS, IAM_KINDS, KINDS, ActiveFaults
from apexgpu_lab.inprocess import Lab

openssh = pytest.mark.openssh
ALICES = "/NAS/Workspaces/lxc-snapshot/alice.tar.gz"


def run_manage_shell(lab: Lab, *words: str) -> Finished:
    """A call to gpu2's manage shell."""
    return ssh(lab, "gpu2-manage", *words)


def manage_address(lab: Lab, host: str = "gpu2") -> tuple[str, int]:
    """Where a manage shell listens."""
    found = next(one for one in lab.status()["hosts"] if one["host"] == host)
    return found["address"], found["port"]


class TestBoard:
    def test_times_are_used_up(self) -> None:
        changes: list[tuple[str, str]] = []
        faults = ActiveFaults(lambda where, kind: changes.append((where, kind)))
        faults.set("gpu2", "drop", 2)
        assert [faults.trigger("gpu2", "drop") for _ in range(3)] == [True, True, False]
        assert changes == [("gpu2", "drop")] * 2

    def test_without_times_it_stays_until_cleared(self) -> None:
        faults = ActiveFaults(lambda *_: None)
        faults.set("iam", "slow")
        assert all(faults.trigger("iam", "slow") for _ in range(3))
        assert faults.to_json() == [{"host": "iam", "kind": "slow", "times": None}]
        faults.clear("iam", "slow")
        faults.clear("iam", "slow")
        assert not faults.is_active("iam", "slow")

    @pytest.mark.parametrize(
        ("where", "kind"), [("gpu2", "html"), ("iam", "dead"), ("gpu2", "nonsense")]
    )
    def test_a_kind_belongs_to_a_place(self, where: str, kind: str) -> None:
        with pytest.raises(UsageError, match="is not a fault of"):
            ActiveFaults(lambda *_: None).set(where, kind)

    def test_no_times_at_all_is_refused(self) -> None:
        with pytest.raises(UsageError):
            ActiveFaults(lambda *_: None).set("gpu2", "drop", 0)

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
        assert run_manage_shell(lab, "help").code == 255
        assert run_manage_shell(lab, "help").code == 0

    def test_refuse_closes_the_manage_port_only(self, lab: Lab) -> None:
        started(lab)
        lab.fault("gpu2", "refuse")
        assert "Connection refused" in run_manage_shell(lab, "help").err
        assert ssh(lab, "gpu2", "true") == Finished(0, "", "")
        lab.clear("gpu2", "refuse")
        assert run_manage_shell(lab, "help").code == 0
        assert ssh(lab, "gpu2", "true").code == 0

    def test_dead_closes_everything_and_cuts(self, lab: Lab) -> None:
        started(lab)
        with socket.create_connection(manage_address(lab), timeout=LIMIT) as client:
            assert client.recv(4) == b"SSH-"
            lab.fault("gpu2", "dead")
            while client.recv(4096):
                pass
        assert "Connection refused" in run_manage_shell(lab, "help").err
        assert "Connection refused" in ssh(lab, "gpu2", "true").err
        assert ssh(lab, "gpu3-manage", "help").code == 0
        lab.clear("gpu2", "dead")
        assert run_manage_shell(lab, "help").code == 0
        assert ssh(lab, "gpu2", "true").code == 0

    def test_silent_accepts_and_says_nothing(self, lab: Lab) -> None:
        lab.fault("gpu2", "silent", 1)
        with (
            socket.create_connection(manage_address(lab), timeout=0.3) as client,
            pytest.raises(TimeoutError),
        ):
            client.recv(1)
        assert run_manage_shell(lab, "help").code == 0

    def test_slow_answers_late(self, lab: Lab) -> None:
        lab.call(lambda lab_state: setattr(lab_state, "slow_seconds", 0.4))
        lab.fault("gpu2", "slow", 1)
        with socket.create_connection(manage_address(lab), timeout=0.1) as client:
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.settimeout(LIMIT)
            assert client.recv(4) == b"SSH-"

    def test_denied_refuses_every_key(self, lab: Lab) -> None:
        started(lab)
        lab.fault("gpu2", "denied", 2)
        assert "Permission denied (publickey" in run_manage_shell(lab, "help").err
        assert "Permission denied (publickey" in ssh(lab, "gpu2", "true").err
        assert run_manage_shell(lab, "help").code == 0

    def test_host_key_changed(self, lab: Lab) -> None:
        lab.fault("gpu2", "host-key-changed")
        finished = ssh(lab, "-o", "LogLevel=INFO", "gpu2-manage", "help")
        assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in finished.err
        lab.clear("gpu2", "host-key-changed")
        assert run_manage_shell(lab, "help").code == 0

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
        assert run_manage_shell(lab, "stop").code == 0
        token = token_of(lab)
        lab.fault("gpu2", "reboot", 1)
        finished = run_manage_shell(lab, "snapshot", token)
        assert finished.code == 255
        assert "Saved to" not in finished.out
        wait_until(lambda: run_manage_shell(lab, "help").code == 0, lab)
        assert state_of(lab) == "STOPPED"
        archive = Path(lab.status()["nas"]) / "Workspaces" / "lxc-snapshot" / "alice.tar.gz"
        assert subprocess.run(
            ["gzip", "-t", archive], check=False, capture_output=True, timeout=LIMIT
        ).returncode

    def test_any_other_command_meets_it_too(self, lab: Lab) -> None:
        started(lab)
        lab.fault("gpu2", "reboot", 1)
        assert run_manage_shell(lab, "help").code == 255
        wait_until(lambda: run_manage_shell(lab, "help").code == 0, lab)
        assert state_of(lab) == "STOPPED"
        started(lab)
        assert ssh(lab, "gpu2", "true").code == 0


@openssh
class TestManageShell:
    def test_garble(self, lab: Lab) -> None:
        lab.fault("gpu2", "garble", 1)
        finished = run_manage_shell(lab, "help")
        assert finished.code == 0
        assert "==========" not in finished.out
        assert "\x1b]0;" in finished.out
        assert run_manage_shell(lab, "help").out.startswith("==========")

    def test_hang(self, lab: Lab) -> None:
        lab.fault("gpu2", "hang", 1)
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(
                ["ssh", "-F", lab.layout.ssh_config, "gpu2-manage", "help"],
                timeout=0.5,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        assert run_manage_shell(lab, "help").code == 0

    def test_iam_down_here_and_everywhere(self, lab: Lab) -> None:
        lab.fault("gpu2", "iam-down", 1)
        finished = run_manage_shell(lab, "help")
        assert finished.code == 1
        assert "Failed to get your allocated port." in finished.out
        assert run_manage_shell(lab, "help").code == 0
        lab.fault("iam", "down")
        assert run_manage_shell(lab, "help").code == ssh(lab, "gpu3-manage", "help").code == 1

    def test_start_fails(self, lab: Lab) -> None:
        lab.fault("gpu2", "start-fails", 1)
        assert "Fail. Please contact administrators" in run_manage_shell(lab).out
        assert state_of(lab) == "STOPPED"
        assert "The container is up" in run_manage_shell(lab).out

    def test_no_address_polls_until_there_is_one(self, lab: Lab) -> None:
        lab.fault("gpu2", "no-address")
        argv = ["ssh", "-F", str(lab.layout.ssh_config), "-T", "gpu2-manage"]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
            wait_until(lambda: state_of(lab) == "RUNNING", lab)
            assert "IP: " not in run_manage_shell(lab, "help").out.replace("(IP: ", "")
            lab.clear("gpu2", "no-address")
            out, _ = client.communicate(timeout=LIMIT)
        assert b"The container is up" in out
        assert "IP:             10.0.3." in run_manage_shell(lab, "help").out

    def test_no_forward_strikes_running_containers_at_once_and_is_cured(self, lab: Lab) -> None:
        run_manage_shell(lab)
        lab.fault("gpu2", "no-forward", 1)
        assert "Connection refused" in ssh(lab, "gpu2", "true").err
        assert "=>" not in run_manage_shell(lab, "port").out
        run_manage_shell(lab, "stop")
        run_manage_shell(lab)
        assert ssh(lab, "gpu2", "true").code == 0

    def test_no_forward_strikes_the_next_start(self, lab: Lab) -> None:
        lab.fault("gpu2", "no-forward", 1)
        assert "The container is up" in run_manage_shell(lab).out
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
        assert words in run_manage_shell(lab).out
        assert (
            ssh(
                lab, "gpu2", "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
            ).out
            == "390.48\n" * 4
        )

    def test_two_addresses(self, lab: Lab) -> None:
        run_manage_shell(lab)
        lab.fault("gpu2", "two-addresses")
        assert "IP:             172.17.0.1" in run_manage_shell(lab, "help").out
        assert "=>" not in run_manage_shell(lab, "port").out

    def test_an_older_shell_has_no_port_command(self, lab: Lab) -> None:
        lab.fault("gpu2", "no-port-command")
        finished = run_manage_shell(lab, "port")
        assert finished.code == 1
        assert "Unknown command" in finished.out
        assert "Port forward" not in finished.out


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

    def take(self, lab: Lab) -> Finished:
        return run_manage_shell(lab, f"snapshot {token_of(lab)}")

    def test_expired_token(self, lab: Lab) -> None:
        lab.fault("gpu2", "expired-token", 1)
        tokens = [
            run_manage_shell(lab, "snapshot").out.split("snapshot ")[-1][:8] for _ in range(2)
        ]
        assert "Invalid token" in run_manage_shell(lab, f"snapshot {tokens[0]}").out
        assert "Saved to:" in run_manage_shell(lab, f"snapshot {tokens[1]}").out

    def test_nas_full(self, lab: Lab) -> None:
        lab.fault("gpu2", "nas-full", 1)
        finished = self.take(lab)
        assert (finished.code, "Saved to:" in finished.out) == (0, True)
        assert "No space left on device" in finished.err
        assert not self.good(lab)
        assert self.take(lab).err == ""
        assert self.good(lab)

    def test_nas_readonly_shows_the_old_size(self, lab: Lab) -> None:
        self.take(lab)
        before = self.archive(lab).stat()
        lab.fault("gpu2", "nas-readonly", 1)
        finished = self.take(lab)
        assert "Read-only file system" in finished.err
        assert f"\t{ALICES}\n" in finished.out
        assert self.archive(lab).stat().st_mtime_ns == before.st_mtime_ns

    def test_a_damaged_archive_looks_fine_and_costs_the_container(self, lab: Lab) -> None:
        lab.fault("gpu2", "damaged-archive", 1)
        assert self.take(lab).err == ""
        assert not self.good(lab)
        finished = run_manage_shell(lab, f"recover {token_of(lab)} {ALICES}")
        assert "unexpected end of file" in finished.err
        assert "========== Done\n" in finished.out
        assert run_manage_shell(lab).code == 1
        run_manage_shell(
            lab, f"recover {token_of(lab)} /NAS/Workspaces/lxc-snapshot/template.tar.gz"
        )
        assert run_manage_shell(lab).code == 0
        assert ssh(lab, "gpu2", "true").code == 0

    def test_user_not_made(self, lab: Lab) -> None:
        lab.fault("gpu2", "user-not-made", 1)
        finished = run_manage_shell(
            lab, f"recover {token_of(lab)} /NAS/Workspaces/lxc-snapshot/template.tar.gz"
        )
        assert "useradd" in finished.err
        assert "========== Done\n" in finished.out
        assert run_manage_shell(lab).code == 0
        assert "Permission denied" in ssh(lab, "gpu2", "true").err
        assert not (rootfs_of(lab) / "home" / "alice").exists()


@openssh
class TestRegister:
    def test_register_overwritten_is_cured_by_a_push(self, lab: Lab) -> None:
        fetch(lab.iam_url, "/manage/ssh-key/bob")
        lab.fault("gpu2", "register-overwritten")
        assert "Permission denied" in ssh(lab, "register@gpu2-manage", "bob").err
        assert ssh(lab, "register@gpu3-manage", "bob").out.endswith("Done!\n")
        lab.call(lambda lab_state: lab_state.push(lab_state.hosts["gpu2"], "alice"))
        assert ssh(lab, "register@gpu2-manage", "bob").out.endswith("Done!\n")

    def test_half_made_accounts_are_deleted_when_it_is_cleared(self, lab: Lab) -> None:
        lab.fault("gpu2", "half-made")
        finished = run_manage_shell(lab, "stop")
        assert (finished.code, finished.out) == (127, "")
        assert "command not found" in finished.err
        # `help` is a command of bash, too.
        assert run_manage_shell(lab, "help").out.startswith("GNU bash, version 4.3.48")
        assert ssh(lab, "register@gpu2-manage", "alice").out == "User alice already exist\n"
        lab.clear("gpu2", "half-made")
        assert "Permission denied" in run_manage_shell(lab, "help").err
        assert ssh(lab, "register@gpu2-manage", "alice").out.endswith("Done!\n")
        assert "State:          STOPPED" in run_manage_shell(lab, "help").out

    def test_half_made_strikes_a_register_that_says_done(self, lab: Lab) -> None:
        fetch(lab.iam_url, "/manage/ssh-key/bob")
        lab.fault("gpu2", "half-made")
        assert ssh(lab, "register@gpu2-manage", "bob").out.endswith("Done!\n")
        assert lab.call(lambda lab_state: lab_state.hosts["gpu2"].accounts["bob"].half_made)


class TestWords:
    """What needs no socket."""

    def test_a_token_is_for_everybody_in_a_window_of_five_minutes(self, tmp_path: Path) -> None:
        situation = make_situation(tmp_path, "alice")
        situation.lab_state.clock = lambda: 3000.0
        first = situation.lab_state.token()
        situation.lab_state.clock = lambda: 3299.0
        assert situation.lab_state.token() == first
        situation.lab_state.clock = lambda: 3300.0
        assert situation.lab_state.token() != first

    def test_maps_end_with_a_stop(self, tmp_path: Path) -> None:
        situation = make_situation(tmp_path, "alice")
        situation.set("running")
        situation.run("port 6006")
        situation.run("stop")
        situation.run(None)
        assert "6006" not in situation.run("port").out

    def test_an_unmapped_number_is_not_taken_for_its_beginning(self, tmp_path: Path) -> None:
        situation = make_situation(tmp_path, "alice")
        situation.set("running")
        situation.run("port 600")
        assert "=> container:6006..." in situation.run("port 6006").out

    def test_a_snapshot_on_one_host_replaces_that_of_another(self, tmp_path: Path) -> None:
        situation = make_situation(tmp_path, "alice")
        situation.set("stopped")
        for text in ("one", "two"):
            (situation.container.home / "file").write_text(text, encoding="utf-8")
            situation.run(f"snapshot {situation.lab_state.token()}")
        situation.run(f"recover {situation.lab_state.token()} {ALICES}")
        assert (situation.container.home / "file").read_text(encoding="utf-8") == "two"
        assert [path.name for path in situation.snapshots.iterdir()].count("alice.tar.gz") == 1
