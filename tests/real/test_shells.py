"""Completion in real shells: the script that `completion show` prints, and a Tab after a line."""

import contextlib
import os
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

LIMIT = 60
LINES = [
    ("apexgpu sta", "apexgpu status"),
    ("apexgpu up gpu12", "apexgpu up gpu12"),
    ("apexgpu up gpu2 gpu1", "apexgpu up gpu2 gpu12"),
    ("apexgpu setup gpu2 tensorb", "apexgpu setup gpu2 tensorboard"),
    ("apexgpu config sync --dr", "apexgpu config sync --dry-run"),
    ("apexgpu mount gpu2 my-f", "apexgpu mount gpu2 my-files"),
    ("apexgpu keys add my-k", "apexgpu keys add my-key.pub"),
]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with files in it, apexgpu on the PATH, and the hosts of a login."""
    state = Path(os.environ["APEXGPU_STATE_DIR"])
    state.mkdir()
    (state / "hosts").write_text("gpu2\ngpu3\ngpu12\n")
    there = tmp_path / "desk"
    (there / "my-files").mkdir(parents=True)
    (there / "my-key.pub").write_text("")
    monkeypatch.setenv("PATH", f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
    for shell in ("bash", "zsh", "fish"):
        script = subprocess.run(
            ["apexgpu", "completion", "show", shell], capture_output=True, text=True, check=True
        )
        (there / f"script.{shell}").write_text(script.stdout)
    return there


@contextlib.contextmanager
def interactive(shell: str, desk: Path) -> "Iterator[pexpect.spawn[str]]":
    """A shell at a terminal that has read the script."""
    argv = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}[shell]
    child = pexpect.spawn(
        shell,
        argv,
        cwd=str(desk),
        timeout=LIMIT,
        encoding="utf-8",
        dimensions=(24, 200),
        env={**os.environ, "TERM": "dumb", "PS1": "> ", "INPUTRC": "/dev/null"},
    )
    try:
        if shell == "zsh":
            child.sendline(
                "unsetopt zle_bracketed_paste prompt_cr prompt_sp; autoload -U compinit; compinit -u -D"
            )
        child.sendline(f". ./script.{shell}; echo rea''dy")
        child.expect("ready\r\n")
        yield child
    finally:
        child.close(force=True)


def tab(child: "pexpect.spawn[str]", line: str) -> str:
    """Type a line and Tab: the line as the shell has it then, which becomes (Ctrl-A) what another program is given."""
    child.send(f"{line}\t\x01printf '<%s>\\n' \r")
    child.expect("<apexgpu>\r\n")
    child.sendline("echo do''ne")
    child.expect("done\r\n")
    words = [word.strip()[1:-1] for word in (child.before or "").splitlines() if word[:1] == "<"]
    return shlex.join(["apexgpu", *words]).rstrip("/")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_tab(desk: Path, shell: str) -> None:
    with interactive(shell, desk) as child:
        assert [tab(child, line) for line, _ in LINES] == [whole for _, whole in LINES]


def test_fish(desk: Path) -> None:
    for line, whole in LINES:
        asked = f"source script.fish; complete --do-complete {shlex.quote(line)}"
        argv = ["fish", "--no-config", "-c", asked]
        done = subprocess.run(
            argv, cwd=desk, capture_output=True, text=True, check=True, timeout=LIMIT
        )
        assert [found.split("\t")[0].rstrip("/") for found in done.stdout.splitlines()] == [
            whole.split()[-1]
        ]
        assert done.stderr == ""
