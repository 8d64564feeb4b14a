"""The tables of `apexgpu.platforms`: what each system gets, side by side."""

import ast
import ctypes
import functools
import inspect
import os
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apexgpu.platforms import console, hints, paths, replacing, rights, shellwords, starting
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


@pytest.mark.parametrize(
    ("word", "posix", "powershell"),
    [
        ("plain", "plain", "plain"),
        ("C:\\a\\b.txt", "'C:\\a\\b.txt'", "C:\\a\\b.txt"),
        ("a b", "'a b'", '"a b"'),
        ("it's", "'it'\"'\"'s'", '"it\'s"'),
        ("$HOME it's", "'$HOME it'\"'\"'s'", "'$HOME it''s'"),
        ("C:\\Users\\王芳\\id", "'C:\\Users\\王芳\\id'", "C:\\Users\\王芳\\id"),
    ],
)
def test_words_are_quoted_for_the_shell_of_the_system(
    word: str, posix: str, powershell: str
) -> None:
    assert shellwords.quoted(word, LINUX) == shellwords.quoted(word, MACOS) == posix
    assert shellwords.quoted(word, WINDOWS) == powershell


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the first renames fail, as on Windows while an editor reads the file."""

    def fail(times: int) -> None:
        real, tried = os.replace, [0]

        def replace(source: str, target: str) -> None:
            tried[0] += 1
            if tried[0] <= times:
                raise PermissionError(13, "Access is denied", source)
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)

    return fail


def test_a_file_that_is_in_use_on_windows_is_replaced_when_it_is_free(
    tmp_path: Path, busy: Callable[[int], None]
) -> None:
    (tmp_path / "new").write_text("new")
    busy(2)
    pauses: list[float] = []
    replacing.replace(tmp_path / "new", tmp_path / "old", system=WINDOWS, pause=pauses.append)
    assert (tmp_path / "old").read_text() == "new"
    assert pauses == [0.01, 0.02]


def test_a_file_that_stays_in_use_is_given_up_after_two_seconds(
    tmp_path: Path, busy: Callable[[int], None]
) -> None:
    (tmp_path / "new").write_text("new")
    busy(1000)
    pauses: list[float] = []
    with pytest.raises(PermissionError):
        replacing.replace(tmp_path / "new", tmp_path / "old", system=WINDOWS, pause=pauses.append)
    assert 2 <= sum(pauses) < 5


def test_elsewhere_a_refusal_is_a_refusal(tmp_path: Path, busy: Callable[[int], None]) -> None:
    (tmp_path / "new").write_text("new")
    busy(1)
    with pytest.raises(PermissionError):
        replacing.replace(tmp_path / "new", tmp_path / "old", system=LINUX)


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


HINTS: dict[str, Callable[[System], str]] = {
    "look_at": lambda system: hints.look_at("a b", system),
    "list_directory": lambda system: hints.list_directory("a b", system),
    "list_ssh_directory": hints.list_ssh_directory,
    "list_names_of": lambda system: hints.list_names_of("a b", system),
    "move": lambda system: hints.move("a b", "c", system),
    "make_private": lambda system: hints.make_private("a b", system=system),
    "forbid_writing": lambda system: hints.forbid_writing("a b", system),
    "show_known_host_key": lambda system: hints.show_known_host_key("[a]:22", Path("b c"), system),
    "show_line": lambda system: hints.show_line("a b", 7, system),
    "show_file": lambda system: hints.show_file("a b", system),
    "with_variable": lambda system: hints.with_variable("A", "b c", "apexgpu login", system),
    "find_text": lambda system: hints.find_text("identityagent", "a b", system),
    "show_free_space": lambda system: hints.show_free_space("a b", system=system),
    "make_writable": lambda system: hints.make_writable("a b", system),
    "add_key": lambda system: hints.add_key("a b", system),
    "start_agent": hints.start_agent,
    "write_public_half": lambda system: hints.write_public_half("a b", system),
    "convert_public": lambda system: hints.convert_public("a b", "c", system),
    "remove_carriage_returns": lambda system: hints.remove_carriage_returns("a b", system),
    "set_variable": lambda system: hints.set_variable("A", "b c", system),
    "unset_variable": lambda system: hints.unset_variable("A", system),
    "kill": lambda system: hints.kill(7, 8, system=system),
    "measure": lambda system: hints.measure("ssh -G gpu7", system),
    "show_account": hints.show_account,
    "set_home_to_this_directory": hints.set_home_to_this_directory,
    "set_home": hints.set_home,
    "http_head": lambda system: hints.http_head("http://iam/", system),
    "http_get": lambda system: hints.http_get("http://iam/", system),
    "pipe_password": hints.pipe_password,
    "install": lambda system: hints.install("ssh", system),
    "set_lab_variables": lambda system: hints.set_lab_variables(system=system),
    "in_this_shell": lambda system: hints.in_this_shell("ls -ld 'a b'", system),
}
"""Every function of the table, called for one system."""

POSIX_ONLY = re.compile(
    r"^(ls|chmod|mv|kill|export|unset|printf|sudo|df|du|sed|grep|eval|time|getent|curl(?!\.exe)|cat|rm|\w+=\S* )\b|&&|/dev/null"
)


def test_every_hint_has_its_command_on_each_system() -> None:
    table = {
        name
        for name, function in vars(hints).items()
        if inspect.isfunction(function)
        and function.__module__ == hints.__name__
        and not name.startswith("_")
    }
    assert HINTS.keys() == table
    for system in System:
        for name, hint in HINTS.items():
            text = hint(system)
            assert text, (name, system)
            assert "\n" not in text, (name, system)


@pytest.mark.parametrize("name", HINTS)
def test_no_hint_on_windows_is_for_sh(name: str) -> None:
    text = HINTS[name](WINDOWS)
    assert POSIX_ONLY.search(text) is None
    # PowerShell reads a backslash as itself, so no word is quoted as sh does it.
    assert "'\"'\"'" not in text


def test_no_hint_on_macos_needs_a_program_that_only_linux_has() -> None:
    for name, hint in HINTS.items():
        assert not re.search(r"\b(getent|apt|systemctl)\b|/proc", hint(MACOS)), name


def test_what_macos_and_windows_have_instead() -> None:
    assert hints.add_key("id", MACOS) == "ssh-add --apple-use-keychain id"
    assert hints.add_key("id", WINDOWS) == hints.add_key("id", LINUX) == "ssh-add id"
    assert "UTF" not in hints.write_public_half("id", WINDOWS)
    assert "Set-Content -Encoding Ascii" in hints.write_public_half("id", WINDOWS)
    assert "Set-Service ssh-agent" in hints.start_agent(WINDOWS)
    assert [hints.install("ssh", system) for system in System] == [
        "sudo apt install openssh-client",
        'export PATH="$PATH:/usr/bin"',
        "Add-WindowsCapability -Online -Name OpenSSH.Client~~~~0.0.1.0",
    ]


SOURCE = Path(__file__).parent.parent.parent / "src"
FOR_ONE_SYSTEM = {
    # What is installed by its packages, and its device files: found by what the system is.
    "sshfs/mountcommands.py",
    "sshfs/mountprograms.py",
    # The display's checks are a list for each system already.
    "xserver/localchecks.py",
    # rsync is not used on Windows.
    "transfer/rsync.py",
}


def literal_hints(path: Path) -> Iterator[str]:
    """The texts of `hint=` and `hint = ` in a module; what an f-string fills in is an X."""
    for node in ast.walk(ast.parse(path.read_text())):
        value: ast.expr | None = None
        if (isinstance(node, ast.keyword) and node.arg == "hint") or (
            isinstance(node, ast.Assign)
            and any(
                isinstance(target, ast.Name) and "hint" in target.id.lower()
                for target in node.targets
            )
        ):
            value = node.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value
        elif isinstance(value, ast.JoinedStr):
            parts = [
                str(part.value) if isinstance(part, ast.Constant) else "X" for part in value.values
            ]
            yield "".join(parts)


def test_hints_for_a_shell_come_from_the_table() -> None:
    stray = []
    count = 0
    for path in sorted((SOURCE / "apexgpu").rglob("*.py")):
        name = path.relative_to(SOURCE / "apexgpu").as_posix()
        if name.startswith("platforms/") or name in FOR_ONE_SYSTEM:
            continue
        for text in literal_hints(path):
            count += 1
            # What runs in the container is between quotes, or after `--`.
            typed_here = re.sub(r"\"[^\"]*\"|'[^']*'", "", text.partition(" -- ")[0])
            if POSIX_ONLY.search(typed_here):
                stray.append(f"{name}: {text}")
    assert count > 100
    assert stray == []


RUN_ON_THEIR_OWN = (
    "apexgpu/platforms/",
    "apexgpu/remote/programs/",  # in a container
    "apexgpu/recipes/builtin/",
    "apexgpu_lab/processes.py",  # by the lab's `ps`, with the standard library alone
)


def test_no_other_package_asks_for_the_system() -> None:
    asking = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if name.startswith(RUN_ON_THEIR_OWN):
            continue
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {
                "sys.platform",
                "os.name",
                "platform.system",
                "os.getuid",
                "os.geteuid",
            }:
                asking.append(f"{name}:{node.lineno}")
    assert asking == []


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str, str]]:
    """Each call of a function or method: with its name, and with what stands before the name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node, node.func.attr, ast.unparse(node.func.value)


