"""Relays local connections to a socket on which ssh listens, and counts the bytes."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)

SshListener = Path | int
"""Where ssh listens for us: the path of a socket, or a port on loopback."""

FindListener = Callable[[], Awaitable[SshListener | None]]
"""Waits until ssh listens; None if it does not in time."""

_CONNECT_ATTEMPTS = 3
_RETRY_PAUSE = 0.2
_BACKLOG = 256


class Traffic:
    """What has been relayed: bytes from and to the container, and the connections open now."""

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.ends: set[ConnectionEnd] = set()

    @property
    def total(self) -> int:
        """Bytes in both directions."""
        return self.received + self.sent


class ConnectionEnd(asyncio.Protocol):
    """One of the two ends of a relayed connection: what it reads is written to the other end.

    It stops reading while the other end cannot write, so a slow reader fills no memory.
    """

    def __init__(self, traffic: Traffic, *, local: bool) -> None:
        """`local` is the end on which the user's program connected."""
        self._traffic = traffic
        self._local = local
        self.transport: asyncio.Transport | None = None
        self.other: ConnectionEnd | None = None
        self._at_eof = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected. Nothing is read before there is another end to write to."""
        self.transport = cast(asyncio.Transport, transport)
        self._traffic.ends.add(self)
        # Not at once: Python 3.11.2 (Debian 12) starts to read after this method has returned, even
        # if it pauses reading. The next turn of the loop is before the first byte is read.
        asyncio.get_running_loop().call_soon(self._pause_until_joined)

    def _pause_until_joined(self) -> None:
        if self.other is None and self.transport is not None:
            self.transport.pause_reading()

    def join(self, other: "ConnectionEnd") -> None:
        """Start to relay between the two ends; if one has been closed, close both."""
        self.other = other
        other.other = self
        both_open = self._is_open and other._is_open
        for end in (self, other):
            if end.transport is None or not end._is_open:
                continue
            if both_open:
                end.transport.resume_reading()
            else:
                end.transport.close()

    @property
    def _is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def data_received(self, data: bytes) -> None:
        """asyncio: pass `data` on."""
        if self._local:
            self._traffic.sent += len(data)
        else:
            self._traffic.received += len(data)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """asyncio: this side sends no more; the other side may still answer (True keeps it open)."""
        self._at_eof = True
        if self.other is None or self.other.transport is None or self.transport is None:
            return False
        with contextlib.suppress(OSError):
            self.other.transport.write_eof()
        if self.other._at_eof:
            self.other.transport.close()
            self.transport.close()
        return True

    def pause_writing(self) -> None:
        """asyncio: this end cannot write as fast as the other reads."""
        if self.other is not None and self.other.transport is not None and self.other._is_open:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """asyncio: this end can write again."""
        if self.other is not None and self.other.transport is not None and self.other._is_open:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio: closed. After an orderly end the other end still sends what it holds."""
        self._traffic.ends.discard(self)
        if self.other is None or self.other.transport is None:
            return
        if error is None:
            self.other.transport.close()
        else:
            self.other.transport.abort()

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abort()


async def serve(
    listening: socket.socket,
    traffic: Traffic,
    find_listener: FindListener,
    on_missing: Callable[[], None] = lambda: None,
) -> asyncio.Server:
    """Relay every connection to the socket `listening` to the listener that `find_listener` finds.

    A connection waits until there is one; it is aborted when `find_listener` returns None. `on_missing` is called
    when the socket of a listener is not there any more.
    """
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps only weak references

    def accept() -> ConnectionEnd:
        end = ConnectionEnd(traffic, local=True)
        task = loop.create_task(_relay(end, traffic, find_listener, on_missing))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return end

    return await loop.create_server(accept, sock=listening, backlog=_BACKLOG)


async def _relay(
    end: ConnectionEnd,
    traffic: Traffic,
    find_listener: FindListener,
    on_missing: Callable[[], None],
) -> None:
    # ssh may end between its last heartbeat and this connection: then there is another one soon.
    for _ in range(_CONNECT_ATTEMPTS):
        listener = await find_listener()
        if listener is None:
            break
        try:
            _, inner = await _connect(listener, lambda: ConnectionEnd(traffic, local=False))
        except FileNotFoundError:
            # macOS deletes what nobody has touched for three days below TMPDIR, sockets that are in use as well.
            on_missing()
            await asyncio.sleep(_RETRY_PAUSE)
            continue
        except OSError:
            await asyncio.sleep(_RETRY_PAUSE)
            continue
        end.join(inner)
        return
    end.abort()


async def connect_until_dropped(listener: SshListener, limit: float) -> None:
    """Connect to `listener` and wait until the connection is dropped, or for `limit` seconds."""
    with contextlib.suppress(OSError, TimeoutError):
        transport, protocol = await _connect(listener, _DropWatcher)
        try:
            await asyncio.wait_for(protocol.dropped.wait(), limit)
        finally:
            transport.abort()


class _DropWatcher(asyncio.Protocol):
    def __init__(self) -> None:
        self.dropped = asyncio.Event()

    def connection_lost(self, error: Exception | None) -> None:
        self.dropped.set()


async def _connect(
    listener: SshListener, protocol: Callable[[], ProtocolT]
) -> tuple[Any, ProtocolT]:
    loop = asyncio.get_running_loop()
    if isinstance(listener, int):
        return await loop.create_connection(protocol, "127.0.0.1", listener)
    return await loop.create_unix_connection(protocol, str(listener))
