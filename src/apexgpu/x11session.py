"""One ssh session that brings a window: started here, drawn there, looked for on this screen."""

import json
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apexgpu import sent, x11
from apexgpu.models import Host, Target
from apexgpu.openssh_link import failure, raise_failure
from apexgpu.process import Runner
from apexgpu.sent import MARK
from apexgpu.there import xwire
from apexgpu.there.xdisplay import Connection, NotThereError, XError

_THERE = ("xwire.py", "xdisplay.py", "xcheck.py")  # in the order in which they need each other
_WAIT = 10.0  # seconds for each step of the window
_WHOLE = 60.0
_LOOK = 5.0


def hold(
    runner: Runner, host: Host, where: Sequence[str], link: Connection, *, trusted: bool, xauth: str, connect: float
) -> x11.Session:
    """Go there with X11, let a client draw, look for its window through `link`, take it away.

    UnreachableError, LoginError … where ssh does not get in at all.
    """
    title = f"apexgpu {secrets.token_hex(4)}"
    command = sent.command(sent.program(*_THERE), {"title": title, "wait": _WAIT})
    heard: list[Mapping[str, Any]] = []
    looks: list[bool] = []

    def line(text: str) -> None:
        value = _value(text)
        heard.append(value)
        if "drawn" in value:
            looks.extend(_look(link, title))

    with tempfile.TemporaryDirectory(prefix="apexgpu-") as directory:
        log = Path(directory) / "log"
        words = x11.argv(where, command, log=str(log), trusted=trusted, terminal=False, xauth=xauth, batch=True,
                         connect=connect)
        done = runner.stream(words, on_line=line, total=_WHOLE, silence=None)
        text = log.read_text(errors="replace") if log.exists() else ""
    said = x11.read(text)
    code = failure(text) if done.code == 255 and not heard else None
    if code is not None:
        raise_failure(Target(host, "container"), code, text)
    return _session(said, heard, looks, done.code, done.err.decode("utf-8", "replace"))


def _session(
    said: x11.SshSaid, heard: Sequence[Mapping[str, Any]], looks: Sequence[bool], code: int, err: str
) -> x11.Session:
    answers = [one for one in heard if "error" in one or "seen" in one]
    return x11.Session(
        said, facts=next((one for one in heard if "display" in one), {}), answer=answers[-1] if answers else {},
        drawn=any("drawn" in one for one in heard), seen=bool(looks), painted=any(looks), code=code, err=err,
    )  # fmt: skip


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
