"""What follows a run when the laptop's network is gone for a while, and comes back.

In CI every connection is ended and refused for some seconds. In the longer run (see tests/longruns.py) the network is
also silent for minutes: nothing arrives, and nothing says so.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from bench.counts import Scene, scene

from apexgpu_lab.labstate import LabState
from tests.longruns import LONG
from tests.waiting import until

pytestmark = pytest.mark.openssh

OUTAGE = 150.0 if LONG else 4.0
RECOVERY = 180.0
"""Seconds that everything may take to go on: a pause between two attempts, and the attempt."""

COUNTING = (
    "i=0; while [ ! -e ~/{go} ]; do i=$((i+1)); echo line $i; sleep 0.05; done; echo $i; exit 3"
)


@dataclass
class Follower:
    """A command that runs, and the files with what it has printed."""

    process: "subprocess.Popen[bytes]"
    out: Path
    err: Path


@pytest.fixture
def line() -> Iterator[Scene]:
    with scene(rtt=0.01) as found:
        yield found


def home(found: Scene) -> Path:
    def find(state: LabState) -> Path:
        container = state.host("gpu2").accounts["alice"].container
        assert container is not None
        return container.home

    return found.lab.call(find)


@contextlib.contextmanager
def followed(found: Scene, *words: str) -> Iterator[Follower]:
    name = "-".join(word.strip("-") for word in words)
    out, err = found.directory / f"{name}.out", found.directory / f"{name}.err"
    environment = {**found.environment, "APEXGPU_TIMEOUT": "10"}
    with out.open("wb") as out_file, err.open("wb") as err_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "apexgpu", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out_file,
            stderr=err_file,
        )
    try:
        yield Follower(process, out, err)
    finally:
        process.kill()
        process.wait()


def sleep_until(condition: Callable[[], object], seconds: float) -> None:
    """Let `seconds` pass, unless something comes to be that must not."""
    end = time.monotonic() + seconds
    with contextlib.suppress(AssertionError):
        until(lambda: condition() or time.monotonic() > end, seconds + 1)
    assert not condition()


def end_of(follower: Follower) -> int | None:
    """Its exit status."""
    until(lambda: follower.process.poll() is not None, RECOVERY)
    return follower.process.returncode


def has_printed(follower: Follower, text: bytes) -> None:
    until(lambda: text in follower.out.read_bytes())


def is_waited_for(name: str) -> bool:
    """Whether a `runs wait` has begun to follow the run: its program in the container has the run's last line (-1)."""
    arguments = f"\0{name}\0-1\0follow\0".encode()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if arguments in file.read_bytes():
                return True
    return False


KINDS = ["cut", "silent"] if LONG else ["cut"]


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_follows_a_run_goes_on_after_an_outage(line: Scene, kind: str) -> None:
    there = home(line)
    for name in ("early", "late"):
        line.run("run", "gpu2", "--name", name, "--", COUNTING.format(go=f"go-{name}"))
    with contextlib.ExitStack() as stack:

        def follow(*words: str) -> Follower:
            return stack.enter_context(followed(line, *words))

        logs = {
            name: follow("runs", "logs", name, "--follow")
            for name in (("early", "late") if LONG else ("late",))
        }
        waiters = {name: follow("runs", "wait", name) for name in ("early", "late")}
        watcher = follow("runs", "gpu2", "--watch", "--interval", "1")
        for follower in logs.values():
            has_printed(follower, b"line 5\n")
        has_printed(watcher, b"running")
        for name in waiters:
            until(partial(is_waited_for, name))
        if kind == "cut":
            line.line.cut()
        else:
            line.line.freeze()
        (there / "go-early").touch()  # it ends during the outage

        def somebody_left() -> bool:
            processes = [one.process for one in (*logs.values(), *waiters.values(), watcher)]
            return any(process.poll() is not None for process in processes)

        sleep_until(somebody_left, OUTAGE)
        line.line.restore()
        assert end_of(waiters["early"]) == 3, waiters["early"].err.read_text()
        # The other one is followed again, over a new connection, before it ends.
        seen = len(logs["late"].out.read_bytes())
        until(lambda: len(logs["late"].out.read_bytes()) > seen + 100, RECOVERY)
        (there / "go-late").touch()
        assert end_of(waiters["late"]) == 3, waiters["late"].err.read_text()
        for follower in logs.values():
            assert end_of(follower) == 0, follower.err.read_text()
            assert "connecting again" in follower.err.read_text()
            *lines, last = follower.out.read_text().splitlines()
            assert lines == [f"line {number}" for number in range(1, int(last) + 1)]
        until(
            lambda: watcher.out.read_text().rpartition("HOST")[2].count("failed 3") == 2, RECOVERY
        )
        os.kill(watcher.process.pid, signal.SIGINT)
        watcher.process.wait(60)
        assert "Traceback" not in watcher.err.read_text()
