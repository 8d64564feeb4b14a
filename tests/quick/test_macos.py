"""macOS, as far as Linux can tell: each test is a fault that was found by reading or in an emulation."""

import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from apexgpu import doctor, ownprocesses, shellcompletion
from apexgpu.errors import NoRouteError
from apexgpu.forwarding import portowners
from apexgpu.iam.passwords import StoredPassword
from apexgpu.manageshell.checks import HostFindings
from apexgpu.models import Host, Target
from apexgpu.platforms import version
from apexgpu.process import Completed, LocalRunner, TimedCommand
from apexgpu.session import Session
from apexgpu.ssh import controlmaster
from apexgpu.ssh.failures import unreachable_error
from apexgpu.sshfiles import agent, agentquery, keys
from apexgpu.sshfiles.agentquery import AgentReply, AgentState
from apexgpu.sshfs import mountprocesses, mounttable
from apexgpu.sshfs.mountcommands import MountRequest, mount_argv
from apexgpu.sshfs.mountprograms import MountProgram, ProgramKind
from apexgpu_lab import processes

HOST = Host("gpu7", "10.0.0.7", "alice", manage_port=22, port=22001)


@pytest.fixture(autouse=True)
def macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")


OPEN_SETTINGS = (
    'open "x-apple.systempreferences:com.apple.preference.security?Privacy_LocalNetwork"'
)


@pytest.mark.parametrize("role", ["container", "manage"])
def test_no_route_may_be_a_permission_of_the_terminal(role: Any) -> None:
    """Not the administrators: doctor asks the host as well, and can tell."""
    error = unreachable_error(Target(HOST, role), "no route to host", NoRouteError)
    assert "Privacy & Security > Local Network" in error.message
    assert error.hint == "apexgpu doctor gpu7"


def test_doctor_names_the_permission_if_there_is_no_way_to_any_host() -> None:
    other = Host("gpu8", "10.0.0.8", "alice", manage_port=22, port=22001)
    silent = [HostFindings(host, (), silent=True, no_route=True) for host in (HOST, other)]
    (finding,) = doctor.check_network(silent)
    assert (finding.code, finding.hint) == ("local_network", OPEN_SETTINGS)
    (finding,) = doctor.check_network(silent[:1])
    assert finding.code == "local_network"


def test_doctor_does_not_name_the_permission_if_hosts_are_silent_in_other_ways() -> None:
    hosts = [
        HostFindings(HOST, (), silent=True, no_route=True),
        HostFindings(HOST, (), silent=True),
    ]
    (finding,) = doctor.check_network(hosts)
    assert finding.code != "local_network"
    assert list(doctor.check_network([HostFindings(HOST, ())])) == []


def test_linux_has_no_such_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    error = unreachable_error(Target(HOST, "container"), "no route to host", NoRouteError)
    assert "Local Network" not in error.message
    assert error.hint is not None
    assert "administrators" in error.message


