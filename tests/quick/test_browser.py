"""Which browser opens a URL: one with a window, or none. A text browser would take over the terminal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

URL = "http://127.0.0.1:8888/lab"
_OPEN = (
    "import sys; from apexgpu.forwarding import browser; "
    "sys.exit(0 if browser.open_url(sys.argv[1], secret=sys.argv[2] == 'secret') else 1)"
)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory for PATH with text browsers that would write what they were asked to show."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("w3m", "lynx", "www-browser"):
        add(directory, name)
    return directory


def add(directory: Path, name: str) -> None:
    script = directory / name
    script.write_text(f'#!/bin/sh\necho "{name} $1" >> {directory.parent}/shown\n')
    script.chmod(0o755)


def open_url(programs: Path, *, secret: str = "", **environment: str) -> tuple[int, str]:
    """Open the URL in a program with just this environment; its exit status, and what was shown."""
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, URL, secret],
        env={"PATH": str(programs), "HOME": os.environ["HOME"], **environment},
        timeout=60,
        check=False,
    )
    shown = programs.parent / "shown"
    return done.returncode, shown.read_text() if shown.exists() else ""


@pytest.mark.parametrize(
    "environment",
    [
        {"TERM": "xterm"},
        {"TERM": "xterm", "DISPLAY": ":7"},
        {"TERM": "xterm", "BROWSER": "w3m"},
        {"TERM": "xterm", "BROWSER": "/usr/bin/lynx %s", "DISPLAY": ":7"},
    ],
)
@pytest.mark.parametrize("secret", ["", "secret"])
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there, the system opens a window")
def test_a_text_browser_is_never_started(
    programs: Path, environment: dict[str, str], secret: str
) -> None:
    assert open_url(programs, secret=secret, **environment) == (1, "")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there, the system opens a window")
def test_a_browser_with_a_window_is(programs: Path) -> None:
    add(programs, "firefox")
    (programs / "sh").symlink_to("/bin/sh")
    code, _ = open_url(programs, TERM="xterm", BROWSER="firefox")
    assert code == 0
