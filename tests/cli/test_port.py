"""port against the embedded lab: its prefix bug, maps that a stop takes away, hosts that have no maps at all."""

import io
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from apexgpu import cli
from apexgpu.manageshell import portmaps
from apexgpu.render.screen import Screen
from apexgpu.session import Session
from apexgpu_lab.containers import Container
from apexgpu_lab.inprocess import running
from apexgpu_lab.labstate import LabState
from tests.cli.product import Product, product_of


class Terminal(io.StringIO):
    """A terminal that was typed into, or is written on."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """Two hosts; alice's container on gpu2 runs, the one on gpu3 does not."""
    with running(tmp_path / "lab", hosts=2, registered=True) as lab:
        product = product_of(lab, monkeypatch, capsys)
        assert product("up", "gpu2") == 0, product.err
        yield product


@contextmanager
def listening() -> Iterator[tuple[int, socket.socket]]:
    """Something that answers on a port, as a program in the container would (its loopback is ours in the lab)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1], server


def container_of_alice(lab_state: LabState) -> Container:
    """Alice's container on gpu2, which the lab made."""
    container = lab_state.host("gpu2").accounts["alice"].container
    assert container is not None
    return container


def typed(answer: str, *words: str) -> tuple[int, str]:
    """Run at a terminal with `answer` typed: the exit code and what stood there."""
    err = Terminal()
    screen = Screen(
        out=io.StringIO(), err=err, stdin=Terminal(f"{answer}\n"), environment={"TERM": "dumb"}
    )
    return cli.main(words, Session(environment=os.environ), screen), err.getvalue()


def mapped(product: Product, host: str = "gpu2") -> list[int]:
    return [one["container_port"] for one in product.hosts("port", host)[host]["ports"]]


