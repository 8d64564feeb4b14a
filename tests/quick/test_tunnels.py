"""The files that tell of tunnels: whose process lives, what a dead one left, and the ports that are taken for one."""

import dataclasses
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apexgpu import readers
from apexgpu.errors import UsageError
from apexgpu.forwarding import ports, records, request
from apexgpu.forwarding.ports import Destination
from apexgpu.forwarding.records import Forward, Tunnel, TunnelState
from apexgpu.forwarding.request import PortsTakenError, TunnelRequest
from apexgpu.render.screen import Screen
from apexgpu.ssh import muxclient
from apexgpu.tunnels import TunnelList

HOLDS = """\
import signal, sys, time
from pathlib import Path
from apexgpu.forwarding import records
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[2] == "deaf" else lambda *_: sys.exit())
with records.lock(Path(sys.argv[1]), timeout=0):
    print("held", flush=True)
    time.sleep(60)
"""


def noted(state: Path, name: str, pid: int, *, host: str = "gpu7") -> Tunnel:
    """A tunnel that has a file."""
    tunnel = Tunnel(name, host, (Forward(6006, "6006"),), pid, 1.0, True, TunnelState.UP, 1.0)
    records.write(state, tunnel)
    return tunnel


@pytest.fixture
def sockets(runtime: Path) -> Path:
    """The directory of sockets, empty."""
    (runtime / "apexgpu").mkdir(mode=0o700)
    return runtime / "apexgpu"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1}', '{"forwards": 7}', "null"])
def test_a_spoilt_file_hides_no_other_tunnel(tmp_path: Path, text: str) -> None:
    good = noted(tmp_path, "good", 4711)
    records.file(tmp_path, "bad").write_text(text)
    with records.lock(records.file(tmp_path, "good"), timeout=0):
        assert records.list_tunnels(tmp_path) == [good]
    assert [one.state for one in records.list_tunnels(tmp_path)] == [TunnelState.DEAD]


