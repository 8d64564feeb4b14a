"""Many `run any --gpu any` at once: no GPU is given to two runs that live at the same time.

Two hundred runs in the longer run, twenty in CI; see tests/longruns.py.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from apexgpu_lab.inprocess import Lab, running
from apexgpu_lab.labstate import LabState
from tests.cli.product import product_of
from tests.longruns import LONG
from tests.waiting import until

TOTAL = 200 if LONG else 20
AT_ONCE = 20
HOSTS, GPUS = 3, 4
IDLE = {"name": "TITAN V", "total": 12066, "mode": "Default", "own": [], "used": 11, "load": 0}

# Forks, because each start of Python takes longer than all that a command does.
_MANY = """
import io, json, os, sys
from apexgpu import cli
from apexgpu.render.screen import Screen
from apexgpu.session import Session
import apexgpu.commands.runs, apexgpu.runstart, apexgpu.nvidia.query, apexgpu.ssh.paramikoclient
from apexgpu.ssh.identities import load_paramiko
load_paramiko()
total, at_once, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def start(number):
    out, err = io.StringIO(), io.StringIO()
    words = ["run", "--json", "--gpu", "any", "--name", f"run-{number}", "any", "--", command]
    code = cli.main(words, Session(), Screen(out=out, err=err))
    document = json.loads(out.getvalue())
    line = json.dumps({"number": number, "code": code, "document": document, "err": err.getvalue()})
    os.write(1, line.encode() + b"\\n")

running = 0
for number in range(total):
    if running == at_once:
        os.wait(); running -= 1
    if os.fork() == 0:
        try:
            start(number)
        finally:
            os._exit(0)
    running += 1
while running:
    os.wait(); running -= 1
"""

# The run notes the times between which it certainly has its GPU.
_COMMAND = (
    'began=$(date +%s.%N); sleep 1.5; echo "$CUDA_VISIBLE_DEVICES $began $(date +%s.%N)" >>~/times'
)


@pytest.fixture
def lab(tmp_path: Path) -> Any:
    with running(tmp_path / "lab", hosts=HOSTS, registered=True) as started:
        yield started


@contextmanager
def other_member(lab: Lab, directory: Path) -> Iterator[dict[str, str]]:
    """Bob's laptop, and his containers on the same hosts."""
    environment = dict(os.environ)
    for name in ("HOME", "APEXGPU_STATE_DIR", "APEXGPU_CONFIG_DIR", "XDG_RUNTIME_DIR"):
        environment[name] = str(directory / name)
        Path(environment[name]).mkdir(mode=0o700, parents=True)
    environment["APEXGPU_SSH_CONFIG"] = str(directory / "HOME/.ssh/config")
    environment["APEXGPU_USER"] = "bob"
    environment["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"

    def apexgpu(*words: str, stdin: str = "") -> None:
        done = subprocess.run(
            [sys.executable, "-m", "apexgpu", *words],
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    login = ("login", "bob", "--password-stdin", "--yes", "--accept-new", "--allow-http")
    apexgpu(*login, stdin=f"{lab.password('bob')}\n")
    apexgpu("config", "sync")
    apexgpu("register", "--all", "--accept-new")
    apexgpu("up", "--all", "--accept-new")
    yield environment


def times_by_gpu(lab: Lab, members: int = 1) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """When each GPU of each host was in use, as the runs noted it."""

    def homes(state: LabState) -> list[tuple[str, Path]]:
        found = []
        for name, host in state.hosts.items():
            for member in ("alice", "bob")[:members]:
                container = host.accounts[member].container
                assert container is not None
                found.append((name, container.home))
        return found

    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for host, home in lab.call(homes):
        file = home / "times"
        for line in file.read_text().splitlines() if file.exists() else ():
            gpu, began, ended = line.split()
            times.setdefault((host, gpu), []).append((float(began), float(ended)))
    return times


def start_many(environment: dict[str, str], total: int, at_once: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _MANY, str(total), str(at_once), _COMMAND],
        env={**environment, "APEXGPU_TIMEOUT": "100"},  # twenty at once take long on a busy machine
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("members", [1, 2] if LONG else [1])
def test_no_gpu_is_given_to_two_runs_at_the_same_time(
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    members: int,
) -> None:
    product = product_of(lab, monkeypatch, capsys)

    def set_gpus(state: LabState) -> None:
        for host in state.hosts.values():
            state.set_gpus(host, [IDLE] * GPUS)

    lab.call(set_gpus)
    assert product("up", "--all", "--accept-new") == 0, product.err
    environments = [dict(os.environ)]
    with ExitStack() as stack:
        if members == 2:
            environments.append(stack.enter_context(other_member(lab, tmp_path / "bob")))
        processes = [
            start_many(environment, TOTAL // members, AT_ONCE // members)
            for environment in environments
        ]
        answers = []
        for process in processes:
            out, err = process.communicate()
            assert process.returncode == 0, err
            said = [json.loads(line) for line in out.splitlines()]
            assert len(said) == TOTAL // members, err
            answers += said
    started = [answer for answer in answers if answer["code"] == 0]
    refused = [answer["document"]["error"]["code"] for answer in answers if answer["code"] != 0]
    assert set(refused) <= {"gpu_taken", "none_free"}, refused
    assert len(started) >= HOSTS * GPUS
    until(lambda: sum(map(len, times_by_gpu(lab, members).values())) == len(started))

    times = times_by_gpu(lab, members)
    for gpu, spans in times.items():
        for (_, ended), (began, _) in pairwise(sorted(spans)):
            assert ended <= began, gpu
    # Each run was on the GPU that its start reported.
    reported: dict[tuple[str, str], int] = {}
    for answer in started:
        (run,) = answer["document"]["runs"]
        key = (run["host"], str(run["gpus"][0]))
        reported[key] = reported.get(key, 0) + 1
    assert reported == {gpu: len(spans) for gpu, spans in times.items()}
    record_property("started", len(started))
