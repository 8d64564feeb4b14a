"""Many programs that change the keys of one account at the same moment: no key is lost.

One round of each takes a few seconds. For a long run: APEXGPU_RACE_ROUNDS=30 pytest tests/cli/test_keys_race.py
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from apexgpu.iam.publickeys import fingerprint, parse_all
from apexgpu.sshfiles.keys import generate
from tests.cli.newcomer import FOREIGN, LIMIT, Newcomer

pytestmark = pytest.mark.openssh
ROUNDS = int(os.environ.get("APEXGPU_RACE_ROUNDS", "1"))
MANY = 10


def make_key(path: Path) -> str:
    """Make a key pair without a passphrase; the fingerprint."""
    return fingerprint(generate(path, comment=path.name, passphrase=None).public)


@pytest.fixture(autouse=True)
def patient(new: Newcomer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten programs at once make a small machine slow; the spy between them and IAM is left out."""
    monkeypatch.setenv("APEXGPU_TIMEOUT", "30")
    monkeypatch.setenv("APEXGPU_IAM_URL", new.lab.iam_url)


def start(words: Sequence[str], more: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """The program as a process of its own. All of them wait at the password, which starts the race."""
    return subprocess.Popen(
        [sys.executable, "-m", "apexgpu", *words, "--password-stdin"],
        env={**os.environ, **more},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def race(programs: "Sequence[subprocess.Popen[bytes]]", password: str) -> None:
    """Give every program the password, and wait until all have ended well."""
    line = f"{password}\n".encode()
    try:
        for program in programs:
            assert program.stdin is not None
            program.stdin.write(line)
            program.stdin.flush()
        for program in programs:
            output, _ = program.communicate(timeout=2 * LIMIT)
            assert program.returncode == 0, output.decode()
    finally:
        for program in programs:
            program.kill()
            program.communicate()


def fingerprints(laptop: Newcomer) -> set[str]:
    return {fingerprint(key) for key in parse_all(laptop.stored())}


@pytest.mark.parametrize("number", range(ROUNDS))
def test_ten_additions_on_one_laptop_lose_no_key(member: Newcomer, number: int) -> None:
    member.store(FOREIGN + member.stored())
    before = fingerprints(member)
    made = {}
    for index in range(MANY):
        path = member.home / f"round{number}" / f"key{index}"
        made[make_key(path)] = path
    race([start(["keys", "add", str(path)], {}) for path in made.values()], member.password())
    assert fingerprints(member) == before | set(made)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_ten_logins_from_ten_laptops_lose_no_key(
    new: Newcomer, tmp_path: Path, number: int
) -> None:
    new.store(FOREIGN)
    before = fingerprints(new)
    keys = []
    programs = []
    for index in range(MANY):
        laptop = tmp_path / f"laptop{index}"
        keys.append(make_key(laptop / ".ssh" / "id_ed25519"))
        environment = {
            "HOME": str(laptop),
            "APEXGPU_STATE_DIR": str(laptop / "state"),
            "APEXGPU_CONFIG_DIR": str(laptop / "config"),
        }
        programs.append(start(["login", "alice", "--yes", "--accept-new"], environment))
    race(programs, new.password())
    assert fingerprints(new) == before | set(keys)
