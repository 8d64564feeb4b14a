"""The variables of `lab env` in a shell: set, removed, left over from a lab that is gone."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu import cli, labvariables
from apexgpu.session import Session
from apexgpu_lab import client
from apexgpu_lab.layout import Layout
from tests.cli.newcomer import LIMIT

APEXGPU = f'"{sys.executable}" -m apexgpu'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory that `lab up` uses; a lab there is ended whatever happens."""
    monkeypatch.setenv("APEXGPU_STATE_DIR", str(tmp_path / "state"))
    path = tmp_path / "state" / "lab"
    yield path
    client.down(path)


def sh(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'apexgpu() {{ {APEXGPU} "$@"; }}\n{script}'],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def test_a_lab_that_is_started_again_in_its_terminal_is_the_same_directory(home: Path) -> None:
    done = sh(
        """
        apexgpu lab up --hosts 1 && eval "$(apexgpu lab env)" && apexgpu lab down || exit 1
        apexgpu status; echo "status $?"
        apexgpu lab up --hosts 1 || exit 1
        apexgpu config get iam_url
        eval "$(apexgpu lab env)" && apexgpu lab status && apexgpu lab down
        eval "$(apexgpu lab env --unset)"
        echo "after: ${APEXGPU_IAM_URL-unset} ${APEXGPU_STATE_DIR-unset}"
        """
    )
    assert "belong to a lab that is down" in done.stderr
    assert 'hint: eval "$(apexgpu lab env --unset)"' in done.stderr
    assert "status 2" in done.stdout
    assert "after: unset unset" in done.stdout
    assert not home.exists()
    assert "error" not in done.stderr.replace("error: 5 variables", ""), done.stderr


@pytest.mark.sshfs
def test_the_end_of_a_lab_unmounts_and_closes_what_leads_to_it(home: Path, tmp_path: Path) -> None:
    client.up(home, hosts=1, registered=True, pace=0)
    directory = tmp_path / "mounted"
    done = sh(
        f"""
        eval "$(apexgpu lab env)"
        apexgpu up gpu2 --accept-new && apexgpu mount gpu2 {directory} || exit 1
        apexgpu tunnel gpu2 9999 --background || exit 1
        apexgpu lab down
        """
    )
    assert done.returncode == 0, done.stderr
    assert f"unmounted {directory}" in done.stderr
    assert "closed gpu2-" in done.stderr
    assert 'in this terminal again: eval "$(apexgpu lab env --unset)"' in done.stderr
    assert str(directory) not in Path("/proc/self/mounts").read_text()
    assert not home.exists()


def test_nothing_in_the_lab_is_warned_of_as_if_it_were_forged(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client.up(home, hosts=1, registered=True, pace=0)
    for name, value in client.environment(home).items():
        monkeypatch.setenv(name, value)
    assert cli.main(["up", "gpu2", "--accept-new"], Session()) == 0
    capsys.readouterr()
    assert cli.main(["setup", "gpu2", "cuda", "cudnn", "--plan"], Session()) == 0
    shown = capsys.readouterr()
    assert "cuDNN" in shown.out
    assert "checksum" not in shown.err + shown.out


def test_variables_of_an_earlier_lab_are_named_when_its_iam_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(tmp_path / "lab")
    for name, value in layout.environment("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    layout.home.mkdir()
    layout.description.write_text('{"iam_url": "http://127.0.0.1:10"}')
    assert cli.main(["config", "sync"], Session()) == 2
    assert 'hint: eval "$(apexgpu lab env)"' in capsys.readouterr().err


def test_what_is_removed_is_what_is_set() -> None:
    assert set(labvariables.VARIABLES) == set(Layout(Path()).environment(""))


@pytest.mark.parametrize(
    ("shell", "line", "unset"),
    [
        ("sh", "export APEXGPU_USER=alice", "unset APEXGPU_USER"),
        ("zsh", "export APEXGPU_USER=alice", "unset APEXGPU_USER"),
        ("fish", "set -gx APEXGPU_USER 'alice'", "set -e APEXGPU_USER"),
        (
            "powershell",
            "$env:APEXGPU_USER = 'alice'",
            "Remove-Item Env:APEXGPU_USER -ErrorAction SilentlyContinue",
        ),
    ],
)
def test_each_shell_has_its_own_lines(
    home: Path, shell: str, line: str, unset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client.up(home, hosts=1, registered=False, pace=0)
    session = Session(environment=os.environ)
    assert cli.main(["lab", "env", "--shell", shell], session) == 0
    assert line in capsys.readouterr().out.splitlines()
    assert cli.main(["lab", "env", "--unset", "--shell", shell], session) == 0
    assert unset in capsys.readouterr().out.splitlines()


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_the_lines_work_in_a_real_fish(home: Path) -> None:
    script = f"{APEXGPU} lab env --shell fish | source; echo $APEXGPU_USER"
    client.up(home, hosts=1, registered=False, pace=0)
    done = subprocess.run(
        ["fish", "-c", script], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.stdout.strip() == "alice", done.stderr
