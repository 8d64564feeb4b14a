"""A tunnel that does not die: local ports that stay ours, an ssh behind them that is started again.

While there is no connection this process listens, so that nobody else can take the port, and who calls meanwhile is
kept waiting and carried as soon as there is one. Once there is one, ssh is given the port: nothing is then between
a program here and ssh, and nothing is slower than `ssh -L`. Where that cannot be (Windows has no control sockets;
macOS does not tell what ssh has carried), this process listens all the time and carries the bytes to ssh.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from apexgpu.forwarding import ports, relay, sshconnection
from apexgpu.forwarding.records import CONNECTING, CONTROL, UP, WAITING, sockets_prefix
from apexgpu.ssh import mux
from apexgpu.ssh.failures import classify
from apexgpu.ssh.mux import runtime_directory

_PROBE = "p"
_NOBODY = 1  # a port on which nobody listens (tcpmux, RFC 1078): what ssh says of it is about ssh


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. `beat`: between pulses of an idle tunnel; `patience`: for a pulse to come back.

    A dead way is found out within the two together, and replaced in one or two more.
    """

    connect: float = 5
    login: float = 20
    beat: float = 3
    patience: float = 4
    hold: float = 20
    longest_wait: float = 30


@dataclass(slots=True)
class State:
    """What a tunnel has to tell. `since` is when the present state began (Unix time)."""

    state: str = CONNECTING
    since: float = field(default_factory=time.time)
    reconnects: int = 0
    reason: str = ""


def wait_before(attempt: int, longest: float) -> float:
    """Seconds before reconnecting for the `attempt`th time (from 0) in a row: 0.5, 1, 2 … up to `longest`."""
    return float(min(longest, 0.5 * 2 ** min(attempt, 10)))


def taken_words(port: int) -> str:
    """The reason of a tunnel that waits for its own port."""
    return f"port {port} here was taken by another program"


