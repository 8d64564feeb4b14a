"""Whole processes, timed by the operating system's own accounts: wall and CPU seconds, children included."""

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians over the runs: wall and CPU seconds."""

    wall: float
    cpu: float


Command = tuple[Sequence[str], Mapping[str, str], bytes]
"""An argument list, variables to add to the environment, and the stdin."""


def once(argv: Sequence[str], env: Mapping[str, str], stdin: bytes = b"") -> Timing:
    """One run; its output is read and thrown away. RuntimeError when it fails."""
    # Every program of the race keeps its bytecode, as it does on a user's laptop.
    environment = {**os.environ, **env}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = os.times()
    began = time.perf_counter()
    done = subprocess.run(
        list(argv), env=environment, input=stdin, capture_output=True, check=False
    )
    wall = time.perf_counter() - began
    after = os.times()
    if done.returncode != 0:
        message = f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.decode()[-400:]}"
        raise RuntimeError(message)
    cpu = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return Timing(wall, cpu)


def paired(commands: Mapping[str, Command], *, runs: int) -> dict[str, Timing]:
    """Every command in turn, `runs` times after one warm-up, so that all share the machine's moods."""
    steps = {name: [command] for name, command in commands.items()}
    return {name: timings[0] for name, timings in paired_steps(steps, runs=runs).items()}


def paired_steps(
    commands: Mapping[str, Sequence[Command]], *, runs: int
) -> dict[str, list[Timing]]:
    """As `paired`, for several commands one after the other under each name: a timing for each of them."""
    found: dict[str, list[list[Timing]]] = {name: [] for name in commands}
    for number in range(runs + 1):
        for name, steps in commands.items():
            timings = [once(argv, env, stdin) for argv, env, stdin in steps]
            if number:
                found[name].append(timings)
    return {
        name: [_median(step) for step in zip(*many, strict=True)] for name, many in found.items()
    }


def _median(timings: Sequence[Timing]) -> Timing:
    return Timing(
        statistics.median(timing.wall for timing in timings),
        statistics.median(timing.cpu for timing in timings),
    )
