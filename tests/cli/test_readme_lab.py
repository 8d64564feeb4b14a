"""The lab's section of the README, typed line by line in a new terminal with an empty home."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from tests.longruns import LONG
from tests.terminals import spawn

ROOT = Path(__file__).parent.parent.parent
PROMPT = "next> "
PROMPT_AGAIN = r"\n\r?next> "
LIMIT = 60  # seconds for one line; `register` takes a quarter of a minute
# What ends differently on purpose: a host does not answer.
EXPECTED_STATUS = {"apexgpu status": 3}
QUICK = ("apexgpu lab up", "apexgpu lab status", "apexgpu login", "apexgpu lab down", "eval")


def lines_of(page: str) -> list[str]:
    """The commands of the block that begins with `lab up`, without comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    block = re.search(r"```sh\n(apexgpu lab up .*?)```", text, re.DOTALL)
    assert block is not None
    return [re.split(r"\s{2,}#", line)[0] for line in block[1].splitlines()]


def test_both_readmes_have_the_same_commands_and_end_what_they_begin() -> None:
    lines = lines_of("README.md")
    assert lines == lines_of("README.zh-CN.md")
    assert lines[-2:] == ["apexgpu lab down", 'eval "$(apexgpu lab env --unset)"']
    assert {"apexgpu setup gpu2 tensorflow", "apexgpu verify gpu2"} <= set(lines)


@pytest.mark.sshfs
def test_typed_as_they_stand_they_succeed_one_after_the_other(tmp_path: Path) -> None:
    lines = lines_of("README.md")
    if not LONG:  # the whole takes more than a minute
        lines = [line for line in lines if line.startswith(QUICK)]
    programs = str(Path(sys.executable).parent)
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
        "TERM": "xterm",
        "LANG": "C.UTF-8",
    }
    child = spawn(
        "bash", ["--norc"], env=environment, cwd=str(tmp_path), timeout=LIMIT, encoding="utf-8"
    )
    child.sendline(f"PS1='{PROMPT}'; PROMPT_COMMAND=")
    child.expect(PROMPT_AGAIN)
    try:
        for line in lines:
            child.sendline(line)
            shown = answer_until_prompt(child, environment)
            child.sendline("echo status=$?")
            child.expect(r"\n\r?status=(\d+)")
            assert isinstance(child.match, re.Match)
            assert int(child.match[1]) == EXPECTED_STATUS.get(line, 0), f"{line}\n{shown}"
            child.expect(PROMPT)
    finally:
        subprocess.run(["apexgpu", "lab", "down"], env=environment, check=False)
        child.close(force=True)
    assert not (tmp_path / ".ssh").exists(), "the user's own files are not touched"


def answer_until_prompt(child: "pexpect.spawn[str]", environment: dict[str, str]) -> str:
    """Answer what is asked until the line has ended; what was shown."""
    shown = ""
    while True:
        choice = child.expect(
            [PROMPT_AGAIN, "Domain password of alice", r"\[y/N\]", r"alice@gpu2-alice:\S+\$ "]
        )
        shown += str(child.before)
        if choice == 0:
            return shown
        if choice == 1:
            child.sendline(password(environment))
        else:
            child.sendline("y" if choice == 2 else "exit")


def password(environment: dict[str, str]) -> str:
    """alice's, from `lab status`."""
    argv = ["apexgpu", "lab", "status", "--json"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout)["users"][0]["password"])
