"""Which program holds a local port, or files in a directory: each system's own tables, read by pure functions."""

import contextlib
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from apexgpu.errors import ApexError
from apexgpu.jobs import Job, together
from apexgpu.process import Runner


@dataclass(frozen=True, slots=True)
class Holder:
    """A program that listens: its process number (None where it is somebody else's) and its name."""

    pid: int | None
    name: str

    def __str__(self) -> str:
        """For a message."""
        return self.name if self.pid is None else f"{self.name} (process {self.pid})"


UNKNOWN = Holder(None, "another program")


def holder(port: int, runner: Runner) -> Holder:
    """Who listens on local TCP `port`, as far as this system tells; UNKNOWN when it does not."""
    try:
        if sys.platform == "win32":
            pid = windows_listener(
                runner.run(["netstat", "-ano", "-p", "TCP"], timeout=5).text, port
            )
            named = (
                runner.run(
                    ["tasklist", "/FI", f"PID eq {pid}", "/FO", "CSV", "/NH"], timeout=5
                ).text
                if pid
                else ""
            )
            return windows_program(named, pid)
        if Path("/proc/net/tcp").exists():
            return _linux(port)
        return lsof_listener(
            runner.run(["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"], timeout=5).text
        )
    except (ApexError, OSError):
        return UNKNOWN


def linux_inodes(table: str, port: int) -> set[str]:
    """The inodes of the sockets that listen on `port` in the text of /proc/net/tcp or tcp6 (proc(5))."""
    rows = (line.split() for line in table.splitlines()[1:])
    return {
        row[9]
        for row in rows
        if len(row) > 9 and row[3] == "0A" and row[1].endswith(f":{port:04X}")
    }


def lsof_listener(text: str) -> Holder:
    """The first process in the answer of `lsof -Fpc` (lsof(8), OUTPUT FOR OTHER PROGRAMS)."""
    found = re.search(r"^p(\d+)\n(?:.*\n)*?c(.+)$", text, re.MULTILINE)
    return Holder(int(found[1]), found[2]) if found else UNKNOWN


def windows_listener(text: str, port: int) -> int | None:
    """The process that listens on `port` in the answer of `netstat -ano -p TCP`.

    The state's word is translated on a localised Windows; a listener is known by its foreign port 0.
    """
    found = re.search(rf"^\s*TCP\s+\S+:{port}\s+\S+:0\s+\S+\s+(\d+)\s*$", text, re.MULTILINE)
    return int(found[1]) if found else None


def windows_program(text: str, pid: int | None) -> Holder:
    """The holder from the answer of `tasklist /FO CSV /NH`, whose first field is the program's name."""
    found = re.match(r'\s*"([^"]+)","(\d+)"', text)
    return Holder(pid, found[1]) if found else UNKNOWN if pid is None else Holder(pid, "a program")


def holders_of(directory: str) -> list[Holder]:
    """Which programs have a file in `directory` open or work in it, as far as this system tells.

    The file system itself is not touched: it may be dead, and whoever touches it would wait.
    """
    if Path("/proc/self/fd").exists():
        return sorted(_linux_inside(directory), key=lambda one: one.pid or 0)
    done = together([Job(("lsof", "-w", "-b", "-Fpc", "+f", "--", directory), 3)])[0]
    return lsof_holders(done.text)


def waiting_for_fuse() -> list[Holder]:
    """Which of our programs wait for an answer of a FUSE file system: they have nothing open yet (Linux)."""
    found = []
    for process in (entry for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        with contextlib.suppress(OSError):
            if (process / "wchan").read_text() == "request_wait_answer":
                found.append(Holder(int(process.name), (process / "comm").read_text().strip()))
    return sorted(found, key=lambda one: one.pid or 0)


def lsof_holders(text: str) -> list[Holder]:
    """Every process in the answer of `lsof -Fpc`: a line p with its number, then a line c with its name."""
    return [
        Holder(int(pid), name)
        for pid, name in re.findall(r"^p(\d+)\n(?:.*\n)*?c(.+)$", text, re.MULTILINE)
    ]


def _linux_inside(directory: str) -> Iterable[Holder]:
    for process in (entry for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        if process.name == str(os.getpid()):
            continue
        links = [
            *_open_files(process / "fd"),
            *_links(process / "cwd", process / "root", process / "exe"),
        ]
        if any(link == directory or link.startswith(f"{directory}/") for link in links):
            with contextlib.suppress(OSError):
                yield Holder(int(process.name), (process / "comm").read_text().strip())


def _links(*paths: Path) -> Iterable[str]:
    for path in paths:
        with contextlib.suppress(OSError):
            yield str(path.readlink())


def _linux(port: int) -> Holder:
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            inodes |= linux_inodes(Path(table).read_text(), port)
    links = {f"socket:[{inode}]" for inode in inodes}
    for process in (
        (entry for entry in Path("/proc").iterdir() if entry.name.isdigit()) if links else ()
    ):
        if links & set(_open_files(process / "fd")):
            return Holder(int(process.name), (process / "comm").read_text().strip())
    return UNKNOWN


def _open_files(directory: Path) -> Iterable[str]:
    # Other users' processes cannot be read, and any may end while one looks.
    links: list[Path] = []
    with contextlib.suppress(OSError):
        links = list(directory.iterdir())
    yield from _links(*links)
