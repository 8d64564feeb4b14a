"""Runs over OpenSSH's real sshd: what becomes of them when ssh, sshd, apexgpu or the container end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import openssh
from tests.waiting import LIMIT, until

from apexgpu import cli, ownprocesses
from apexgpu.session import Session
from apexgpu.ssh import controlmaster

pytestmark = pytest.mark.openssh

# A container of processes alone: sshd is its first process, and everything ends with it.
CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")

# In the start-up file of the login shell it keeps a start busy until the file `go` exists.
WAITING = "touch started; while [ ! -e go ]; do sleep 0.05; done\n"


@dataclass
class Member:
    """The command line before a real server. `home` is the home directory there."""

    server: openssh.OpenSSH
    home: Path
    capsys: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    def __call__(self, *words: str) -> int:
        self.capsys.readouterr()
        code = cli.main(words, Session(environment=os.environ))
        self.out, self.err = self.capsys.readouterr()
        return code

    def state(self, name: str) -> str:
        """The state of a run."""
        assert self("runs", "--json") == 0, self.err
        rows: list[dict[str, Any]] = json.loads(self.out)["runs"]
        (state,) = [row["state"] for row in rows if row["name"] == name]
        return str(state)

    @contextlib.contextmanager
    def running(self, *words: str) -> Iterator["subprocess.Popen[str]"]:
        """A command in a process of its own."""
        with subprocess.Popen(
            [sys.executable, "-m", "apexgpu", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def kill_sessions(self) -> None:
        """End each connection's process of sshd without a word, and not the commands that it started."""
        for pid in openssh.family(self.server.process.pid)[1:]:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                    os.kill(pid, signal.SIGKILL)

    def kill_masters(self) -> None:
        """End the connections of this laptop that are kept open."""
        found = [one.process for one in controlmaster.list_open() if not one.starts_others]
        assert found
        assert ownprocesses.end(found, grace=5) == []


@contextlib.contextmanager
def before(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    within: tuple[str, ...] = (),
    keep_connections: bool = False,
) -> Iterator[Member]:
    """A member whose host is a real sshd; what runs there is ended with it."""
    home = directory / "container"
    home.mkdir()
    server = openssh.start(directory / "server", home=home, within=within)
    try:
        server.answer("help", "07-up-running")
        openssh.remember(server.host, keep_connections=keep_connections)
        monkeypatch.setenv("APEXGPU_SSH_CONFIG", str(server.config))
        member = Member(server, home, capsys)
        yield member
        for file in (home / ".cache/apexgpu/runs").glob("*/identity"):
            with contextlib.suppress(OSError, ValueError):
                os.killpg(int(file.read_text().split()[0]), signal.SIGKILL)
    finally:
        server.kill()
        server.stop()


@pytest.fixture
def member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Member]:
    with before(tmp_path, monkeypatch, capsys) as found:
        yield found


def test_a_run_outlives_sshd_and_is_followed_without_a_gap_when_it_is_back(member: Member) -> None:
    count = "i=0; while [ ! -e go ]; do i=$((i+1)); echo line $i; sleep 0.02; done; echo $i; exit 3"
    assert member("run", "gpu7", "--name", "one", "--", count) == 0, member.err
    with (
        member.running("runs", "logs", "one", "--follow") as follower,
        member.running("runs", "wait", "one") as waiter,
    ):
        assert follower.stdout is not None
        lines = [follower.stdout.readline() for _ in range(20)]
        until(lambda: follows(member.server, b"\0one\0-1\0follow\0"))  # `runs wait`
        for _ in range(2):
            until(lambda: follows(member.server))
            member.server.kill()
            member.server.again()
            lines += [follower.stdout.readline() for _ in range(50)]
        assert member.state("one") == "running"
        (member.home / "go").touch()
        rest = follower.stdout.read()
        assert follower.stderr is not None
        err = follower.stderr.read()
        assert follower.wait(LIMIT) == 0, err
        assert waiter.wait(LIMIT) == 3
    *lines, last = "".join([*lines, rest]).splitlines()
    assert lines == [f"line {number}" for number in range(1, int(last) + 1)]
    assert "connecting again" in err
    assert member.state("one") == "failed"


