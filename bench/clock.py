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


def paired(
    commands: Mapping[str, tuple[Sequence[str], Mapping[str, str], bytes]], *, runs: int
) -> dict[str, Timing]:
    """Every command in turn, `runs` times after one warm-up, so that all share the machine's moods."""
    found: dict[str, list[Timing]] = {name: [] for name in commands}
    for number in range(runs + 1):
        for name, (argv, env, stdin) in commands.items():
            timing = once(argv, env, stdin)
            if number:
                found[name].append(timing)
    return {
        name: Timing(
            statistics.median(one.wall for one in many), statistics.median(one.cpu for one in many)
        )
        for name, many in found.items()
    }
