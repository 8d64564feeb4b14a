"""A run that prints as fast as it can, while its log is followed: 5 GiB in the longer run (see tests/longruns.py).

The log keeps its last part only, so whoever follows it over a slower line misses some of it, and is told how much.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apexgpu_lab.inprocess import Lab, running
from apexgpu_lab.labstate import LabState
from tests.cli.product import product_of
from tests.longruns import LONG

LINES = (5 << 30) // 17 if LONG else 1_200_000
FIRST = 1_000_000_000_000_000
LENGTH = 17
"""Lines that show where they belong: FIRST, FIRST + 1 … with LENGTH bytes each, as seq(1) prints them."""

MOST_MEMORY = 100 * 1024  # KiB
LARGEST_LOG = 9 * (20 << 20)
"""The parts that are kept, and one that is being written; each is looked at every 4 MiB."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with running(tmp_path / "lab", hosts=1, registered=True) as started:
        yield started


def log_size(directory: Path) -> int:
    total = 0
    for part in directory.glob("log.*"):
        try:
            total += part.stat().st_size
        except FileNotFoundError:
            continue  # deleted meanwhile
    return total


def most_memory(pid: int) -> int:
    """The most memory that a process has had, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def is_consecutive(lines: list[bytes]) -> bool:
    """Whether these whole lines follow one another, by their first and last one."""
    return int(lines[-1]) - int(lines[0]) == len(lines) - 1


def test_a_log_that_grows_faster_than_the_line_is_followed_with_stated_gaps(
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    product = product_of(lab, monkeypatch, capsys)
    assert product("up", "--all", "--accept-new") == 0, product.err

    def home(state: LabState) -> Path:
        container = state.host("gpu2").accounts["alice"].container
        assert container is not None
        return container.home

    directory = lab.call(home) / ".cache/apexgpu/runs/one"
    command = f"seq {FIRST} {FIRST + LINES - 1}"
    assert product("run", "gpu2", "--name", "one", "--", command) == 0, product.err
    received = jumps = memory = largest = 0
    last = FIRST - 1
    rest = b""
    with (
        (tmp_path / "err").open("wb") as err_file,
        subprocess.Popen(
            [sys.executable, "-m", "apexgpu", "runs", "logs", "one", "--follow"],
            stdout=subprocess.PIPE,
            stderr=err_file,
            env=dict(os.environ),
        ) as follower,
    ):
        assert follower.stdout is not None
        while data := follower.stdout.read(1 << 20):
            received += len(data)
            *lines, rest = (rest + data).split(b"\n")
            # A gap begins and ends within lines, whose halves then stand together in one.
            whole = [line for line in lines if len(line) == LENGTH - 1]
            assert last < int(whole[0])
            if len(whole) != len(lines) or not is_consecutive(whole) or int(whole[0]) != last + 1:
                jumps += 1
            last = int(whole[-1])
            memory = max(memory, most_memory(follower.pid))
            largest = max(largest, log_size(directory))
        assert follower.wait(60) == 0
    err = (tmp_path / "err").read_text()
    missing = [int(count) for count in re.findall(r"(\d+) bytes of the output are missing", err)]
    record_property("received", received)
    record_property("missing", sum(missing))
    record_property("gaps", len(missing))
    record_property("memory", memory)
    record_property("largest", largest)
    assert received + sum(missing) == LINES * LENGTH
    assert jumps <= len(missing)
    assert (last, rest) == (FIRST + LINES - 1, b"")
    assert memory < MOST_MEMORY
    assert largest <= LARGEST_LOG
    (run,) = product.json("runs")["runs"]
    assert (run["state"], run["log_bytes"]) == ("done", LINES * LENGTH)
