"""The life of ControlMasters: one for a target, none without a socket, none after an uninstall or a change."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests import agents, openssh
from tests.waiting import until

from apexgpu import cli, ownprocesses
from apexgpu.manageshell.replies import is_manage_shell
from apexgpu.models import Reply, Target
from apexgpu.process import LocalRunner
from apexgpu.session import Session
from apexgpu.ssh import controlmaster, masterstarter, opensshclient
from apexgpu.ssh.controlmaster import ControlMasters, master_argv
from apexgpu.ssh.identities import Identities
from apexgpu.ssh.masterstarter import cancel, reserve
from apexgpu.ssh.paramikoclient import ParamikoClient
from apexgpu.ssh.route import Route
from apexgpu.ssh.transport import Connections, Limits

pytestmark = pytest.mark.openssh

RUNNER = LocalRunner()
LIMITS = Limits(connect=20, total=60)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[openssh.OpenSSH]:
    found = openssh.start(tmp_path / "server")
    yield found
    found.stop()


@pytest.fixture
def masters(server: openssh.OpenSSH) -> ControlMasters:
    return ControlMasters(server.config, RUNNER)


def logins(server: openssh.OpenSSH) -> int:
    """How many connections the server has."""
    return len(
        Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    )


def ours() -> list[controlmaster.ConnectionProcess]:
    """The processes of this test, which has a directory of its own."""
    runtime = os.environ["XDG_RUNTIME_DIR"]
    return [
        one
        for one in controlmaster.list_open()
        if any(f"{runtime}/" in word for word in one.process.argv)
    ]


def settled() -> bool:
    """Nobody is starting a master any more."""
    return not any(one.starts_others for one in ours())


def connections() -> list[controlmaster.ConnectionProcess]:
    """Those that are logged in, or about to be."""
    return [one for one in ours() if not one.starts_others]


# Forks, because each start of Python takes longer than all that a command does.
_MANY = """
import os, sys
from apexgpu import cli
from apexgpu.session import Session
import apexgpu.commands.hosts, apexgpu.ssh.paramikoclient, apexgpu.ssh.controlmaster
from apexgpu.ssh.identities import load_paramiko
load_paramiko()
total, at_once = 100, 20
running, statuses = 0, []
for _ in range(total):
    if running == at_once:
        statuses.append(os.waitstatus_to_exitcode(os.wait()[1])); running -= 1
    if os.fork() == 0:
        os._exit(cli.main(["exec", "gpu7", "--", "true"], Session()))
    running += 1
while running:
    statuses.append(os.waitstatus_to_exitcode(os.wait()[1])); running -= 1
