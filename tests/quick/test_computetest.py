"""What is sent into a container to compute there: old Pythons can read it, and odd names come through the shells."""

import ast
import builtins
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from apexgpu.errors import (
    CommandTimeoutError,
    ConnectionLostError,
    DroppedError,
    RefusedError,
    StoppedError,
)
from apexgpu.models import Host, Reply, Target
from apexgpu.recipes import computeoutput, computetest
from apexgpu.recipes.computetest import VerifyRequest
from apexgpu.ssh.transport import Limits, OnLine

HOST = Host("gpu7", "10.0.0.7", "alice", 22001)
# What Python 2.7 has not: syntax, and what of 3's is called as if it were there.
NEWER = (
    ast.JoinedStr,
    ast.AnnAssign,
    ast.NamedExpr,
    ast.Match,
    ast.AsyncFunctionDef,
    ast.Nonlocal,
    ast.YieldFrom,
    ast.Starred,
)
SINCE_3 = {
    "FileNotFoundError",
    "ProcessLookupError",
    "PermissionError",
    "BrokenPipeError",
    "ConnectionError",
    "ChildProcessError",
    "TimeoutError",
    "ModuleNotFoundError",
    "ascii",
    "exec",
    "print",
}


def test_what_is_sent_can_be_read_by_python_2_7_and_3_5() -> None:
    text = computetest.program()
    assert text.isascii()
    tree = ast.parse(text, feature_version=(3, 5))
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, NEWER)] == []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            every = [*node.args.args, *([node.args.kwarg] if node.args.kwarg else [])]
            assert [one.annotation for one in every if one.annotation] == []
            assert not node.returns
            assert not node.args.kwonlyargs
        if isinstance(node, ast.Raise):
            assert node.cause is None
        if isinstance(node, ast.Name):
            assert node.id not in SINCE_3
            assert not (isinstance(node.ctx, ast.Load) and node.id == "super")
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names - set(sys.stdlib_module_names) == {"tensorflow", "tensorflow.python.client"}
    assert "pathlib" not in names
    assert set(dir(builtins)) >= SINCE_3


def test_many_hosts_at_once_read_it_once() -> None:
    computetest._program.cache_clear()
    with ThreadPoolExecutor(32) as pool:
        assert len({*pool.map(lambda _: computetest.program(), range(64))}) == 1
    assert computetest._program.cache_info().misses == 1


@pytest.mark.parametrize(
    "command",
    [
        computetest.look_command(VerifyRequest("/p"), login=True),
        computetest.compute_command("/p", 0, 600, login=True),
        computetest.compute_command("/p", 0, 600, login=False),
    ],
)
def test_a_command_fits_into_one_argument_of_a_shell(command: str) -> None:
    assert (
        len(command) < 60_000
    )  # Linux takes 131,072, and quotes within quotes make it longer there


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh", "/usr/bin/fish", "/bin/tcsh", ""])
def test_the_look_comes_through_every_login_shell(tmp_path: Path, shell: str) -> None:
    name = 'it\'s $HOME "and" 中文\\n; ls'
    room = tmp_path / name / "bin"
    room.mkdir(parents=True)
    (room / "python").symlink_to(sys.executable)
    # A fish that is one as far as its arguments go.
    fish = tmp_path / "fish"
    fish.write_text('#!/bin/sh\nshift 4\nexec "$@"\n')
    fish.chmod(0o755)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "SHELL": str(fish) if "fish" in shell else shell,
    }
    command = computetest.look_command(
        VerifyRequest(f"~/{name}", local_home="/Users/alice"), login=True
    )
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, check=True
    )
    (found,) = computeoutput.read_software(done.stdout).pythons
    assert (found.path, found.tensorflow) == (str(room / "python"), "")


class Scripted:
    """A transport that answers in this order; an error is raised. It must be asked for all of them."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = [*answers]

    def run(
        self,
        target: Target,
        command: str,
        *,
        limits: Limits | None = None,
        on_line: OnLine | None = None,
        once: bool = False,
    ) -> Reply:
        assert target == Target(HOST, "container")
        assert once
        assert limits is not None
        assert limits.total is not None
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        for line in answer.splitlines() if on_line else ():
            on_line(line) if on_line else None
        return Reply(0, answer)


SMI = """Driver Version : 390.48
Attached GPUs : 1
GPU 00000000:02:00.0
    Product Name : TITAN V
    FB Memory Usage
        Total : 12066 MiB
        Used : 0 MiB
        Free : 12066 MiB
@@ 0
"""
LOOK = 'apexgpu {"name": "tensorflow-gpu", "python": "/p", "step": "look", "tensorflow": "1.10.1"}\napexgpu-looked\n'


def test_a_connection_that_is_cut_by_our_limit_is_a_verdict_and_no_answer_is_shown_as_progress() -> (
    None
):
    link = Scripted(SMI, LOOK, CommandTimeoutError("too long"))
    told: list[str] = []
    checks = computetest.verify_container(
        link, HOST, VerifyRequest(wait=5), connect_timeout=1, on_line=told.append
    )
    assert (checks.verdict, checks.error.code if checks.error else None, link.answers) == (
        "slow",
        "slow",
        [],
    )
    assert not any(line.startswith(computeoutput.MARK) for line in told)


def test_a_connection_that_is_lost_is_no_verdict() -> None:
    link = Scripted(SMI, LOOK, ConnectionLostError("lost"))
    with pytest.raises(DroppedError, match="lost"):
        computetest.verify_container(
            link, HOST, VerifyRequest(), connect_timeout=1, on_line=lambda _: None
        )


def test_a_container_that_is_stopped_is_no_verdict() -> None:
    with pytest.raises(RefusedError) as caught:
        computetest.verify_container(
            Scripted(StoppedError("stopped")),
            HOST,
            VerifyRequest(),
            connect_timeout=1,
            on_line=lambda _: None,
        )
    assert caught.value.code == "stopped"


def test_an_nvidia_smi_that_tells_less_is_asked_for_less() -> None:
    link = Scripted("390.48\n@@ 0\n", "390.48\n", LOOK, "apexgpu-end 142\n")
    checks = computetest.verify_container(
        link, HOST, VerifyRequest(), connect_timeout=1, on_line=lambda _: None
    )
    assert (checks.driver, checks.gpu.index if checks.gpu else None, link.answers) == (
        "390.48",
        0,
        [],
    )
    checks = computetest.verify_container(
        Scripted("what?\n@@ 0\n", "what?\n"),
        HOST,
        VerifyRequest(),
        connect_timeout=1,
        on_line=lambda _: None,
    )
    assert (checks.verdict, checks.findings[0].code) == ("broken", "garbled")


def test_signs_of_life_are_shown_and_answers_are_not() -> None:
    steps = "\n".join("apexgpu " + json.dumps({"step": name}) for name in ("python", "import"))
    link = Scripted(SMI, LOOK, f"{steps}\ncomputing on the GPU (4 s)\napexgpu-end 142\n")
    told: list[str] = []
    computetest.verify_container(
        link, HOST, VerifyRequest(), connect_timeout=1, on_line=told.append
    )
    assert told == [
        "driver 390.48; looking for CUDA and TensorFlow",
        "computing",
        "computing on the GPU (4 s)",
    ]
