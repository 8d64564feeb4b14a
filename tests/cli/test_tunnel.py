"""tunnel and tunnels against the embedded lab, as a member of it uses them."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apexgpu import cli, tunnels, uninstall
from apexgpu.forwarding import ports, records, request
from apexgpu.forwarding.ports import Destination
from apexgpu.forwarding.records import TunnelState
from apexgpu.forwarding.request import PortsTakenError, TunnelRequest
from apexgpu.session import Session
from apexgpu_lab.inprocess import running
from tests.cli.product import Product, product_of
from tests.real.webserver import serving
from tests.waiting import until


@pytest.fixture
def product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """Two hosts; alice is registered, gpu2 is up. What stays open is closed."""
    with running(tmp_path / "lab", hosts=2, registered=True, pace=0) as lab:
        found = product_of(lab, monkeypatch, capsys)
        assert found("up", "gpu2") == 0, found.err
        yield found
        found("tunnels", "close", "--all")


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        data: bytes = answer.read()
        return data


def get_state(product: Product) -> str:
    """The state of the only tunnel, once that is no longer up: whoever stopped the container knows it sooner."""
    state = Path(product.lab.environment["APEXGPU_STATE_DIR"])
    until(lambda: records.list_tunnels(state)[0].state != "up")
    return records.list_tunnels(state)[0].state


def opened(product: Product, *words: str) -> dict[str, Any]:
    """Open one in the background; what its JSON says."""
    document = product.json("tunnel", *words, "--background")
    assert document["ok"], product.err
    found: dict[str, Any] = document["tunnels"][0]
    return found


def test_a_page_of_the_container_is_seen_here_and_gone_after_the_close(product: Product) -> None:
    with serving(b"loss 0.1") as port:
        made = opened(product, "gpu2", str(port))
        assert get(made["url"]) == b"loss 0.1"
        assert (made["host"], made["remote_port"], made["state"]) == ("gpu2", port, "up")
        assert (
            made["local_port"] != port
        )  # the lab's container is on this machine, and has that port
        assert product("tunnels") == 0
        assert re.search(
            rf"gpu2-{made['local_port']}\s+127.0.0.1:{made['local_port']}\s+gpu2 {port}\s+up",
            product.out,
        )
        assert product("tunnels", "close", "gpu2") == 0
        with pytest.raises(OSError, match="refused"):
            get(made["url"])
        assert product.json("tunnels")["tunnels"] == []


def test_asked_twice_it_is_there_already(product: Product) -> None:
    with serving() as port:
        first, again = opened(product, "gpu2", str(port)), opened(product, "gpu2", str(port))
        assert (first["id"], first["pid"]) == (again["id"], again["pid"])
        assert f"tunnel {first['id']} is open already" in product.err


def test_a_container_that_was_stopped_and_started_serves_again_on_the_same_port(
    product: Product,
) -> None:
    with serving() as port:
        made = opened(product, "gpu2", str(port))
        assert get(made["url"]) == b"training"
        assert product("down", "gpu2", "--yes") == 0, product.err
        assert product("up", "gpu2") == 0, product.err
        assert get(made["url"]) == b"training"
        assert product.json("tunnels")["tunnels"][0]["reconnects"] >= 1


def test_a_tunnel_that_waits_for_a_stopped_container_offers_to_start_it(product: Product) -> None:
    with serving() as port:
        made = opened(product, "gpu2", str(port))
        assert product("down", "gpu2", "--yes") == 0, product.err
        assert get_state(product) != "up"
        assert product("tunnel", "gpu2", str(port), "--background") == 6
        assert "the container on gpu2 is stopped" in product.err
        assert opened(product, "gpu2", str(port), "--yes")["id"] == made["id"]
        assert get(made["url"]) == b"training"


def test_a_stopped_container_is_started_when_the_user_says_so(product: Product) -> None:
    assert product("tunnel", "gpu3", "6006", "--background") == 6
    assert "the container on gpu3 is stopped" in product.err
    assert "apexgpu up gpu3" in product.err
    with serving() as port:
        assert get(opened(product, "gpu3", str(port), "--yes")["url"]) == b"training"


def test_a_killed_tunnel_is_shown_as_dead_once_and_its_port_comes_back(product: Product) -> None:
    with serving() as port:
        made = opened(product, "gpu2", str(port))
        os.kill(made["pid"], signal.SIGKILL)
        state = Path(product.lab.environment["APEXGPU_STATE_DIR"])
        until(lambda: records.list_tunnels(state)[0].state == TunnelState.DEAD)
        again = opened(product, "gpu2", str(port))
        assert again["local_port"] == made["local_port"]
        os.kill(again["pid"], signal.SIGKILL)
        until(lambda: records.list_tunnels(state)[0].state == TunnelState.DEAD)
        assert [one["state"] for one in product.json("tunnels")["tunnels"]] == ["dead"]
        assert product.json("tunnels")["tunnels"] == []


def test_a_port_that_is_taken_is_refused_with_its_holders_name(product: Product) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        for more in ((), ("--background",)):
            assert product("tunnel", "gpu2", "6006", "--local", str(number), *more) == 6
            assert f"local port {number} is in use by" in product.err
            assert f"(process {os.getpid()})" in product.err
            hinted = re.search(r"hint: apexgpu tunnel gpu2 6006 --local (\d+)", product.err)
            assert hinted is not None
            assert ports.is_free(int(hinted[1]))


def test_our_own_tunnel_is_named_as_the_holder(product: Product) -> None:
    with serving() as port:
        made = opened(product, "gpu2", str(port))
        assert product("tunnel", "gpu2", "9999", "--local", str(made["local_port"])) == 6
        assert f"is in use by your tunnel {made['id']}" in product.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("6006x",), "neither a port"),
        (("0",), "neither a port"),
        (("70000",), "neither a port"),
        (("-oProxyCommand=x:1",), ""),
        (("22", "--local", "6000"), "browsers refuse"),
        (("1", "2", "--local", "9000"), "one port"),
    ],
)
def test_wrong_ports_are_wrong_use(product: Product, words: tuple[str, ...], says: str) -> None:
    assert product("tunnel", "gpu2", *words) == 2
    assert says in product.err


def test_a_tunnel_in_the_lab_never_connects_to_itself(product: Product) -> None:
    """A container of the lab has this machine's ports, and its server may bind later than we."""
    with ports.listen_anywhere() as probe:
        port = probe.getsockname()[1]
    made = opened(product, "gpu2", str(port))
    assert f"nothing listens on port {port} of gpu2 yet" in product.err
    assert made["local_port"] != port
    with pytest.raises(OSError, match=r"closed|reset"):
        get(made["url"])
    with socket.create_server(("127.0.0.1", port)) as late:
        late.settimeout(30)
        with socket.create_connection(("127.0.0.1", made["local_port"])) as caller:
            caller.sendall(b"loss 0.1")
            with late.accept()[0] as connection:
                assert connection.recv(8) == b"loss 0.1"


