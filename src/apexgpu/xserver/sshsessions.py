"""ssh sessions with X11 forwarding: one runs a program of the user's, the other tests with a window of its own."""

import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apexgpu import readers
from apexgpu.errors import ApexError, ConnectionLostError, UnexpectedError
from apexgpu.models import Host, Target
from apexgpu.process import Runner
from apexgpu.remote import remotescript
from apexgpu.remote.programs import xwire
from apexgpu.remote.programs.xdisplay import Connection, NotThereError, XError
from apexgpu.remote.remotescript import MARK
from apexgpu.ssh.failures import SshFailure, classify, failure_error
from apexgpu.xserver import containerchecks, sshforwarding
from apexgpu.xserver.containerchecks import WindowTest
from apexgpu.xserver.sshforwarding import ForwardingOptions, SshLog

_MOST_OUTPUT = 1 << 24  # bytes that are kept of what a program prints
_PROGRAMS = ("xwire.py", "xdisplay.py", "xcheck.py")  # in the order in which they need each other
_STEP_LIMIT = 10.0  # seconds for each step of the window in the container
_TEST_LIMIT = 60.0
_SEARCH_LIMIT = 5.0

_SSH_FAILED = 255
"""ssh's exit status for its own failures, and for programs that a signal ended."""


@dataclass(frozen=True, slots=True)
class EndedProgram:
    """How a program with windows ended. `out` and `err` are empty unless they were captured."""

    code: int
    log: SshLog
    out: str = ""
    err: str = ""


def run_program(
    runner: Runner,
    host: Host,
    ssh_arguments: Sequence[str],
    command: str,
    options: ForwardingOptions,
    *,
    captured: bool,
) -> EndedProgram:
    """Run `command` in the container with its windows on this screen, until it ends.

    With `captured`, its output is returned instead of shown. `ssh_arguments` lead to the container.

    Raises UnreachableError or LoginError if ssh cannot log in, and ConnectionLostError if the connection ends before
    the program does.
    """
    with _log_file() as log:
        argv = sshforwarding.ssh_command(ssh_arguments, command, options, log=str(log))
        if captured:
            completed = runner.stream(
                argv,
                on_line=None,
                total=None,
                silence=None,
                output=_MOST_OUTPUT,
                keeps_reading=True,
            )
            code, out, err = (
                completed.code,
                completed.text,
                completed.err.decode("utf-8", "replace"),
            )
        else:
            code, out, err = runner.attach(argv), "", ""
        text = _read(log)
    parsed = sshforwarding.parse_log(text)
    if parsed.killed:
        # A Ctrl-C without a terminal in the container ends ssh itself.
        code = 128 + parsed.killed
    elif code == _SSH_FAILED and not parsed.ended:
        raise _login_or_connection_error(host, text)
    elif options.terminal and parsed.signalled:
        # ssh does not pass on which signal it was. With a terminal, it was Ctrl-C's.
        code = 130
    return EndedProgram(code, parsed, out, err)


def _login_or_connection_error(host: Host, log: str) -> ApexError:
    failure = classify(log)
    if failure is not None and failure is not SshFailure.CLOSED:
        return failure_error(Target(host, "container"), failure, log)
    message = f"the connection to {host.name} was lost, and the windows with it"
    return ConnectionLostError(message, hint=f"apexgpu status {host.name}")


@contextmanager
def _log_file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="apexgpu-") as directory:
        yield Path(directory) / "log"


def _read(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def show_test_window(
    runner: Runner,
    host: Host,
    ssh_arguments: Sequence[str],
    display: Connection,
    options: ForwardingOptions,
) -> WindowTest:
    """Have the container draw a window, look for it on this screen, and close it.

    `display` is a connection to the X server of this screen. Raises UnreachableError or LoginError if ssh cannot log
    in.
    """
    title = f"apexgpu {secrets.token_hex(4)}"
    request = {"title": title, "wait": _STEP_LIMIT}
    command = remotescript.python_command(*_PROGRAMS, request=request)
    answers: list[Mapping[str, Any]] = []
    sightings: list[bool] = []  # whether the window that was found was painted

    def on_line(line: str) -> None:
        answer = _answer(line)
        answers.append(answer)
        if "drawn" in answer:
            sightings.extend(_find_and_close(display, title))

    with _log_file() as log:
        argv = sshforwarding.ssh_command(ssh_arguments, command, options, log=str(log))
        completed = runner.stream(argv, on_line=on_line, total=_TEST_LIMIT, silence=None)
        text = _read(log)
    if completed.code == _SSH_FAILED and not answers:
        failure = classify(text)
        if failure is not None:
            raise failure_error(Target(host, "container"), failure, text)
    return _result(
        answers, sightings, text, completed.code, completed.err.decode("utf-8", "replace")
    )


def _result(
    answers: Sequence[Mapping[str, Any]],
    sightings: Sequence[bool],
    log: str,
    code: int,
    err: str,
) -> WindowTest:
    container = None
    trouble = words = ""
    for answer in answers:
        if "display" in answer and container is None:
            container = containerchecks.parse_facts(answer)
        if "error" in answer:
            trouble, words = str(answer["error"]), str(answer.get("said", ""))
    return WindowTest(
        sshforwarding.parse_log(log),
        container,
        trouble=trouble,
        words=words,
        drawn=any("drawn" in answer for answer in answers),
        seen=bool(sightings),
        painted=any(sightings),
        code=code,
        err=err,
    )


def _answer(line: str) -> Mapping[str, Any]:
    """The JSON object in a line of programs/xcheck.py; empty for any other line."""
    if not line.startswith(MARK):
        return {}
    try:
        value = readers.json_value(line.removeprefix(MARK), "an answer")
    except UnexpectedError:
        return {}
    return value if isinstance(value, dict) else {}


def _find_and_close(display: Connection, title: str) -> list[bool]:
    """Find the window and close it: whether it was painted. Empty if it was not found in time."""
    end = time.monotonic() + _SEARCH_LIMIT
    try:
        while time.monotonic() < end:
            window = _find(display, title)
            if window is not None:
                painted = _is_painted(display, window)
                display.send(xwire.destroy_window(window))
                # A request with a reply: when it is answered, the window is closed.
                display.ask(xwire.get_input_focus())
                return [painted]
            time.sleep(0.05)
    except (NotThereError, XError):
        pass
    return []


def _find(display: Connection, title: str) -> int | None:
    """The window with this title if it is visible. Other windows may close while they are looked at."""
    for window in xwire.parse_children(display.ask(xwire.query_tree(display.server.root))):
        try:
            if xwire.parse_name(display.ask(xwire.get_name(window))) != title:
                continue
            visible = xwire.is_viewable(display.ask(xwire.get_attributes(window)))
        except XError:
            continue
        return window if visible else None
    return None


def _is_painted(display: Connection, window: int) -> bool:
    """Whether the window has the colour that the program in the container filled it with: white."""
    try:
        pixel = xwire.parse_pixel(display.ask(xwire.get_pixel(window)))
    except XError:
        return False
    return pixel & 0xFFFFFF == display.server.white & 0xFFFFFF
