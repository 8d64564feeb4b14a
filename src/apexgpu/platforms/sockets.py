"""Sockets and descriptors, as far as only some systems have them."""

import select
import socket
import sys
from collections.abc import Callable, Mapping

EXCLUSIVE_USE = getattr(socket, "SO_EXCLUSIVEADDRUSE", ~socket.SO_REUSEADDR)
"""On Windows: no other program may bind the same port as well."""


def unix_socket() -> socket.socket:
    """A new socket for a path. Raises OSError on Windows, whose Python has none."""
    if sys.platform == "win32" or not hasattr(socket, "AF_UNIX"):
        message = "this system has no sockets with a path"
        raise OSError(message)
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def send_descriptor(connection: socket.socket, descriptor: int) -> None:
    """Send an open file over a socket with a path, with one byte of data."""
    if sys.platform == "win32":
        raise NotImplementedError
    socket.send_fds(connection, [b"\0"], [descriptor])


class Poller:
    """Waits for descriptors that can be read; unlike select, for more than 1024 open files too. Not on Windows."""

    def __init__(self, descriptors: Mapping[int, Callable[[bytes], None]]) -> None:
        if sys.platform == "win32":
            raise NotImplementedError
        self._poll = select.poll()
        for descriptor in descriptors:
            self._poll.register(descriptor, select.POLLIN)

    def wait(self, milliseconds: float | None) -> list[int]:
        """Those that can be read; empty after `milliseconds`."""
        if sys.platform == "win32":
            raise NotImplementedError
        return [descriptor for descriptor, _ in self._poll.poll(milliseconds)]

    def forget(self, descriptor: int) -> None:
        """Wait for this one no more."""
        if sys.platform != "win32":
            self._poll.unregister(descriptor)
