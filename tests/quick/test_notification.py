"""Notifications at the end of long work: escape sequences, and stubs of each system's program."""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from apexgpu import cli, runs
from apexgpu.detached import containerruns
from apexgpu.detached.containerruns import Run, RunState
from apexgpu.errors import UnreachableError
from apexgpu.models import Host
from apexgpu.process import LocalRunner
from apexgpu.render import notification
from apexgpu.render.screen import Screen
from apexgpu.reporter import HostRows, Reporter
from apexgpu.session import Session

TEXT = 'cp a "b"; gpu2: done'


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stubs of the programs, which record their arguments and variables, one a line, in `calls`."""
    directory = tmp_path / "stubs"
    directory.mkdir()
    for name in ("notify-send", "osascript", "powershell.exe"):
        path = directory / name
        record = f'printf "%s\\n" {name} "$@" "$APEXGPU_TITLE" "$APEXGPU_TEXT" >>{tmp_path}/calls'
        path.write_text(f"#!/bin/sh\n{record}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return tmp_path / "calls"


@pytest.mark.parametrize(
    ("environment", "sequence"),
    [
        ({"TERM_PROGRAM": "iTerm.app"}, f"\x1b]9;apexgpu: {TEXT}\x07"),
        ({"TERM": "foot"}, '\x1b]777;notify;apexgpu;cp a "b", gpu2: done\x07'),
        (
            {"TERM": "xterm-kitty", "SSH_CONNECTION": "x"},
            '\x1b]777;notify;apexgpu;cp a "b", gpu2: done\x07',
        ),
        (
            {"TERM_PROGRAM": "WezTerm", "TMUX": "/tmp/t"},
            f"\x1bPtmux;\x1b\x1b]9;apexgpu: {TEXT}\x07\x1b\\",
        ),
    ],
)
def test_a_terminal_that_can_notify_does_it_itself(
    stubs: Path, environment: dict[str, str], sequence: str
) -> None:
    terminal = Terminal()
    notification.notify(TEXT, terminal, LocalRunner(), {"DISPLAY": ":0", **environment}, "linux")
    assert terminal.getvalue() == f"{sequence}\a"
    assert not stubs.exists()


@pytest.mark.parametrize(
    ("platform", "environment", "program"),
    [
        ("linux", {"DISPLAY": ":0"}, "notify-send"),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, "notify-send"),
        ("darwin", {}, "osascript"),
        ("win32", {}, "powershell.exe"),
    ],
)
def test_otherwise_the_systems_program_does_and_the_bell_rings(
    stubs: Path, platform: str, environment: dict[str, str], program: str
) -> None:
    terminal = Terminal()
    notification.notify(TEXT, terminal, LocalRunner(), environment, platform)
    assert terminal.getvalue() == "\a"
    lines = stubs.read_text().splitlines()
    assert lines[0] == program
    # The text is an argument or a variable of its own: nothing in it can be code.
    assert lines[-2:] == ["apexgpu", TEXT]
    if program != "powershell.exe":
        assert lines[-4:-2] == ["apexgpu", TEXT]


@pytest.mark.parametrize("environment", [{}, {"DISPLAY": ":0", "SSH_CONNECTION": "x"}])
def test_without_a_desktop_only_the_bell_rings(stubs: Path, environment: dict[str, str]) -> None:
    terminal = Terminal()
    notification.notify(TEXT, terminal, LocalRunner(), environment, "linux")
    assert terminal.getvalue() == "\a"
    assert not stubs.exists()


def test_a_program_that_is_missing_or_fails_is_no_matter(
    stubs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    notification.notify(TEXT, Terminal(), LocalRunner(), {"DISPLAY": ":0"}, "linux")


def test_control_characters_of_an_argument_reach_no_terminal() -> None:
    text = notification.text_of(["cp", "a\x1b]0;x\x07", "gpu2:"], 0, 75)
    assert text == "cp a\\x1b]0;x\\x07 gpu2:: done after 1 min 15 s"


@pytest.mark.parametrize(
    ("words", "long", "setting", "notified"),
    [
        (["cp", "a", "b"], True, "", True),
        (["setup", "gpu2", "x"], True, "notify = true\n", True),
        (["runs", "wait", "a"], True, "", True),
        (["cp", "a", "b"], True, "notify = false\n", False),
        (["cp", "a", "b"], False, "", False),
        (["runs", "logs", "a"], True, "", False),
        (["runs", "logs", "a", "--follow"], True, "", True),
        (["--json", "cp", "a", "b"], True, "", True),
        ([], True, "", False),
    ],
)
def test_the_end_of_a_command_of_over_a_minute_is_notified(
    stubs: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
    long: bool,
    setting: str,
    notified: bool,
) -> None:
    monkeypatch.setattr(cli, "LONG_WORK", 0.0 if long else 3600.0)
    (tmp_path / "config.toml").write_text(setting)
    environment = {
        "DISPLAY": ":0",
        "APEXGPU_CONFIG_DIR": str(tmp_path),
        "APEXGPU_STATE_DIR": str(tmp_path / "state"),
    }
    screen = Screen(out=io.StringIO(), err=Terminal(), stdin=io.StringIO())
    code = cli.main(words, Session(environment=environment), screen)
    assert stubs.exists() is notified
    if notified:
        assert f"ended with exit status {code} after" in stubs.read_text()


def test_a_pipe_gets_no_bell(stubs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "LONG_WORK", 0.0)
    err = io.StringIO()
    cli.main(
        ["cp", "a", "b"], Session(environment={"DISPLAY": ":0"}), Screen(out=io.StringIO(), err=err)
    )
    assert "\a" not in err.getvalue()
    assert not stubs.exists()


def test_a_run_that_ends_while_it_is_watched_is_notified_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host("gpu7", "10.0.0.7", "alice", 22001)
    done = Run("old", "0", RunState.DONE, "true", "~", 1)
    running = Run("train", "1", RunState.RUNNING, "true", "~", 2)
    failed = replace(running, state=RunState.FAILED, exit=3)
    # In the second round the host does not answer, which is no end of anything.
    rounds = [(done, running), None, (done, running), (done, failed), (done, failed)]
    told: list[str] = []

    class Rows(HostRows):
        def another_round(self, result: object) -> bool:
            return bool(rounds)

    class Watcher(Reporter):
        def host_rows(
            self, kind: type, hosts: Sequence[Host], *, watch: float | None = None
        ) -> AbstractContextManager[HostRows]:
            return nullcontext(Rows())

    def look(_transport: object, _host: Host) -> tuple[Run, ...]:
        found = rounds.pop(0)
        if found is None:
            raise UnreachableError("gpu7 does not answer")
        return found

    monkeypatch.setattr(containerruns, "list_runs", look)
    monkeypatch.setattr(Session, "hosts", lambda _session, _patterns: [host])
    reporter = Watcher()
    reporter.notify = told.append
    runs.list_runs(Session(reporter=reporter, environment={}), watch=1.0)
    assert rounds == []
    assert told == ["train on gpu7: failed"]
