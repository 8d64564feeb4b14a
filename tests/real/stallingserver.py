"""Servers that answer up to one stage of a login, and then stay silent with an open connection."""

import asyncio
import contextlib
import math
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import asyncssh

from apexgpu.models import Host

_NEWKEYS = 21  # SSH_MSG_NEWKEYS of RFC 4253, the last packet that is not encrypted


class Relay:
    """A port before a real server, through which `until` lets pass what the server says.

    `until` gets all that a server has said on one connection, and returns how many bytes of it may pass.
    """

    def __init__(self, server: Host, until: Callable[[bytes], int]) -> None:
        self._server, self._until = server, until
        self._kept: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                onward = socket.create_connection((self._server.address, self._server.manage_port))
                self._kept += [connection, onward]
                for arguments in ((connection, onward, len), (onward, connection, self._until)):
                    thread = threading.Thread(target=self._carry, args=arguments, daemon=True)
                    thread.start()
                    self._threads.append(thread)

    def _carry(
        self, source: socket.socket, sink: socket.socket, until: Callable[[bytes], int]
    ) -> None:
        seen = b""
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                seen += data
                end = until(seen)
                sink.sendall(seen[passed:end])
                passed = end
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End every connection."""
        for one in (self._listener, *self._kept):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
        for one in (self._listener, *self._kept):
            one.close()


def nothing(_seen: bytes) -> int:
    """Not a byte."""
    return 0


def version(seen: bytes) -> int:
    """Its version, and no packet."""
    return seen.find(b"\n") + 1


def key_exchange(seen: bytes) -> int:
    """All up to the end of the key exchange."""
    position = version(seen)
    while len(seen) >= position + 6:
        kind = seen[position + 5]
        position += 4 + int.from_bytes(seen[position : position + 4], "big")
        if kind == _NEWKEYS:
            return position
    return len(seen)


class _Silent(asyncssh.SSHServer):
    """Answers some questions about keys on each connection, then none; it accepts every key, and opens no session."""

    def __init__(self, answers: float) -> None:
        self._answers = answers

    def public_key_auth_supported(self) -> bool:
        return True

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        del username, key
        self._answers -= 1
        if self._answers < 0:
            await _never()
        return True

    def session_requested(self) -> Any:
        return _never()


async def _never() -> None:
    await asyncio.Event().wait()


@contextlib.contextmanager
def silent(host_key: str, answers: float = math.inf) -> Iterator[int]:
    """A server that falls silent when it has been asked about a key `answers` times, or for a session; its port.

    ssh asks about a key first, and then signs with it, which is a second question.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.create_server(
            lambda: _Silent(answers), "127.0.0.1", 0, server_host_keys=[host_key]
        )

    async def stop() -> None:
        server.close()
        await server.wait_closed()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result(60)
    try:
        yield server.get_port()
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()
