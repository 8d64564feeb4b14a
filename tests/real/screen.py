"""A real X server without a monitor, and what a person would see on it."""

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LIMIT = 60


@dataclass
class Screen:
    """An Xvfb. `authority` holds its cookie, for `display`."""

    display: str
    authority: Path
    process: subprocess.Popen[bytes]

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return Path(f"/tmp/.X11-unix/X{self.display.removeprefix(':')}")

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to open windows there."""
        return {"DISPLAY": self.display, "XAUTHORITY": str(self.authority)}

    def windows(self) -> str:
        """All windows with their names, as xwininfo tells."""
        done = subprocess.run(
            ["xwininfo", "-root", "-tree"],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        return done.stdout

    def await_window(self, name: str, *, there: bool = True) -> str:
        """Wait until xwininfo shows a window of that name, or none any more."""
        end = time.monotonic() + LIMIT
        while (f'"{name}"' in (found := self.windows())) is not there:
            assert time.monotonic() < end, found
        return found

    def kill(self) -> None:
        """End it as a crash does: its socket stays."""
        self.process.kill()
        self.process.wait(LIMIT)


@contextlib.contextmanager
def screen(directory: Path, *more: str) -> Iterator[Screen]:
    """A running X server of 800 x 600 on a display that is free, which lets nobody in without its cookie.

    It is not told -noreset: like older ones, it begins anew when its last client leaves.
    """
    cookie, keys, authority = (
        secrets.token_hex(16),
        directory / "server-cookie",
        directory / "Xauthority",
    )
    _add(keys, ":0", cookie)
    reading, writing = os.pipe()
    words = [
        "Xvfb",
        "-displayfd",
        str(writing),
        "-auth",
        str(keys),
        "-screen",
        "0",
        "800x600x24",
        "-nolisten",
        "tcp",
    ]
    with (directory / "xvfb.log").open("wb") as log:
        process = subprocess.Popen([*words, *more], pass_fds=[writing], stdout=log, stderr=log)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        number = pipe.readline().strip()
    assert number, (directory / "xvfb.log").read_text()
    found = Screen(f":{number}", authority, process)
    _add(authority, found.display, cookie)
    try:
        yield found
    finally:
        process.terminate()
        process.wait(LIMIT)
        lock = Path(f"/tmp/.X{number}-lock")
        # What it left when it was killed; the number may be another's by now.
        if lock.exists() and lock.read_text().strip() == str(process.pid):
            found.socket.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def _add(file: Path, display: str, cookie: str) -> None:
    file.touch()
    subprocess.run(
        ["xauth", "-q", "-f", file, "add", display, ".", cookie], check=True, timeout=LIMIT
    )
