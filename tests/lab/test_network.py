"""Many hosts, one address, blanks in paths: the lab's sockets and directories wherever it has to live."""

import contextlib
import socket
from pathlib import Path

import pytest
from tests.lab.calls import fetch, ssh, started

from apexgpu_lab import listeners
from apexgpu_lab.inprocess import running


def test_eighteen_hosts_come_up(tmp_path: Path) -> None:
    with running(tmp_path / "lab", hosts=18, registered=True) as lab:
        assert len(lab.status()["hosts"]) == 18


def test_as_many_hosts_as_a_lab_may_have(tmp_path: Path) -> None:
    with running(tmp_path / "lab", hosts=256) as lab:
        hosts = lab.status()["hosts"]
        assert len({host["address"] for host in hosts}) == 256
        assert hosts[-1]["host"] == "gpu257"
        assert fetch(lab.iam_url, "/user/alice/.ssh/config").body.count("-manage\n") == 256


@pytest.mark.openssh
def test_all_hosts_on_one_address_where_there_is_only_one(tmp_path: Path) -> None:
    with running(tmp_path / "lab", hosts=2, registered=True, shared=True) as lab:
        assert {host["address"] for host in lab.status()["hosts"]} == {"127.0.0.1"}
        ports = [host["containers"][0]["port"] for host in lab.status()["hosts"]]
        assert len(set(ports)) == 2
        assert all(port % 100 == 1 for port in ports)
        for host in ("gpu2", "gpu3"):
            started(lab, host)
            assert ssh(lab, host, "hostname").out == f"{host}-alice\n"
            assert f"-p{ports[host == 'gpu3']}" in ssh(lab, f"{host}-manage", "help").out


@pytest.mark.openssh
def test_two_labs_on_one_address_have_containers_of_their_own(tmp_path: Path) -> None:
    """Also while those of the other lab are down, so that nothing listens on their ports."""
    with (
        running(tmp_path / "one", hosts=3, registered=True, shared=True) as one,
        running(tmp_path / "two", hosts=3, registered=True, shared=True) as two,
    ):
        ports = []
        for lab in (one, two):
            for host in lab.status()["hosts"]:
                ports += [host["port"], host["containers"][0]["port"]]
        assert len(set(ports)) == len(ports)
        for lab in (one, two):
            started(lab, "gpu2")
        (tmp_path / "mark").touch()
        ssh(one, "gpu2", "touch /home/alice/only-in-one")
        assert ssh(one, "gpu2", "ls /home/alice").out.split() == ["only-in-one"]
        assert ssh(two, "gpu2", "ls /home/alice").out == ""


def test_ports_of_another_program_belong_to_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.shuffle", lambda _offsets: None)

    def manage_port() -> int:
        ((address, sock),) = listeners.bind_host_addresses(1, shared=True)[1]
        sock.close()
        return address.manage_port

    free = manage_port()
    with socket.create_server(("127.0.0.1", free + 3)):
        assert manage_port() != free
    assert manage_port() == free


@pytest.mark.openssh
def test_a_home_with_blanks_does_not_trouble_commands(tmp_path: Path) -> None:
    with running(tmp_path / "Application Support" / "the lab", hosts=1, registered=True) as lab:
        started(lab)
        finished = ssh(
            lab, "gpu2", "echo text > /home/alice/file && cat /home/alice/file && pwd && ls /NAS"
        )
        assert (finished.code, finished.out, finished.err) == (
            0,
            "text\n/home/alice\nShare\nWorkspaces\n",
            "",
        )
        assert (
            lab.layout.home / "hosts" / "gpu2" / "alice" / "rootfs" / "home" / "alice" / "file"
        ).exists()
        assert (
            ssh(lab, "-b", "-", "gpu2", program="sftp", stdin="pwd\nls -1\n").out.count(
                "/home/alice"
            )
            == 1
        )


def test_nothing_listens_when_it_is_over(tmp_path: Path) -> None:
    with running(tmp_path / "lab", hosts=1, registered=True) as lab:
        started(lab)
        url = lab.iam_url
    with pytest.raises(ConnectionRefusedError):
        fetch(url, "/users")
    assert not (tmp_path / "lab" / "lab.json").exists()


@pytest.mark.openssh
def test_a_stop_ends_the_connections_that_lead_into_the_container(tmp_path: Path) -> None:
    with running(tmp_path / "lab", hosts=1, registered=True) as lab:
        started(lab)
        host = lab.status()["hosts"][0]
        with socket.create_connection(
            (host["address"], host["containers"][0]["port"]), timeout=20
        ) as idle:
            assert idle.recv(64).startswith(
                b"SSH-2.0-"
            )  # no program runs at its other end that could be killed
            assert ssh(lab, "gpu2-manage", "stop").code == 0
            with contextlib.suppress(ConnectionResetError):
                while idle.recv(4096):
                    pass