@pytest.mark.parametrize("kept", [False, True], ids=["connection", "master"])
def test_a_start_whose_connection_is_killed_is_found_or_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kept: bool,
) -> None:
    with before(tmp_path, monkeypatch, capsys, keep_connections=kept) as member:
        if kept:
            until(lambda: member("runs") == 0 and controlmaster.list_open())
            until(lambda: not any(one.starts_others for one in controlmaster.list_open()))
        (member.home / ".profile").write_text(WAITING)
        (member.home / ".bash_profile").write_text(WAITING)
        with member.running("run", "gpu7", "--name", "one", "--", "echo begun; exit 3") as start:
            until((member.home / "started").exists)
            if kept:
                member.kill_masters()
            else:
                member.kill_sessions()
            _, err = start.communicate(timeout=LIMIT)
        if start.returncode != 0:
            assert start.returncode == 5
            assert "one may have started on gpu7" in err
            assert " hint: apexgpu runs gpu7" in err
        assert member.state("one") == "running"
        (member.home / "go").touch()
        assert member("runs", "wait", "one") == 3, member.err
        assert member.state("one") == "failed"


def test_killed_during_a_start_or_a_stop_apexgpu_leaves_what_the_next_one_understands(
    member: Member,
) -> None:
    (member.home / ".profile").write_text(WAITING)
    (member.home / ".bash_profile").write_text(WAITING)
    stubborn = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    with member.running("run", "gpu7", "--name", "one", "--", stubborn) as start:
        until((member.home / "started").exists)
        start.kill()
    assert member.state("one") == "running"
    (member.home / "go").touch()
    until(lambda: member("runs", "logs", "one") == 0 and member.out == "ready\n")
    with member.running("runs", "stop", "one") as stop:
        until((member.home / ".cache/apexgpu/runs/one/stop").exists)
        stop.kill()
    assert member.state("one") in {"running", "killed"}
    assert member("runs", "stop", "one") == 0, member.err
    assert member.state("one") == "killed"
    assert member("runs", "clean", "--yes") == 0
    assert "1 run removed" in member.err


def test_a_container_that_was_stopped_and_started_has_lost_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with before(tmp_path, monkeypatch, capsys, within=CONTAINER) as member:
        assert member("run", "gpu7", "--name", "one", "--", "echo begun; sleep 1000") == 0, (
            member.err
        )
        assert member("run", "gpu7", "--name", "two", "--", "exit 3") == 0, member.err
        assert member("runs", "wait", "two") == 3
        assert member.state("one") == "running"
        with member.running("runs", "wait", "one") as waiter:
            until(lambda: follows(member.server))
            member.server.kill()
            member.server.again()
            assert waiter.wait(LIMIT) == 1
        assert member.state("one") == "lost"
        assert member.state("two") == "failed"
        assert member("runs", "logs", "one") == 0
        assert member.out == "begun\n"
        assert member("runs", "stop", "one") == 0
        assert "had ended before" in member.err
        assert member("runs", "clean", "--yes") == 0
        assert member("run", "gpu7", "--name", "one", "--", "true") == 0, member.err


def follows(server: openssh.OpenSSH, arguments: bytes = b"") -> bool:
    """Whether somebody follows a log there, with these arguments of the program."""
    for pid in openssh.family(server.process.pid):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"Sends the log of a run" in line and arguments in line:
                return True
    return False


def start_seconds(member: Member, name: str, *words: str) -> float:
    """How long a start takes."""
    began = time.monotonic()
    member("run", "gpu7", "--name", name, "--", *words)
    return time.monotonic() - began


def test_a_command_that_does_not_exist_is_reported_within_two_seconds(member: Member) -> None:
    """Over what a start takes that succeeds; a line that only the shell can read is no exception."""
    started = start_seconds(member, "good", "true")
    for number, words in enumerate((["no-such-program", "-x"], ["A=b; no-such-program"])):
        took = start_seconds(member, f"bad-{number}", *words)
        assert "no-such-program" in member.err
        assert "runs on" not in member.err
        assert took < started + 2
    assert member("runs", "--json") == 0
    assert [row["name"] for row in json.loads(member.out)["runs"]] == ["good"]
