"""What is asked on macOS and Windows, and what is made of the answers: recorded words of their programs."""

import os
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from apexgpu.boundedoutput import OnOutput
from apexgpu.errors import MissingProgramError, UnreachableError
from apexgpu.process import Completed, Readiness, Watch
from apexgpu.xserver import displayfacts
from apexgpu.xserver.displayfacts import collect, find_xauth, x_servers
from apexgpu.xserver.localchecks import Answer

INFO = "/Applications/Utilities/XQuartz.app/Contents/Info"
TASKS = """\
"System Idle Process","0","Services","0","8 K"
"vcxsrv.exe","10324","Console","1","41,200 K"
"explorer.exe","5100","Console","1","160,004 K"
"Xming.exe","99","Console","1","9,004 K"
"vcxsrv.exe","10325","Console","1","41,200 K"
"""


class Recorded:
    """A runner that knows the answers to some command lines, and that other programs are not there."""

    def __init__(self, answers: Mapping[str, str | Exception]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 30,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        line = " ".join(argv)
        self.asked.append(line)
        assert timeout <= 5  # nothing here may hang
        answer = self.answers.get(line)
        if answer is None:
            raise MissingProgramError(f"{argv[0]} is not installed")
        if isinstance(answer, Exception):
            raise answer
        return Completed(tuple(argv), 0 if answer else 1, answer.encode(), b"")

    def stream(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        on_line: OnOutput | None,
        total: float | None,
        silence: float | None,
        output: int | None = None,
        keeps_reading: bool = False,
        ready: Readiness | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        raise AssertionError(argv)

    def attach(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        watch: Watch | None = None,
    ) -> int:
        assert watch is None
        raise AssertionError(argv)

    def spawn(self, argv: Sequence[str]) -> None:
        raise AssertionError(argv)

    def spawn_reader(self, argv: Sequence[str]) -> int | None:
        raise AssertionError(argv)


def test_macos_with_xquartz_that_does_not_run(runtime: Path) -> None:
    shown = str(runtime / "org.xquartz:0")
    runner = Recorded(
        {
            "ssh -G gpu7": "xauthlocation /usr/X11R6/bin/xauth\n",
            "launchctl getenv DISPLAY": f"{shown}\n",
            f"defaults read {INFO} CFBundleShortVersionString": "2.8.5\n",
            "defaults read org.xquartz.X11 enable_iglx": "1\n",
        }
    )
    found = collect(runner, {"DISPLAY": shown}, ["gpu7"], system="darwin").facts
    assert (found.display, found.launchd, found.xquartz, found.iglx) == (
        shown,
        shown,
        "2.8.5",
        True,
    )
    assert (found.answer, found.server_answer) == (Answer.NO_SERVER, "no such file or directory")


def test_macos_without_xquartz() -> None:
    runner = Recorded({"ssh -G localhost": "", "launchctl getenv DISPLAY": "\n"})
    found = collect(runner, {}, system="darwin").facts
    assert (found.display, found.launchd, found.xquartz, found.iglx, found.answer) == (
        "",
        "",
        "",
        None,
        Answer.NOT_ASKED,
    )


def test_macos_programs_that_hang_are_left() -> None:
    hanging = UnreachableError("launchctl did not end within 5 s")
    runner = Recorded({"launchctl getenv DISPLAY": hanging, "ssh -G localhost": hanging})
    assert collect(runner, {}, system="darwin").facts.launchd == ""


def test_windows_with_servers_that_run_and_one_that_is_installed(tmp_path: Path) -> None:
    runner = Recorded({"tasklist /FO CSV /NH": TASKS})
    found = collect(runner, {"DISPLAY": ":0", "ProgramFiles": str(tmp_path)}, system="win32").facts
    assert found.servers == ("vcxsrv.exe", "Xming.exe")
    assert found.installed == ()  # a path with backslashes is none here
    assert found.display == ":0"


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ("", ()),
        (TASKS, ("vcxsrv.exe", "Xming.exe")),
        ('"X410.exe","1","","",""\r\n', ("X410.exe",)),
        ('"XWin_MobaX.exe","1","","",""\n', ("XWin_MobaX.exe",)),
        ("INFO: No tasks are running\n", ()),
    ],
)
def test_the_x_servers_of_windows_are_known_by_their_names(
    table: str, found: tuple[str, ...]
) -> None:
    assert x_servers(table) == found


def test_the_xauth_that_ssh_is_configured_for_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = tmp_path / "own", tmp_path / "bin" / "xauth"
    other.parent.mkdir()
    for path in (own, other):
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(other.parent))
    assert find_xauth(str(own), "linux") == str(own)
    assert find_xauth("/nowhere/xauth", "linux") == str(other)
    monkeypatch.setattr(displayfacts, "_MAC_XAUTH", str(own))
    monkeypatch.setenv("PATH", "")
    assert find_xauth("/usr/X11R6/bin/xauth", "darwin") == str(own)
    assert find_xauth("", "linux") == ""


def test_the_cookie_is_asked_for_by_the_name_that_ssh_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1] - 6000
    monkeypatch.setattr(displayfacts, "find_xauth", lambda *_: "xauth")
    listed = f"laptop/unix:{number}  MIT-MAGIC-COOKIE-1  00112233\n"
    runner = Recorded({f"xauth list unix:{number}.0": listed, "ssh -G localhost": ""})
    found = collect(
        runner, {**os.environ, "DISPLAY": f"localhost:{number}.0"}, system="linux"
    ).facts
    assert (found.cookie, found.answer) == (True, Answer.NO_SERVER)


@pytest.mark.parametrize(("configured", "told"), [("/nowhere/xauth", True), ("xauth", False)])
def test_ssh_is_told_of_an_xauth_that_it_would_not_find_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: str, told: bool
) -> None:
    (tmp_path / "xauth").write_text("#!/bin/sh\n")
    (tmp_path / "xauth").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    runner = Recorded({"ssh -G gpu7": f"xauthlocation {tmp_path / configured}\n"})
    found = collect(runner, {}, ["gpu7"], system="win32").facts
    assert (found.xauth, found.xauth_option) == (str(tmp_path / "xauth"), told)


def test_a_key_of_another_kind_is_no_cookie_and_a_login_over_ssh_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(displayfacts, "find_xauth", lambda *_: "xauth")
    with socket.create_server(("127.0.0.1", 0)) as server:
        shown = f"127.0.0.1:{server.getsockname()[1] - 6000}"
    runner = Recorded(
        {f"xauth list {shown}": f"{shown}  XDM-AUTHORIZATION-1  00112233\nnot a line\n"}
    )
    found = collect(runner, {"DISPLAY": shown, "SSH_CONNECTION": "1 2 3 4"}, system="win32").facts
    assert (found.cookie, found.over_ssh) == (False, True)
    assert not collect(runner, {"DISPLAY": shown}, system="win32").facts.over_ssh


def test_a_server_that_begins_anew_is_tried_again() -> None:
    refusal = struct.pack("<BBHHH", 0, 4, 11, 0, 1) + b"none"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in (b"", b"", refusal):
                with server.accept()[0] as client:
                    client.recv(4096)
                    client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        shown = f"127.0.0.1:{server.getsockname()[1] - 6000}"
        found = collect(
            Recorded({"ssh -G localhost": ""}), {"DISPLAY": shown}, system="win32"
        ).facts
        thread.join(30)
    assert (found.answer, found.server_answer) == (Answer.REJECTED, "none")