def test_the_labs_ps_does_not_call_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a container, `ps` in PATH is the lab's own, which lists processes with this function."""
    calls: list[str] = []

    def run(argv: Sequence[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        calls.append(argv[0])
        return subprocess.CompletedProcess(argv, 0, " 42 sh APEXGPU_LAB_CONTAINER=/x/\n", "")

    real = Path

    def without_proc(path: str) -> Path:
        return real("/no-such-proc" if path.startswith("/proc") else path)

    monkeypatch.setattr(processes, "Path", without_proc)
    monkeypatch.setattr(subprocess, "run", run)
    assert processes.find_marked("APEXGPU_LAB_CONTAINER=/x/") == [42]
    assert calls
    assert all(Path(call).is_absolute() for call in calls)


PS = " 9001   501 Sat Nov 28 12:00:00 2026     /opt/homebrew/bin/sshfs alice@gpu7:/home/alice {} -o x\n"


def test_a_mount_with_a_blank_in_its_name_is_found() -> None:
    directory = "/Users/alice/my dir/gpu7"
    (process,) = mountprocesses.parse_darwin(PS.format(directory), 501, [directory, "/Users"])
    assert (process.pid, process.directory) == (9001, directory)
    (process,) = mountprocesses.parse_darwin(PS.format("/Users/alice/gpu7"), 501, [])
    assert process.directory == "/Users/alice/gpu7"


def test_ps_is_asked_for_dates_that_do_not_depend_on_the_language(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In zh_CN.UTF-8 it writes 六 11/28 12:00:00 2026."""
    asked: list[TimedCommand] = []

    def run_all(commands: Sequence[TimedCommand]) -> list[Completed]:
        asked.extend(commands)
        return [Completed(command.argv, 0, b"", b"") for command in commands]

    monkeypatch.setattr(ownprocesses, "_PROC", Path("/no-such-proc"))
    monkeypatch.setattr(mountprocesses, "run_all", run_all)
    monkeypatch.setattr("apexgpu.process.run_all", run_all)
    mountprocesses.find_sshfs(["/Users/alice/gpu7"])
    ownprocesses.list_processes()
    assert [(command.argv[0], command.env) for command in asked] == [
        ("ps", {"LC_ALL": "C"}),
        ("ps", {"LC_ALL": "C"}),
    ]


def test_a_busy_mount_names_its_users_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def run_all(commands: Sequence[TimedCommand]) -> list[Completed]:
        asked.extend(command.argv for command in commands)
        return [Completed((), 0, b"p501\nczsh\n", b"")]

    monkeypatch.setattr(portowners, "Path", lambda _path: Path("/no-such-proc"))
    monkeypatch.setattr(portowners, "run_all", run_all)
    (user,) = portowners.users_of("/Users/alice/gpu7")
    assert str(user) == "zsh (process 501)"
    # With -b, lsof does not look at the directory, and finds nobody.
    assert "-b" not in asked[0]
    assert portowners.waiting_for_fuse() == []


def test_keys_of_the_keychain_are_loaded_into_an_empty_agent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Plain ssh asks nobody after a restart, with UseKeychain; nor do we."""
    ran: list[tuple[str, ...]] = []

    class Recorded(LocalRunner):
        def run(self, argv: Sequence[str], **_: Any) -> Completed:
            ran.append(tuple(argv))
            return Completed(tuple(argv), 0, b"", b"")

    replies = [AgentReply("a", AgentState.EMPTY), AgentReply("a", AgentState.EMPTY)]
    monkeypatch.setenv("SSH_AUTH_SOCK", "a")
    monkeypatch.setattr(agentquery, "ask_agent", lambda _path, limit: replies.pop())
    session = Session(runner=Recorded())
    session.agents.ask("a")
    session.agents.ask("a")
    assert ran == [("ssh-add", "--apple-load-keychain")]
    assert replies == []


def test_a_passphrase_that_is_typed_for_the_agent_is_kept_for_good(tmp_path: Path) -> None:
    attached: list[tuple[str, ...]] = []

    class Recorded(LocalRunner):
        def attach(self, argv: Sequence[str], **_: Any) -> int:
            attached.append(tuple(argv))
            return 0

    pair = keys.generate(tmp_path / "id", comment="a", passphrase="secret")
    assert pair.path is not None
    assert agent.add_to_agent(pair.path, Recorded())
    assert attached == [("ssh-add", "--apple-use-keychain", str(pair.path))]


def test_the_keychains_window_is_named_when_it_does_not_answer() -> None:
    def hang() -> object:
        threading.Event().wait(5)
        return None

    stored = StoredPassword("alice", "http://iam", timeout=0.05, backend=hang)
    result = stored.load()
    assert result.timed_out
    assert "Always Allow" in result.problem


def test_bash_reads_its_completion_in_a_login_shell(isolated: Path) -> None:
    """Terminal starts login shells, which do not read ~/.bashrc."""
    assert shellcompletion._startup_file("bash") == isolated / ".bash_profile"
    (isolated / ".profile").touch()
    assert shellcompletion._startup_file("bash") == isolated / ".profile"
    (isolated / ".bash_profile").touch()
    assert shellcompletion._startup_file("bash") == isolated / ".bash_profile"


def test_a_socket_with_the_longest_name_can_be_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """ssh appends 17 letters while it binds it, and macOS has 104 bytes."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", "/var/folders/1b/1p1nzf4j4fd7m8tt1gj2gc3m0000gn/T/")
    directory = controlmaster._runtime_path()
    assert directory is not None
    assert len(f"{directory}/{'a' * 24}-{'0' * 8}") + 17 <= 104


def test_the_mount_leaves_no_files_of_finder_in_the_container() -> None:
    request = MountRequest(Target(HOST, "container"), "", "/m", Path("config"))
    program = MountProgram(ProgramKind.SSHFS, "sshfs", (3, 7), "macFUSE")
    assert "noappledouble" in mount_argv(program, request)


@pytest.mark.parametrize("kind", ["fskit", "smbfs", "macfuse", "nfs"])
def test_every_kind_of_mount_that_macos_shows_may_be_ours(kind: str) -> None:
    (entry,) = mounttable.parse_darwin(f"gpu7 on /Users/alice/gpu7 ({kind}, nodev)\n")
    assert mounttable.may_be_ours(entry)


def test_a_files_server_is_no_container() -> None:
    (entry,) = mounttable.parse_darwin("alice@gpu7:/share on /Volumes/share (smbfs, nodev)\n")
    assert mounttable.find_container(entry, [HOST]) is None


def test_doctor_names_the_version_of_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert version.describe_system() == "macOS 15.1 arm64"