class TestMapping:
    def test_a_map_leads_into_the_container_and_is_told_with_its_danger(self, two: Product) -> None:
        with listening() as (number, server):
            row = two.hosts("port", "gpu2", str(number))["gpu2"]
            one = row["ports"][0]
            assert one == {
                "address": one["address"],
                "port": one["port"],
                "container_port": number,
                "answers": True,
            }
            assert "anyone on the lab's network" in two.err
            assert f"apexgpu tunnel gpu2 {number}" in two.err
            server.settimeout(20)
            with socket.create_connection((one["address"], one["port"]), timeout=20) as client:
                client.sendall(b"through")
                # The check of the command came before.
                for _ in range(2):
                    taken, _ = server.accept()
                    with taken:
                        taken.settimeout(20)
                        if taken.recv(7) == b"through":
                            return
        pytest.fail("nothing came through the map")

    def test_twice_is_the_same_map(self, two: Product) -> None:
        with listening() as (number, _):
            first = two.hosts("port", "gpu2", str(number))["gpu2"]["ports"]
            assert two.hosts("port", "gpu2", str(number))["gpu2"]["ports"] == first
            assert mapped(two) == [22, number]

    def test_a_map_that_takes_connections_and_drops_them_does_not_answer(
        self, two: Product, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody is behind it: what counts is not that it was taken, nor how soon after that it was dropped."""
        monkeypatch.setattr(portmaps, "_SETTLE", 30)
        with listening() as (number, _):
            pass
        one = two.hosts("port", "gpu2", str(number))["gpu2"]["ports"][0]
        assert one["answers"] is False
        assert f"the program on port {number} in the container must listen on 0.0.0.0" in two.err

    def test_the_list_names_the_map_of_ssh_and_needs_no_warning_for_it(self, two: Product) -> None:
        assert two("port", "gpu2") == 0
        assert "22 (ssh)" in two.out
        assert "warning" not in two.err

    def test_the_prefix_bug_is_seen_through(self, two: Product) -> None:
        assert two("port", "gpu2", "6006") == 0
        assert two("port", "gpu2", "600") == 6
        assert "gpu2 cannot map port 600 while 6006 is mapped" in two.err
        assert "apexgpu tunnel gpu2 600" in two.err
        assert mapped(two) == [22, 6006]

    def test_a_map_that_the_host_made_and_does_not_list_is_not_believed(self, two: Product) -> None:
        # 11112 has a service name, and the host's script looks for digits.
        for _ in range(2):
            assert two("port", "gpu2", "7000") == 0
        two.lab.call(
            lambda lab_state: lab_state.forward(
                lab_state.host("gpu2"), container_of_alice(lab_state), 9, 11111
            )
        )
        assert two("port", "gpu2", "5000") == 6
        assert "11112 leads to port 5000, but its list of maps does not contain it" in two.err

    @pytest.mark.parametrize("number", ["0", "65536", "-1", "http"])
    def test_no_port_number_is_wrong_use(self, two: Product, number: str) -> None:
        assert two("port", "gpu2", number) == 2


class TestHosts:
    def test_an_old_host_has_no_maps_and_a_tunnel_is_named(self, two: Product) -> None:
        two.lab.fault("gpu2", "no-port-command")
        for words in (["port", "gpu2"], ["port", "gpu2", "6006"]):
            assert two(*words) == 6
            assert "an older host that has no port maps" in two.err
            assert "apexgpu tunnel gpu2" in two.err

    def test_a_second_address_breaks_the_maps_and_that_is_said(self, two: Product) -> None:
        two.lab.fault("gpu2", "two-addresses")
        assert two("port", "gpu2", "6006") == 6
        assert "several addresses" in two.err

    def test_a_stopped_container_is_not_started_unasked(self, two: Product) -> None:
        assert two("port", "gpu3", "6006") == 6
        assert "apexgpu up gpu3" in two.err
        assert two("port", "gpu3") == 6

    def test_a_stopped_container_is_started_when_that_is_wished(self, two: Product) -> None:
        assert [
            one["container_port"]
            for one in two.hosts("port", "gpu3", "6006", "--yes")["gpu3"]["ports"]
        ] == [6006]

    def test_one_host_at_a_time(self, two: Product) -> None:
        assert two("port", "gpu*") == 2


class TestAfterAStop:
    @pytest.fixture
    def down(self, two: Product) -> Product:
        """gpu2 with a map, after a stop."""
        assert two("port", "gpu2", "6006") == 0
        assert two("down", "gpu2", "--yes") == 0
        return two

    def test_the_map_is_gone_and_up_says_how_to_get_it_back(self, down: Product) -> None:
        assert down("up", "gpu2") == 0
        assert "apexgpu port gpu2 6006" in down.err
        assert mapped(down) == [22]
        assert "no longer mapped: 6006" in down.err

    def test_up_makes_it_again_when_that_is_wished(self, down: Product) -> None:
        code, said = typed("y", "up", "gpu2")
        assert code == 0
        assert "Open these ports to the lab's network again (gpu2: 6006)?" in said
        assert "gpu2: port 6006 is mapped again" in said
        assert mapped(down) == [22, 6006]

    def test_yes_answers_it_too(self, down: Product) -> None:
        assert down("up", "gpu2", "--yes") == 0
        assert mapped(down) == [22, 6006]

    def test_no_is_for_good(self, down: Product) -> None:
        assert typed("n", "up", "gpu2")[0] == 0
        assert mapped(down) == [22]
        assert down.hosts("port", "gpu2")["gpu2"]["remembered"] == []
        assert typed("", "down", "gpu2", "--yes")[0] == 0
        assert "Open these ports" not in typed("", "up", "gpu2")[1]

    def test_a_map_made_without_us_is_remembered_when_we_stop_the_container(
        self, two: Product
    ) -> None:
        two.lab.call(
            lambda lab_state: lab_state.forward(
                lab_state.host("gpu2"), container_of_alice(lab_state), 8888, 11007
            )
        )
        assert two("down", "gpu2", "--yes") == 0
        assert two("up", "gpu2") == 0
        assert "gpu2: 8888" in two.err

    def test_a_spoilt_memory_is_no_trouble(self, two: Product) -> None:
        (Path(os.environ["APEXGPU_STATE_DIR"]) / "ports.json").write_text("[1")
        assert two("port", "gpu2", "6006") == 0
        assert two.hosts("port", "gpu2")["gpu2"]["remembered"] == [6006]
