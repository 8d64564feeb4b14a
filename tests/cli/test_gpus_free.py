"""`gpus free` against 18 hosts whose load changes from look to look: a table of 30 situations."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apexgpu.models import Host
from apexgpu.nvidia import choice, query
from apexgpu.nvidia.choice import GIB, Need
from apexgpu.nvidia.smi import Report
from apexgpu.session import Session
from apexgpu.ssh import fanout
from apexgpu_lab.inprocess import Lab, running
from tests.cli.product import Product, product_of
from tests.lab.calls import started

NAMES = [f"gpu{number}" for number in range(2, 20)]
LOOKS = 3

# What a GPU does, a letter each. Lists go round: a step a look.
TITAN = {"name": "TITAN V", "total": 12066, "mode": "Default", "own": [], "used": 11, "load": 0}
CARDS: dict[str, dict[str, Any]] = {
    "e": {},  # empty
    "w": {"load": [5, 0, 3]},  # empty, and the driver wakes up
    "d": {"used": 200},  # a display
    "B": {"used": 9000, "load": [97, 88, 93]},  # busy
    "P": {"used": 9000, "load": [0, 91, 0]},  # pauses between batches
    "C": {"used": 11, "load": [0, 60, 0]},  # computes in little memory
    "H": {"used": 8000},  # held by a program that waits
    "s": {"used": 2000},  # the same, and much left
    "G": {"used": [3000, 600, 5000]},  # a program that begins
    "Z": {"used": [9000, 9000, 11], "load": [90, 0, 0]},  # a program that ends
    "O": {"used": 3011, "own": [[4242, "python", 3000]]},  # an own program
    "X": {"used": 2000, "mode": "Exclusive_Process"},  # taken, by its mode
    "x": {"mode": "Exclusive_Process"},  # free, though exclusive
    "Q": {"mode": "Prohibited"},
    "L": {"name": "Tesla V100", "total": 32510},  # large and empty
    "K": {"name": "Tesla V100", "total": 32510, "used": 12000},  # large, shared
}

# What the hosts have (all others are busy), and what is asked: GiB, how many -> the hosts and numbers, best first.
Asked = tuple[float | None, int, list[str]]
SITUATIONS: list[tuple[str, dict[str, str], list[Asked]]] = [
    (
        "nothing is free",
        {},
        [
            (None, 1, []),
            (2, 1, []),
            (0.5, 4, []),
        ],
    ),
    (
        "one GPU of one host",
        {"gpu7": "BBeB"},
        [
            (None, 1, ["gpu7:2"]),
            (11, 1, ["gpu7:2"]),
            (None, 2, []),
        ],
    ),
    (
        "pauses everywhere, and one that is empty",
        dict.fromkeys(NAMES, "PPPP") | {"gpu19": "PPPw"},
        [
            (None, 1, ["gpu19:3"]),
            (2, 1, ["gpu19:3"]),
            (1, 2, []),
        ],
    ),
    (
        "enough, but on two hosts",
        {"gpu3": "eBBB", "gpu4": "BeBB", "gpu12": "BBee"},
        [
            (None, 2, ["gpu12:2,3"]),
            (None, 1, ["gpu12:2", "gpu3:0", "gpu4:1"]),
            (None, 3, []),
        ],
    ),
    (
        "held memory with enough beside it",
        {"gpu5": "HsHH", "gpu6": "BBBe", "gpu8": "ssBB"},
        [
            (None, 1, ["gpu6:3"]),
            (8, 1, ["gpu6:3", "gpu8:0", "gpu5:1"]),
            (3, 2, ["gpu8:0,1", "gpu5:0,1"]),
        ],
    ),
    (
        "programs that come and go",
        {"gpu2": "GGGG", "gpu3": "ZZZZ", "gpu4": "CCCC", "gpu5": "eGZC"},
        [
            (None, 1, ["gpu5:0"]),
            (8, 1, ["gpu5:0"]),
            (None, 4, []),
        ],
    ),
    (
        "own programs count as well",
        {"gpu9": "OOee", "gpu10": "OeBB"},
        [
            (None, 1, ["gpu9:2", "gpu10:1"]),
            (8, 3, ["gpu9:0,2,3"]),
            (10, 2, ["gpu9:2,3"]),
        ],
    ),
    (
        "modes of the cards",
        {"gpu2": "QQQQ", "gpu3": "XXXX", "gpu4": "QXxB"},
        [
            (None, 1, ["gpu4:2"]),
            (1, 2, []),
            (4, 1, ["gpu4:2"]),
        ],
    ),
    (
        "large cards",
        {"gpu15": "LKBB", "gpu16": "eeee", "gpu17": "KKKK"},
        [
            (15, 1, ["gpu15:0", "gpu17:0"]),
            (None, 1, ["gpu15:0", "gpu16:0"]),
            (15, 2, ["gpu15:0,1", "gpu17:0,1"]),
        ],
    ),
    (
        "hosts of many kinds",
        {"gpu2": "eeeeeeee", "gpu3": "e", "gpu4": "dwdw", "gpu5": "", "gpu6": "PPww"},
        [
            (None, 8, ["gpu2:0,1,2,3,4,5,6,7"]),
            (None, 4, ["gpu2:0,1,2,3", "gpu4:0,1,2,3"]),
            (None, 1, ["gpu2:0", "gpu4:0", "gpu3:0", "gpu6:2"]),
        ],
    ),
]


def cards(letters: str) -> list[dict[str, Any]]:
    return [TITAN | CARDS[letter] for letter in letters]


@pytest.fixture(scope="module")
def eighteen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """18 hosts where alice's containers run."""
    with running(tmp_path_factory.mktemp("eighteen") / "lab", hosts=18, registered=True) as lab:
        for name in NAMES:
            started(lab, name)
        yield lab


