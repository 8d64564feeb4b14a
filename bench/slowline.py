"""A line with a chosen round-trip time between this laptop and servers on loopback, which counts what passes over it.

    python -m bench.slowline --rtt 0.05 127.77.0.2:20022=127.100.0.2:20022 [LISTEN=TARGET ...]

Every byte arrives half a round-trip time after it was sent, in order, and at any bandwidth. A new connection costs
one round trip more, as its handshake does. Linux answers on all of 127.0.0.0/8, so each host can have its own address.

**Round trips** are counted with a logical clock, not by time: what a client sends carries the number of the round in
which the client is, the server's answer carries it back, and a client that receives it is in the next round. Packets
that belong to the same answer count once, also on a busy machine, unless one side needs longer than a round-trip time
between two parts of one message.

Connections that are opened at the same time share their rounds, and so do those to different hosts. One that is opened
after another one to the same host has brought an answer goes on from the round in which that one is, and so does one
that is used again after a pause. So "the same time" is two round trips long: choose an RTT that a busy machine does not
need to start a thread or a program.
"""

import argparse
import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

T = TypeVar("T")

_CHUNK = 65536
_LIMIT = 60.0  # seconds for the relays' thread to answer, on a busy machine


@dataclass(frozen=True, slots=True)
class Address:
    """Where one listens, or connects to."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `ADDRESS:PORT`."""
        host, _, port = text.rpartition(":")
        return cls(host, int(port))


@dataclass(frozen=True, slots=True)
class Count:
    """What passed since the last `Line.start_count`."""

    connections: int
    round_trips: int


@dataclass(slots=True)
class _Clock:
    """The rounds of one connection: the one that began with its handshake, and where the client and the server are."""

    host: str
    first: int
    client: int
    server: int
    is_older: bool = False  # it was open before the count began
    is_closed: bool = False
    last_used: float = float("inf")  # when something was sent or received, a time of the event loop

    def restart(self) -> None:
        """Count from zero, as a connection that is open already."""
        self.is_older = True
        self.first = 0
        self.client = 0
        self.server = 0

    def server_receives(self, sent_in: int) -> None:
        """Something arrives at the server that the client sent in this round."""
        self.server = max(self.server, sent_in)

    def client_receives(self, answer_to: int, now: float) -> None:
        """An answer arrives at the client, whose next round begins."""
        self.client = max(self.client, answer_to + 1)
        self.last_used = now

    def comes_before(self, host: str) -> bool:
        """Whether a connection to `host` that is opened now may depend on what the client has received here.

        An empty name belongs to all hosts.
        """
        has_answered = self.client > self.first
        return has_answered and (self.host == host or not self.host or not host)


@dataclass
class _Counter:
    """The clocks of the connections, and when something was sent last (a time of the event loop)."""

    pause: float  # seconds of silence after which a connection is used again, and not still
    clocks: list[_Clock] = field(default_factory=list)
    last_sent: float = 0.0

    def start(self) -> None:
        """Forget the connections that have ended."""
        self.clocks = [clock for clock in self.clocks if not clock.is_closed]
        for clock in self.clocks:
            clock.restart()

    def open(self, host: str) -> _Clock:
        """The clock of a new connection. Its handshake is its first round."""
        before = [clock.client for clock in self.clocks if clock.comes_before(host)]
        first = max(before, default=0) + 1
        clock = _Clock(host, first, first, first)
        self.clocks.append(clock)
        return clock

    def client_sends(self, clock: _Clock, data: bytes, now: float) -> int:
        """The round in which the client sends `data`; without any, it ends the connection."""
        if now - clock.last_used > self.pause:
            before = [other.client for other in self.clocks if other.comes_before(clock.host)]
            clock.client = max([clock.client, *before])
        self.last_sent = clock.last_used = now
        if not data:
            clock.is_closed = True
        return clock.client

    @property
    def count(self) -> Count:
        """What passed until now."""
        new = [clock for clock in self.clocks if not clock.is_older]
        last = max((clock.client for clock in self.clocks), default=0)
        return Count(len(new), last)


