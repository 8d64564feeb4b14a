"""The processes behind mounts: which sshfs serves a directory, and ending one that is stuck."""

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from apexgpu.errors import ApexError
from apexgpu.process import TimedCommand, run_all
from apexgpu.ssh.route import parse
from apexgpu.sshfs.mountprograms import MARK
from apexgpu.sshfs.mounttable import Sshfs, name_in, sshfs_of, windows_sshfs

PROCESSES = (
    "powershell",
    "-NoProfile",
    "-Command",
    "Get-CimInstance Win32_Process -Filter \"Name='sshfs.exe'\" | "
    "Select-Object ProcessId,CommandLine | ConvertTo-Json",
)
_PS = ("ps", "-axww", "-o", "pid=,uid=,lstart=,command=")


@dataclass(frozen=True, slots=True)
class Process:
    """A process of ours: `started` in the system's own ticks tells it from a successor with its number."""

    pid: int
    started: str


def serving() -> dict[str, Sshfs]:
    """Every sshfs of this user that runs, by its directory."""
    if sys.platform == "win32":
        found = windows_sshfs(run_all([TimedCommand(PROCESSES, 4)])[0].text)
    elif Path("/proc/self/stat").exists():
        found = [one for one in (_linux(path) for path in _own()) if one]
    else:
        found = darwin(run_all([TimedCommand(_PS, 2)])[0].text, os.getuid())
    return {one.directory: one for one in found}


def resolved(sshfs: Sshfs) -> Sshfs:
    """The sshfs with the address and port that its ssh was led to by its config, as far as `ssh -G` tells now."""
    name = name_in(sshfs.source)
    if sshfs.address or not name or name.startswith("-"):
        return sshfs
    port = ("-p", str(sshfs.port)) if sshfs.port else ()
    try:
        done = run_all(
            [
                TimedCommand(
                    ("ssh", "-G", *(("-F", sshfs.config) if sshfs.config else ()), *port, name), 2
                )
            ]
        )[0]
    except ApexError:
        return sshfs
    found = parse(done.text)
    address, number = found.get("hostname", [""])[0], found.get("port", [""])[0]
    return (
        replace(sshfs, address=address, port=int(number)) if address and number.isdigit() else sshfs
    )


def darwin(text: str, uid: int) -> list[Sshfs]:
    """From `ps -o pid=,uid=,lstart=,command=` of macOS, whose start time has five words (ps(1))."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*(\d+)\s+(\d+)\s+(\w{3} \w{3} +\d+ [\d:]{8} \d{4})\s+(.*)", line)
        if match and int(match[2]) == uid:
            began = time.mktime(time.strptime(match[3], "%a %b %d %H:%M:%S %Y"))
            one = sshfs_of(match[4].split(" "), int(match[1]), began)
            found += [one] if one else []
    return found


def behind(directory: str) -> list[Process]:
    """The sshfs of a directory and its ssh, which it leaves to init; they carry our mark. Linux alone tells."""
    if not Path("/proc/self/stat").exists():
        return []
    mark = f"{MARK}={directory}".encode("utf-8", "surrogateescape")
    found = []
    for path in _own():
        with contextlib.suppress(OSError, ValueError):
            words = os.fsdecode((path / "cmdline").read_bytes()).split("\0")
            serves = sshfs_of(words, 0)
            if mark in (path / "environ").read_bytes().split(b"\0") or (
                serves and serves.directory == directory
            ):
                found.append(Process(int(path.name), _stat(path)[19]))
    return found


def end(processes: Sequence[Process], *, grace: float) -> None:
    """Wait `grace` seconds until they have ended; kill what has not, also what is stopped."""
    deadline = time.monotonic() + grace
    while (left := [one for one in processes if _lives(one)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    for one in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(one.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    while any(_lives(one) for one in left) and time.monotonic() < deadline + 1:
        time.sleep(0.02)


def abort(number: str) -> None:
    """Let the kernel end a FUSE connection: who waits for it gets an error (Linux: fuse.rst, Control filesystem)."""
    with contextlib.suppress(OSError):
        Path(f"/sys/fs/fuse/connections/{number}/abort").write_text("1")


def _linux(path: Path) -> Sshfs | None:
    try:
        words = os.fsdecode((path / "cmdline").read_bytes()).split("\0")[:-1]
        one = sshfs_of(words, int(path.name))
        return one and replace(one, started=_began(path))
    except (OSError, ValueError, IndexError):
        return None


def _began(path: Path) -> float:
    """Unix time at which a process began: field 22 of proc(5), in ticks since the boot."""
    up = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - up + int(_stat(path)[19]) / os.sysconf("SC_CLK_TCK")


def _stat(path: Path) -> list[str]:
    """The fields after the name, which may hold blanks and brackets; the first is the state."""
    return (path / "stat").read_text().rpartition(")")[2].split()


def _lives(one: Process) -> bool:
    try:
        fields = _stat(Path("/proc") / str(one.pid))
    except OSError:
        return False
    return fields[19] == one.started and fields[0] not in {"Z", "X"}


def _own() -> Iterable[Path]:
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                if path.stat().st_uid == os.getuid():
                    yield path
