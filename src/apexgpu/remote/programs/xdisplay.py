"""A client's connection to an X server. Every wait has a time limit. Runs on the laptop and in a container."""

import socket
import struct
import time

from apexgpu.remote.programs.xwire import (
    COOKIE,
    Display,
    XServerSetup,
    login_request,
    parse_refusal,
    parse_setup,
    query_extension,
)

# The first byte of what a server sends; everything else is an event.
_ERROR, _REPLY = 0, 1
_GENERIC_EVENT = 35  # the only event that may be longer than 32 bytes
_SENT_BY_CLIENT = 0x80  # this bit marks an event that another client sent
_ACCEPTED = 1
_TIMEOUT = "no answer in time"


class NotThereError(Exception):
    """No X server answers at the display."""


class NotLetInError(Exception):
    """The server refused the login; the message is the server's reason."""


class XError(Exception):
    """The server refused a request; the message contains the number of the error."""


def connect(display: Display, limit: float) -> socket.socket:
    """Connect to a display within `limit` seconds; NotThereError with the system's reason."""
    if display.host:
        try:
            return socket.create_connection((display.host, display.port), timeout=limit)
        except (OSError, UnicodeError) as exc:  # the latter for a name such as "a..b"
            raise NotThereError(_reason(exc)) from None
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise NotThereError("no such sockets on this system")
    reason = "no such socket"
    # On Linux, X servers listen on an abstract socket too; Xlib and ssh try that one first.
    for path in ("\0" + display.path, display.path):
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(limit)
        try:
            connection.connect(path)
        except (OSError, ValueError) as exc:
            connection.close()
            reason = _reason(exc)
        else:
            return connection
    raise NotThereError(reason)


def _reason(exc: BaseException) -> str:
    if isinstance(exc, socket.timeout):
        return _TIMEOUT
    return (getattr(exc, "strerror", None) or str(exc)).lower()


class Connection:
    """A connection that is logged in. `limit` is the time in seconds that each answer may take."""

    def __init__(self, display: Display, cookie: "bytes | None", limit: float) -> None:
        self._limit = limit
        self._socket = connect(display, limit)
        try:
            self.server = self._log_in(cookie)
        except BaseException:
            self.close()
            raise
        self.events = []  # type: list[bytes]

    def _log_in(self, cookie: "bytes | None") -> XServerSetup:
        if cookie:
            self.send(login_request(COOKIE, cookie))
        else:
            self.send(login_request("", b""))
        head = self._receive(8, self._limit)
        (length_in_words,) = struct.unpack_from("<H", head, 6)
        reply = self._receive(4 * length_in_words, self._limit)
        if head[0] != _ACCEPTED:
            # "Failed" (0) gives the length of its reason; "Authenticate" does not.
            length = len(reply)
            if head[0] == 0:
                length = head[1]
            raise NotLetInError(parse_refusal(reply, length))
        return parse_setup(reply)

    def send(self, data: bytes) -> None:
        """Send requests."""
        try:
            self._socket.sendall(data)
        except OSError as exc:
            raise NotThereError(_reason(exc)) from None

    def ask(self, request: bytes) -> bytes:
        """Send a request and return the reply. XError if the server refuses it. Events before it are kept."""
        self.send(request)
        while True:
            packet = self._packet(self._limit)
            if packet[0] == _REPLY:
                return packet
            if packet[0] == _ERROR:
                raise XError("X error %d" % packet[1])
            self.events.append(packet)

    def event(self, kind: int, limit: float) -> bool:
        """Wait for an event; False after `limit` seconds. XError if the server refused an earlier request."""
        end = time.monotonic() + limit
        while True:
            while self.events:
                if self.events.pop(0)[0] & ~_SENT_BY_CLIENT == kind:
                    return True
            left = end - time.monotonic()
            if left <= 0:
                return False
            try:
                packet = self._packet(left)
            except NotThereError as exc:
                if str(exc) == _TIMEOUT:
                    return False
                raise
            if packet[0] == _ERROR:
                raise XError("X error %d" % packet[1])
            self.events.append(packet)

    def has(self, extension: str) -> bool:
        """Whether the server offers an extension to this client."""
        return bool(self.ask(query_extension(extension))[8])

    def _packet(self, limit: float) -> bytes:
        """Receive one error, reply or event."""
        packet = self._receive(32, limit)
        kind = packet[0]
        # Only these two are longer than 32 bytes.
        if kind == _REPLY or kind & ~_SENT_BY_CLIENT == _GENERIC_EVENT:
            (length_in_words,) = struct.unpack_from("<I", packet, 4)
            packet += self._receive(4 * length_in_words, self._limit)
        return packet

    def _receive(self, count: int, limit: float) -> bytes:
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
        """Disconnect; the server destroys the windows of this connection."""
        self._socket.close()