def test_what_a_killed_one_left_is_taken_away_and_nothing_of_who_has_its_number_now(
    tmp_path: Path, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[Path] = []
    monkeypatch.setattr(muxclient, "terminate", ended.append)
    dead, reused = noted(tmp_path, "dead", 4711), noted(tmp_path, "reused", 4712)
    noted(tmp_path, "alive", 4712)
    for name in ("t-4711-x", "t-4712-x", "t-47110-x"):
        (sockets / name).mkdir()
    with records.lock(records.file(tmp_path, "alive"), timeout=0):
        records.remove_dead(tmp_path, records.list_tunnels(tmp_path))
        assert ended == [
            sockets / "t-4711-x" / records.CONTROL_SOCKET
        ]  # its ssh, when connections were open
        assert sorted(path.name for path in sockets.iterdir()) == ["t-47110-x", "t-4712-x"]
        assert [one.id for one in records.list_tunnels(tmp_path)] == ["alive"]
    assert not records.file(tmp_path, dead.id).exists()
    assert not records.file(tmp_path, reused.id).exists()


@pytest.mark.parametrize("manner", ["polite", "deaf"])
def test_a_close_returns_when_the_process_has_ended_and_kills_one_that_does_not(
    tmp_path: Path, sockets: Path, manner: str
) -> None:
    path = records.file(tmp_path, "one")
    path.parent.mkdir(parents=True)
    words = [sys.executable, "-c", HOLDS, str(path), manner]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        one = noted(tmp_path, "one", process.pid)
        records.close(tmp_path, one, limit=0.2 if manner == "deaf" else 10)
        assert process.wait(60) == (-9 if manner == "deaf" else 0)
    assert records.list_tunnels(tmp_path) == []
    records.close(tmp_path, one)  # again: nothing to do, and no signal to whoever has its number


def test_a_dead_one_gets_no_signal(tmp_path: Path, sockets: Path) -> None:
    one = noted(tmp_path, "one", os.getpid())  # its number is ours by now
    records.close(tmp_path, one)
    assert records.list_tunnels(tmp_path) == []


def test_ports_are_taken_on_this_machine_alone_and_all_or_none() -> None:
    first, second = ports.listen(0), ports.listen(0)
    assert first is not None
    assert second is not None
    with second:
        with first:
            address, number = first.getsockname()
            assert address == "127.0.0.1"
            assert ports.listen(number) is None
        taken = second.getsockname()[1]
        wanted = TunnelRequest(
            "gpu7", (), (Destination(1), Destination(2)), (number, taken), exact_ports=True
        )
        with pytest.raises(PortsTakenError) as caught:
            request.take_ports(wanted)
        assert caught.value.ports == (taken,)
        with socket.create_server(("127.0.0.1", number), reuse_port=False):
            pass  # it was given back


def test_the_files_of_an_earlier_version_can_be_read(tmp_path: Path) -> None:
    text = (
        '{"id": "gpu7-6006", "host": "gpu7", "forwards": [{"local": 6006, "remote": "db:5432"}], '
        '"pid": 1, "started": 1.5, "background": true, "state": "waiting", "since": 2.5, '
        '"reconnects": 3, "carried": 4, "reason": "closed"}'
    )
    tunnel = Tunnel.from_json(readers.json_object(text, "the record"))
    forwards = (Forward(6006, "db:5432"),)
    assert tunnel == Tunnel(
        "gpu7-6006", "gpu7", forwards, 1, 1.5, True, TunnelState.WAITING, 2.5, 3, 4, "closed"
    )
    assert json.dumps(tunnel.to_json()) == text


def test_where_the_container_is_this_machine_no_tunnel_listens_on_the_port_it_leads_to() -> None:
    with ports.listen_anywhere() as probe:
        free = probe.getsockname()[1]
    for wanted in (None, free):
        here = TunnelRequest("gpu7", (), (Destination(free),), (wanted,), same_machine=True)
        (listening,) = request.take_ports(here)
        with listening:
            assert listening.getsockname()[1] != free


@pytest.mark.parametrize(
    ("port", "words", "hint"),
    [
        (0, "65535", "apexgpu tunnel gpu7 22"),
        (65536, "65535", "apexgpu tunnel gpu7 22"),
        (-1, "65535", "apexgpu tunnel gpu7 22"),
        (6000, "browsers refuse", "apexgpu tunnel gpu7 22 --local 6001"),
    ],
)
def test_a_local_port_of_no_use_is_refused(port: int, words: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        ports.check_local_port(port, "apexgpu tunnel gpu7 22")
    assert words in caught.value.message
    assert caught.value.hint == hint
    ports.check_local_port(6006, "apexgpu tunnel gpu7 22")


def test_a_list_of_tunnels_shows_each_forward_and_why_one_is_not_up(tmp_path: Path) -> None:
    up = Tunnel(
        "gpu7-6006",
        "gpu7",
        (Forward(6006, "6006"), Forward(5432, "db:5432")),
        11,
        1.0,
        True,
        TunnelState.UP,
        time.time() - 61,
        reconnects=2,
        bytes_carried=2048,
        reason="Connection refused",
    )
    dead = noted(tmp_path, "gpu8-6007", 12, host="gpu8")
    dead = dataclasses.replace(dead, state=TunnelState.DEAD, reason="its process is gone")
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out=out, err=err)
    screen.show(TunnelList([up, dead]))
    header, first, second, third = (line.split() for line in out.getvalue().splitlines())
    assert header == ["ID", "LOCAL", "REMOTE", "STATE", "SINCE", "CARRIED", "RECONNECTS", "PID"]
    assert first[:5] == ["gpu7-6006", "127.0.0.1:6006", "gpu7", "6006", "up"]
    assert first[-5:] == ["s", "2.0", "KiB", "2", "11"]
    assert second[:5] == ["gpu7-6006", "127.0.0.1:5432", "gpu7", "db:5432", "up"]
    assert third[0] == "gpu8-6007"
    assert third[4] == "dead"
    assert err.getvalue() == (
        "gpu7-6006: the container answered: Connection refused\ngpu8-6007: its process is gone\n"
    )


def test_the_status_line_of_a_tunnel() -> None:
    forwards = (Forward(6006, "6006"),)
    since = time.time()
    tunnel = Tunnel("gpu7-6006", "gpu7", forwards, 11, 1.0, False, TunnelState.UP, since)
    assert tunnel.describe() == "http://127.0.0.1:6006 → gpu7 · up 0 s · 0 B"
    again = dataclasses.replace(tunnel, reconnects=1, reason="Connection refused")
    assert again.describe().endswith(" · 1 reconnect · the container answered: Connection refused")
    waiting = dataclasses.replace(again, state=TunnelState.WAITING, reconnects=2)
    assert waiting.describe().endswith("waiting 0 s · 0 B · 2 reconnects")
