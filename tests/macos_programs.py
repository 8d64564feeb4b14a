"""`ps` and `lsof` as macOS has them, for `scripts/as-macos`: it hides /proc from all others and shows it to these two.

    python macos_programs.py PROC ps -axEww -o pid=,command=
    python macos_programs.py PROC lsof -nP -iTCP:6006 -sTCP:LISTEN -Fpc

They understand the options that apexgpu and its lab use, and print what Apple's print.
"""

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path


class Process:
    """A process, as /proc of Linux describes it."""

    def __init__(self, directory: Path, boot: float) -> None:
        self.directory = directory
        self.pid = directory.name
        self.uid = directory.stat().st_uid
        text = (directory / "stat").read_text(errors="replace")
        self.name = text[text.index("(") + 1 : text.rindex(")")]
        fields = text[text.rindex(")") + 2 :].split()
        self.state = fields[0]
        self.parent = fields[1]
        self.started = boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")
        self.words = _words(directory / "cmdline")

    def column(self, name: str, *, with_environment: bool) -> str:
        """What `ps -o NAME=` prints."""
        if name in {"command", "args"}:
            words = self.words or [f"({self.name})"]
            if with_environment:
                words = [*words, *_words(self.directory / "environ")]
            return " ".join(words)
        age = int(time.time() - self.started)
        columns = {
            "pid": self.pid,
            "ppid": self.parent,
            "uid": str(self.uid),
            "comm": self.name,
            "stat": self.state,
            "lstart": time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(self.started)),
            "etime": f"{age // 3600:02d}:{age // 60 % 60:02d}:{age % 60:02d}",
        }
        return columns.get(name, "0")

    def files(self) -> Iterator[str]:
        """What its descriptors and its working directory lead to."""
        try:
            links = [self.directory / "cwd", *(self.directory / "fd").iterdir()]
        except OSError:
            return
        for link in links:
            try:
                yield str(link.readlink())
            except OSError:
                continue


def _words(file: Path) -> list[str]:
    try:
        text = file.read_bytes().decode("utf-8", "replace")
    except OSError:
        return []
    return [word for word in text.split("\0") if word]


def processes(proc: Path) -> Iterator[Process]:
    """All that run, by number."""
    boot = 0.0
    for line in (proc / "stat").read_text().splitlines():
        if line.startswith("btime "):
            boot = float(line.split()[1])
    numbers = sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())
    for number in numbers:
        try:
            yield Process(proc / str(number), boot)
        except (OSError, ValueError, IndexError):
            continue  # it has ended


def ps(proc: Path, words: list[str]) -> int:
    """Print processes; only those of `-p` if it is given."""
    columns: list[str] = []
    wanted: set[str] | None = None
    with_environment = False
    rest = iter(words)
    for word in rest:
        if word == "-o":
            columns += re.split("[, ]+", next(rest, ""))
        elif word == "-p":
            wanted = set(re.split("[, ]+", next(rest, "")))
        elif re.fullmatch("-?[aAxEewW]+", word):
            with_environment = with_environment or "E" in word
        else:
            sys.stderr.write(f"ps: illegal option -- {word}\n")
            return 1
    names = [column.removesuffix("=") for column in columns] or ["pid", "comm"]
    printed = 0
    for process in processes(proc):
        if wanted is not None and process.pid not in wanted:
            continue
        fields = [process.column(name, with_environment=with_environment) for name in names]
        sys.stdout.write(" ".join(fields) + "\n")
        printed += 1
    return 0 if printed else 1


def lsof(proc: Path, words: list[str]) -> int:
    """Print who listens on the port of `-iTCP:PORT`, or who has files in the directory that is the last word."""
    found = []
    port = next((word.rpartition(":")[2] for word in words if word.startswith("-iTCP:")), "")
    listening = _listening(proc, int(port)) if port else set()
    directory = words[-1]
    for process in processes(proc):
        for file in process.files():
            is_below = file == directory or file.startswith(f"{directory}/")
            if file in listening if port else is_below:
                found.append(process)
                break
    for process in found:
        sys.stdout.write(f"p{process.pid}\nc{process.name}\nf3\n")
    return 0 if found else 1


def _listening(proc: Path, port: int) -> set[str]:
    sockets = set()
    for table in ("tcp", "tcp6"):
        for line in (proc / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[1].endswith(f":{port:04X}"):
                sockets.add(f"socket:[{fields[9]}]")
    return sockets


if __name__ == "__main__":
    program = {"ps": ps, "lsof": lsof}[sys.argv[2]]
    sys.exit(program(Path(sys.argv[1]), sys.argv[3:]))
