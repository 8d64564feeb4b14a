"""The tables of `apexgpu.platforms`: what each system gets, side by side."""

import ctypes
import types
from pathlib import Path

import pytest

from apexgpu.platforms import console, rights, shellwords, starting
from apexgpu.platforms.system import System, current

LINUX, MACOS, WINDOWS = System


@pytest.mark.parametrize(
    ("name", "system"),
    [("linux", LINUX), ("freebsd14", LINUX), ("darwin", MACOS), ("win32", WINDOWS)],
)
def test_pythons_name_of_the_system_is_read(
    monkeypatch: pytest.MonkeyPatch, name: str, system: System
) -> None:
    monkeypatch.setattr("sys.platform", name)
    assert current() is system


def test_a_program_in_the_background_opens_no_window() -> None:
    detached, no_window = 0x8, 0x08000000
    flags = starting.background_flags(WINDOWS)
    assert flags & detached == 0  # with it, CREATE_NO_WINDOW is ignored
    assert flags & no_window
    assert starting.own_group_flags(WINDOWS) == 0x200
    assert [starting.background_flags(system) for system in (LINUX, MACOS)] == [0, 0]


def test_a_program_in_the_background_keeps_no_directory_of_the_users() -> None:
    assert starting.neutral_directory(LINUX) == starting.neutral_directory(MACOS) == "/"
    assert starting.neutral_directory(WINDOWS, {"SystemDrive": "D:"}) == "D:\\"
    assert starting.neutral_directory(WINDOWS, {}) == "C:\\"


def test_a_private_directory_has_no_owner_rights_entry_on_windows() -> None:
    """mkdir(mode=0o700) would make one there, and Windows' ssh refuses what is in such a directory."""
    assert rights.mode_of_private_directory(WINDOWS) != 0o700
    assert rights.mode_of_private_directory(LINUX) == 0o700
    assert rights.mode_of_private_directory(MACOS) == 0o700


def test_a_private_directory_is_restricted_by_numbers_that_no_language_changes() -> None:
    environment = {"USERNAME": "王 芳", "USERDOMAIN": "LAB"}
    assert rights.restricting_command(WINDOWS, "C:\\Users\\王 芳\\.ssh", environment) == (
        "icacls",
        "C:\\Users\\王 芳\\.ssh",
        "/inheritance:r",
        "/grant:r",
        "LAB\\王 芳:(OI)(CI)F",
        "*S-1-5-18:(OI)(CI)F",
        "*S-1-5-32-544:(OI)(CI)F",
    )
    assert rights.restricting_command(LINUX, "/home/alice/.ssh", environment) == ()
    assert rights.restricting_command(MACOS, "/Users/alice/.ssh", environment) == ()


def test_the_cure_for_a_file_that_others_may_read() -> None:
    assert rights.private_file_command(LINUX, "/home/a b/id") == "chmod 600 '/home/a b/id'"
    assert rights.private_file_command(MACOS, "/Users/alice/id") == "chmod 600 /Users/alice/id"
    assert (
        rights.private_file_command(WINDOWS, "C:\\Users\\Wang Fang\\id")
        == "icacls 'C:\\Users\\Wang Fang\\id' /inheritance:r /grant:r \"${env:USERNAME}:F\""
    )


@pytest.mark.parametrize(
    ("word", "posix", "powershell"),
    [
        ("plain", "plain", "plain"),
        ("C:\\a\\b.txt", "'C:\\a\\b.txt'", "C:\\a\\b.txt"),
        ("a b", "'a b'", "'a b'"),
        ("it's", "'it'\"'\"'s'", "'it''s'"),
        ("$HOME", "'$HOME'", "'$HOME'"),
    ],
)
def test_words_are_quoted_for_the_shell_of_the_system(
    word: str, posix: str, powershell: str
) -> None:
    assert shellwords.quoted(LINUX, word) == shellwords.quoted(MACOS, word) == posix
    assert shellwords.quoted(WINDOWS, word) == powershell


class Console:
    """Windows' console: the functions of kernel32 that are called, with its modes of before and after."""

    def __init__(self, mode: int | None, *, accepts: bool = True) -> None:
        self.mode = mode
        self.accepts = accepts

    def GetStdHandle(self, number: int) -> int:
        return number

    def GetConsoleMode(self, _handle: int, mode: object) -> int:
        if self.mode is None:
            return 0
        mode._obj.value = self.mode  # type: ignore[attr-defined]
        return 1

    def SetConsoleMode(self, _handle: int, mode: int) -> int:
        if self.accepts:
            self.mode = mode
        return int(self.accepts)


