"""ps and uptime in a container: its own life and its own processes. Run as a program, standard library only."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

CONTAINER = Path(os.environ.get("APEXGPU_LAB_CONTAINER", "."))
USER = os.environ.get("USER", "nobody")
_TAKES_A_VALUE = "opCGtgqkUN"


class Process(NamedTuple):
    """One row; `age` in seconds."""

    pid: int
    ppid: int
    user: str
    tty: str
    stat: str
    age: float
    time: str
    cpu: str
    memory: str
    size: str
    resident: str
    command: str

    @property
    def name(self) -> str:
        """The program's name."""
        return Path(self.command.split()[0]).name if self.command.split() else ""


Show = Callable[[Process], object]
_FIELDS: dict[str, tuple[str, Show]] = {
    "pid": ("PID", lambda one: one.pid),
    "ppid": ("PPID", lambda one: one.ppid),
    "user": ("USER", lambda one: one.user),
    "tty": ("TT", lambda one: one.tty),
    "stat": ("STAT", lambda one: one.stat),
    "etimes": ("ELAPSED", lambda one: int(one.age)),
    "etime": ("ELAPSED", lambda one: _elapsed(one.age)),
    "time": ("TIME", lambda one: one.time),
    "lstart": (
        "STARTED",
        lambda one: time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(time.time() - one.age)),
    ),
    "start": (
        "STARTED",
        lambda one: time.strftime("%H:%M:%S", time.localtime(time.time() - one.age)),
    ),
    "pcpu": ("%CPU", lambda one: one.cpu),
    "pmem": ("%MEM", lambda one: one.memory),
    "vsz": ("VSZ", lambda one: one.size),
    "rss": ("RSS", lambda one: one.resident),
    "comm": ("COMMAND", lambda one: one.name),
    "args": ("COMMAND", lambda one: one.command),
}
_OTHER_NAMES = {
    "%cpu": "pcpu",
    "%mem": "pmem",
    "cmd": "args",
    "command": "args",
    "ucmd": "comm",
    "tt": "tty",
    "tname": "tty",
    "s": "stat",
    "state": "stat",
    "euser": "user",
    "ruser": "user",
    "uname": "user",
    "cputime": "time",
    "stime": "start",
    "start_time": "start",
    "rssize": "rss",
    "vsize": "vsz",
}
_LAYOUTS = {
    "": "pid,tty,time,comm",
    "f": "user,pid,ppid,start,tty,time,args",
    "u": "user,pid,pcpu,pmem,vsz,rss,tty,stat,start,time,args",
}


