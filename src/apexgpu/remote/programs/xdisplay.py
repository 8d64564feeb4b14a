"""A connection to an X server, within a time limit: who is let in, what is asked and answered."""

import socket
import struct
import time

from apexgpu.remote.programs.xwire import (
    COOKIE,
    Display,
    Setup,
    hello,
    query_extension,
    refusal,
    setup_of,
)


class NotThereError(Exception):
    """Nobody answers at the display."""


class NotLetInError(Exception):
    """The server refuses the login, in its own words."""


class XError(Exception):
    """The server refuses a request, by number."""


def reach(place: Display, limit: float) -> socket.socket:
    """A connected socket; NotThereError with the system's reason."""
    if place.host:
        try:
            return socket.create_connection((place.host, place.port), timeout=limit)
        except OSError as exc:
            raise NotThereError(_reason(exc)) from None
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise NotThereError("no such sockets on this system")
    reason = "no such socket"
    # The abstract one is tried first, as Xlib and ssh do on Linux; elsewhere there is none.
    for path in ("\0" + place.path, place.path):
        door = socket.socket(family, socket.SOCK_STREAM)
        door.settimeout(limit)
        try:
            door.connect(path)
        except (OSError, ValueError) as exc:
            door.close()
            reason = _reason(exc)
        else:
            return door
    raise NotThereError(reason)


def _reason(exc: BaseException) -> str:
    if isinstance(exc, socket.timeout):
        return "no answer in time"
    return (getattr(exc, "strerror", None) or str(exc)).lower()


class Connection:
    """An X client's connection. `limit` is in seconds, for each answer."""

    def __init__(self, place: Display, cookie: "bytes | None", limit: float) -> None:
        self._limit = limit
        self._socket = reach(place, limit)
        try:
            self.server = self._log_in(cookie)
        except BaseException:
            self.close()
            raise
        self.events = []  # type: list[bytes]

    def _log_in(self, cookie: "bytes | None") -> Setup:
        self.send(hello(COOKIE if cookie else "", cookie or b""))
        head = self._take(8, self._limit)
        rest = self._take(4 * struct.unpack_from("<H", head, 6)[0], self._limit)
        if head[0] != 1:
            raise NotLetInError(refusal(rest, head[1] if head[0] == 0 else len(rest)))
        return setup_of(rest)

    def send(self, data: bytes) -> None:
        """Send requests."""
        try:
            self._socket.sendall(data)
        except OSError as exc:
            raise NotThereError(_reason(exc)) from None

    def ask(self, question: bytes) -> bytes:
        """The reply to a request; events that come before it are kept. XError when it is refused."""
        self.send(question)
        while True:
            kind, packet = self._packet(self._limit)
            if kind == 1:
                return packet
            if kind == 0:
                raise XError("X error %d" % packet[1])
            self.events.append(packet)

    def event(self, kind: int, limit: float) -> bool:
        """Wait for an event; False when `limit` seconds have gone. XError when something was refused meanwhile."""
        end = time.monotonic() + limit
        while True:
            while self.events:
                if self.events.pop(0)[0] & 0x7F == kind:
                    return True
            left = end - time.monotonic()
            if left <= 0:
                return False
            try:
                came, packet = self._packet(left)
            except NotThereError as exc:
                if str(exc) == "no answer in time":
                    return False
                raise
            if came == 0:
                raise XError("X error %d" % packet[1])
            self.events.append(packet)

    def has(self, extension: str) -> bool:
        """Whether the server has an extension, for this client."""
        return bool(self.ask(query_extension(extension))[8])

    def _packet(self, limit: float) -> "tuple[int, bytes]":
        packet = self._take(32, limit)
        longer = packet[0] == 1 or packet[0] & 0x7F == 35
        more = 4 * struct.unpack_from("<I", packet, 4)[0] if longer else 0
        return packet[0], packet + self._take(more, self._limit)

    def _take(self, count: int, limit: float) -> bytes:
        data = b""
        self._socket.settimeout(max(limit, 0.001))
        while len(data) < count:
            try:
                part = self._socket.recv(count - len(data))
            except OSError as exc:
                raise NotThereError(_reason(exc)) from None
            if not part:
                raise NotThereError("it closed the connection")
            data += part
        return data

    def close(self) -> None:
        """Leave; the windows of this connection go with it."""
        self._socket.close()
