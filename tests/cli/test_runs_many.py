"""Many `run any --gpu any` at once: no GPU is given to two runs that live at the same time.

Two hundred runs in the longer run, twenty in CI; see tests/longruns.py.
"""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from apexgpu_lab.inprocess import Lab, running
from apexgpu_lab.labstate import LabState
from tests.cli.product import product_of
from tests.longruns import LONG

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


def times_by_gpu(lab: Lab) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """When each GPU of each host was in use, as the runs noted it."""

    def homes(state: LabState) -> dict[str, Path]:
        found = {}
        for name, host in state.hosts.items():
            container = host.accounts["alice"].container
            assert container is not None
            found[name] = container.home
        return found

    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for host, home in lab.call(homes).items():
        for line in (home / "times").read_text().splitlines():
            gpu, began, ended = line.split()
            times.setdefault((host, gpu), []).append((float(began), float(ended)))
    return times


def test_no_gpu_is_given_to_two_runs_at_the_same_time(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    product = product_of(lab, monkeypatch, capsys)

    def set_gpus(state: LabState) -> None:
        for host in state.hosts.values():
            state.set_gpus(host, [IDLE] * GPUS)

    lab.call(set_gpus)
    assert product("up", "--all", "--accept-new") == 0, product.err
    done = subprocess.run(
        [sys.executable, "-c", _MANY, str(TOTAL), str(AT_ONCE), _COMMAND],
        env={**os.environ, "APEXGPU_TIMEOUT": "100"},  # twenty at once take long on a busy machine
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == TOTAL, done.stderr
    started = [answer for answer in answers if answer["code"] == 0]
    refused = [answer["document"]["error"]["code"] for answer in answers if answer["code"] != 0]
    assert set(refused) <= {"gpu_taken", "none_free"}, [
        answer for answer in answers if answer["code"] not in {0, 6}
    ]
    assert len(started) >= HOSTS * GPUS
    for answer in started:
        assert product("runs", "wait", f"run-{answer['number']}") == 0, product.err

    times = times_by_gpu(lab)
    assert sum(len(spans) for spans in times.values()) == len(started)
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