class Supervisor:
    """Keeps the forwards of one container up until `stop` is called."""

    def __init__(
        self,
        where: Sequence[str],
        holders: Sequence[socket.socket],
        remotes: Sequence[ports.Remote],
        *,
        limits: Limits,
        once: bool = False,
        give: bool = sys.platform == "linux",
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`where` leads to the container (config, address, alias); holder N is carried to `remotes[N]` there.

        `give`: let ssh listen while it is connected. `changed` is called whenever `state` has become another one.
        """
        self._where, self._remotes = list(where), list(remotes)
        self._ports: list[int] = [holder.getsockname()[1] for holder in holders]
        self._holders: list[socket.socket | None] = list(holders)
        self._servers: list[asyncio.Server | None] = [None] * len(holders)
        self._limits, self._once, self._give, self._changed = limits, once, give, changed
        self._moved_before = self._passed_before = 0
        self.state = State()
        self.traffic = relay.Traffic()
        self._carrier: sshconnection.Carrier | None = None
        self._was_up = False
        self._up = asyncio.Event()
        self._wanted = asyncio.Event()
        self._closing = asyncio.Event()

    @property
    def refused(self) -> str:
        """Why the container last refused a connection to the port; empty when it did not."""
        return self._carrier.refused if self._carrier else ""

    @property
    def ssh_pid(self) -> int | None:
        """The process number of the ssh that carries now."""
        return self._carrier.pid if self._carrier else None

    @property
    def moved(self) -> int:
        """Bytes carried: counted where they pass through us, else as the system counts those of ssh."""
        passed = self.traffic.total - self._passed_before
        return self._moved_before + max(passed, self._carrier.carried if self._carrier else 0)

    def stop(self) -> None:
        """Let `run` end; from the loop's own thread."""
        self._closing.set()

    async def run(self) -> bool:
        """Until stopped, or for good when it never came up or cannot again. True when it was up at all."""
        attempt = 0
        closing = asyncio.create_task(self._closing.wait())
        try:
            while not self._closing.is_set():
                came_up = False
                if lost := await self._listen():
                    self._become(WAITING, lost)
                else:
                    work = asyncio.create_task(self._one_connection())
                    await asyncio.wait({work, closing}, return_when=asyncio.FIRST_COMPLETED)
                    came_up = await _ended(work)
                attempt = 0 if came_up else attempt + 1
                failure = classify(self.state.reason)
                if (
                    self._closing.is_set()
                    or not self._was_up
                    or self._once
                    or (failure is not None and failure.is_permanent)
                ):
                    break
                await self._pause(wait_before(attempt, self._limits.longest_wait))
        finally:
            closing.cancel()
            for server in self._servers:
                if server is not None:
                    server.close()
            for end in list(self.traffic.ends):
                end.abort()
        return self._was_up

    async def _listen(self) -> str:
        """Take every port that ssh had, or that could not be had the last time; what is in the way of that now."""
        lost = [port for number, port in enumerate(self._ports) if not await self._have(number)]
        return taken_words(lost[0]) if lost else ""

    async def _have(self, number: int) -> bool:
        if self._servers[number] is None:
            holder = self._holders[number] or ports.take(self._ports[number])
            self._holders[number] = None
            if holder is not None:
                self._servers[number] = await relay.listen(holder, self.traffic, self._way(number))
        return self._servers[number] is not None

    async def _one_connection(self) -> bool:
        """One ssh, from its start to its end; whether it came up."""
        self._become(CONNECTING, self.state.reason)
        sockets = Path(
            tempfile.mkdtemp(prefix=sockets_prefix(os.getpid()), dir=runtime_directory())
        )
        self._places = [_place(sockets, str(number)) for number in range(len(self._remotes))]
        probe, nobody = _place(sockets, _PROBE), ports.Remote(_NOBODY)
        ends = zip([*self._places, probe], [*self._remotes, nobody], strict=True)
        pairs = [
            (f"127.0.0.1:{place}" if isinstance(place, int) else str(place), remote.target)
            for place, remote in ends
        ]
        control = sockets / CONTROL if self._give else None
        words = sshconnection.argv(
            self._where,
            pairs,
            connect=self._limits.connect,
            keepalive=self._limits.patience,
            control=control,
        )
        self._carrier = current = sshconnection.Carrier(words, progress=lambda: self.moved)
        up = False
        try:
            up = (
                await current.start(self._limits.login)
                and not await current.forbids(probe, self._places, self._limits.patience)
                and await self._came_up(control)
            )
            if up:
                await current.wait(self._limits.beat, self._limits.patience, self._wanted)
        finally:
            self._up.clear()
            await current.end()
            # At once: the ports are free now, and could be anybody's.
            lost = "" if self._closing.is_set() else await self._listen()
            await current.last_words()
            self._moved_before, self._passed_before, self._carrier = (
                self.moved,
                self.traffic.total,
                None,
            )
            shutil.rmtree(sockets, ignore_errors=True)
            if not self._closing.is_set():
                self._become(WAITING, lost or current.last_error or "the connection ended")
        return up

    async def _came_up(self, control: Path | None) -> bool:
        """Open the way to those who call; False when a port was lost to another program."""
        assert self._carrier is not None  # noqa: S101 - it has come up
        self.state.reconnects += self._was_up
        self._was_up = True
        if (
            control is not None
            and await self._carrier.count(self._limits.patience)
            and not await self._give_ports(control)
        ):
            return False
        self._up.set()
        self._become(UP, "")
        return True

    async def _give_ports(self, control: Path) -> bool:
        """Close our sockets and let ssh open its own, in less than a millisecond. What ssh cannot, we go on with.

        False when another program took a port in that time.
        """
        for number, remote in enumerate(self._remotes):
            given = mux.forward(
                control,
                self._ports[number],
                remote.name,
                remote.port,
                timeout=1,
                ready=partial(self._let_go, number),
            )
            if not given and not await self._have(number) and self._carrier is not None:
                self._carrier.last_error = taken_words(self._ports[number])
                return False
        return True

    def _let_go(self, number: int) -> None:
        server = self._servers[number]
        if server is not None:
            server.close()
        self._servers[number] = None

    async def _pause(self, seconds: float) -> None:
        """Wait, but not while somebody wants to use the tunnel: then half a second is all."""
        self._wanted.clear()
        await self._either(self._closing, None, min(seconds, 0.5))
        if seconds > 0.5:
            await self._either(self._closing, self._wanted, seconds - 0.5)

    async def _either(self, one: asyncio.Event, other: asyncio.Event | None, limit: float) -> None:
        tasks = {asyncio.create_task(event.wait()) for event in (one, other) if event is not None}
        await asyncio.wait(tasks, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    def _way(self, number: int) -> relay.Way:
        async def way() -> relay.Place | None:
            end = time.monotonic() + self._limits.hold
            while (left := end - time.monotonic()) > 0:
                if self._up.is_set() and self._carrier is not None:
                    if self._carrier.fresh(self._limits.beat):
                        return self._places[number]
                    self._wanted.set()
                    await self._carrier.heard(left)
                else:
                    self._wanted.set()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._up.wait(), left)
            return None

        return way

    def _become(self, state: str, reason: str) -> None:
        if (state, reason) != (self.state.state, self.state.reason):
            self.state.state, self.state.reason, self.state.since = state, reason, time.time()
            self._changed()


async def _ended(work: "asyncio.Task[bool]") -> bool:
    """The task's result; cancelled first when it is not done."""
    if not work.done():
        work.cancel()
    try:
        return await work
    except asyncio.CancelledError:
        return False


def _place(sockets: Path, name: str) -> relay.Place:
    """Where ssh is to listen for us: a socket among `sockets`, or a port where the system's ssh has none."""
    if sys.platform != "win32":
        return sockets / name
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
