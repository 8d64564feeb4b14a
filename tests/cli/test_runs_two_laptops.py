"""Two laptops of one member that start, follow, list, stop and clean runs at the same time."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from apexgpu_lab.inprocess import running
from tests.cli.product import product_of
from tests.longruns import LONG

LIMIT = 120
ROUNDS = 10 if LONG else 1


@dataclass
class Laptops:
    """The environments of both."""

    environments: tuple[Mapping[str, str], Mapping[str, str]]

    def both(self, *words: str) -> list["subprocess.CompletedProcess[str]"]:
        """The same command on both at once; `{laptop}` in a word is 0 or 1."""
        processes = []
        for number, environment in enumerate(self.environments):
            argv = [word.replace("{laptop}", str(number)) for word in words]
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "apexgpu", *argv],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        done = []
        for process in processes:
            out, err = process.communicate(timeout=LIMIT)
            done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
        return done

    def listed(self) -> dict[str, str]:
        """The state of each run by its name, which is the same on both."""
        seen = [states(done.stdout) for done in self.both("runs", "--json")]
        assert seen[0] == seen[1]
        return seen[0]


def states(document: str) -> dict[str, str]:
    rows: list[dict[str, Any]] = json.loads(document)["runs"]
    return {row["name"]: row["state"] for row in rows}


@pytest.fixture
def laptops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Laptops]:
    with running(tmp_path / "lab", hosts=2, registered=True) as lab:
        product = product_of(lab, monkeypatch, capsys)
        assert product("up", "--all", "--accept-new") == 0, product.err
        other = dict(os.environ)
        for name in ("APEXGPU_STATE_DIR", "APEXGPU_CONFIG_DIR"):
            other[name] = str(tmp_path / f"other-{name}")
            shutil.copytree(os.environ[name], other[name], ignore=shutil.ignore_patterns("lab"))
        for name in ("HOME", "XDG_RUNTIME_DIR"):
            other[name] = str(tmp_path / f"other-{name}")
            Path(other[name]).mkdir(mode=0o700)
        found = Laptops((dict(os.environ), other))
        yield found
        for run in product.json("runs")["runs"]:
            if run["state"] == "running":
                product("runs", "stop", f"{run['host']}:{run['name']}")


def test_two_laptops_at_once_see_and_do_the_same(laptops: Laptops) -> None:
    for number in range(ROUNDS):
        name = f"same-{number}"
        one, other = laptops.both("run", "gpu2", "--name", name, "--", "echo laptop {laptop}")
        assert sorted([one.returncode, other.returncode]) == [0, 6], one.stderr + other.stderr
        winner, loser = (0, other) if one.returncode == 0 else (1, one)
        assert f"there is a run called {name} on gpu2 already" in loser.stderr
        for done in laptops.both("runs", "logs", name, "--follow"):
            assert (done.returncode, done.stdout) == (0, f"laptop {winner}\n"), done.stderr
    for done in laptops.both("run", "gpu3", "--name", "own-{laptop}", "--", "sleep 1000"):
        assert done.returncode == 0, done.stderr
    ended = {f"same-{number}": "done" for number in range(ROUNDS)}
    assert laptops.listed() == {**ended, "own-0": "running", "own-1": "running"}
    # Each stops the other's as well: whoever comes second finds it ended, or ends it too.
    for done in laptops.both("runs", "stop", "own-0", "own-1"):
        assert done.returncode == 0, done.stderr
    assert laptops.listed() == {**ended, "own-0": "killed", "own-1": "killed"}
    for done in laptops.both("runs", "clean", "--yes"):
        assert done.returncode == 0, done.stderr
    assert laptops.listed() == {}