def set_cards(lab: Lab, name: str, letters: str) -> None:
    lab.call(lambda lab_state: lab_state.set_gpus(lab_state.host(name), cards(letters)))


def tell(lab: Lab, scene: dict[str, str]) -> None:
    """Let the hosts have these GPUs; the others' are busy."""
    for name in NAMES:
        set_cards(lab, name, scene.get(name, "BPBB"))


@pytest.mark.parametrize(
    ("what", "scene", "asked"), SITUATIONS, ids=[what for what, _, _ in SITUATIONS]
)
def test_the_right_gpus_are_picked(
    eighteen: Lab,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    scene: dict[str, str],
    asked: list[Asked],
) -> None:
    product_of(eighteen, monkeypatch, capsys)
    tell(eighteen, scene)
    session = Session(environment=os.environ)

    def look(host: Host) -> tuple[Report, ...]:
        return query.look(session.transport, host, looks=LOOKS, connect=30)

    outcomes = fanout.each(session.hosts([]), look)
    seen = {one.host.name: one.value for one in outcomes if one.value is not None}
    assert len(seen) == 18 - sum(not letters for letters in scene.values())
    for memory, count, expected in asked:
        need = Need(None if memory is None else int(memory * GIB), count)
        found = [
            f"{one.host}:{','.join(map(str, one.chosen))}" for one in choice.offers(seen, need)
        ]
        assert found == expected, (what, memory, count)


def test_there_are_thirty_situations() -> None:
    assert sum(len(asked) for _, _, asked in SITUATIONS) == 30