@functools.cache
def modules_of_the_laptop() -> list[tuple[str, ast.Module]]:
    modules = []
    for path in sorted((SOURCE / "apexgpu").rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith(RUN_ON_THEIR_OWN):
            modules.append((name, ast.parse(path.read_text())))
    return modules


NOT_ON_WINDOWS = {"apexgpu/ssh/controlmaster.py"}  # sockets with a path


def test_no_directory_is_made_with_a_mode_of_its_own() -> None:
    """On Windows, 0o700 is an access list that ssh refuses (W2)."""
    stray = []
    made = 0
    for name, tree in modules_of_the_laptop():
        for call, function, _ in calls(tree):
            if function not in {"mkdir", "makedirs"} or name in NOT_ON_WINDOWS:
                continue
            made += 1
            words = [*call.args, *(keyword.value for keyword in call.keywords)]
            if any(isinstance(word, ast.Constant) and word.value == 0o700 for word in words):
                stray.append(f"{name}:{call.lineno}")
    assert made > 3
    assert stray == []


NAMES_OF_PATHS = {"candidate", "file", "path", "target", "temporary"}


def test_a_file_is_replaced_where_it_is_tried_again() -> None:
    """An editor that reads the old one makes Windows refuse for some milliseconds (W12)."""
    tries_again_itself = "apexgpu/transfer/localfiles.py"
    stray = []
    for name, tree in modules_of_the_laptop():
        for call, function, before in calls(tree):
            # str.replace() takes two arguments.
            of_path = function == "replace" and len(call.args) == 1 and before in NAMES_OF_PATHS
            if (
                of_path or (before == "os" and function == "replace")
            ) and name != tries_again_itself:
                stray.append(f"{name}:{call.lineno} {before}.{function}")
    assert stray == []


def test_no_thread_waits_without_a_limit() -> None:
    """Before Python 3.14, Ctrl-C does not end such a wait on Windows (W11)."""
    stray = []
    for name, tree in modules_of_the_laptop():
        awaited = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Await)}
        for call, function, _ in calls(tree):
            if function in {"create_task", "wait_for"}:
                awaited.add(id(call.args[0]))
        for call, function, before in calls(tree):
            is_wait = function == "wait" and not call.args and not call.keywords
            if is_wait and id(call) not in awaited:
                stray.append(f"{name} {before}")
    assert sorted(set(stray)) == WAITS_FOR_A_PROGRAM


