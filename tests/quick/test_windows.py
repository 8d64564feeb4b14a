"""Windows, as far as Linux can tell: each test is a fault that was found by reading, with Windows' own words."""

import asyncio
import contextlib
import errno
import io
import json
import os
import queue
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest

from apexgpu import files, settings, shellcompletion, tunnels
from apexgpu.errors import (
    ApexError,
    ConfigError,
    ConfigPermissionsError,
    KeyUnreadableError,
    UnreachableError,
    UsageError,
)
from apexgpu.forwarding import portowners, ports, records
from apexgpu.models import Host, Target
from apexgpu.platforms import hints, programs, searchpath, version
from apexgpu.platforms.system import System
from apexgpu.process import Completed, LocalRunner, TimedCommand, run_all
from apexgpu.render.screen import Screen
from apexgpu.render.shellcompletion import show_installation
from apexgpu.reporter import TerminalReporter
from apexgpu.session import Session
from apexgpu.ssh import failures, opensshclient, paramikoclient, route
from apexgpu.ssh.checks import check_version
from apexgpu.ssh.failures import SshFailure
from apexgpu.sshfiles import configfile, keyfiles, keys, permissions
from apexgpu.sshfiles.agentquery import AgentReply, AgentState, agent_socket
from apexgpu.sshfiles.checks import check_agent
from apexgpu.sshfiles.configfile import ConfigPlan
from apexgpu.sshfs import mounting, mountprocesses, mounttable
from apexgpu.sshfs.mountcommands import MountRequest, mount_argv
from apexgpu.sshfs.mountprograms import MountProgram, ProgramKind
from apexgpu.transfer.localfiles import LocalFiles

GPU7 = Target(Host("gpu7", "10.0.0.7", "alice", manage_port=22, port=22001), "container")


@pytest.fixture(autouse=True)
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("USERNAME", "alice")
    monkeypatch.setenv("USERDOMAIN", "LAB")


