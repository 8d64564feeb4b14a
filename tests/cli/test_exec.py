"""exec while its command runs: lines as they arrive, bytes as they are, little memory. Ctrl-C is in tests/real."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu_lab.inprocess import running
from tests.cli.newcomer import LIMIT
from tests.cli.product import Product, product_of
from tests.longruns import LONG

pytestmark = pytest.mark.openssh

_MOST_MEMORY = 80 << 20
"""Bytes that apexgpu itself may need, start-up included, whatever the size of the output."""

_MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(peak * (1 if sys.platform == "darwin" else 1024), file=sys.stderr)
"""
"""Runs a program and prints the most memory that it had. From a process that is small itself: its size counts too."""


@pytest.fixture
def product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """Two hosts with running containers."""
    with running(tmp_path / "lab", hosts=2, registered=True, pace=0) as lab:
        found = product_of(lab, monkeypatch, capsys)
        assert found("up", "gpu2", "gpu3") == 0, found.err
        yield found


@contextlib.contextmanager
def executing(*words: str) -> "Iterator[subprocess.Popen[bytes]]":
    """`apexgpu exec` in a process of its own, whose output is read from pipes."""
    argv = [sys.executable, "-m", "apexgpu", "exec", *words]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def lines_of(child: "subprocess.Popen[bytes]", count: int) -> list[str]:
    assert child.stdout is not None
    return [child.stdout.readline().decode() for _ in range(count)]


def test_the_bytes_of_one_host_are_passed_on_as_they_are(product: Product) -> None:
    script = r"printf 'a\r\n\033[1m\377\000b'; printf '\376 no newline' >&2; exit 5"
    with executing("gpu2", "--", script) as child:
        out, err = child.communicate(timeout=LIMIT)
    assert out == b"a\r\n\x1b[1m\xff\x00b"
    assert err == b"\xfe no newline"
    assert child.returncode == 5


def test_the_lines_of_several_hosts_arrive_while_the_command_runs(
    product: Product,
) -> None:
    script = (
        "echo one; echo two; printf thr; while [ ! -e go-on ]; do sleep 0.1; done; echo ee; exit 2"
    )
    with executing("gpu2", "gpu3", "--", script) as child:
        first = lines_of(child, 4)
        assert child.poll() is None
        assert product("exec", "gpu2", "gpu3", "--", "touch go-on") == 0
        out, err = child.communicate(timeout=LIMIT)
    everything = [*first, *out.decode().splitlines(keepends=True)]
    for host in ("gpu2", "gpu3"):
        of_host = [line for line in everything if line.startswith(host)]
        assert of_host == [f"{host}  one\n", f"{host}  two\n", f"{host}  three\n"]
        assert f"{host}  exit status 2\n" in err.decode()
    assert child.returncode == 1


def test_a_line_without_an_end_and_control_characters_stay_in_their_line(product: Product) -> None:
    assert product("exec", "gpu2", "gpu3", "--", r"printf '1%%\r50%%\r100%%\n\033[2Jend'") == 0
    for host in ("gpu2", "gpu3"):
        of_host = [line for line in product.out.splitlines() if line.startswith(host)]
        assert of_host == [f"{host}  1%", f"{host}  50%", f"{host}  100%", rf"{host}  \x1b[2Jend"]


def test_a_reader_that_ends_is_no_failure(product: Product) -> None:
    with executing("gpu2", "--", "while :; do echo more; sleep 0.1; done") as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.wait(LIMIT) == 0
        assert child.stderr is not None
        assert child.stderr.read() == b""


@pytest.mark.parametrize("hosts", [("gpu2",), ("gpu2", "gpu3")])
def test_output_of_any_size_takes_little_memory(
    product: Product, tmp_path: Path, hosts: tuple[str, ...]
) -> None:
    """50 MB; 1 GB with APEXGPU_LONG_TESTS=1."""
    size = 1_000_000_000 if LONG else 50_000_000
    script = f"yes 'a line of forty-nine characters and its newline' | head -c {size // len(hosts)}"
    argv = [sys.executable, "-m", "apexgpu", "exec", *hosts, "--", script]
    file = tmp_path / "out"
    with file.open("wb") as out:
        measured = subprocess.run(
            [sys.executable, "-S", "-c", _MEASURE, *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            check=True,
            timeout=10 * LIMIT,
        )
    assert file.stat().st_size >= size
    file.unlink()
    # On several hosts, lines that tell that they still run come before it.
    peak = int(measured.stderr.split()[-1])
    sys.stdout.write(f"{size} bytes of {len(hosts)} hosts: {peak / (1 << 20):.1f} MiB\n")
    assert peak < _MOST_MEMORY


def test_json_keeps_the_beginning_and_the_end_of_a_long_output(product: Product) -> None:
    script = "echo first; yes | head -c 70000000; echo last"
    with executing("gpu2", "--json", "--", script) as child:
        out, _ = child.communicate(timeout=LIMIT)
    (row,) = json.loads(out)["hosts"]
    assert row["truncated"] is True
    assert row["stdout"].startswith("first\n")
    assert row["stdout"].endswith("last\n")
    assert "bytes are left out" in row["stdout"]
    assert len(row["stdout"]) < 68_000_000
