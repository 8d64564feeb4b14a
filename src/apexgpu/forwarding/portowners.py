"""Which program has a local port, or files in a directory: asked of the system, read by pure functions."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apexgpu import readers
from apexgpu.errors import ApexError
from apexgpu.platforms.system import is_windows
from apexgpu.process import Runner, TimedCommand, run_all

_LIMIT = 5.0


@dataclass(frozen=True, slots=True)
class LocalProgram:
    """A program: its process number (None if another user's) and its name."""

    pid: int | None
    name: str

    def __str__(self) -> str:
        """For a message."""
        if self.pid is None:
            return self.name
        return f"{self.name} (process {self.pid})"


UNKNOWN = LocalProgram(None, "another program")


def port_owner(port: int, runner: Runner) -> LocalProgram:
    """Return who listens on the local TCP `port`; UNKNOWN if this system does not tell."""
    try:
        if is_windows():
            return _windows_owner(port, runner)
        if Path("/proc/net/tcp").exists():
            return _linux_owner(port)
        argv = ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"]
        return lsof_listener(runner.run(argv, timeout=_LIMIT).text)
    except (ApexError, OSError):
        return UNKNOWN


def linux_inodes(table: str, port: int) -> set[str]:
    """Return the inodes of the sockets that listen on `port`.

    `table` is the text of /proc/net/tcp or tcp6 (proc_net_tcp(5): state 0A is TCP_LISTEN).
    """
    inodes = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == "0A" and fields[1].endswith(f":{port:04X}"):
            inodes.add(fields[9])
    return inodes


def lsof_listener(output: str) -> LocalProgram:
    """Return the first process in the output of `lsof -Fpc`; UNKNOWN if there is none."""
    owners = lsof_processes(output)
    return owners[0] if owners else UNKNOWN


def lsof_processes(output: str) -> list[LocalProgram]:
    """Return every process in the output of `lsof -Fpc` (lsof(8), OUTPUT FOR OTHER PROGRAMS)."""
    processes = []
    pid: int | None = None
    for line in output.splitlines():
        # A line `p` with the number of a process, then a line `c` with its name.
        if line.startswith("p"):
            pid = readers.number(line[1:])
        elif line.startswith("c") and line[1:] and pid is not None:
            processes.append(LocalProgram(pid, line[1:]))
            pid = None
    return processes


def windows_listener(output: str, port: int) -> int | None:
    """Return the process that listens on `port`, from the output of `netstat -ano -p TCP`.

    A localised Windows translates the state; a listener is recognised by its foreign port 0.
    """
    match = re.search(
        rf"^[ \t]*TCP[ \t]+\S+:{port}[ \t]+\S+:0[ \t]+\S+[ \t]+([0-9]{{1,10}})\s*$",
        output,
        re.MULTILINE,
    )
    return int(match[1]) if match else None


def windows_program(output: str, pid: int | None) -> LocalProgram:
    """Return the owner from the output of `tasklist /FO CSV /NH`: its first field is the name."""
    match = re.match(r'\s*"([^"]+)","([0-9]{1,10})"', output)
    if match:
        return LocalProgram(pid, match[1])
    if pid is None:
        return UNKNOWN
    return LocalProgram(pid, "a program")


def users_of(directory: str) -> list[LocalProgram]:
    """Return the programs that have a file in `directory` open, or that work in it.

    The directory itself is not accessed: if its file system hangs, we would hang as well.
    """
    if Path("/proc/self/fd").exists():
        return [
            LocalProgram(int(process.name), name)
            for process, name in _linux_processes()
            if process.name != str(os.getpid()) and _uses(process, directory)
        ]
    if is_windows():  # it has no program that tells
        return []
    # Without -b, with which lsof does not look at the directory, and so finds nobody. It has its time limit.
    completed = run_all([TimedCommand(("lsof", "-w", "-Fpc", "+f", "--", directory), 3)])[0]
    return lsof_processes(completed.text)


def waiting_for_fuse() -> list[LocalProgram]:
    """Return the programs that wait for an answer of a FUSE file system (Linux).

    They have nothing open yet, so `users_of` cannot see them. Other systems do not tell.
    """
    if not Path("/proc/self/stat").exists():
        return []
    waiting = []
    for process, name in _linux_processes():
        with contextlib.suppress(OSError):
            if (process / "wchan").read_text() == "request_wait_answer":
                waiting.append(LocalProgram(int(process.name), name))
    return waiting


def _windows_owner(port: int, runner: Runner) -> LocalProgram:
    netstat = runner.run(["netstat", "-ano", "-p", "TCP"], timeout=_LIMIT)
    pid = windows_listener(netstat.text, port)
    if pid is None:
        return UNKNOWN
    argv = ["tasklist", "/FI", f"PID eq {pid}", "/FO", "CSV", "/NH"]
    return windows_program(runner.run(argv, timeout=_LIMIT).text, pid)


def _linux_owner(port: int) -> LocalProgram:
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            inodes |= linux_inodes(Path(table).read_text(), port)
    if not inodes:
        return UNKNOWN
    sockets = {f"socket:[{inode}]" for inode in inodes}
    for process, name in _linux_processes():
        if not sockets.isdisjoint(_open_files(process)):
            return LocalProgram(int(process.name), name)
    return UNKNOWN


def _linux_processes() -> Iterator[tuple[Path, str]]:
    """Yield the directory in /proc and the name of every process, by process number."""
    processes = [
        entry for entry in Path("/proc").iterdir() if readers.number(entry.name) is not None
    ]
    for process in sorted(processes, key=lambda entry: int(entry.name)):
        try:
            name = (process / "comm").read_text().strip()
        except OSError:
            continue  # it has ended
        yield process, name


def _uses(process: Path, directory: str) -> bool:
    links = [*_open_files(process), *_targets(process / "cwd", process / "root", process / "exe")]
    return any(link == directory or link.startswith(f"{directory}/") for link in links)


def _open_files(process: Path) -> list[str]:
    # The files of other users' processes cannot be read.
    try:
        return _targets(*(process / "fd").iterdir())
    except OSError:
        return []


def _targets(*links: Path) -> list[str]:
    """Return where the symlinks lead; those that cannot be read are left out."""
    targets = []
    for link in links:
        with contextlib.suppress(OSError):
            targets.append(str(link.readlink()))
    return targets
