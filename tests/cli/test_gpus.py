"""`gpus` against the lab: every row that can be there, and the live table on a terminal."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu.nvidia import query
from apexgpu_lab.inprocess import running
from tests.cli.newcomer import ended
from tests.cli.product import Product, at_terminal, product_of
from tests.cli.test_gpus_free import CARDS, TITAN, set_cards
from tests.lab.calls import started, wait_until

MIB = 1024**2


@pytest.fixture
def product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """gpu2 and gpu3 run and have two GPUs each, gpu4 is stopped."""
    monkeypatch.setenv("TERM", "xterm")
    with running(tmp_path / "lab", hosts=3, registered=True) as lab:
        for name in ("gpu2", "gpu3"):
            started(lab, name)
            set_cards(lab, name, "Be")
        yield product_of(lab, monkeypatch, capsys)


def row(product: Product, host: str) -> list[str]:
    """The cells of a host's first row."""
    line = next(line for line in product.out.splitlines() if line.startswith(f"{host} "))
    return re.split(r" {2,}", line)


class TestTheTable:
    def test_has_a_row_for_every_gpu_of_the_hosts_that_run(self, product: Product) -> None:
        assert product("gpus") == 0
        lines = product.out.splitlines()
        assert lines[0].split() == [
            "HOST",
            "GPU",
            "MODEL",
            "TEMP",
            "LOAD",
            "USED",
            "FREE",
            "DRIVER",
            "USED",
            "BY",
        ]
        assert [re.split(r" {2,}", line) for line in lines[1:3]] == [
            [
                "gpu2",
                "0",
                "TITAN V",
                "78°C",
                "97%",
                "8.8 GiB",
                "3.0 GiB",
                "390.48",
                "others 8.8 GiB",
            ],
            ["gpu2", "1", "TITAN V", "30°C", "0%", "11.0 MiB", "11.8 GiB", "390.48"],
        ]
        assert [line.split()[:2] for line in lines[3:]] == [
            ["gpu3", "0"],
            ["gpu3", "1"],
            ["gpu4", "-"],
        ]
        assert row(product, "gpu4") == ["gpu4", "-", "stopped", "apexgpu up gpu4"]
        assert product.err == (
            "others: GPU memory used outside your container; whose it is cannot be seen\n"
        )

    def test_without_others_says_nothing_of_them(self, product: Product) -> None:
        set_cards(product.lab, "gpu2", "ew")
        assert product("gpus", "gpu2") == 0
        assert product.err == ""

    def test_tells_the_own_programs_from_others(self, product: Product) -> None:
        card = TITAN | {
            "used": 9011,
            "own": [[4242, "/usr/bin/python3", 3000], [4243, "python3", 1000]],
        }
        product.lab.call(
            lambda lab_state: lab_state.set_gpus(lab_state.host("gpu2"), [card, TITAN | CARDS["O"]])
        )
        assert product("gpus", "gpu2") == 0
        assert row(product, "gpu2")[-1] == "you 3.9 GiB (python3), others 4.9 GiB"
        assert product.out.splitlines()[2].endswith("390.48  you 2.9 GiB (python)")

    def test_in_json_is_numbers(self, product: Product) -> None:
        (host,) = product.json("gpus", "gpu2")["hosts"]
        assert host["state"] == "running"
        assert host["driver"] == "390.48"
        busy, _ = host["gpus"]
        assert busy.pop("uuid").startswith("GPU-")
        assert busy == {
            "index": 0,
            "name": "TITAN V",
            "driver": "390.48",
            "temperature": 78,
            "utilization": 97,
            "memory_total": 12066 * MIB,
            "memory_used": 9000 * MIB,
            "memory_free": 3066 * MIB,
            "compute_mode": "Default",
            "processes": [],
            "others": 9000 * MIB,
            "condition": "healthy",
            "reason": None,
            "instances": [],
            "locked_by": None,
        }

    def test_words_of_a_server_are_data(self, product: Product) -> None:
        card = TITAN | {"name": "\x1b[31mTITAN", "own": [[1, "[bold]\x07x", 5000]], "used": 5011}
        product.lab.call(lambda lab_state: lab_state.set_gpus(lab_state.host("gpu2"), [card]))
        assert product("gpus", "gpu2") == 0
        assert r"\x1b[31mTITAN" in product.out
        assert r"[bold]\x07x" in product.out

    def test_of_no_running_container_is_exit_6_with_what_to_type(self, product: Product) -> None:
        for name in ("gpu2", "gpu3"):
            assert product("down", name, "--yes") == 0
        assert product("gpus") == 6
        assert "error: no container of yours is running\n hint: apexgpu up HOST" in product.err
        document = product.json("gpus")
        assert document["error"]["code"] == "stopped"
        assert [one["state"] for one in document["hosts"]] == ["stopped"] * 3


