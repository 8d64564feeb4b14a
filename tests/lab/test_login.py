"""OpenSSH's own client at the lab's manage hosts: who gets in, what is printed, what a lost connection leaves."""

import subprocess
import threading

import pytest
from tests.lab.calls import (
    LIMIT,
    TEMPLATE,
    fetch,
    post_keys,
    rootfs_of,
    ssh,
    ssh_argv,
    started,
    state_of,
    token_of,
    wait_until,
)

from apexgpu_lab.inprocess import Lab

pytestmark = pytest.mark.openssh


def own_keys(lab: Lab) -> str:
    """The public key that the lab's ssh config offers."""
    return lab.layout.identity.with_suffix(".pub").read_text(encoding="ascii")


def pushed(lab: Lab, user: str, keys: str) -> None:
    """Keys stored and pushed to every host."""
    assert post_keys(lab, user, keys).status == 302
    wait_until(lambda: fetch(lab.iam_url, "/log/push-keys").body.endswith("]done\n"), lab)


def reach_by_address(lab: Lab) -> None:
    """Give a lab without registered users the host names that IAM would."""
    config = fetch(lab.iam_url, "/user/alice/.ssh/config").body
    lab.layout.ssh_config.write_text(
        config + lab.layout.ssh_config.read_text(encoding="utf-8"), encoding="utf-8"
    )


def test_a_registered_user_gets_the_manage_shell(lab: Lab) -> None:
    finished = ssh(lab, "gpu2-manage", "help")
    assert finished.code == 0
    assert "State:          STOPPED" in finished.out
    assert finished.out.endswith("========== Have a good day :-)\n")
    assert finished.err == ""


def test_a_shell_request_starts_the_container_and_its_port_answers(lab: Lab) -> None:
    assert "Connection refused" in ssh(lab, "gpu2", "true").err
    assert "The container is up" in ssh(lab, "gpu2-manage").out
    assert ssh(lab, "gpu2", "hostname").out == "gpu2-alice\n"
    assert "Unmapping port" in ssh(lab, "gpu2-manage", "stop").out
    assert "Connection refused" in ssh(lab, "gpu2", "true").err


def test_nobody_registered_means_permission_denied(new_lab: Lab) -> None:
    pushed(new_lab, "alice", own_keys(new_lab))
    reach_by_address(new_lab)
    finished = ssh(new_lab, "gpu2-manage", "help")
    assert finished.code == 255
    assert "alice@" in finished.err
    assert "Permission denied (publickey" in finished.err


def test_the_first_day(new_lab: Lab) -> None:
    pushed(new_lab, "alice", own_keys(new_lab))
    reach_by_address(new_lab)
    finished = ssh(new_lab, "register@gpu2-manage", "alice")
    assert finished.out.endswith("Done!\n")
    assert ssh(new_lab, "register@gpu2-manage", "alice").out == "User alice already exist\n"
    assert "State:          STOPPED" in ssh(new_lab, "gpu2-manage", "help").out
    ssh(new_lab, "gpu2-manage")
    assert ssh(new_lab, "gpu2", "whoami").out == "alice\n"
    assert ssh(new_lab, "gpu3-manage", "help").code == 255


def test_a_push_of_another_user_locks_register_and_ones_own_push_cures_it(lab: Lab) -> None:
    pushed(
        lab,
        "bob",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFI3ejlo01kPk+MsgdwAb2xJDPBYsBpWoEBu0NMWG8Xh bob\n",
    )
    assert "Permission denied (publickey" in ssh(lab, "register@gpu2-manage", "bob").err
    assert ssh(lab, "gpu2-manage", "help").code == 0
    pushed(lab, "alice", own_keys(lab))
    assert ssh(lab, "register@gpu2-manage", "bob").out.endswith("Done!\n")


def test_a_push_overwrites_the_containers_keys(lab: Lab) -> None:
    keys = rootfs_of(lab) / "home" / "alice" / ".ssh" / "authorized_keys"
    keys.write_text(
        keys.read_text(encoding="utf-8") + "ssh-ed25519 AAAA added by hand\n", encoding="utf-8"
    )
    pushed(lab, "alice", own_keys(lab))
    assert keys.read_text(encoding="utf-8") == own_keys(lab)


def test_file_transfer_to_a_manage_host_trips_over_its_words(lab: Lab) -> None:
    assert "Received message too long" in ssh(lab, "gpu2-manage", program="sftp").err


def test_two_hosts_differ_in_what_they_hold(lab: Lab) -> None:
    ssh(lab, "gpu2-manage")
    assert (state_of(lab, "gpu2"), state_of(lab, "gpu3")) == ("RUNNING", "STOPPED")


def test_snapshot_and_recover_over_the_wire(lab: Lab) -> None:
    precious = rootfs_of(lab) / "home" / "alice" / "precious.txt"
    precious.write_text("precious", encoding="utf-8")
    assert "Saved to:" in ssh(lab, "gpu2-manage", f"snapshot {token_of(lab)}").out
    archive = lab.layout.home / "nas" / "Workspaces" / "lxc-snapshot" / "alice.tar.gz"
    listed = subprocess.run(
        ["tar", "tzf", archive], capture_output=True, text=True, check=True, timeout=LIMIT
    ).stdout
    assert "rootfs/home/alice/precious.txt\n" in listed
    precious.write_text("spoiled", encoding="utf-8")
    finished = ssh(
        lab, "gpu2-manage", f"recover {token_of(lab)} /NAS/Workspaces/lxc-snapshot/alice.tar.gz"
    )
    assert (finished.code, finished.err) == (0, "")
    assert precious.read_text(encoding="utf-8") == "precious"
    ssh(lab, "gpu2-manage", f"recover {token_of(lab)} {TEMPLATE}")
    assert not precious.exists()
    ssh(lab, "gpu2-manage")
    assert ssh(lab, "gpu2", "hostname").out == "gpu2-alice\n"