class Line:
    """Relays in a thread of their own. Use it with `with`; `lead` adds a relay while it runs."""

    def __init__(self, rtt: float) -> None:
        self.rtt = rtt
        self._counter = _Counter(pause=rtt / 2)
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[Any] | None] = set()
        self._refuses = False
        self._is_up = asyncio.Event()
        self._is_up.set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_LIMIT)
        self._loop.close()

    def lead(self, listen: Address, target: Address, host: str = "") -> Address:
        """Listen at `listen` (port 0: any), and carry each connection to `target`; where it listens.

        `host` is its name, for the count: connections to one host may depend on each other.
        """
        return self._run(self._listen(listen, target, host))

    def cut(self) -> None:
        """End all connections, and each new one at once."""
        self._run(self._cut())

    def freeze(self) -> None:
        """Deliver nothing any more, and say nothing about it: the network is down."""
        self._run(self._freeze())

    def restore(self) -> None:
        """Undo `cut` and `freeze`."""
        self._run(self._restore())

    def start_count(self) -> None:
        """Count from now on, when nothing is under way any more."""
        self._run(self._start_count())

    @property
    def count(self) -> Count:
        """What passed since `start_count`."""
        return self._run(self._on_counter(lambda: self._counter.count))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_LIMIT)

    async def _cut(self) -> None:
        self._refuses = True
        for task in self._tasks:
            if task is not None:
                task.cancel()

    async def _freeze(self) -> None:
        self._is_up.clear()

    async def _restore(self) -> None:
        self._refuses = False
        self._is_up.set()

    async def _start_count(self) -> None:
        silence = 2 * self.rtt
        while self._loop.time() < self._counter.last_sent + silence:
            await asyncio.sleep(silence / 4)
        self._counter.start()

    async def _on_counter(self, work: Callable[[], T]) -> T:
        return work()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _listen(self, listen: Address, target: Address, host: str) -> Address:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # asyncio keeps no reference to the task of a connection that would save it from being collected.
            task = asyncio.current_task()
            self._tasks.add(task)
            # asyncio reports a task of a connection that was cancelled as an error.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                if not self._refuses:
                    await self._carry(reader, writer, target, host)
            writer.close()
            self._tasks.discard(task)

        server = await asyncio.start_server(serve, listen.host, listen.port, backlog=512)
        self._servers.append(server)
        return Address(*server.sockets[0].getsockname())

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        target: Address,
        host: str,
    ) -> None:
        clock = self._counter.open(host)
        delay = self.rtt / 2
        # The client believes that it is connected. On a real line it would be so one round trip later, and what it
        # sends until then would arrive together with the connection itself.
        connected = self._loop.time() + self.rtt

        def client_sends(data: bytes) -> int:
            return self._counter.client_sends(clock, data, self._loop.time())

        def client_receives(answer_to: int) -> None:
            clock.client_receives(answer_to, self._loop.time())

        def server_sends(_data: bytes) -> int:
            self._counter.last_sent = self._loop.time()
            return clock.server

        is_up = self._is_up
        to_server = _Direction(delay, client_sends, clock.server_receives, is_up, connected)
        to_client = _Direction(delay, server_sends, client_receives, is_up)
        reading = asyncio.create_task(to_server.read(reader))
        try:
            await asyncio.sleep(self.rtt + delay)
            await self._is_up.wait()
            far_reader, far_writer = await asyncio.open_connection(target.host, target.port)
            try:
                await asyncio.gather(
                    reading,
                    to_server.write(far_writer),
                    to_client.read(far_reader),
                    to_client.write(writer),
                )
            finally:
                far_writer.close()
        finally:
            reading.cancel()
            clock.is_closed = True


class _Direction:
    """One direction of a connection: what is read on one side is written on the other some time later."""

    def __init__(
        self,
        delay: float,
        on_sent: Callable[[bytes], int],
        on_arrival: Callable[[int], None],
        is_up: asyncio.Event,
        not_before: float = 0.0,
    ) -> None:
        """`on_sent` returns the round in which a piece was sent, with which `on_arrival` is called when it arrives.

        While `is_up` is not set, nothing arrives.
        Nothing counts as sent before `not_before`, a time of the event loop.
        """
        self._delay = delay
        self._on_sent = on_sent
        self._on_arrival = on_arrival
        self._is_up = is_up
        self._not_before = not_before
        self._pieces: asyncio.Queue[tuple[float, int, bytes]] = asyncio.Queue()

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Read until the end. A reset is an end too."""
        loop = asyncio.get_running_loop()
        data = b"-"
        while data:
            data = b""
            with contextlib.suppress(OSError):
                data = await reader.read(_CHUNK)
            due = max(loop.time(), self._not_before) + self._delay
            self._pieces.put_nowait((due, self._on_sent(data), data))

    async def write(self, writer: asyncio.StreamWriter) -> None:
        """Write each piece when it is due, until the end."""
        loop = asyncio.get_running_loop()
        while True:
            due, sent_in, data = await self._pieces.get()
            await asyncio.sleep(due - loop.time())
            await self._is_up.wait()
            if not data:
                break
            self._on_arrival(sent_in)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()


def main() -> None:
    """Start the relays, print `ready`, and wait for the end of the standard input."""
    parser = argparse.ArgumentParser(description="TCP relays with the delay of a long line.")
    parser.add_argument("--rtt", type=float, default=0.05, help="seconds for a round trip")
    parser.add_argument("relays", nargs="+", metavar="LISTEN=TARGET")
    chosen = parser.parse_args()
    with Line(chosen.rtt) as line:
        for pair in chosen.relays:
            listen, _, target = pair.partition("=")
            line.lead(Address.parse(listen), Address.parse(target))
        print("ready", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()


if __name__ == "__main__":
    main()
