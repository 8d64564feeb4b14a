"""--watch in a real terminal emulator (tmux), in a pipe, and with --json."""

import contextlib
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu_lab.inprocess import running
from tests.cli.newcomer import LIMIT
from tests.cli.product import Product, product_of
from tests.lab.calls import started
from tests.tmux import window
from tests.waiting import until

pytestmark = pytest.mark.openssh


@pytest.fixture
def two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """Two hosts; alice is registered on both, with stopped containers."""
    with running(tmp_path / "lab", hosts=2, registered=True, pace=0) as lab:
        yield product_of(lab, monkeypatch, capsys)


def apexgpu(*words: str) -> str:
    return shlex.join([sys.executable, "-m", "apexgpu", *words])


@contextlib.contextmanager
def piped(*words: str) -> "Iterator[subprocess.Popen[str]]":
    with subprocess.Popen(
        [sys.executable, "-m", "apexgpu", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def block_of(child: "subprocess.Popen[str]", count: int) -> list[str]:
    assert child.stdout is not None
    return [child.stdout.readline().rstrip("\n") for _ in range(count)]


def test_q_ends_it_and_the_last_table_stays_below_what_was_there(
    two: Product, runtime: Path
) -> None:
    with window(runtime) as shell:
        shell.press("echo before; " + apexgpu("status", "--interval", "0.5"), "Enter")
        shell.expect("every 0.5 s   q or Ctrl-C quits")
        assert shell.is_alternate
        started(two.lab, "gpu3")
        shell.expect("running")
        shell.press("q")
        until(lambda: not shell.is_alternate)
        shell.press("echo status $?", "Enter")
        shell.expect("status 0")
        lines = shell.lines()
        assert "before" in lines
        (head,) = [number for number, line in enumerate(lines) if line.startswith("HOST ")]
        assert lines[head + 1].split()[:2] == ["gpu2", "stopped"]
        assert lines[head + 2].split()[:2] == ["gpu3", "running"]
        assert "quits" not in shell.text()


def test_after_ctrl_c_the_last_table_stays_too(two: Product, runtime: Path) -> None:
    with window(runtime) as shell:
        shell.press(apexgpu("status", "--watch"), "Enter")
        shell.expect("every 5 s")
        shell.expect("gpu3  stopped")
        shell.press("C-c")
        until(lambda: not shell.is_alternate)
        shell.press("echo status $?", "Enter")
        shell.expect("status 130")
        assert shell.text().count("HOST ") == 1
        assert "gpu3  stopped" in shell.text()


@pytest.mark.parametrize("size", [(40, 10), (140, 40)])
def test_a_window_of_another_size_shows_the_table_once(
    two: Product, runtime: Path, size: tuple[int, int]
) -> None:
    with window(runtime) as shell:
        shell.press(apexgpu("status", "--watch"), "Enter")
        shell.expect("gpu3  stopped")
        shell.resize(*size)
        # The address is shortened where there is no room for it.
        address = "127." if size[0] > 100 else "…"
        until(lambda: len(shell.lines()) <= size[1] and address in shell.text())
        for word in ("HOST ", "gpu2 ", "gpu3 "):
            assert shell.text().count(word) == 1, shell.text()
        shell.press("q")
        until(lambda: not shell.is_alternate)
        assert shell.text().count("HOST ") == 1


def test_a_question_is_asked_on_the_screen_as_it_was_and_the_answer_is_seen(
    two: Product, runtime: Path
) -> None:
    known_hosts = (
        two.lab.layout.ssh_config.read_text().partition("UserKnownHostsFile ")[2].split()[0]
    )
    Path(known_hosts.strip('"')).unlink()
    with window(runtime) as shell:
        shell.press(apexgpu("status", "--watch"), "Enter")
        shell.expect("Trust all of them? [y/N]")
        assert not shell.is_alternate
        shell.press("y", "e", "s", "Enter")
        shell.expect("gpu3  stopped")
        assert shell.is_alternate
        shell.press("q")
        until(lambda: not shell.is_alternate)
        assert "Trust all of them? [y/N]: yes" in shell.text()


def test_in_a_pipe_there_is_a_block_for_each_round(two: Product) -> None:
    with piped("status", "--watch", "--interval", "0.5") as child:
        first = block_of(child, 4)
        started(two.lab, "gpu3")
        blocks = [block_of(child, 5)]
        while "running" not in blocks[-1][-1]:
            blocks.append(block_of(child, 5))
        child.send_signal(signal.SIGINT)
        assert child.wait(LIMIT) == 130
    assert [line.split()[0] for line in first[1:]] == ["HOST", "gpu2", "gpu3"]
    for block in blocks:
        assert block[0] == ""
        assert [line.split()[0] for line in block[2:]] == ["HOST", "gpu2", "gpu3"]


@pytest.mark.parametrize(
    ("command", "key"), [("status", "hosts"), ("gpus", "hosts"), ("runs", "runs")]
)
def test_with_json_there_is_a_document_on_a_line_for_each_round(
    two: Product, command: str, key: str
) -> None:
    started(two.lab, "gpu3")
    with piped(command, "--watch", "--interval", "0.5", "--json") as child:
        documents = [json.loads(line) for line in block_of(child, 2)]
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=LIMIT)
        assert child.returncode == 130
    for line in out.splitlines():
        documents.append(json.loads(line))
    for document in documents:
        assert document["schema"] == 1
        assert document["time"][10] == "T"
        assert key in document


def test_a_reader_that_has_enough_is_no_failure(two: Product) -> None:
    with piped("status", "--interval", "0.5") as child:
        block_of(child, 1)
        assert child.stdout is not None
        child.stdout.close()
        assert child.wait(LIMIT) == 0
        assert child.stderr is not None
        assert child.stderr.read() == ""


def test_a_host_without_a_row_is_named_in_each_round(two: Product, runtime: Path) -> None:
    two.lab.fault("gpu2", "dead")
    with piped("runs", "--interval", "0.5") as child:
        block_of(child, 2)
        assert child.stderr is not None
        assert child.stderr.readline().startswith("error: gpu2")
    with window(runtime) as shell:
        shell.press(apexgpu("runs", "--watch"), "Enter")
        shell.expect("no answer: gpu2")
        shell.press("q")
        shell.expect("error: gpu2")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "1e9"])
def test_an_interval_that_is_none_is_refused(two: Product, seconds: str) -> None:
    assert two("status", "--watch", "--interval", seconds) == 2
    assert f"--interval {float(seconds):g} is not a number of seconds" in two.err
