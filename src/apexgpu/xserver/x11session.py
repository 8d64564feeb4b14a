"""ssh sessions that bring windows: a program of the user's, or the check's own, looked for on this screen."""

import json
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apexgpu.errors import ApexError, ConnectionLostError
from apexgpu.models import Host, Target
from apexgpu.process import Runner
from apexgpu.remote import remotescript
from apexgpu.remote.programs import xwire
from apexgpu.remote.programs.xdisplay import Connection, NotThereError, XError
from apexgpu.remote.remotescript import MARK
from apexgpu.ssh.failures import SshFailure, classify, failure_error
from apexgpu.xserver import probes, x11remote
from apexgpu.xserver.probes import Manner

PROGRAMS = ("xwire.py", "xdisplay.py", "xcheck.py")  # in the order in which they need each other
_WAIT = 10.0  # seconds for each step of the window
_WHOLE = 60.0
_LOOK = 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program with its windows here came to its end. `out` and `err` only where they were captured."""

    code: int
    said: probes.SshSaid
    out: str = ""
    err: str = ""


def show(
    runner: Runner,
    host: Host,
    where: Sequence[str],
    command: str,
    manner: Manner,
    *,
    captured: bool,
) -> Ended:
    """Run a program there with its windows here, to its end.

    UnreachableError, LoginError … where ssh does not get in, DroppedError where the connection ends before the program.
    """
    with _log() as log:
        words = probes.argv(where, command, manner, log=str(log))
        if captured:
            done = runner.stream(words, on_line=None, total=None, silence=None)
            code, out, err = done.code, done.text, done.err.decode("utf-8", "replace")
        else:
            code, out, err = runner.attach(words), "", ""
        text = _read(log)
    said = probes.read(text)
    if said.killed:
        code = 128 + said.killed  # ssh was: a Ctrl-C without a terminal there
    elif code == 255 and not said.ended:
        raise _lost(host, text)
    elif manner.terminal and said.signalled:
        code = 130  # ssh makes 255 of every signal there; at a terminal it is Ctrl-C's
    return Ended(code, said, out, err)


def _lost(host: Host, text: str) -> ApexError:
    failure = classify(text)
    if failure is not None and failure is not SshFailure.CLOSED:
        raise failure_error(Target(host, "container"), failure, text)
    message = f"the connection to {host.name} was lost, and the windows with it"
    return ConnectionLostError(message, hint=f"apexgpu status {host.name}")


@contextmanager
def _log() -> Iterator[Path]:
    """A file for ssh's own words, so that they cannot be mistaken for the program's."""
    with tempfile.TemporaryDirectory(prefix="apexgpu-") as directory:
        yield Path(directory) / "log"


def _read(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def hold(
    runner: Runner, host: Host, where: Sequence[str], link: Connection, manner: Manner
) -> x11remote.Session:
    """Go there with X11, let a client draw, look for its window through `link`, take it away.

    UnreachableError, LoginError … where ssh does not get in at all.
    """
    title = f"apexgpu {secrets.token_hex(4)}"
    command = remotescript.python_command(*PROGRAMS, request={"title": title, "wait": _WAIT})
    heard: list[Mapping[str, Any]] = []
    looks: list[bool] = []

    def line(text: str) -> None:
        value = _value(text)
        heard.append(value)
        if "drawn" in value:
            looks.extend(_look(link, title))

    with _log() as log:
        done = runner.stream(
            probes.argv(where, command, manner, log=str(log)),
            on_line=line,
            total=_WHOLE,
            silence=None,
        )
        text = _read(log)
    failure = classify(text) if done.code == 255 and not heard else None
    if failure is not None:
        raise failure_error(Target(host, "container"), failure, text)
    return _session(probes.read(text), heard, looks, done.code, done.err.decode("utf-8", "replace"))


def _session(
    said: probes.SshSaid,
    heard: Sequence[Mapping[str, Any]],
    looks: Sequence[bool],
    code: int,
    err: str,
) -> x11remote.Session:
    there = next((x11remote.told(one) for one in heard if "display" in one), None)
    errors = [one for one in heard if "error" in one]
    return x11remote.Session(
        said,
        there,
        trouble=str(errors[-1]["error"]) if errors else "",
        words=str(errors[-1].get("said", "")) if errors else "",
        drawn=any("drawn" in one for one in heard),
        seen=bool(looks),
        painted=any(looks),
        code=code,
        err=err,
    )


def _value(text: str) -> Mapping[str, Any]:
    """A line of the client's; one that is not is nothing."""
    if not text.startswith(MARK):
        return {}
    try:
        found = json.loads(text.removeprefix(MARK))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _look(link: Connection, title: str) -> list[bool]:
    """Whether the window was painted, once it is found; then it is taken away. Nothing when it is not found."""
    end = time.monotonic() + _LOOK
    try:
        while time.monotonic() < end:
            window = _find(link, title)
            if window is not None:
                painted = _painted(link, window)
                link.send(xwire.destroy_window(window))
                link.ask(xwire.get_input_focus())
                return [painted]
            time.sleep(0.05)
    except (NotThereError, XError):
        pass
    return []


def _find(link: Connection, title: str) -> int | None:
    """The window with this title, if it is shown; one that goes while we look is none."""
    for window in xwire.children_of(link.ask(xwire.query_tree(link.server.root))):
        try:
            if xwire.name_of(link.ask(xwire.get_name(window))) == title:
                return window if xwire.is_viewable(link.ask(xwire.get_attributes(window))) else None
        except XError:
            continue
    return None


def _painted(link: Connection, window: int) -> bool:
    try:
        shown = xwire.pixel_of(link.ask(xwire.get_pixel(window)))
    except XError:
        return False
    return shown & 0xFFFFFF == link.server.white & 0xFFFFFF
