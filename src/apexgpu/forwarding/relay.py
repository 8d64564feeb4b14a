"""Local connections, carried to a socket that ssh listens on; each byte counted on the way."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

P = TypeVar("P", bound=asyncio.Protocol)

Place = Path | int  # where ssh listens for us: a socket's path, or a loopback port
Way = Callable[[], Awaitable[Place | None]]


class Traffic:
    """What has gone through: bytes from the container, bytes to it, connections open now."""

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.open = 0
        self.ends: set[End] = set()

    @property
    def total(self) -> int:
        """A number that grows while bytes move."""
        return self.received + self.sent


class End(asyncio.Protocol):
    """One end of a connection: what comes in goes out at the other end, no faster than that one takes it."""

    def __init__(self, traffic: Traffic, *, local: bool) -> None:
        self._traffic = traffic
        self._local = local
        self.transport: asyncio.Transport | None = None
        self.other: End | None = None
        self._said_all = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection stands. Nothing is read before there is another end."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.pause_reading()
        self._traffic.ends.add(self)
        self._traffic.open += self._local

    def join(self, other: "End") -> None:
        """Let bytes flow between the two."""
        self.other, other.other = other, self
        gone = [end for end in (self, other) if end.transport is None or end.transport.is_closing()]
        for end in (self, other):
            if end.transport is not None and not end.transport.is_closing():
                end.transport.close() if gone else end.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        if self._local:
            self._traffic.sent += len(data)
        else:
            self._traffic.received += len(data)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """asyncio: this side has said all; the other may still answer."""
        self._said_all = True
        if self.other is None or self.other.transport is None or self.transport is None:
            return False
        with contextlib.suppress(OSError):
            self.other.transport.write_eof()
        if self.other._said_all:
            self.other.transport.close()
            self.transport.close()
        return True

    def pause_writing(self) -> None:
        """asyncio: enough for now."""
        self._read(False)

    def resume_writing(self) -> None:
        """asyncio: more, please."""
        self._read(True)

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio: gone, and so is the other end once it has sent what it has."""
        self._traffic.ends.discard(self)
        self._traffic.open -= self._local
        if self.other is not None and self.other.transport is not None:
            if error is None:
                self.other.transport.close()
            else:
                self.other.transport.abort()

    def abort(self) -> None:
        """Cut it off."""
        if self.transport is not None:
            self.transport.abort()

    def _read(self, on: bool) -> None:
        if self.other is None or self.other.transport is None or self.other.transport.is_closing():
            return
        if on:
            self.other.transport.resume_reading()
        else:
            self.other.transport.pause_reading()


async def listen(holder: socket.socket, traffic: Traffic, way: Way) -> asyncio.Server:
    """Carry every connection to `holder`, a listening socket.

    `way` waits until there is one and returns the path or loopback port that ssh listens on; None when it gave up.
    """
    loop = asyncio.get_running_loop()
    waiting: set[asyncio.Task[None]] = set()

    def accept() -> End:
        end = End(traffic, local=True)
        task = loop.create_task(_carry(end, traffic, way))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
        return end

    return await loop.create_server(accept, sock=holder, backlog=256)


async def _carry(end: End, traffic: Traffic, way: Way) -> None:
    for _ in range(3):  # ssh may end between its last sign of life and this connection
        place = await way()
        if place is None:
            break
        try:
            _, inner = await _connect(place, lambda: End(traffic, local=False))
        except OSError:
            await asyncio.sleep(0.2)
            continue
        end.join(inner)
        return
    end.abort()


async def tried(place: Place, limit: float) -> None:
    """Connect, and wait until the connection is dropped, `limit` seconds at most."""
    with contextlib.suppress(OSError, TimeoutError):
        transport, end = await _connect(place, _Trial)
        try:
            await asyncio.wait_for(end.dropped.wait(), limit)
        finally:
            transport.abort()


class _Trial(asyncio.Protocol):
    def __init__(self) -> None:
        self.dropped = asyncio.Event()

    def connection_lost(self, error: Exception | None) -> None:
        self.dropped.set()


async def _connect(place: Place, protocol: Callable[[], P]) -> tuple[Any, P]:
    loop = asyncio.get_running_loop()
    if isinstance(place, int):
        return await loop.create_connection(protocol, "127.0.0.1", place)
    return await loop.create_unix_connection(protocol, str(place))