def started() -> float:
    """When the container came up."""
    try:
        return float((CONTAINER / "notes" / "started").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return time.time()


def processes() -> Iterator[Process]:
    """The container's first process, and those that this machine runs for it."""
    yield Process(
        1,
        0,
        "root",
        "?",
        "Ss",
        time.time() - started(),
        "00:00:01",
        "0.0",
        "0.0",
        "33024",
        "5400",
        "/sbin/init",
    )
    find_marked = runpy.run_path(str(Path(__file__).with_name("processes.py")))["find_marked"]
    pids = ",".join(str(pid) for pid in find_marked(f"APEXGPU_LAB_CONTAINER={CONTAINER}/"))
    bin_directory = os.environ.get("APEXGPU_LAB_BIN")
    path = os.pathsep.join(
        part for part in os.environ.get("PATH", "").split(os.pathsep) if part != bin_directory
    )
    program = shutil.which("ps", path=path)
    if not pids or program is None:
        return
    columns = "pid=,ppid=,tty=,stat=,etime=,time=,pcpu=,pmem=,vsz=,rss=,args="
    listed = subprocess.run(  # noqa: S603
        [program, "-ww", "-o", columns, "-p", pids],
        check=False,
        timeout=10,
        capture_output=True,
        text=True,
        errors="replace",
    ).stdout
    known = {1, *map(int, pids.split(","))}
    for line in listed.splitlines():
        pid, ppid, tty, stat, age, *rest = line.split(None, 10)
        parent = int(ppid) if int(ppid) in known else 1
        yield Process(int(pid), parent, USER, tty, stat, _seconds(age), *rest)


class Asked:
    """What the words of a ps command ask for."""

    def __init__(self, words: list[str]) -> None:
        self.columns: list[tuple[str, str]] = []
        self.pids: set[int] | None = None
        self.names: set[str] | None = None
        self.headers = True
        self._layout = ""
        waiting = iter(words)
        for word in waiting:
            if word.startswith("--"):
                self._long(word, waiting)
            elif word.isdigit():
                self._value("p", word)
            else:
                self._letters(word, waiting)
        self.columns = self.columns or [
            (name, _FIELDS[name][0]) for name in _LAYOUTS[self._layout].split(",")
        ]

    def wants(self, one: Process) -> bool:
        """Whether a process is to be shown; who asks for none in particular gets all."""
        if self.pids is None and self.names is None:
            return True
        return one.pid in (self.pids or ()) or one.name in (self.names or ())

    def _long(self, word: str, waiting: Iterator[str]) -> None:
        name, equals, value = word.partition("=")
        letter = {"--pid": "p", "--format": "o"}.get(name)
        if letter:
            self._value(letter, value if equals else next(waiting, ""))
        elif name.startswith("--no-head"):
            self.headers = False

    def _letters(self, word: str, waiting: Iterator[str]) -> None:
        letters = word.lstrip("-")
        for index, letter in enumerate(letters):
            if letter in _TAKES_A_VALUE or (letter == "u" and word.startswith("-")):
                self._value(letter, letters[index + 1 :] or next(waiting, ""))
                return
            if letter in "fuF":
                self._layout = letter.lower()
            self.headers = self.headers and letter != "h"

    def _value(self, letter: str, value: str) -> None:
        items = [item for item in re.split(r"[\s,]+", value) if item]
        if letter in "pq":
            self.pids = (self.pids or set()) | {int(item) for item in items if item.isdigit()}
        elif letter == "C":
            self.names = (self.names or set()) | set(items)
        elif letter == "o":
            for item in items:
                name, equals, header = item.partition("=")
                name = _OTHER_NAMES.get(name, name)
                self.columns.append(
                    (name, header if equals else _FIELDS.get(name, (name.upper(),))[0])
                )


def ps(words: list[str]) -> int:
    """The processes of the container, in the columns that were asked for; 1 when there is none to show."""
    asked = Asked(words)
    rows = [
        [str(_FIELDS[name][1](one)) if name in _FIELDS else "-" for name, _ in asked.columns]
        for one in processes()
        if asked.wants(one)
    ]
    headers = [header for _, header in asked.columns]
    table = [headers, *rows] if asked.headers and any(headers) else rows
    widths = [max((len(row[index]) for row in table), default=0) for index in range(len(headers))]
    for row in table:
        sys.stdout.write(
            " ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            + "\n"
        )
    return 0 if rows else 1


def uptime(words: list[str]) -> int:
    """How long the container has been up."""
    seconds = int(time.time() - started())
    if words in (["-s"], ["--since"]):
        sys.stdout.write(time.strftime("%Y-%m-%d %H:%M:%S\n", time.localtime(started())))
        return 0
    if words in (["-p"], ["--pretty"]):
        sys.stdout.write(f"up {seconds // 3600} hours, {seconds // 60 % 60} minutes\n")
        return 0
    days = f"{seconds // 86400} days, " if seconds >= 86400 else ""
    clock = (
        f"{seconds // 3600 % 24}:{seconds // 60 % 60:02}"
        if seconds >= 3600
        else f"{seconds // 60} min"
    )
    users = len(list((CONTAINER / "notes").glob("session-*.json")))
    load = ", ".join(
        f"{one:.2f}" for one in (os.getloadavg() if hasattr(os, "getloadavg") else (0.0, 0.0, 0.0))
    )
    sys.stdout.write(
        f" {time.strftime('%H:%M:%S')} up {days}{clock},  {users} users,  load average: {load}\n"
    )
    return 0


def _seconds(elapsed: str) -> float:
    """[[days-]hours:]minutes:seconds as a number."""
    days, _, clock = elapsed.rpartition("-")
    total = 0
    for part in clock.split(":"):
        total = total * 60 + int(part)
    return int(days or 0) * 86400 + total


def _elapsed(age: float) -> str:
    days, rest = divmod(int(age), 86400)
    clock = f"{rest // 60 % 60:02}:{rest % 60:02}"
    hours = f"{rest // 3600:02}:" if age >= 3600 else ""
    return f"{f'{days}-' if days else ''}{hours}{clock}"


if __name__ == "__main__":
    sys.exit({"ps": ps, "uptime": uptime}[sys.argv[1]](sys.argv[2:]))
