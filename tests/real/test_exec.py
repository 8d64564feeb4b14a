"""Ctrl-C during exec: sshd does not end a command whose client has gone, so apexgpu does."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import openssh
from tests.waiting import LIMIT, until

from apexgpu import account

pytestmark = pytest.mark.openssh

STUBBORN = (
    "sleep 1000 & echo pid $!; exec sh -c 'trap : TERM; echo pid $$; while :; do sleep 1; done'"
)
"""Two processes, of which one ignores TERM."""


@contextlib.contextmanager
def servers(
    directory: Path, *, shell: str = "/bin/sh", count: int = 1
) -> Iterator[list[openssh.OpenSSH]]:
    """Some hosts that this laptop knows: gpu7, gpu8 …"""
    shell = shutil.which(shell) or shell
    started: list[openssh.OpenSSH] = []
    try:
        for number in range(count):
            name = f"gpu{7 + number}"
            home = directory / f"home-{name}"
            home.mkdir()
            started.append(openssh.start(directory / name, name=name, home=home, shell=shell))
        hosts = tuple(server.host for server in started)
        openssh.remember(hosts[0])
        saved = account.Account(user=hosts[0].user, hosts=hosts)
        account.save(Path(os.environ["APEXGPU_STATE_DIR"]), saved)
        config = directory / "config"
        keys = "".join(f"  IdentityFile {server.directory}/id_ed25519\n" for server in started)
        known = " ".join(f"{server.directory}/known_hosts" for server in started)
        config.write_text(f"Host *\n{keys}  IdentitiesOnly yes\n  UserKnownHostsFile {known}\n")
        os.environ["APEXGPU_SSH_CONFIG"] = str(config)
        yield started
    finally:
        for server in started:
            server.stop()


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what `servers` sets."""
    monkeypatch.setenv("APEXGPU_SSH_CONFIG", "")


@contextlib.contextmanager
def executing(*words: str) -> "Iterator[subprocess.Popen[str]]":
    argv = [sys.executable, "-m", "apexgpu", "exec", *words]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def pids_in(child: "subprocess.Popen[str]", count: int) -> dict[int, str]:
    """The processes of the next `count` lines that name one, with their lines."""
    assert child.stdout is not None
    found: dict[int, str] = {}
    while len(found) < count:
        line = child.stdout.readline()
        assert line, child.communicate()
        if "pid " in line:
            found[int(line.split()[-1])] = line
    return found


def is_running(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(") ")[2][0] != "Z"


@pytest.mark.parametrize("shell", ["/bin/sh", "bash", "zsh", "fish", "tcsh", "bsd-csh"])
def test_ctrl_c_ends_the_command_whatever_the_login_shell(tmp_path: Path, shell: str) -> None:
    script = STUBBORN
    if shell in {"fish", "tcsh", "bsd-csh"}:
        script = "sh -c 'sleep 1000 & echo pid $!; echo pid $$; wait'"
    with servers(tmp_path, shell=shell), executing("gpu7", "--", script) as child:
        pids = pids_in(child, 2)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=LIMIT)
        assert child.returncode == 130, err
        assert not any(is_running(pid) for pid in pids)
        assert "running" not in err.replace("ending", "")


@pytest.mark.parametrize("shell", ["/bin/sh", "zsh", "fish", "tcsh", "bsd-csh"])
def test_a_command_is_the_login_shells_own_and_nothing_is_added_to_its_output(
    tmp_path: Path, shell: str
) -> None:
    """One exec gives the mark, which only Ctrl-C needs, in the language of every shell."""
    with (
        servers(tmp_path, shell=shell),
        executing("gpu7", "--", "echo \"a  b\" '!'; exit 3") as child,
    ):
        out, err = child.communicate(timeout=LIMIT)
    assert (child.returncode, out, err) == (3, "a  b !\n", "")


def test_ctrl_c_ends_the_command_over_an_open_connection_and_over_openssh(tmp_path: Path) -> None:
    with servers(tmp_path) as (server,):
        openssh.remember(server.host, keep_connections=True)
        assert subprocess.run(
            [sys.executable, "-m", "apexgpu", "exec", "gpu7", "--", "true"], check=True
        )
        sockets = Path(os.environ["XDG_RUNTIME_DIR"]) / "apexgpu"
        until(lambda: any(path.is_socket() for path in sockets.iterdir()))
        for option in ("", "  HostKeyAlgorithms ssh-ed25519\n"):
            config = Path(os.environ["APEXGPU_SSH_CONFIG"])
            config.write_text(config.read_text() + option)
            with executing("gpu7", "--", STUBBORN) as child:
                pids = pids_in(child, 2)
                child.send_signal(signal.SIGINT)
                _, err = child.communicate(timeout=LIMIT)
                assert child.returncode == 130, err
                assert not any(is_running(pid) for pid in pids)


def test_ctrl_c_before_the_login_shell_has_started_the_command(tmp_path: Path) -> None:
    slow = tmp_path / "slow-shell"
    slow.write_text(f'#!/bin/sh\necho $$ > {tmp_path}/started\nsleep 1\nexec /bin/sh "$@"\n')
    slow.chmod(0o755)
    with (
        servers(tmp_path, shell=str(slow)),
        executing("gpu7", "--", f"echo ran > {tmp_path}/ran; sleep 1000") as child,
    ):
        until((tmp_path / "started").exists)
        until(lambda: (tmp_path / "started").read_text().endswith("\n"))
        child.send_signal(signal.SIGINT)
        assert child.wait(LIMIT) == 130
        pid = int((tmp_path / "started").read_text().split()[0])
        assert not is_running(pid)


def test_hosts_where_the_command_could_not_be_ended_are_named(tmp_path: Path) -> None:
    with servers(tmp_path, count=2) as (_, silent):
        with executing("gpu7", "gpu8", "--timeout", "2", "--", "echo pid $$; sleep 1000") as child:
            pids = pids_in(child, 2)
            frozen = silent.freeze()
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=LIMIT)
            silent.thaw(frozen)
        assert child.returncode == 130
        assert "warning: the command may still be running on gpu8\n" in err
        assert f"   hint: apexgpu exec gpu8 -- ps -fu {silent.host.user}\n" in err
        for pid, line in pids.items():
            assert is_running(pid) is line.startswith("gpu8")


def test_another_ctrl_c_stops_the_wait_and_names_them_too(tmp_path: Path) -> None:
    with servers(tmp_path) as (silent,):
        with executing("gpu7", "--timeout", "300", "--", "echo pid $$; sleep 1000") as child:
            pids_in(child, 1)
            frozen = silent.freeze()
            child.send_signal(signal.SIGINT)
            assert child.stderr is not None
            # While it waits, it reports every ten seconds that it does.
            assert "ending the command on gpu7 … 10 s" in child.stderr.readline()
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=LIMIT)
            silent.thaw(frozen)
        assert child.returncode == 130
        assert "the command may still be running on gpu7" in err


def test_a_reader_that_ends_ends_the_command(tmp_path: Path) -> None:
    script = "echo pid $$; trap '' PIPE; while :; do echo more; sleep 0.1; done"
    with servers(tmp_path), executing("gpu7", "--", script) as child:
        (pid,) = pids_in(child, 1)
        assert child.stdout is not None
        child.stdout.close()
        assert child.wait(LIMIT) == 0
        assert not is_running(pid)
