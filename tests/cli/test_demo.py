"""`apexgpu demo`: the whole story, and nothing left behind, also when it is interrupted."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu import cli
from apexgpu.session import Session

DEMO = [sys.executable, "-m", "apexgpu", "demo"]
LIMIT = 500  # seconds for the busiest machine; alone it takes about 15

pytestmark = [pytest.mark.openssh, pytest.mark.timeout(600)]


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The demo's TMPDIR, empty; short, because sockets live below it."""
    with tempfile.TemporaryDirectory(prefix="d-") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        yield Path(directory)


def processes_in(scratch: Path) -> list[str]:
    """The command lines of processes that were started with this TMPDIR."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if f"TMPDIR={scratch}\0".encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found


def recorded() -> list[str]:
    """The lines of the recording in the README."""
    cast = Path(__file__).parent.parent.parent / "docs" / "demo.cast"
    _, *events = cast.read_text(encoding="utf-8").splitlines()
    return [json.loads(event)[2].rstrip() for event in events]


def story(lines: list[str]) -> list[str]:
    """The chapters and commands, without ports, which are others in each run."""
    return [re.sub(r"\d{4,}", "PORT", line) for line in lines if line.startswith(("# ", "$ "))]


def test_the_story_is_told_and_nothing_is_left(scratch: Path, isolated: Path) -> None:
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    for said in (
        "$ apexgpu login alice",
        "$ apexgpu register gpu2 gpu3",
        "gpu2 is up. Next: ",
        "TITAN V",
        "gpu2 is down",
        "$ apexgpu gpus gpu2",
        "epoch 3 on GPU ",
        "training on gpu2: done",
        "/home/alice/hello.txt: 1 file",
        "hello from the container",
        "the snapshot is good: alice-gpu2-",
    ):
        assert said in done.stdout + done.stderr
    assert story(done.stdout.splitlines()) == story(recorded()), "run: make picture"
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout
    assert processes_in(scratch) == []
    assert list(scratch.iterdir()) == []
    assert list(isolated.iterdir()) == []


def test_as_json_each_step_has_its_exit_code(scratch: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--json"], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    assert document["ok"] is True
    assert len(document["steps"]) > 8
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("after", "number", "status"),
    [
        ("$ apexgpu login", signal.SIGINT, 130),
        ("$ apexgpu tunnel", signal.SIGINT, 130),
        ("$ apexgpu login", signal.SIGTERM, 143),
        ("$ apexgpu tunnel", signal.SIGHUP, 129),
    ],
)
def test_interrupted_it_leaves_nothing_either(
    scratch: Path, isolated: Path, after: str, number: signal.Signals, status: int
) -> None:
    with subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as demo:
        assert demo.stdout
        for line in demo.stdout:
            if line.startswith(after):
                break
        else:
            pytest.fail(f"{after} was never shown")
        os.killpg(demo.pid, number)  # as a terminal does: to everything in front
        said = demo.stdout.read()
        assert demo.wait(LIMIT) == status
    assert "Traceback" not in said
    assert processes_in(scratch) == []
    assert list(scratch.iterdir()) == []
    assert list(isolated.iterdir()) == []


def test_help_lists_the_lab_only_where_its_libraries_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["--help"], Session(environment={})) == 0
    assert "  demo " in capsys.readouterr().out
    find_spec = importlib.util.find_spec

    def found(name: str) -> object:
        return None if name == "asyncssh" else find_spec(name)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    assert cli.main(["--help"], Session(environment={})) == 0
    out = capsys.readouterr().out
    assert "  demo " not in out
    assert "  login " in out
    assert cli.main(["demo"], Session(environment={})) == 127
    assert "the embedded lab needs asyncssh" in capsys.readouterr().err
