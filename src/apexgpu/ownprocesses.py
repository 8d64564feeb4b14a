"""The running processes of this user: their command lines, and how one is ended without hitting another.

A process number is given to a new process when the old one has ended. The start time tells the two apart, so it is
compared before each signal. Nothing is listed on Windows.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from apexgpu.platforms import owner, processcontrol
from apexgpu.platforms.system import is_windows

_PROC = Path("/proc")
_PS_COMMAND = ("ps", "-axww", "-o", "pid=,uid=,lstart=,command=")
# The start time is five words (ps(1)).
_PS_LINE = re.compile(
    r"[ \t]*([0-9]{1,10})[ \t]+([0-9]{1,10})[ \t]+"
    r"(\w{3} \w{3} {1,2}[0-9]{1,2} [0-9:]{8} [0-9]{4})[ \t]+(.*)"
)
_PLAIN_DATES = {"LC_ALL": "C"}  # in other languages, lstart is written in another way
_PS_LIMIT = 3.0  # seconds
# Fields of /proc/PID/stat (proc(5)), counted after the name, which may contain blanks and brackets.
_STATE, _START_TIME = 0, 19
_POLL = 0.02  # seconds
_KILL_LIMIT = 1.0  # seconds that a killed process may take to be gone


@dataclass(frozen=True, slots=True)
class OwnProcess:
    """A process of this user. `started` is its start time, as the system writes it."""

    pid: int
    started: str
    argv: tuple[str, ...] = ()


def list_processes() -> list[OwnProcess]:
    """Every process of this user, without this one."""
    if is_windows():
        return []
    if has_proc():
        processes = list(_list_linux())
    else:
        processes = parse_ps(_run_ps(), owner.user_id())
    return [process for process in processes if process.pid != os.getpid()]


def has_proc() -> bool:
    """Whether the system describes its processes in /proc, as Linux does."""
    return (_PROC / "self" / "stat").exists()


def own_directories() -> Iterator[Path]:
    """The directories in /proc of this user's processes. Each may be gone at any moment."""
    for path in _PROC.iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                if owner.is_users_own(path.stat(), or_roots=False):
                    yield path


def read_argv(directory: Path) -> list[str]:
    """The command line of the process with this directory in /proc."""
    command_line = (directory / "cmdline").read_bytes()
    *argv, _ = os.fsdecode(command_line).split("\0")  # each word ends in a NUL
    return argv


def start_ticks(directory: Path) -> str:
    """When the process with this directory in /proc began, in the kernel's ticks since the boot."""
    return _read_stat(directory)[_START_TIME]


def parse_ps(output: str, uid: int | None) -> list[OwnProcess]:
    """Read `ps -o pid=,uid=,lstart=,command=`, which separates the words of a command line by blanks only."""
    processes = []
    for line in output.splitlines():
        match = _PS_LINE.match(line)
        if match is not None and int(match[2]) == uid:
            argv = tuple(match[4].split(" "))
            processes.append(OwnProcess(int(match[1]), match[3], argv))
    return processes


def is_running(pid: int) -> bool:
    """Whether any process has this number, whoever it belongs to."""
    return processcontrol.is_running(pid)


def is_alive(process: OwnProcess) -> bool:
    """Whether this very process still runs. A zombie does not."""
    if not has_proc():
        return any(
            other.pid == process.pid and other.started == process.started
            for other in list_processes()
        )
    try:
        fields = _read_stat(_PROC / str(process.pid))
    except OSError:
        return False
    is_dead = fields[_STATE] in {"Z", "X"}  # a zombie, or dead
    return fields[_START_TIME] == process.started and not is_dead


def end(processes: Sequence[OwnProcess], *, grace: float) -> list[OwnProcess]:
    """Ask the processes to end, kill those that have not after `grace` seconds, and return what is left."""
    alive = _signal(processes, signal.SIGTERM, grace)
    if not alive:
        return []
    return _signal(alive, _KILL, _KILL_LIMIT)


def kill(processes: Sequence[OwnProcess]) -> list[OwnProcess]:
    """Kill the processes, and return those that are still there a second later."""
    return _signal(processes, _KILL, _KILL_LIMIT)


_KILL = processcontrol.kill_signal()


def _signal(processes: Sequence[OwnProcess], number: int, limit: float) -> list[OwnProcess]:
    alive = [process for process in processes if is_alive(process)]
    for process in alive:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, number)
    deadline = time.monotonic() + limit
    while alive and time.monotonic() < deadline:
        alive = [process for process in alive if is_alive(process)]
        if alive:
            time.sleep(_POLL)
    return alive


def _list_linux() -> Iterator[OwnProcess]:
    for directory in own_directories():
        # A process may end, or turn out to be somebody else's, while it is read.
        with contextlib.suppress(OSError, ValueError, IndexError):
            argv = tuple(read_argv(directory))
            yield OwnProcess(int(directory.name), start_ticks(directory), argv)


def _run_ps() -> str:
    from apexgpu.process import TimedCommand, run_all

    return run_all([TimedCommand(_PS_COMMAND, _PS_LIMIT, env=_PLAIN_DATES)])[0].text


def _read_stat(directory: Path) -> list[str]:
    """The fields of /proc/PID/stat after the name."""
    text = (directory / "stat").read_text()
    after_name = text.rpartition(")")[2]
    return after_name.split()