def test_a_terminal_gets_carriage_returns_and_the_last_login(lab: Lab) -> None:
    first = ssh(lab, "-tt", "gpu2-manage")
    assert first.out.startswith("========== Hi, ")
    assert first.out.count("\r\n") == first.out.count("\n")
    assert ssh(lab, "-tt", "gpu2-manage").out.startswith("Last login: ")


class TestDropped:
    """Each command cut in the middle leaves what the real one leaves."""

    @pytest.fixture(autouse=True)
    def _drop(self, lab: Lab) -> None:
        lab.fault("gpu2", "drop", 1)

    def test_start_leaves_a_running_container_without_its_port(self, lab: Lab) -> None:
        finished = ssh(lab, "gpu2-manage")
        assert finished.code == 255
        assert finished.out.endswith("Starting your container...\n")
        wait_until(lambda: state_of(lab) == "RUNNING", lab)
        assert "container:22" not in ssh(lab, "gpu2-manage", "port").out
        assert "Connection refused" in ssh(lab, "gpu2", "true").err
        ssh(lab, "gpu2-manage", "stop")
        ssh(lab, "gpu2-manage")
        assert ssh(lab, "gpu2", "true").code == 0

    def test_snapshot_goes_on_to_its_end(self, lab: Lab) -> None:
        finished = ssh(lab, "gpu2-manage", f"snapshot {token_of(lab)}")
        assert finished.code == 255
        assert finished.out.endswith("Taking a snapshot...\n")
        archive = lab.layout.home / "nas" / "Workspaces" / "lxc-snapshot" / "alice.tar.gz"
        wait_until(lambda: archive.exists() and _is_archive(archive), lab)

    def test_recover_leaves_a_container_that_starts_only_after_another(self, lab: Lab) -> None:
        finished = ssh(lab, "gpu2-manage", f"recover {token_of(lab)} {TEMPLATE}")
        assert finished.code == 255
        assert "Fixing" not in finished.out
        wait_until(lambda: rootfs_of(lab).is_dir(), lab)
        assert "Fail. Please contact administrators" in ssh(lab, "gpu2-manage").out
        assert "Done" in ssh(lab, "gpu2-manage", f"recover {token_of(lab)} {TEMPLATE}").out
        assert "The container is up" in ssh(lab, "gpu2-manage").out

    def test_register_leaves_a_half_made_account_for_ever(self, lab: Lab) -> None:
        fetch(lab.iam_url, "/manage/ssh-key/bob")
        assert ssh(lab, "register@gpu2-manage", "bob").code == 255
        assert ssh(lab, "register@gpu2-manage", "bob").out == "User bob already exist\n"
        assert lab.call(lambda lab_state: lab_state.hosts["gpu2"].accounts["bob"].half_made)

    def test_stop_stops_nothing(self, lab: Lab) -> None:
        started(lab)
        assert ssh(lab, "gpu2-manage", "stop").code == 255
        assert state_of(lab) == "RUNNING"

    def test_help_is_cut_too(self, lab: Lab) -> None:
        assert ssh(lab, "gpu2-manage", "help").code == 255
        assert ssh(lab, "gpu2-manage", "help").code == 0


def test_a_killed_client_with_a_terminal_breaks_its_snapshot(lab: Lab) -> None:
    lab.call(lambda lab_state: setattr(lab_state, "pace", 2))
    (rootfs_of(lab) / "home" / "alice" / "noise").write_bytes(bytes(range(256)) * 2000)
    argv = ssh_argv(lab, "-tt", "gpu2-manage", f"snapshot {token_of(lab)}")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
        assert client.stdout
        for line in client.stdout:
            if b"Taking a snapshot" in line:
                break
        archive = lab.layout.home / "nas" / "Workspaces" / "lxc-snapshot" / "alice.tar.gz"
        wait_until(lambda: archive.exists() and archive.stat().st_size > 0, lab)
        client.kill()
    wait_until(lambda: not _manage_tasks(lab), lab)
    assert not _is_archive(archive)


def test_clients_that_are_none_do_no_harm(lab: Lab) -> None:
    import socket

    address = lab.status()["hosts"][0]["address"]
    for words in (
        b"",
        b"GET / HTTP/1.0\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"SSH-2.0-x\r\n\x00\x00\xff\xff\xff\xff",
    ):
        with socket.create_connection((address, 2222), timeout=LIMIT) as client:
            client.sendall(words)
    assert ssh(lab, "gpu2-manage", "help").code == 0


def test_many_at_once(lab: Lab) -> None:
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ssh(lab, "gpu2-manage", "help").code))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert answers == [0] * 6


def _is_archive(path: object) -> bool:
    return (
        subprocess.run(
            ["gzip", "-t", str(path)], capture_output=True, check=False, timeout=LIMIT
        ).returncode
        == 0
    )


def _manage_tasks(lab: Lab) -> int:
    return lab.call(lambda lab_state: len(getattr(lab_state.network, "tasks", ())))
