"""Tunnels against a real OpenSSH server: what kills other forwards does not kill these."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from tests import agents, openssh
from tests.real.webserver import Wire, serving
from tests.waiting import until

from apexgpu.forwarding import ports
from apexgpu.forwarding.ports import Destination
from apexgpu.forwarding.records import TunnelState
from apexgpu.forwarding.supervisor import Supervisor, Timing, TunnelStatus
from apexgpu.models import Host, Target
from apexgpu.ssh import muxclient
from apexgpu.ssh.route import config_arguments, target_arguments

pytestmark = pytest.mark.openssh
LIMIT = 60
CALM = Timing(
    connect=LIMIT,
    login=LIMIT,
    heartbeat_interval=1,
    heartbeat_timeout=LIMIT,
    hold=LIMIT,
    longest_pause=30,
)
QUICK = replace(CALM, heartbeat_timeout=2)  # to find out about a connection that died silently


class Tunnel:
    """A supervisor in a thread of its own, and what a browser would do with it."""

    def __init__(
        self,
        where: list[str],
        port: int,
        *,
        timing: Timing,
        once: bool,
        give: bool,
        agent_socket: str = "",
    ) -> None:
        self._agent_socket = agent_socket
        # Far from the other test processes: what they look for is the next free port, too.
        first = 20_000 + os.getpid() % 200 * 50
        holder = next(
            taken
            for number in range(first, first + 50)
            if (taken := ports.listen(number)) is not None
        )
        self.port: int = holder.getsockname()[1]
        self._where, self._holder, self._remote = where, holder, Destination(port)
        self._timing, self._once, self._give = timing, once, give
        self._down = threading.Event()
        self._made = threading.Event()
        self.ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        self._made.wait(LIMIT)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._up = threading.Event()
        self.supervisor = Supervisor(
            self._where,
            [self._holder],
            [self._remote],
            timing=self._timing,
            once=self._once,
            agent_socket=self._agent_socket,
            hand_over=self._give,
            on_change=self._look,
        )
        self._made.set()
        await self.supervisor.run()
        self.ended.set()

    def _look(self) -> None:
        (self._up if self.supervisor.status.state == TunnelState.UP else self._down).set()

    def forget(self) -> None:
        self._down.clear()

    def await_down(self) -> None:
        assert self._down.wait(LIMIT)

    def get(self, timeout: float = LIMIT) -> bytes:
        assert self._up.wait(
            LIMIT
        )  # who calls in the very moment in which ssh is given the port is refused
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=timeout) as answer:
            data: bytes = answer.read()
            return data

    def get_soon(self) -> bytes:
        """Again and again, as somebody who presses reload."""
        end = time.monotonic() + LIMIT
        while True:
            try:
                return self.get()
            except OSError:
                assert time.monotonic() < end
                threading.Event().wait(0.01)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.supervisor.stop)
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[openssh.OpenSSH]:
    running = openssh.start(tmp_path / "sshd", extra="ClientAliveInterval 0")
    yield running
    running.stop()


@pytest.fixture(params=[True, False], ids=["ssh listens", "we listen"])
def give(request: pytest.FixtureRequest) -> bool:
    """As on Linux, and as on macOS and Windows."""
    return bool(request.param)


def where(server: openssh.OpenSSH, port: int | None = None) -> list[str]:
    host = server.host
    if port is not None:
        host = Host(host.name, host.address, host.user, port, port)
        known = server.directory / "known_hosts"
        known.write_text(
            known.read_text() + known.read_text().replace(f"]:{server.host.port}", f"]:{port}")
        )
    return [
        *config_arguments(server.config),
        *target_arguments(Target(host, "container")),
        host.name,
    ]


@contextlib.contextmanager
def tunnel(
    words: list[str],
    port: int,
    *,
    give: bool,
    timing: Timing = CALM,
    once: bool = False,
    agent_socket: str = "",
) -> Iterator[Tunnel]:
    made = Tunnel(words, port, timing=timing, once=once, give=give, agent_socket=agent_socket)
    try:
        yield made
    finally:
        made.close()


def test_a_hundred_connections_at_once(server: openssh.OpenSSH, give: bool) -> None:
    with (
        serving(b"x" * 20_000) as port,
        tunnel(where(server), port, give=give) as made,
        ThreadPoolExecutor(100) as pool,
    ):
        assert [len(body) for body in pool.map(lambda _: made.get(), range(100))] == [20_000] * 100
        assert made.supervisor.bytes_carried >= 100 * 20_000


def test_a_server_that_is_killed_and_comes_back(server: openssh.OpenSSH, give: bool) -> None:
    with serving() as port, tunnel(where(server), port, give=give) as made:
        assert made.get() == b"training"
        made.forget()
        server.kill()
        made.await_down()
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(made.get)  # kept, not refused, while nobody answers
            server.again()
            assert waiting.result() == b"training"
        assert made.supervisor.status.reconnects == 1


def test_a_vault_that_is_locked_while_the_tunnel_is_up_does_not_keep_it_down(
    server: openssh.OpenSSH, give: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with agents.short_directory() as directory:
        path = directory / "agent"
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        with (
            serving() as port,
            tunnel(where(server), port, give=give, agent_socket=str(path)) as made,
        ):
            assert made.get() == b"training"
            made.forget()
            with agents.hanging(path):
                server.kill()
                made.await_down()
                server.again()
                assert made.get_soon() == b"training"


@pytest.mark.serial
def test_a_network_that_stalls_and_heals(server: openssh.OpenSSH, give: bool) -> None:
    wire = Wire(server.host.port or 0)
    with serving() as port, tunnel(where(server, wire.port), port, give=give, timing=QUICK) as made:
        assert made.get() == b"training"
        first = made.supervisor.ssh_pid
        wire.cut()
        with pytest.raises(OSError, match=r"timed out|closed|reset"):
            made.get(timeout=8)
        wire.heal()
        back = time.monotonic()
        assert made.get_soon() == b"training"
        assert time.monotonic() - back < 10
        assert made.supervisor.ssh_pid != first  # the dead one was given up
    wire.close()


@pytest.mark.parametrize("give", [False], indirect=True)
def test_sockets_that_the_system_has_deleted_are_made_again(
    server: openssh.OpenSSH, give: bool
) -> None:
    """macOS deletes what nobody has touched for three days below TMPDIR. The heartbeat does not notice that."""
    with serving() as port, tunnel(where(server), port, give=give) as forward:
        assert forward.get() == b"training"
        directory = forward.supervisor._directory
        assert directory is not None
        shutil.rmtree(directory)
        assert forward.get_soon() == b"training"
        assert forward.supervisor._directory != directory


@pytest.mark.parametrize("give", [False], indirect=True)
def test_sockets_look_used_as_long_as_the_tunnel_is_up(server: openssh.OpenSSH, give: bool) -> None:
    with serving() as port, tunnel(where(server), port, give=give) as forward:
        assert forward.get() == b"training"
        directory = forward.supervisor._directory
        assert directory is not None
        paths = [directory, *directory.iterdir()]
        for path in paths:
            os.utime(path, (0, 0))
        forward.supervisor.keep_sockets()
        assert len(paths) > 1
        assert all(path.stat().st_mtime > 0 for path in paths)


@pytest.mark.serial
def test_a_laptop_that_slept(server: openssh.OpenSSH, give: bool) -> None:
    with serving() as port, tunnel(where(server), port, give=give, timing=QUICK) as made:
        assert made.get() == b"training"
        asleep = made.supervisor.ssh_pid
        assert asleep is not None
        os.kill(asleep, signal.SIGSTOP)
        slept = time.monotonic()
        assert made.get_soon() == b"training"  # the stopped one is found out, and a new one carries
        assert time.monotonic() - slept < 10
        assert made.supervisor.ssh_pid != asleep


def test_two_tunnels_with_one_wanted_port(server: openssh.OpenSSH, give: bool) -> None:
    with (
        serving(b"one") as one,
        serving(b"two") as two,
        tunnel(where(server), one, give=give) as first,
        tunnel(where(server), two, give=give) as second,
    ):
        assert (first.get(), second.get()) == (b"one", b"two")
        assert first.port != second.port


def test_a_port_that_is_lost_in_the_hand_over_is_waited_for(
    server: openssh.OpenSSH, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program takes it in the moment in which neither we nor ssh have it."""
    real, thieves = muxclient.forward, list[socket.socket]()

    def robbed(
        path: Path,
        port: int,
        name: str,
        there: int,
        *,
        timeout: float,
        before_request: Callable[[], None],
    ) -> bool:
        def rob() -> None:
            before_request()
            if not thieves:
                thieves.append(socket.create_server(("127.0.0.1", port)))

        return real(path, port, name, there, timeout=timeout, before_request=rob)

    monkeypatch.setattr(muxclient, "forward", robbed)
    with serving() as port, tunnel(where(server), port, give=True) as made:
        until(lambda: "another program has taken local port" in made.supervisor.status.reason)
        assert made.supervisor.status.state == TunnelState.WAITING
        thieves[0].close()
        assert made.get_soon() == b"training"