@pytest.fixture
def starting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux has no creation flags, and no drive C."""
    monkeypatch.setattr("apexgpu.process.background_flags", lambda _system: 0)
    monkeypatch.setattr("apexgpu.process.own_group_flags", lambda _system: 0)
    monkeypatch.setattr("apexgpu.process.neutral_directory", lambda _system: "/")


class Answers(LocalRunner):
    """Programs that print what they are told to; `asked` has the command lines."""

    def __init__(self, err: str = "", code: int = 0, *, when: str = "") -> None:
        self.asked: list[tuple[str, ...]] = []
        self._completed = Completed((), code, b"", err.encode())
        self._when = when

    def run(self, argv: Sequence[str], **_: Any) -> Completed:
        self.asked.append(tuple(argv))
        if self._when and self._when in argv:
            return Completed(tuple(argv), 0, b"", b"")
        return self._completed


def test_directories_get_no_rights_that_ssh_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, int]] = []
    ran: list[tuple[str, ...]] = []
    real = os.mkdir

    def mkdir(path: str, mode: int = 0o777) -> None:
        made.append((Path(path).name, mode))
        real(path, mode)

    def run_all(commands: Sequence[TimedCommand]) -> list[Completed]:
        ran.extend(tuple(command.argv) for command in commands)
        return []

    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr("apexgpu.process.run_all", run_all)
    files.private_directory(tmp_path / ".ssh" / "keys")
    assert made == [(".ssh", 0o777), ("keys", 0o777)]
    assert [argv[:2] for argv in ran] == [
        ("icacls", str(tmp_path / ".ssh")),
        ("icacls", str(tmp_path / ".ssh" / "keys")),
    ]


def test_programs_in_the_background_open_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []

    class Popen:
        returncode = 0

        def __init__(self, _argv: Sequence[str], **options: Any) -> None:
            started.append(options)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    LocalRunner().spawn(["python", "-m", "x"])
    (options,) = started
    assert options["creationflags"] == 0x08000200
    assert options["cwd"] == "C:\\"


class ConsoleStream(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1


def test_a_console_without_escape_codes_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WT_SESSION", "TERM_PROGRAM"):  # those of better terminals
        monkeypatch.delenv(name, raising=False)
    asked: list[int] = []

    def refuse(descriptor: int) -> bool:
        asked.append(descriptor)
        return False

    monkeypatch.setattr("apexgpu.platforms.console._enable_on_windows", refuse)
    out, err = ConsoleStream(), ConsoleStream()
    screen = Screen(out=out, err=err)
    screen.reporter.success("gpu7 is up")
    screen.verdict("ok", "IAM", "it answers")
    assert asked == [1, 1]
    assert not isinstance(screen.reporter, TerminalReporter)
    assert "\x1b" not in out.getvalue() + err.getvalue()
    assert err.getvalue() == "ok gpu7 is up\n"


BAD_CONFIG = "Bad owner or permissions on C:\\\\Users\\\\alice/.ssh/config\r\n"
ICACLS = 'icacls C:\\Users\\alice/.ssh/config /inheritance:r /grant:r "alice:F"'


def test_a_config_that_ssh_refuses_names_the_rights_as_the_cure() -> None:
    with pytest.raises(ConfigPermissionsError) as caught:
        route.resolve(GPU7, config=Path("/home/alice/.ssh/config"), runner=Answers(BAD_CONFIG, 255))
    assert "C:\\Users\\alice/.ssh/config" in caught.value.message
    assert caught.value.hint == ICACLS


def test_ssh_is_asked_without_f_before_a_config_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """With -F, ssh does not look at the rights of the config: everything seems fine."""
    runner = Answers(BAD_CONFIG, 255, when="-F")
    monkeypatch.setattr(permissions, "is_default_config", lambda _config: True)
    with pytest.raises(ConfigPermissionsError) as caught:
        permissions.check_config(Path("C:/Users/alice/.ssh/config"), "gpu7-manage", runner)
    assert runner.asked == [("ssh", "-G", "--", "gpu7-manage")]
    assert caught.value.hint == ICACLS


OPEN_KEY = (
    "@         WARNING: UNPROTECTED PRIVATE KEY FILE!          @\r\n"
    "Permissions for 'C:\\\\Users\\\\alice\\\\.ssh\\\\id_ed25519' are too open.\r\n"
    "This private key will be ignored.\r\n"
    'Load key "C:\\\\Users\\\\alice\\\\.ssh\\\\id_ed25519": bad permissions\r\n'
    "alice@10.0.0.7: Permission denied (publickey).\r\n"
)
KEY_CURE = 'icacls C:\\Users\\alice\\.ssh\\id_ed25519 /inheritance:r /grant:r "alice:F"'


def test_a_key_that_ssh_ignores_is_not_a_key_that_was_refused() -> None:
    failure = failures.classify(OPEN_KEY)
    assert failure is SshFailure.KEY_TOO_OPEN
    error = failures.failure_error(GPU7, failure, OPEN_KEY)
    assert isinstance(error, KeyUnreadableError)
    assert error.hint == KEY_CURE


def test_login_says_why_ssh_would_not_use_the_key(tmp_path: Path) -> None:
    """Only ssh-keygen knows there who may read a file."""
    pair = keys.generate(tmp_path / "id_ed25519", comment="alice", passphrase=None)
    assert pair.path is not None
    refused = f'Load key "{pair.path}": bad permissions\r\n'
    reason = keyfiles.why_not_usable(pair.path, Answers(refused, 255))
    assert reason is not None
    assert "others may read it" in reason.message
    assert reason.hint is not None
    assert reason.hint.startswith("icacls ")


def test_a_file_to_include_is_checked_as_ssh_includes_it(tmp_path: Path) -> None:
    """Windows' ssh refuses every command of the user's once it includes a file with wrong rights."""
    asked: list[str] = []

    class Including(LocalRunner):
        def run(self, argv: Sequence[str], **_: Any) -> Completed:
            asked.append(Path(argv[3]).read_text())
            return Completed(tuple(argv), 255, b"", b"Bad owner or permissions on C:/x.conf\r\n")

    include = tmp_path / "ssh_hosts.conf"
    plan = ConfigPlan(include, (), None, b"", b"x", is_include=True)
    with pytest.raises(ConfigPermissionsError):
        configfile._check_permissions(plan, "gpu7", Including())
    assert asked == [f"Include {include.as_posix()}\n"]


def listed(rows: object) -> str:
    return json.dumps(rows, ensure_ascii=False)


SSHFS_ROW = {
    "ProcessId": 77,
    "CommandLine": '"C:\\Program Files\\SSHFS-Win\\bin\\sshfs.exe" alice@gpu7:/home/alice '
    '"C:\\Users\\王 芳\\apexgpu\\gpu7" -o reconnect',
}


def test_powershell_is_told_to_write_utf8() -> None:
    """Without that, it writes the code page of the console: a mount below C:\\Users\\王芳 would not be found."""
    script = mountprocesses.WINDOWS_COMMAND[-1]
    assert script.startswith("[Console]::OutputEncoding=[Text.Encoding]::UTF8;")


def test_a_mount_is_found_whatever_the_case_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    table = mounttable.parse_windows(listed(SSHFS_ROW), "")
    assert mounttable.entry_at(table, "c:/users/王 芳/APEXGPU/gpu7") is table[0]
    monkeypatch.setattr(mountprocesses, "windows_processes", lambda: listed(SSHFS_ROW))
    found = mountprocesses.find_sshfs(["c:\\users\\王 芳\\apexgpu\\gpu7"])
    assert [process.pid for process in found.values()] == [77]


def test_a_powershell_that_is_late_is_not_an_empty_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_all(commands: Sequence[TimedCommand]) -> list[Completed]:
        return [Completed(command.argv, -9, b"", b"", timed_out=True) for command in commands]

    monkeypatch.setattr(mountprocesses, "run_all", run_all)
    with pytest.raises(UnreachableError, match="PowerShell did not list"):
        mountprocesses.find_sshfs([])


@pytest.fixture
def sshfs_win(tmp_path: Path) -> Callable[[str], MountProgram]:
    """A sshfs.exe that runs a script."""

    def make(script: str) -> MountProgram:
        path = tmp_path / "sshfs.exe"
        path.write_text(f"#!{sys.executable} -IS\n{script}")
        path.chmod(0o755)
        return MountProgram(ProgramKind.SSHFS_WIN, str(path))

    return make


def test_a_mount_has_failed_when_sshfs_ends_and_its_reason_is_shown(
    tmp_path: Path, sshfs_win: Callable[[str], MountProgram], starting: None
) -> None:
    program = sshfs_win("import sys; sys.exit('alice@10.0.0.7: Permission denied (publickey).')")
    request = MountRequest(GPU7, "/home/alice", str(tmp_path / "gpu7"), Path("config"))
    with pytest.raises(ApexError, match="Permission denied"):
        mounting._run_program(program, request, 30, tmp_path / "locks" / "m.lock")


def test_a_mount_is_there_when_its_files_can_be_listed(
    tmp_path: Path, sshfs_win: Callable[[str], MountProgram], starting: None
) -> None:
    program = sshfs_win("import os, sys, time; os.mkdir(sys.argv[2]); time.sleep(0.5)")
    request = MountRequest(GPU7, "/home/alice", str(tmp_path / "gpu7"), Path("config"))
    mounting._run_program(program, request, 30, tmp_path / "locks" / "m.lock")
    assert (tmp_path / "gpu7").is_dir()


def test_sshfs_win_gets_a_key_file_as_its_own_ssh_has_no_agent() -> None:
    request = MountRequest(
        GPU7, "", "X:", Path("C:/c"), identity_file="C:\\Users\\alice\\.ssh\\id_ed25519"
    )
    argv = mount_argv(MountProgram(ProgramKind.SSHFS_WIN, "sshfs.exe"), request)
    assert "IdentityFile=/cygdrive/c/Users/alice/.ssh/id_ed25519" in argv


def test_who_uses_a_drive_is_not_asked_of_a_program_that_windows_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(portowners, "Path", lambda _path: Path("/no-such-proc"))
    assert portowners.users_of("X:") == []
    assert portowners.waiting_for_fuse() == []


def longest_waits(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The limits of all waits for an event or a queue. Without one, Ctrl-C is not heard on Windows."""
    waits: list[float | None] = []
    real_wait, real_get = threading.Event.wait, queue.Queue.get

    def note(timeout: float | None) -> None:
        # Those of threading itself, when it starts a thread, are over at once.
        if sys._getframe(2).f_globals["__name__"].startswith("apexgpu."):
            waits.append(timeout)

    def wait(self: threading.Event, timeout: float | None = None) -> bool:
        note(timeout)
        return real_wait(self, timeout)

    def get(self: "queue.Queue[Any]", block: bool = True, timeout: float | None = None) -> Any:
        note(timeout)
        return real_get(self, block, timeout)

    monkeypatch.setattr(threading.Event, "wait", wait)
    monkeypatch.setattr(queue.Queue, "get", get)
    return waits


