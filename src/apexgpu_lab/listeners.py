"""Listening sockets of the lab, and addresses on loopback for its hosts."""

import asyncio
import contextlib
import errno
import os
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from ipaddress import IPv4Address

from apexgpu.errors import ApexError
from apexgpu.platforms.system import is_windows
from apexgpu_lab.labstate import HostAddress
from apexgpu_lab.socketowners import is_own_client
from apexgpu_lab.users import FIRST_PORT

MANAGE_PORT = 2222
_TRIES = 40
_RANGE = 100  # ports for each host where all are on one address
_USERS = 4  # whose ports are looked at: those in the lab's directory
_LAST_PORT = 65535
_FIRST_EPHEMERAL = 32768
Serve = Callable[[socket.socket, str], Awaitable[None]]


def listening_socket(address: str, port: int) -> socket.socket:
    """Return a listening, non-blocking socket. Raises OSError if the address or port is in use."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if not is_windows():  # there the option would let two labs share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(128)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def bind_host_addresses(
    hosts: int, *, shared: bool = False
) -> tuple[str, list[tuple[HostAddress, socket.socket]]]:
    """Return an address for IAM, and for each host its address with the socket of its manage port.

    On most systems all of 127/8 is loopback. There a lab uses addresses of its own, in a random
    network that no other lab uses, so that a user's port can be the same on every host. Where these
    cannot be bound (macOS), or with `shared`, all hosts are on 127.0.0.1 and have different ports.

    Raises ApexError if there is nothing to listen on.
    """
    shared = shared or "APEXGPU_LAB_SHARED" in os.environ  # for tests as on a Mac
    for _ in range(0 if shared else _TRIES):
        base = IPv4Address(f"127.{random.randint(16, 250)}.{random.randrange(0, 254, 2)}.0")  # noqa: S311
        try:
            return str(base + 1), _bind_own_addresses(base, hosts)
        except OSError:
            continue
    try:
        return "127.0.0.1", _bind_shared_address(hosts)
    except OSError as error:
        message = f"the lab found no loopback address to listen on: {error}"
        raise ApexError(message) from None


def _bind_own_addresses(base: IPv4Address, hosts: int) -> list[tuple[HostAddress, socket.socket]]:
    opened: list[tuple[HostAddress, socket.socket]] = []
    try:
        for number in range(2, hosts + 2):
            host_address = HostAddress(str(base + number), MANAGE_PORT)
            sock = listening_socket(host_address.address, MANAGE_PORT)
            opened.append((host_address, sock))
    except OSError:
        for _, sock in opened:
            sock.close()
        raise
    return opened


def _bind_shared_address(hosts: int) -> list[tuple[HostAddress, socket.socket]]:
    """Give each host a range of ports on 127.0.0.1 that no other lab has, and no other program either.

    The manage port is the first of the range. It is bound as long as the lab runs, also while the containers are
    down, so another lab does not choose the same range.
    """
    offsets = list(range(0, _LAST_PORT - FIRST_PORT - _RANGE, _RANGE))
    # Those above the first ports that systems give to connections (32768 on Linux) are the last choice.
    is_low = [offset for offset in offsets if FIRST_PORT + offset + _RANGE < _FIRST_EPHEMERAL]
    rest = [offset for offset in offsets if offset not in is_low]
    random.shuffle(is_low)
    opened: list[tuple[HostAddress, socket.socket]] = []
    for offset in [*is_low, *rest]:
        if len(opened) == hosts:
            break
        manage_port = FIRST_PORT - 1 + offset
        try:
            sock = listening_socket("127.0.0.1", manage_port)
        except OSError:
            continue
        if not _are_free(range(manage_port + 1, manage_port + 1 + _USERS)):
            sock.close()
            continue
        opened.append((HostAddress("127.0.0.1", manage_port, offset), sock))
    if len(opened) < hosts:
        for _, sock in opened:
            sock.close()
        raise OSError(errno.EADDRINUSE, "there are not enough free ports for so many hosts")
    return opened


def _are_free(ports: Iterable[int]) -> bool:
    for port in ports:
        try:
            listening_socket("127.0.0.1", port).close()
        except OSError:
            return False
    return True


class Listener:
    """A listening socket. Every connection is passed to `serve(socket, peer)` in a task of its own.

    Connections of other users of this machine are reset, where the system tells whose they are.
    """

    def __init__(
        self, address: str, port: int, serve: Serve, sock: socket.socket | None = None
    ) -> None:
        self.address = address
        self._serve = serve
        self._sock: socket.socket | None = sock or listening_socket(address, port)
        self.port: int = self._sock.getsockname()[1]
        self._accepting = asyncio.get_running_loop().create_task(self._accept(self._sock))
        self.serving: set[asyncio.Task[None]] = set()

    @property
    def all_tasks(self) -> list[asyncio.Task[None]]:
        """The tasks to wait for after `abort`."""
        return [self._accepting, *self.serving]

    @property
    def is_open(self) -> bool:
        """Whether new connections are accepted."""
        return self._sock is not None

    def reopen(self) -> None:
        """Listen on the same port again; does nothing while the socket is open."""
        if self._sock is None:
            self._sock = listening_socket(self.address, self.port)
            self._accepting = asyncio.get_running_loop().create_task(self._accept(self._sock))

    def close(self) -> None:
        """Accept no more connections; those that were accepted continue."""
        if self._sock is not None:
            self._accepting.cancel()
            with contextlib.suppress(NotImplementedError):  # Windows' loop watches no readers
                asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    def abort(self) -> None:
        """Accept no more connections, and end those that were accepted."""
        self.close()
        for task in self.serving:
            task.cancel()

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, peer = await accept_connection(sock)
            except OSError:
                await asyncio.sleep(0.05)  # out of descriptors: some may be free again later
                continue
            # A login to the lab is a shell of the user who runs it.
            if not is_own_client(peer, client.getsockname()):
                reset_connection(client)
                continue
            client.setblocking(False)
            task = loop.create_task(self._serve_one(client, peer[0]))
            self.serving.add(task)
            task.add_done_callback(partial(self._close_if_cancelled, client))

    async def _serve_one(self, client: socket.socket, peer: str) -> None:
        try:
            await self._serve(client, peer)
        except OSError:
            client.close()

    def _close_if_cancelled(self, client: socket.socket, task: asyncio.Task[None]) -> None:
        """Close the socket of a cancelled task: it may never have run, so it closed nothing itself."""
        self.serving.discard(task)
        if task.cancelled():
            client.close()


async def accept_connection(sock: socket.socket) -> tuple[socket.socket, tuple[str, int]]:
    """Return the next connection of a listening socket.

    asyncio's own `sock_accept` loses the connection that comes in the moment in which it is cancelled.
    """
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(BlockingIOError):
            return sock.accept()
        ready = asyncio.Event()
        try:
            loop.add_reader(sock, ready.set)
        except NotImplementedError:  # Windows
            return await loop.sock_accept(sock)
        await ready.wait()
        loop.remove_reader(sock)


def reset_connection(sock: socket.socket) -> None:
    """Close a connection so that the other side gets a reset (RST)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def relay(client: socket.socket, address: str, port: int) -> None:
    """Relay between an accepted connection and a local port until both sides have ended."""
    try:
        remote_reader, remote_writer = await asyncio.open_connection(address, port)
    except OSError:
        reset_connection(client)
        return
    reader, writer = await asyncio.open_connection(sock=client)
    try:
        await asyncio.gather(_copy(reader, remote_writer), _copy(remote_reader, writer))
    finally:
        remote_writer.close()
        writer.close()


async def read_until_closed(client: socket.socket) -> None:
    """Keep a connection open without sending anything until the other side closes it."""
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(client, 65536):
        pass
    client.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):
            if writer.can_write_eof():
                writer.write_eof()