def test_what_ssh_cannot_listen_on_we_carry_ourselves(
    server: openssh.OpenSSH, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muxclient, "forward", lambda *words, **more: False)
    with serving() as port, tunnel(where(server), port, give=True) as made:
        assert made.get() == b"training"
        assert made.supervisor.status == TunnelStatus(TunnelState.UP, made.supervisor.status.since)


def test_nobody_listens_there_yet(server: openssh.OpenSSH, give: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tunnel(where(server), port, give=give) as made:
        with pytest.raises(OSError, match=r"closed|reset"):
            made.get()
        until(
            lambda: "refused" in made.supervisor.refusal.lower()
        )  # its words and its close are two ways
        assert made.supervisor.status.state == TunnelState.UP


def test_once_ends_with_the_connection(server: openssh.OpenSSH, give: bool) -> None:
    with serving() as port, tunnel(where(server), port, give=give, once=True) as made:
        assert made.get() == b"training"
        server.kill()
        assert made.ended.wait(LIMIT)


def test_a_login_that_is_refused_ends_at_once(server: openssh.OpenSSH, give: bool) -> None:
    (server.directory / "authorized_keys").write_text("")
    with tunnel(where(server), 1, give=give) as made:
        assert made.ended.wait(LIMIT)
        assert "Permission denied" in made.supervisor.status.reason


def test_a_killed_supervisor_leaves_no_ssh_behind(server: openssh.OpenSSH, give: bool) -> None:
    """What ends ssh is the end of its input, which a kill -9 of its parent cannot prevent."""
    with serving() as port, tunnel(where(server), port, give=give) as made:
        assert made.get() == b"training"
        carrying = made.supervisor._connection
        assert carrying is not None
        assert carrying._process is not None
        assert carrying._process.stdin is not None
        made._loop.call_soon_threadsafe(carrying._process.stdin.close)
        assert made.get_soon() == b"training"
        assert made.supervisor.status.reconnects <= 1