class TestTheCommand:
    @pytest.fixture
    def product(
        self, eighteen: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> Product:
        return product_of(eighteen, monkeypatch, capsys)

    def test_shows_the_best_first_with_the_line_to_paste(self, product: Product) -> None:
        tell(product.lab, {"gpu4": "PeeP", "gpu11": "Peee"})
        assert product("gpus", "free", "--count", "2", "--over", "0") == 0
        header, *rows, blank, paste = product.out.splitlines()
        assert header.split() == [
            "HOST",
            "GPUS",
            "MODEL",
            "FREE",
            "ON",
            "EACH",
            "LOAD",
            "PUT",
            "BEFORE",
            "YOUR",
            "COMMAND",
        ]
        assert [row.split()[:2] for row in rows] == [["gpu11", "1,2,3"], ["gpu4", "1,2"]]
        assert not blank
        assert (
            paste
            == 'apexgpu ssh gpu11 -- "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=1,2 python train.py"'
        )

    def test_what_is_pasted_reaches_the_program(
        self, product: Product, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tell(product.lab, {"gpu4": "PeeP"})
        (offer,) = product.json("gpus", "free", "--count", "2", "--over", "0")["free"]
        assert offer["host"] == "gpu4"
        assert offer["gpus"] == offer["fitting"] == [1, 2]
        assert offer["environment"] == {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": "1,2",
        }
        assert offer["memory_free"] == (12066 - 11) * 1024**2
        said = offer["command"].replace("python train.py", "env | grep ^CUDA").split('"')
        assert product("exec", "gpu4", "--", said[1]) == 0
        assert product.out.splitlines() == [
            "CUDA_DEVICE_ORDER=PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES=1,2",
        ]

    def test_nothing_free_is_exit_6(self, product: Product) -> None:
        tell(product.lab, {})
        assert (
            product(
                "gpus", "free", "gpu2", "gpu3", "--over", "0", "--memory", "4.5", "--count", "2"
            )
            == 6
        )
        assert product.out == ""
        assert "no host that runs your container has 2 free GPUs with 4.5 GiB now" in product.err
        document = product.json("gpus", "free", "gpu2", "--over", "0")
        assert not document["ok"]
        assert document["error"]["code"] == "none_free"
        assert document["free"] == []
        assert [len(host["gpus"]) for host in document["hosts"]] == [4]

    @pytest.mark.parametrize(
        "words", [("--count", "0"), ("--memory", "0"), ("--memory", "many"), ("--over", "-1")]
    )
    def test_senseless_needs_are_refused(self, product: Product, words: tuple[str, ...]) -> None:
        assert product("gpus", "free", *words) == 2


class TestHostsThatAreNotUp:
    @pytest.fixture
    def three(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> Iterator[Product]:
        """gpu2 runs, gpu3 is stopped, on gpu4 nobody is registered."""
        with running(tmp_path / "lab", hosts=3, registered=True) as lab:
            lab.call(lambda lab_state: lab_state.host("gpu4").accounts.clear())
            started(lab, "gpu2")
            yield product_of(lab, monkeypatch, capsys)

    def test_are_named_with_what_it_takes(self, three: Product) -> None:
        assert three("gpus", "free", "--over", "0") == 0
        assert "not checked (container stopped): gpu3\n   hint: apexgpu up gpu3\n" in three.err
        assert "not checked (not registered): gpu4\n   hint: apexgpu register gpu4\n" in three.err
        hosts = {row["host"]: row for row in three.json("gpus", "free", "--over", "0")["hosts"]}
        assert {name: (row["ok"], row["state"], row["hint"]) for name, row in hosts.items()} == {
            "gpu2": (True, "running", None),
            "gpu3": (True, "stopped", "apexgpu up gpu3"),
            "gpu4": (True, "not_registered", "apexgpu register gpu4"),
        }

    def test_are_the_way_out_where_nothing_is_free(self, three: Product) -> None:
        set_cards(three.lab, "gpu2", "BB")
        assert three("gpus", "free", "--over", "0") == 6
        assert "the GPUs of gpu3 were not checked, because your container is stopped" in three.err
        assert "hint: apexgpu up gpu3\n" in three.err

    def test_one_that_fails_does_not_spoil_what_another_has(self, three: Product) -> None:
        three.lab.fault("gpu3", "dead")
        assert three("gpus", "free", "--over", "0") == 0
        assert "gpu2" in three.out
        assert "warning: " in three.err

    def test_when_all_fail_alike_it_is_their_code(self, three: Product) -> None:
        three.lab.fault("gpu3", "dead")
        assert three("gpus", "free", "gpu3", "--over", "0") == 5
