"""The lab as a service of its own: up, status, env, fault, down, and what is left of it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lab.calls import LIMIT, fetch
from tests.waiting import until

from apexgpu.errors import ApexError, RefusedError, UnknownHostError, UnreachableError, UsageError
from apexgpu_lab import client
from apexgpu_lab.processes import find_marked


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory for a lab, which is ended whatever happens."""
    found = tmp_path / "state" / "lab"
    yield found
    client.down(found)


def pid_of(home: Path) -> int:
    """The service's process."""
    return int(json.loads((home / "lab.json").read_text(encoding="utf-8"))["pid"])


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    ).stdout.strip()
    return bool(listed) and not listed.startswith("Z")


def ssh(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A call with the lab's own ssh config."""
    return subprocess.run(
        ["ssh", "-F", home / "ssh" / "config", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
        stdin=subprocess.DEVNULL,
    )


def test_up_tells_what_status_tells(home: Path) -> None:
    status = client.up(home, hosts=2, registered=False, pace=0)
    assert status == client.status(home)
    assert status["schema"] == 1
    assert status["running"] is True
    assert [one["host"] for one in status["hosts"]] == ["gpu2", "gpu3"]
    assert status["hosts"][0]["containers"] == []
    assert [user["name"] for user in status["users"]] == ["alice", "bob"]
    assert all(user["password"] for user in status["users"])
    assert Path(status["nas"], "Workspaces", "lxc-snapshot", "template.tar.gz").exists()
    assert Path(status["state"]).is_dir()
    assert fetch(status["iam_url"], "/users").status == 200


def test_the_environment_points_at_the_lab_and_nothing_else(home: Path) -> None:
    status = client.up(home, hosts=1, registered=False, pace=0)
    environment = client.environment(home)
    assert environment["APEXGPU_IAM_URL"] == status["iam_url"]
    assert environment["APEXGPU_USER"] == "alice"
    paths = [
        Path(environment[f"APEXGPU_{name}"]) for name in ("SSH_CONFIG", "CONFIG_DIR", "STATE_DIR")
    ]
    assert all(path.is_relative_to(home) and path.exists() for path in paths)
    for private in (
        home / "lab.json",
        *(home / "ssh" / name for name in ("config", "id_ed25519", "known_hosts")),
    ):
        assert private.stat().st_mode & 0o777 == 0o600


@pytest.mark.openssh
def test_registered_means_that_plain_ssh_works_at_once(home: Path) -> None:
    client.up(home, hosts=2, registered=True, pace=0)
    assert "State:          STOPPED" in ssh(home, "gpu3-manage", "help").stdout
    assert "The container is up" in ssh(home, "-T", "gpu3-manage").stdout
    assert ssh(home, "gpu3", "hostname").stdout == "gpu3-alice\n"
    containers = client.status(home)["hosts"][1]["containers"]
    assert [(one["user"], one["state"], one["maps"]) for one in containers] == [
        ("alice", "RUNNING", [{"host_port": 22001, "container_port": 22}])
    ]


def test_up_again_is_the_same_lab_and_another_size_is_refused(home: Path) -> None:
    client.up(home, hosts=1, registered=False, pace=0)
    pid = pid_of(home)
    client.up(home, hosts=1, registered=False, pace=0)
    assert pid_of(home) == pid
    with pytest.raises(RefusedError, match="with 1 host "):
        client.up(home, hosts=2, registered=False)
    with pytest.raises(RefusedError, match="not registered"):
        client.up(home, hosts=1, registered=True)


def test_two_labs_live_side_by_side(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    try:
        first = client.up(home, hosts=2, registered=False, pace=0)
        second = client.up(other, hosts=2, registered=False, pace=0)
        assert first["iam_url"] != second["iam_url"]
        assert not {one["address"] for one in first["hosts"]} & {
            one["address"] for one in second["hosts"]
        }
    finally:
        client.down(other)


@pytest.mark.openssh
def test_down_leaves_neither_process_nor_directory(home: Path) -> None:
    client.up(home, hosts=2, registered=True, pace=0)
    ssh(home, "-T", "gpu2-manage")
    ssh(home, "gpu2", "nohup setsid sleep 1000 >/dev/null 2>&1 </dev/null &")
    mark, pid = f"APEXGPU_LAB_CONTAINER={home}/", pid_of(home)
    assert find_marked(mark)
    assert client.down(home) is True
    assert not home.exists()
    assert not find_marked(mark)
    assert not lives(pid)
    assert client.down(home) is False


@pytest.mark.openssh
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_down_ends_a_service_that_does_not_answer(home: Path, number: signal.Signals) -> None:
    client.up(home, hosts=1, registered=True, pace=0)
    ssh(home, "-T", "gpu2-manage")
    ssh(home, "gpu2", "nohup sleep 1000 >/dev/null 2>&1 </dev/null &")
    pid = pid_of(home)
    os.kill(pid, number)
    assert client.down(home, timeout=0.3) is True
    assert not home.exists()
    assert not lives(pid)
    assert not find_marked(f"APEXGPU_LAB_CONTAINER={home}/")


def test_up_after_a_crash_starts_anew(home: Path) -> None:
    client.up(home, hosts=1, registered=False, pace=0)
    pid = pid_of(home)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not lives(pid))
    assert client.status(home)["running"] is False
    client.up(home, hosts=2, registered=False, pace=0)
    assert len(client.status(home)["hosts"]) == 2


def test_a_termination_is_as_good_as_down(home: Path) -> None:
    client.up(home, hosts=1, registered=False, pace=0)
    pid = pid_of(home)
    os.kill(pid, signal.SIGTERM)
    until(lambda: not lives(pid))
    assert not (home / "lab.json").exists()
    assert (home / "lab.log").read_text(encoding="utf-8") == ""


def test_without_a_lab(home: Path) -> None:
    assert client.status(home) == {
        "schema": 1,
        "running": False,
        "iam_url": None,
        "hosts": [],
        "users": [],
        "faults": [],
        "nas": None,
        "state": None,
    }
    with pytest.raises(RefusedError, match="no lab is running"):
        client.environment(home)
    with pytest.raises(RefusedError, match="no lab is running"):
        client.fault(home, "gpu2", "dead")
    assert client.down(home) is False


def test_down_deletes_no_directory_that_is_not_a_labs(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    assert client.down(precious) is False
    assert (precious / "file").exists()


def test_faults_and_users_by_remote_control(home: Path) -> None:
    client.up(home, hosts=1, registered=False, pace=0)
    assert client.fault(home, "gpu2", "dead", 3) == [{"host": "gpu2", "kind": "dead", "times": 3}]
    assert client.status(home)["faults"] == [{"host": "gpu2", "kind": "dead", "times": 3}]
    assert client.clear(home, "gpu2", "dead") == []
    with pytest.raises(UnknownHostError):
        client.fault(home, "gpu9", "dead")
    with pytest.raises(UsageError, match="is not a fault of"):
        client.fault(home, "gpu2", "nonsense")
    with pytest.raises(UsageError, match="number of times"):
        client.fault(home, "gpu2", "dead", "often")  # type: ignore[arg-type]  # what a script may send
    with pytest.raises(UsageError, match="a user has a name"):
        client.add_user(home, "")
    added = client.add_user(home, "erin", "Erin")
    assert {"name": "erin", "display_name": "Erin", "password": added["password"]} in client.status(
        home
    )["users"]


def test_the_control_asks_for_the_token(home: Path) -> None:
    client.up(home, hosts=1, registered=False, pace=0)
    described = json.loads((home / "lab.json").read_text(encoding="utf-8"))
    assert fetch(described["control"], "/status").status == 403
    assert fetch(described["control"], "/stop", {}).status == 403


@pytest.mark.parametrize("hosts", [0, 257])
def test_a_lab_has_some_hosts_and_not_too_many(home: Path, hosts: int) -> None:
    with pytest.raises(UsageError):
        client.up(home, hosts=hosts, registered=False)


def test_a_service_that_cannot_start_says_why(home: Path) -> None:
    home.mkdir(parents=True)
    (home / "nas").write_text("in the way", encoding="utf-8")
    with pytest.raises(ApexError, match=r"the lab did not start: .*nas"):
        client.up(home, hosts=1, registered=False)


def test_one_that_takes_too_long_is_ended(home: Path) -> None:
    with pytest.raises(UnreachableError, match="did not come up within"):
        client.up(home, hosts=1, registered=False, timeout=0.01)


def test_importing_the_client_is_cheap() -> None:
    program = (
        "import sys; import apexgpu_lab.client; "
        "print([name for name in ('asyncssh', 'h11', 'asyncio', 'urllib.request', 'subprocess', 'cryptography')"
        " if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT,
        ).stdout
        == "[]\n"
    )