@pytest.mark.parametrize("more", [(), ("--background",)], ids=["foreground", "background"])
def test_the_containers_own_port_is_refused_where_it_is_the_laptops(
    product: Product, more: tuple[str, ...]
) -> None:
    with ports.listen_anywhere() as probe:
        port = str(probe.getsockname()[1])
    assert product("tunnel", "gpu2", port, "--local", port, *more) == 6
    assert "the tunnel would connect to itself" in product.err
    assert f"hint: apexgpu tunnel gpu2 {port} --local " in product.err
    assert product.json("tunnels")["tunnels"] == []


def test_several_ports_and_another_machine(product: Product) -> None:
    with serving(b"one") as one, serving(b"two") as two:
        made = opened(product, "gpu2", str(one), f"127.0.0.1:{two}")
        assert [get(each["url"]) for each in made["forwards"]] == [b"one", b"two"]
        assert made["forwards"][1]["remote"] == f"127.0.0.1:{two}"


def test_two_users_of_one_laptop(product: Product, tmp_path: Path) -> None:
    with serving() as port:
        mine = opened(product, "gpu2", str(port))
        theirs = dict(product.lab.environment)
        theirs["APEXGPU_STATE_DIR"] = str(tmp_path / "other")
        (tmp_path / "other").mkdir()
        before = Path(product.lab.environment["APEXGPU_STATE_DIR"])
        for path in before.iterdir():
            if path.is_file():
                (tmp_path / "other" / path.name).write_bytes(path.read_bytes())
        environment = {**os.environ, **theirs}
        assert cli.main(["tunnel", "gpu2", str(port), "-b"], Session(environment=environment)) == 0
        found = records.list_tunnels(tmp_path / "other")
        try:
            assert found[0].forwards[0].local_port != mine["local_port"]
            assert (
                get(f"http://127.0.0.1:{found[0].forwards[0].local_port}")
                == b"training"
                == get(mine["url"])
            )
        finally:
            records.close(tmp_path / "other", found[0])
        assert get(mine["url"]) == b"training"