@pytest.mark.parametrize(
    ("mode", "accepts", "understands", "after"),
    [(3, True, True, 7), (7, False, True, 7), (3, False, False, 3), (None, True, False, None)],
    ids=["switched on", "on already", "Windows 8", "not a console"],
)
def test_windows_console_is_asked_for_escape_codes(
    monkeypatch: pytest.MonkeyPatch,
    mode: int | None,
    accepts: bool,
    understands: bool,
    after: int | None,
) -> None:
    kernel = Console(mode, accepts=accepts)
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr(ctypes, "windll", types.SimpleNamespace(kernel32=kernel), raising=False)
    assert console.understands_escape_codes(1) is understands
    assert kernel.mode == after


def test_other_terminals_understand_escape_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("linux", "darwin"):
        monkeypatch.setattr("sys.platform", name)
        assert console.understands_escape_codes(1)


def test_the_old_console_of_windows_gets_letters_that_its_fonts_have() -> None:
    old = console.symbols(WINDOWS, {})
    assert "".join((old.done, old.ellipsis, old.full, old.empty)).isascii()
    new = console.symbols(WINDOWS, {"WT_SESSION": "1"})
    assert new == console.symbols(LINUX, {}) == console.symbols(MACOS, {})
    assert console.symbols(WINDOWS, {"TERM_PROGRAM": "vscode"}) == new


NOT_MOVED_YET = {
    "apexgpu/completion.py",
    "apexgpu/copying.py",
    "apexgpu/doctor.py",
    "apexgpu/files.py",
    "apexgpu/forwarding/browser.py",
    "apexgpu/forwarding/portowners.py",
    "apexgpu/forwarding/ports.py",
    "apexgpu/forwarding/records.py",
    "apexgpu/forwarding/sshconnection.py",
    "apexgpu/forwarding/supervisor.py",
    "apexgpu/ownprocesses.py",
    "apexgpu/process.py",
    "apexgpu/render/livetable.py",
    "apexgpu/render/screen.py",
    "apexgpu/session.py",
    "apexgpu/settings.py",
    "apexgpu/ssh/controlmaster.py",
    "apexgpu/ssh/identities.py",
    "apexgpu/sshfiles/agentquery.py",
    "apexgpu/sshfiles/checks.py",
    "apexgpu/sshfiles/keyfiles.py",
    "apexgpu/sshfiles/knownhostsedit.py",
    "apexgpu/sshfiles/offeredkeys.py",
    "apexgpu/sshfiles/slowconfig.py",
    "apexgpu/sshfs/mountcommands.py",
    "apexgpu/sshfs/mounting.py",
    "apexgpu/sshfs/mountprocesses.py",
    "apexgpu/sshfs/mountprograms.py",
    "apexgpu/sshfs/mounts.py",
    "apexgpu/sshfs/unmounting.py",
    "apexgpu/transfer/copier.py",
    "apexgpu/transfer/copyconnection.py",
    "apexgpu/transfer/copypaths.py",
    "apexgpu/transfer/localfiles.py",
    "apexgpu/transfer/rsync.py",
    "apexgpu/x11.py",
    "apexgpu/xserver/displayfacts.py",
    "apexgpu/xserver/localchecks.py",
    "apexgpu_lab/client.py",
    "apexgpu_lab/container_sshd.py",
    "apexgpu_lab/listeners.py",
    "apexgpu_lab/processes.py",
    "apexgpu_lab/programs.py",
    "apexgpu_lab/service.py",
    "apexgpu_lab/standins.py",
}


def test_no_other_package_asks_for_the_system() -> None:
    source = Path(__file__).parent.parent.parent / "src"
    asking = set()
    for path in sorted(source.rglob("*.py")):
        name = path.relative_to(source).as_posix()
        if name.startswith(
            ("apexgpu/platforms/", "apexgpu/remote/programs/", "apexgpu/recipes/builtin/")
        ):
            continue
        text = path.read_text()
        if any(word in text for word in ("sys.platform", "os.name ", "platform.system")):
            asking.add(name)
    assert asking == NOT_MOVED_YET