def test_ctrl_c_is_heard_while_a_program_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = longest_waits(monkeypatch)
    argv = [sys.executable, "-IS", "-c", "print('done')"]
    done = LocalRunner().stream(argv, on_line=None, total=None, silence=None)
    assert done.text == "done\n"
    assert waits
    assert all(wait is not None and wait <= 1 for wait in waits)


def test_ctrl_c_is_heard_while_a_host_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = longest_waits(monkeypatch)
    arrived = paramikoclient._DataArrived()
    threading.Timer(1.2, arrived.set).start()
    assert arrived.wait_within(None)
    assert len(waits) >= 2
    assert all(wait is not None and wait <= 1 for wait in waits)
    arrived.reset()
    assert not arrived.wait_within(0.01)


def test_ctrl_c_is_heard_while_several_programs_run(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    real = subprocess.Popen.wait

    def wait(self: Any, timeout: float | None = None) -> int:
        assert timeout is not None
        waited.append(timeout)
        return real(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    monkeypatch.setattr("apexgpu.process.own_group_flags", lambda _system: 0)
    run_all([TimedCommand((sys.executable, "-c", "pass"), 30)])
    assert waited
    assert max(waited) <= 1


def test_the_real_path_of_a_file_has_slashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows' own has backslashes, at which a copy would not divide it."""
    monkeypatch.setattr(os.path, "realpath", lambda _path: b"\\\\?\\C:\\Users\\alice\\data")
    assert asyncio.run(LocalFiles().real_path(b"data")) == b"C:/Users/alice/data"


def test_every_safe_write_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VS Code reads ~/.ssh/config again and again, and Windows does not replace a file that is open."""
    tried: list[str] = []
    real = os.replace

    def replace(source: str, target: str) -> None:
        tried.append(Path(target).name)
        if tried.count(Path(target).name) < 3:
            raise PermissionError(13, "Access is denied")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(files, "_restrict", lambda _path: None)
    files.replace_atomically(tmp_path / "config", b"x")
    assert (tmp_path / "config").read_bytes() == b"x"
    assert tried == ["config"] * 3


def test_a_read_only_config_says_how_to_change_that(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_bytes(b"")
    config.chmod(0o444)
    with pytest.raises(ConfigError) as caught:
        configfile._check_writable(config)
    assert caught.value.hint == f"attrib -r {config}"


def test_the_read_only_mark_of_a_directory_means_nothing(tmp_path: Path) -> None:
    """OneDrive and desktop.ini set it."""
    directory = tmp_path / ".ssh"
    directory.mkdir()
    directory.chmod(0o555)
    try:
        with (
            pytest.raises(ConfigError) if os.getuid() != 0 else contextlib.nullcontext()
        ):  # an access check of Linux refuses it to others than root
            configfile._check_writable(directory / "config")
    finally:
        directory.chmod(0o755)


def test_the_script_for_powershell_has_the_one_ending_that_it_reads(tmp_path: Path) -> None:
    session = Session(flags={"config_dir": str(tmp_path), "state_dir": str(tmp_path)})
    (tmp_path / "completion.powershell").write_text("of an older version")
    installation = shellcompletion.install(session, "pwsh")
    assert installation.path == tmp_path / "completion.ps1"
    out = io.StringIO()
    show_installation(installation, Screen(out=out, err=io.StringIO()))
    assert "Set-ExecutionPolicy" in out.getvalue()
    assert "New-Item -Force $PROFILE" in out.getvalue()
    assert f". '{tmp_path / 'completion.ps1'}'" in out.getvalue()
    found = shellcompletion.installed_files(tmp_path)
    assert {path.name for path in found} == {"completion.ps1", "completion.powershell"}


def test_cmd_has_no_completion_and_powershell_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        shellcompletion.show("cmd")
    assert caught.value.hint == "apexgpu --install-completion powershell"


GIT = r"C:\Program Files\Git\usr\bin"
OPENSSH = r"C:\Windows\System32\OpenSSH"


@pytest.mark.parametrize(
    ("path", "there", "expected"),
    [
        (f"{GIT};{OPENSSH}", {f"{GIT}\\ssh.exe", f"{OPENSSH}\\ssh.exe"}, f"{OPENSSH}\\ssh.exe"),
        (GIT, {f"{GIT}\\ssh.exe", f"{OPENSSH}\\ssh.exe"}, f"{OPENSSH}\\ssh.exe"),
        (GIT, {f"{GIT}\\ssh.exe"}, f"{GIT}\\ssh.exe"),
        (
            r"C:\Program Files\OpenSSH",
            {r"C:\Program Files\OpenSSH\ssh.exe", f"{OPENSSH}\\ssh.exe"},
            r"C:\Program Files\OpenSSH\ssh.exe",
        ),
        (".;bin;", {r".\ssh.exe", r"bin\ssh.exe", "ssh.exe"}, None),
    ],
    ids=["Git first", "Git alone in PATH", "Git alone", "a newer one", "only here"],
)
def test_ssh_is_windows_own_and_never_from_the_current_directory(
    path: str, there: set[str], expected: str | None
) -> None:
    environment = {"PATH": path, "SystemRoot": r"C:\Windows"}
    assert programs.windows_path("ssh", environment, there.__contains__) == expected


def test_windows_itself_looks_in_path_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    searchpath.never_from_current_directory()
    assert environment == {"NoDefaultCurrentDirectoryInExePath": "1"}


def test_doctor_says_that_an_ssh_is_gits() -> None:
    finding = check_version("OpenSSH_9.9p1, OpenSSL 3.2.3", f"{GIT}\\ssh.exe")
    assert (finding.verdict, finding.hint) == ("note", hints.install("ssh"))
    assert (
        check_version("OpenSSH_for_Windows_9.5p1, LibreSSL", f"{OPENSSH}\\ssh.exe").verdict == "ok"
    )


def test_the_paths_of_gits_ssh_are_windows_paths() -> None:
    assert route._split_paths(
        "/c/Users/alice/.ssh/known_hosts /c/Users/alice/.ssh/known_hosts2"
    ) == [
        Path("C:/Users/alice/.ssh/known_hosts"),
        Path("C:/Users/alice/.ssh/known_hosts2"),
    ]


def test_the_systems_known_hosts_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGRAMDATA", r"C:\ProgramData")
    value = r"__PROGRAMDATA__\ssh/ssh_known_hosts __PROGRAMDATA__\ssh/ssh_known_hosts2"
    assert [PureWindowsPath(path) for path in route._split_paths(value)] == [
        PureWindowsPath(r"C:\ProgramData\ssh\ssh_known_hosts"),
        PureWindowsPath(r"C:\ProgramData\ssh\ssh_known_hosts2"),
    ]


def test_a_command_line_that_is_too_long_is_not_a_program_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Popen:
        def __init__(self, *_: Any, **__: Any) -> None:
            error = FileNotFoundError(2, "The filename or extension is too long")
            error.winerror = 206  # type: ignore[attr-defined,unused-ignore]
            raise error

    monkeypatch.setattr(subprocess, "Popen", Popen)
    with pytest.raises(ApexError, match="too long for Windows") as caught:
        LocalRunner().stream(["ssh", "x" * 40_000], on_line=None, total=None, silence=None)
    assert caught.value.code == "command_too_long"


def test_no_command_is_longer_than_windows_allows() -> None:
    """A program for a container goes through stdin, and finds an empty stdin itself."""
    long = "cat; echo " + shlex.quote('"\\' * 9_000 + "王") + " | wc -c"
    command, stdin = opensshclient.through_stdin(long)
    argv = opensshclient.argv(GPU7, command, config=Path("C:/config"), connect=10)
    assert len(subprocess.list2cmdline(argv)) < 30_000
    done = subprocess.run(["sh", "-c", command], input=stdin, capture_output=True, check=True)
    assert done.stdout.strip() == b"18004"
    assert opensshclient.through_stdin("true") == ("true", b"")


def test_a_port_that_windows_reserves_is_no_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reserved(socket.socket):
        def bind(self, _address: object) -> None:
            raise PermissionError(errno.EACCES, "forbidden by its access permissions")

    monkeypatch.setattr("apexgpu.forwarding.ports.socket.socket", Reserved)
    assert ports.is_reserved(6006)
    assert "excludedportrange" in tunnels._owner(Session(), 6006, [])


def test_a_config_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b'\xef\xbb\xbfuser = "alice"\n')
    assert settings._read_file(tmp_path / "config.toml") == {"user": "alice"}


def test_a_windows_path_in_double_quotes_gets_advice(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b'ssh_config = "C:\\Users\\alice\\config"\n')
    with pytest.raises(ConfigError, match="single quotes"):
        settings._read_file(tmp_path / "config.toml")


def test_a_public_key_in_utf16_is_read(tmp_path: Path) -> None:
    """PowerShell 5.1 writes UTF-16 for `ssh-keygen -y -f id > id.pub`."""
    pair = keys.generate(tmp_path / "id_ed25519", comment="alice@王芳的电脑", passphrase=None)
    public = tmp_path / "id_ed25519.pub"
    public.write_bytes(public.read_text(encoding="utf-8").encode("utf-16"))
    assert keyfiles.only_public_key(public, keyfiles.read_text(public)).blob == pair.public.blob


def test_a_password_from_a_pipe_is_utf8_whatever_the_code_page_is() -> None:
    stdin = io.TextIOWrapper(io.BytesIO("pässwört王\r\n".encode()), encoding="cp936")
    reporter = Screen(out=io.StringIO(), err=io.StringIO(), stdin=stdin).reporter
    assert reporter.piped_line() == "pässwört王"


def test_the_store_python_is_named() -> None:
    prefix = r"C:\Program Files\WindowsApps\PythonSoftwareFoundation.Python.3.13_3.13.1_x64"
    assert version.is_store_python(prefix, System.WINDOWS)
    assert not version.is_store_python(r"C:\Python313", System.WINDOWS)
    assert version.windows_name(26100, "24H2") == "Windows 11 24H2"
    assert version.windows_name(19045, "22H2") == "Windows 10 22H2"


def test_doctor_says_how_to_start_the_agents_service(tmp_path: Path) -> None:
    absent = AgentReply("//./pipe/openssh-ssh-agent", AgentState.ABSENT)
    finding = check_agent(absent, registered="", needed=False, config=tmp_path)
    assert finding.verdict == "note"
    assert "Set-Service ssh-agent" in (finding.hint or "")


def test_login_and_connections_ask_the_same_agent() -> None:
    """Pageant may run beside it: both look where ssh itself looks."""
    assert agent_socket("SSH_AUTH_SOCK", {}) == r"\\.\pipe\openssh-ssh-agent"
    assert agent_socket("", {"SSH_AUTH_SOCK": "pipe"}) == "pipe"


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("ssh: connect to host 10.0.0.7 port 22: Operation not permitted", SshFailure.BLOCKED),
        ("ssh: connect to host 10.0.0.7 port 22: Unknown error", SshFailure.BLOCKED),
        (
            "ssh_dispatch_run_fatal: Connection to 10.0.0.7 port 22: Connection aborted",
            SshFailure.CLOSED,
        ),
    ],
)
def test_what_a_firewall_does_is_known(text: str, failure: SshFailure) -> None:
    assert failures.classify(text) is failure


def test_the_sockets_of_a_killed_tunnel_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "t-4242-abc"
    left.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("apexgpu.ssh.controlmaster.runtime_directory", lambda: None)
    records._remove_sockets(4242)
    assert not left.exists()
