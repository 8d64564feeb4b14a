"""Windows, as far as Linux can tell: each test is a fault that was found by reading, with Windows' own words."""

import io
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from apexgpu import files
from apexgpu.errors import ConfigPermissionsError, KeyUnreadableError
from apexgpu.models import Host, Target
from apexgpu.process import Completed, LocalRunner, TimedCommand
from apexgpu.render.screen import Screen
from apexgpu.reporter import TerminalReporter
from apexgpu.ssh import failures, route
from apexgpu.ssh.failures import SshFailure
from apexgpu.sshfiles import configfile, keyfiles, keys, permissions
from apexgpu.sshfiles.configfile import ConfigPlan

GPU7 = Target(Host("gpu7", "10.0.0.7", "alice", manage_port=22, port=22001), "container")


@pytest.fixture(autouse=True)
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("USERNAME", "alice")
    monkeypatch.setenv("USERDOMAIN", "LAB")


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
ICACLS = 'icacls C:\\Users\\alice/.ssh/config /inheritance:r /grant:r "${env:USERNAME}:F"'


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
KEY_CURE = 'icacls C:\\Users\\alice\\.ssh\\id_ed25519 /inheritance:r /grant:r "${env:USERNAME}:F"'


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
    assert asked == [f"Include {include}\n"]