class TestBadRows:
    @pytest.mark.parametrize(
        ("fault", "words", "cure", "code"),
        [
            ("gpu-mismatch", "driver mismatch", "apexgpu restart gpu3", 6),
            ("gpu-no-driver", "no nvidia smi", "apexgpu doctor gpu3", 6),
            ("gpu-lost", "gpu lost", "apexgpu gpus free", 6),
            ("gpu-none", "no gpus", "apexgpu gpus free", 6),
            ("denied", "key refused", "apexgpu login", 4),
            ("dead", "unreachable", "apexgpu doctor gpu3", 5),
            ("silent", "timeout", "apexgpu status gpu3", 5),
        ],
    )
    def test_cost_their_own_row_only_and_say_what_to_type(
        self, product: Product, fault: str, words: str, cure: str, code: int
    ) -> None:
        product.lab.fault("gpu3", fault)
        limit = ("--timeout", "4") if fault == "silent" else ()
        assert product("gpus", *limit) == 3
        assert row(product, "gpu2")[:3] == ["gpu2", "0", "TITAN V"]
        cells = row(product, "gpu3")
        if fault != "dead":  # how a closed port looks depends on the system
            assert cells[2] == words
            assert cells[-1].startswith(cure)
        assert "gpu3" in product.err
        assert product("gpus", "gpu3", "--json", *limit) == code
        (host,) = json.loads(product.out)["hosts"]
        assert not host["ok"]
        assert host["gpus"] == []

    def test_named_and_stopped_is_exit_6(self, product: Product) -> None:
        assert product("gpus", "gpu4") == 6
        assert "error: the container on gpu4 is stopped\n hint: apexgpu up gpu4" in product.err
        assert product("gpus", "gpu[24]") == 3

    def test_named_and_not_registered_is_exit_6(self, product: Product) -> None:
        product.lab.call(lambda lab_state: lab_state.host("gpu4").accounts.clear())
        assert product("gpus", "gpu4") == 6
        assert row(product, "gpu4") == ["gpu4", "-", "not registered", "apexgpu register gpu4"]
        assert product("gpus") == 0

    def test_a_port_that_is_not_forwarded(self, product: Product) -> None:
        product.lab.fault("gpu3", "no-forward")
        assert product("gpus", "gpu3") == 6
        assert row(product, "gpu3") == [
            "gpu3",
            "-",
            "no forward",
            "apexgpu restart gpu3",
        ]

    def test_a_gpu_that_hangs(self, product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
        # As if half a minute had gone by: a second for the whole, which begins when the login has succeeded.
        monkeypatch.setattr(query, "PATIENCE", -19.0)
        product.lab.fault("gpu3", "gpu-hang")
        assert product("gpus", "gpu3", "--timeout", "20") == 5
        assert row(product, "gpu3")[2] == "gpu hangs"
        assert "nvidia-smi on gpu3 does not answer: one of its GPUs may hang" in product.err

    def test_an_unknown_host_is_exit_2(self, product: Product) -> None:
        assert product("gpus", "gpu99") == 2


def sockets(pid: int | None) -> int | None:
    """How many sockets a process has open; None where the system does not tell."""
    directory = Path("/proc") / str(pid) / "fd"
    if not directory.is_dir():
        return None
    return sum(str(entry.readlink()).startswith("socket:") for entry in directory.iterdir())


@pytest.mark.openssh
class TestWatch:
    def test_shows_changes_over_one_connection_a_host_and_ends_with_ctrl_c(
        self, product: Product
    ) -> None:
        card = TITAN | {"used": [1000, 2000, 3000], "load": 50}
        product.lab.call(lambda lab_state: lab_state.set_gpus(lab_state.host("gpu2"), [card]))
        with at_terminal("gpus", "--watch", "gpu2", "gpu3") as child:
            child.expect(r"gpu2 +0 .*█.* 1000.0 MiB")
            child.expect(r"gpu2 +0 .* 2.0 GiB")
            child.expect(r"gpu2 +0 .* 2.9 GiB")
            assert sockets(child.pid) in {2, None}
            child.expect(r"gpu2 +0 .* 1000.0 MiB")
            assert sockets(child.pid) in {2, None}
            child.sendintr()
            assert ended(child) == 130
            assert "Traceback" not in str(child.before)
        calls = product.lab.layout.home / "hosts" / "gpu2" / "gpus.calls"
        wait_until(lambda: len(calls.read_bytes()) >= 4, product.lab)

    def test_goes_on_when_a_host_fails_and_comes_back(self, product: Product) -> None:
        with at_terminal("gpus", "--watch", "gpu3") as child:
            child.expect(r"gpu3 +0 +TITAN V")
            product.lab.fault("gpu3", "gpu-mismatch")
            child.expect(r"gpu3 +- +driver mismatch +apexgpu restart gpu3")
            product.lab.clear("gpu3", "gpu-mismatch")
            child.expect(r"gpu3 +0 +TITAN V")
            child.kill(signal.SIGINT)
            assert ended(child) == 130

    def test_a_low_terminal_gets_a_row_a_host(self, product: Product) -> None:
        with at_terminal("gpus", "--watch", lines=8) as child:
            child.expect(r"HOST +MODEL +DRIVER +GPU: LOAD, FREE MEMORY")
            child.expect(r"gpu2 +2 × TITAN V +390.48 +0: +\d+% +3.0 GiB +1: +0% +11.8 GiB")
            child.sendintr()
            assert ended(child) == 130