print(statuses)
"""


def test_100_commands_twenty_at_a_time_leave_one_connection_and_uninstall_none(
    server: openssh.OpenSSH, capsys: pytest.CaptureFixture[str]
) -> None:
    openssh.remember(server.host, keep_connections=True)
    environment = {
        **os.environ,
        "APEXGPU_SSH_CONFIG": str(server.config),
        "APEXGPU_TIMEOUT": "100",  # twenty logins at once take long on a busy machine
    }
    done = subprocess.run(
        [sys.executable, "-c", _MANY], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [0] * 100, done.stderr
    until(settled)
    assert len(ours()) == 1
    until(lambda: logins(server) == 1)
    assert cli.main(["uninstall", "--yes", "--json"], Session(environment=environment)) == 0
    assert "connections" in json.loads(capsys.readouterr().out)["removed"]
    assert ours() == []
    until(lambda: logins(server) == 0)
    assert list(Path(os.environ["XDG_RUNTIME_DIR"]).iterdir()) == []


def test_a_master_whose_socket_another_one_has_taken_is_ended(
    server: openssh.OpenSSH, masters: ControlMasters, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(server.host, "container")
    socket = masters.path(target)
    argv = master_argv(target, config=server.config, path=socket)
    assert RUNNER.run(argv).code == 0
    monkeypatch.setattr(masterstarter, "START_LIMIT", 2.0)
    masterstarter._start(argv, socket)
    (left,) = ours()
    until(lambda: logins(server) == 1)
    assert masters.run(target, "echo on", limits=LIMITS) is not None
    ownprocesses.end([left.process], grace=5)


def test_a_master_starts_without_an_agent_that_does_not_answer(server: openssh.OpenSSH) -> None:
    openssh.remember(server.host, keep_connections=True)
    with agents.short_directory() as directory, agents.hanging(directory / "agent") as socket:
        environment = {
            **os.environ,
            "APEXGPU_SSH_CONFIG": str(server.config),
            "SSH_AUTH_SOCK": socket,
        }
        # In a process of its own, because the question to the agent is left behind in a thread.
        words = [sys.executable, "-m", "apexgpu", "exec", "gpu7", "--", "true"]
        subprocess.run(words, env=environment, check=True)
        until(settled)
        (master,) = ours()
    assert "IdentityAgent=none" in master.process.argv


def test_a_start_is_announced_so_that_there_is_one(
    masters: ControlMasters, server: openssh.OpenSSH
) -> None:
    socket = masters.path(Target(server.host, "container"))
    assert [reserve(socket), reserve(socket)] == [True, False]
    # The process that announced it was killed.
    os.utime(socket.with_name(f"{socket.name}.starting"), (0, 0))
    assert [reserve(socket), reserve(socket)] == [True, False]
    cancel(socket)
    socket.touch()
    assert reserve(socket) is False
    assert [path.name for path in socket.parent.iterdir()] == [socket.name]


def test_a_host_that_refuses_a_master_is_not_asked_again_at_once(
    masters: ControlMasters, server: openssh.OpenSSH
) -> None:
    (server.directory / "authorized_keys").write_text("")
    target = Target(server.host, "container")
    masters.open_in_background(target)
    failed = masters.path(target).with_name(f"{masters.path(target).name}.failed")
    until(failed.exists)
    assert reserve(masters.path(target)) is False
    os.utime(failed, (0, 0))
    assert reserve(masters.path(target)) is True


def test_a_master_that_is_cancelled_while_it_starts_is_not_used(
    masters: ControlMasters, server: openssh.OpenSSH
) -> None:
    target = Target(server.host, "container")
    frozen = server.freeze()
    masters.open_in_background(target)
    until(connections)
    masters.close(target)
    server.thaw(frozen)
    until(settled)
    assert ours() == []
    assert masters.run(target, "true", limits=LIMITS) is None


def test_closing_lets_a_running_command_finish_and_takes_no_new_one(
    masters: ControlMasters, server: openssh.OpenSSH, tmp_path: Path
) -> None:
    target = Target(server.host, "container")
    masters.open_in_background(target)
    until(masters.path(target).exists)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    socket = masters.path(target)
    command = [
        "ssh",
        "-F",
        "/dev/null",
        "-o",
        f"ControlPath={socket}",
        "x",
        f"echo begun; cat {fifo}",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "begun\n"
        masters.close(target)
        assert masters.run(target, "true", limits=LIMITS) is None
        fifo.write_text("the end")
        assert running.stdout.read() == "the end"
    assert running.returncode == 0
    until(lambda: connections() == [])


def test_a_master_for_an_earlier_ssh_config_is_closed_too(
    masters: ControlMasters, server: openssh.OpenSSH
) -> None:
    target = Target(server.host, "container")
    masters.open_in_background(target)
    until(masters.path(target).exists)
    server.config.write_text(server.config.read_text() + "# changed\n")
    later = ControlMasters(server.config, RUNNER)
    assert later.path(target) != masters.path(target)
    later.close(Target(replace(server.host, name="gpu"), "container"))
    assert masters.path(target).exists()
    later.close(target)
    until(lambda: connections() == [])


@pytest.fixture
def transport(server: openssh.OpenSSH, masters: ControlMasters) -> Connections:
    """As a session makes it."""
    identities = Identities(preferred=None, fingerprint="", passphrase=lambda _: None)
    client = ParamikoClient(identities)
    return Connections(
        server.config, RUNNER, lambda _: client, masters, Limits(connect=20), is_manage_shell
    )


def test_no_connection_is_kept_to_an_account_without_the_manage_shell(
    server: openssh.OpenSSH, masters: ControlMasters, transport: Connections
) -> None:
    target = Target(server.host, "manage")
    assert "Hi, " not in transport.run(target, "help").out  # the help of sh
    assert not masters.path(target).parent.exists() or not list(
        masters.path(target).parent.iterdir()
    )
    server.answer("help", "07-up-running")
    assert "Hi, " in transport.run(target, "help").out
    until(masters.path(target).exists)


def plain_ssh(server: openssh.OpenSSH) -> str:
    """What the manage host replies to ssh itself, over a new connection."""
    words = opensshclient.argv(
        Target(server.host, "manage"), "help", config=server.config, connect=20
    )
    return RUNNER.run(words, timeout=60).text


def test_a_connection_that_keeps_the_shell_of_before_is_dropped_and_the_request_repeated(
    server: openssh.OpenSSH, masters: ControlMasters, transport: Connections
) -> None:
    target = Target(server.host, "manage")
    server.answer("help", "07-up-running")
    # A registration is under way: the account has an ordinary shell, and somebody opens a connection.
    manage_shell = server.force_command
    server.change_shell('/bin/sh -c "$SSH_ORIGINAL_COMMAND"')
    until(lambda: "Hi, " not in plain_ssh(server))
    masters.open_in_background(target)
    until(masters.path(target).exists)
    until(settled)
    (before,) = ours()
    # It ends: new connections have the manage shell, and the open one has the shell of before.
    server.change_shell(manage_shell)
    until(lambda: "Hi, " in plain_ssh(server))
    kept = masters.run(target, "help", limits=LIMITS)
    assert kept is not None
    assert "Hi, " not in kept.out
    assert "State:" in transport.run(target, "help").out
    until(lambda: not ownprocesses.is_alive(before.process))
    until(masters.path(target).exists)
    again = masters.run(target, "help", limits=LIMITS)
    assert again is not None
    assert "State:" in again.out


def test_an_unrecognised_reply_over_a_new_connection_drops_the_open_one(
    server: openssh.OpenSSH, masters: ControlMasters, transport: Connections
) -> None:
    target = Target(server.host, "manage")
    masters.open_in_background(target)
    until(masters.path(target).exists)
    until(settled)
    transport.run(target, "echo stop", once=True)
    until(lambda: connections() == [])


def test_dropping_a_host_closes_both_of_its_connections(
    server: openssh.OpenSSH, masters: ControlMasters, transport: Connections
) -> None:
    other = replace(server.host, name="gpu70")
    targets = [
        Target(server.host, "manage"),
        Target(server.host, "container"),
        Target(other, "manage"),
    ]
    for target in targets:
        masters.open_in_background(target)
    for target in targets:
        until(masters.path(target).exists)
    until(settled)
    with pytest.raises(KeyError), transport.dropped_after(server.host):
        raise KeyError
    until(lambda: len(connections()) == 1)
    assert masters.path(targets[-1]).exists()


def test_the_time_for_a_silent_open_connection_is_a_part_of_the_users_limit(
    server: openssh.OpenSSH, masters: ControlMasters
) -> None:
    heard: list[Limits] = []

    class Hearing:
        def run(self, route: Route, command: str, *, limits: Limits, on_line: object) -> Reply:
            heard.append(limits)
            return Reply(0, "")

    transport = Connections(
        server.config, RUNNER, lambda _: Hearing(), masters, Limits(connect=5), lambda _: False
    )
    target = Target(server.host, "manage")
    masters.open_in_background(target)
    until(masters.path(target).exists)
    frozen = server.freeze()
    try:
        transport.run(target, "help")
    finally:
        server.thaw(frozen)
    (limits,) = heard
    assert 1 <= limits.connect <= 2  # the open connection has had three of the five seconds


def test_the_ssh_of_a_copy_or_a_tunnel_is_left_behind_only_without_its_owner(
    server: openssh.OpenSSH,
) -> None:
    runtime = controlmaster.runtime_directory()
    assert runtime is not None
    ended = subprocess.Popen(["true"])
    ended.wait()
    for owner in (os.getpid(), ended.pid):
        directory = runtime / f"c-{owner}-x"
        directory.mkdir()
        argv = master_argv(
            Target(server.host, "container"), config=server.config, path=directory / "s"
        )
        assert RUNNER.run(argv).code == 0
    (left,) = ours()
    assert f"ControlPath={runtime}/c-{ended.pid}-x/s" in left.process.argv
    controlmaster.close_all()
    assert ours() == []
    assert [path.name for path in runtime.iterdir()] == [f"c-{os.getpid()}-x"]


def test_an_uninstall_looks_where_another_run_may_have_had_its_sockets(
    server: openssh.OpenSSH, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = controlmaster.runtime_directory()
    assert first is not None
    masters = ControlMasters(server.config, RUNNER)
    masters.open_in_background(Target(server.host, "container"))
    until(masters.path(Target(server.host, "container")).exists)
    until(settled)
    monkeypatch.setattr(controlmaster, "_ELSEWHERE", (str(first),))
    with tempfile.TemporaryDirectory(prefix="r-") as second:
        monkeypatch.setenv("XDG_RUNTIME_DIR", second)
        assert controlmaster.runtime_directory() == Path(second) / "apexgpu"
        assert len(controlmaster.list_open()) == 1
        controlmaster.close_all()
        assert controlmaster.list_open() == []
    assert not first.exists()


def test_processes_of_others_are_not_ours() -> None:
    text = textwrap.dedent("""\
          501  1000 Fri Nov 27 10:00:00 2026     ssh -N -o ControlPath=/run/a/gpu7-01234567 gpu7
          502  1001 Fri Nov 27 10:00:00 2026     ssh -N -o ControlPath=/run/a/gpu7-01234567 gpu7
          503  1000 Fri Nov 27 10:00:00 2026     ssh: /run/a/gpu7-01234567 [mux]
          504  1000 Fri Nov 27 10:00:00 2026     vim ControlPath=/run/a/gpu7-01234567
          505  1000 Fri Nov 27 10:00:00 2026     ssh -N -o ControlPath=/run/other/gpu7 gpu7
          506  1000 Fri Nov 27 10:00:00 2026     ssh: /home/me/.ssh/cm [mux]
    """)
    processes = ownprocesses.parse_ps(text, 1000)
    assert [one.pid for one in processes] == [501, 503, 504, 505, 506]
    found = [one.pid for one in processes if controlmaster._socket_in(one.argv, Path("/run/a"))]
    assert found == [501, 503]
    assert controlmaster._socket_in((), Path("/run/a")) == ""


def test_a_process_is_ended_by_its_start_time_not_by_its_number_alone() -> None:
    with subprocess.Popen(["sleep", "1000"]) as sleeping:
        (found,) = [one for one in ownprocesses.list_processes() if one.pid == sleeping.pid]
        assert ownprocesses.end([replace(found, started="1")], grace=0) == []
        assert sleeping.poll() is None
        assert ownprocesses.end([found], grace=5) == []
        assert sleeping.wait(5) == -signal.SIGTERM
    ignoring = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", ignoring], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        (found,) = [one for one in ownprocesses.list_processes() if one.pid == stubborn.pid]
        assert ownprocesses.end([found], grace=0.1) == []
        assert stubborn.wait(5) == -signal.SIGKILL