def test_in_the_foreground_it_prints_its_address_and_ends_with_ctrl_c(product: Product) -> None:
    with serving() as port:
        words = [sys.executable, "-m", "apexgpu", "tunnel", "gpu2", str(port)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+)  →  gpu2 ", line)
        assert found, process.communicate(timeout=30)
        assert get(found[1]) == b"training"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in err
    assert product.json("tunnels")["tunnels"] == []


def test_the_python_api_opens_lists_and_closes(product: Product) -> None:
    session = Session(environment=os.environ)
    with serving(b"loss 0.2") as port:
        opened = tunnels.open(session, "gpu2", [str(port)])
        assert get(opened.url) == b"loss 0.2"
        assert [tunnel.id for tunnel in tunnels.list(session).tunnels] == [opened.tunnel.id]
        assert [tunnel.id for tunnel in tunnels.close(session, ["gpu2"]).tunnels] == [
            opened.tunnel.id
        ]
        assert tunnels.list(session).tunnels == []


def test_the_python_api_keeps_a_tunnel_open_until_ctrl_c(product: Product) -> None:
    pages: list[bytes] = []
    with serving(b"loss 0.3") as port:

        def seen(opened: tunnels.OpenTunnel) -> None:
            pages.append(get(opened.url))
            os.kill(os.getpid(), signal.SIGINT)

        session = Session(environment=os.environ)
        assert tunnels.keep_open(session, "gpu2", [str(port)], on_open=seen) == 130
    assert pages == [b"loss 0.3"]
    assert tunnels.list(session).tunnels == []


def test_uninstall_closes_what_is_open(product: Product) -> None:
    with serving() as port:
        made = opened(product, "gpu2", str(port))
        session = Session(environment=os.environ)
        (tunnels,) = [item for item in uninstall.list_items(session) if item.name == "tunnels"]
        tunnels.remove()
        with pytest.raises(OSError, match="refused"):
            get(made["url"])


def test_of_two_that_want_one_port_one_has_it() -> None:
    """`take_ports` binds and does not look before."""

    def listen(*wanted: int | None, exact: bool = False) -> list[socket.socket]:
        destinations = (Destination(23456),) * len(wanted)
        return request.take_ports(
            TunnelRequest("gpu7", (), destinations, wanted, exact_ports=exact)
        )

    first, second = listen(None, None)
    with first, second:
        number = first.getsockname()[1]
        assert number != second.getsockname()[1]
        (third,) = listen(number)  # it was another tunnel's, and need not be the same
        with third:
            assert third.getsockname()[1] != number
        with pytest.raises(PortsTakenError) as caught:
            listen(number, exact=True)
        assert caught.value.ports == (number,)