WAITS_FOR_A_PROGRAM = [
    "apexgpu/process.py one",
    "apexgpu/process.py process",
    "apexgpu/process.py self",
    "apexgpu/process.py self._process",
    "apexgpu/sshfs/mountcheck.py self._program",
]
"""For a program that was told to end or has a limit of its own, or that has the terminal and gets Ctrl-C itself."""


def test_what_runs_in_the_background_opens_no_window_wherever_it_is_started() -> None:
    """Each place that starts a program with a session of its own gives Windows its flags too (W3)."""
    stray = []
    found = 0
    for package in ("apexgpu", "apexgpu_lab"):
        for path in sorted((SOURCE / package).rglob("*.py")):
            name = path.relative_to(SOURCE).as_posix()
            if name.startswith(RUN_ON_THEIR_OWN):
                continue
            for call, function, _ in calls(ast.parse(path.read_text())):
                options = {keyword.arg for keyword in call.keywords}
                if function == "Popen" and "start_new_session" in options:
                    found += 1
                    if "creationflags" not in options:
                        stray.append(f"{name}:{call.lineno}")
    assert found >= 3
    assert stray == []


@pytest.mark.parametrize(
    ("path", "directory", "system", "below"),
    [
        ("C:\\Users\\Alice\\gpu7\\x", "c:/users/alice/gpu7", WINDOWS, True),
        ("C:\\Users\\alice\\gpu7", "C:\\Users\\alice\\gpu7", WINDOWS, True),
        ("C:\\Users\\alice\\gpu70", "C:\\Users\\alice\\gpu7", WINDOWS, False),
        ("X:\\data", "x:", WINDOWS, True),
        ("/home/alice/gpu7/x", "/home/alice/gpu7", LINUX, True),
        ("/home/alice/gpu70", "/home/alice/gpu7", LINUX, False),
        ("/home/Alice/gpu7", "/home/alice", LINUX, False),
        ("/a", "/", MACOS, True),
    ],
)
def test_what_is_below_a_directory(path: str, directory: str, system: System, below: bool) -> None:
    assert paths.is_below(system, path, directory) is below
