"""Every process that a lab's containers started, found by a mark in its environment, and ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_LOOKS = 20


def find_marked(mark: str) -> list[int]:
    """Process ids whose environment holds `mark` (NAME=value, or a beginning of the value)."""
    if sys.platform == "win32":
        return []
    if Path("/proc/self/environ").exists():
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit()
            and _has(entry, mark.encode())
            and int(entry.name) != os.getpid()
        ]
    listing = subprocess.run(  # noqa: S603
        [_system_ps(), "-axEww", "-o", "pid=,command="],
        capture_output=True,
        timeout=10,
        check=False,
        text=True,
        errors="replace",
    ).stdout
    return [
        int(line.split()[0])
        for line in listing.splitlines()
        if f" {mark}" in line and int(line.split()[0]) != os.getpid()
    ]


def _system_ps() -> str:
    """The system's own ps. In a container, `ps` is the lab's, which calls this function: that would never end."""
    for path in ("/bin/ps", "/usr/bin/ps"):
        if Path(path).exists():
            return path
    return "ps"


def kill_marked(mark: str) -> None:
    """End every marked process, and those that they started meanwhile."""
    for _ in range(3):
        found = find_marked(mark)
        for pid in found:
            kill(pid)
        if not found:
            return


def kill(pid: int) -> None:
    """End one process for good; one that is gone already is no error."""
    try:
        if sys.platform == "win32":
            os.kill(pid, signal.SIGTERM)
        else:
            os.kill(pid, signal.SIGKILL)
    except OSError:
        return


def kill_group(pid: int, number: int) -> None:
    """Send a signal to a process group, or to the one process where there are no groups."""
    try:
        if sys.platform == "win32":
            os.kill(pid, signal.SIGTERM)
        else:
            os.killpg(pid, number)
    except OSError:
        return


def _has(process: Path, mark: bytes) -> bool:
    """Whether a process in /proc has `mark` in its environment; one that is just becoming another program has none."""
    try:
        for _ in range(_LOOKS):
            if environ := (process / "environ").read_bytes():
                return any(item.startswith(mark) for item in environ.split(b"\0"))
            if (process / "statm").read_bytes().startswith(b"0 "):
                return False  # a kernel's thread, or dead already
            time.sleep(0.001)
    except OSError:
        pass
    return False
