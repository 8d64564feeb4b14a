"""A wire between a client and a server that counts what it carries, and can be held or cut at a chosen byte."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LIMIT = 60.0


class Wire:
    """Listens on `port` and carries to another one. Bytes are counted over all connections, both ways."""

    def __init__(self, address: str, port: int) -> None:
        self._target = (address, port)
        self._server = socket.create_server((address, 0))
        self.port: int = self._server.getsockname()[1]
        self.carried = 0
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._hold_at: int | None = None
        self._held = threading.Event()
        self._free = threading.Event()
        self._free.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def hold_after(self, count: int) -> None:
        """Carry `count` bytes more, then nothing until `release` or `cut`."""
        self._free.set()
        self._held.clear()
        self._hold_at = self.carried + count

    def await_hold(self) -> None:
        """Return when it holds."""
        assert self._held.wait(_LIMIT), "so much was never carried"

    def release(self) -> None:
        """Carry on."""
        self._hold_at = None
        self._free.set()

    def cut(self) -> None:
        """End every connection; new ones are welcome."""
        with self._lock:
            for end in self._ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self.release()

    def close(self) -> None:
        """End everything."""
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._ends |= {client, server}
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        room = memoryview(bytearray(1 << 18))
        with contextlib.suppress(OSError):
            while count := source.recv_into(room):
                with self._lock:
                    self.carried += count
                    if self._hold_at is not None and self.carried >= self._hold_at:
                        self._free.clear()
                        self._hold_at = None
                        self._held.set()
                self._free.wait(_LIMIT)
                target.sendall(room[:count])
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._ends -= {source}
        source.close()


@contextmanager
def wire(address: str, port: int) -> Iterator[Wire]:
    """One that is there while the block runs."""
    found = Wire(address, port)
    try:
        yield found
    finally:
        found.close()
