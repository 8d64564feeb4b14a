"""A port before an sshd that refuses addresses as sshd 9.8 and newer does (PerSourcePenalties, with its defaults).

Where this machine's sshd is older, the relay refuses in its place. Where it is not, the relay only keeps the same
account, and the tests compare it with what the real server does. The rules are those of srclimit.c, and were observed
with OpenSSH 10.0 (Debian 13):

- A connection that ends after a refused key costs 5 s, one without an attempt to log in 1 s (a look at the host key, or
  no more than a TCP connection); one that logs in costs nothing.
- The costs add up, and time pays them off. When more than 15 s are open, the address is refused until all are paid.
- A refused connection gets one line instead of a version, and the end of the connection. It costs nothing.
"""

import contextlib
import re
import socket
import threading
import time
from dataclasses import dataclass, replace

from tests import openssh
from tests.waiting import until

from apexgpu.models import Host

REFUSAL = b"Not allowed at this time\r\n"
FOR_A_REFUSED_KEY, FOR_NO_ATTEMPT = 5, 1
LEAST, MOST = 15, 600

_PORT = re.compile(r" port (\d+)\b")
_END = re.compile(
    r"(?:Connection (?:closed|reset)|Disconnected|Disconnecting|Received disconnect)\b"
)


@dataclass
class Account:
    """What one address owes a server, in whole seconds as the server counts."""

    expiry: int = 0
    is_refused: bool = False

    def add(self, seconds: int) -> None:
        """A connection ended."""
        now = int(time.monotonic())
        if self.expiry <= now:
            self.expiry, self.is_refused = now, False
        self.expiry = min(self.expiry + seconds, now + MOST)
        if self.expiry - now > LEAST:
            self.is_refused = True

    @property
    def left(self) -> int:
        """For how long the address is still refused; 0 if it is not."""
        left = self.expiry - int(time.monotonic())
        return left if self.is_refused and left > 0 else 0


class PenalizingRelay:
    """The port. `connections` counts all, `refused` those that got the refusal. `host` is the server by this port.

    The server needs LogLevel VERBOSE: its log says how each connection ended.
    """

    def __init__(self, server: openssh.OpenSSH) -> None:
        self.account = Account()
        self.account.add(FOR_NO_ATTEMPT)  # `openssh.start` has looked whether it answers
        self.connections = self.refused = 0
        self._server = server
        self._refuses = openssh.version() < (9, 8)
        self._attempted: set[int] = set()
        self._accepted: set[int] = set()
        self._open: set[int] = set()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.host: Host = replace(server.host, port=port, manage_port=port)
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._reader.start()
        self._threads[0].start()

    def settle(self) -> None:
        """Wait until the server has said how each connection ended."""
        until(lambda: not self._open)

    def close(self) -> None:
        """End every connection. The server has to be stopped before, so that its log ends."""
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in (*self._threads, self._reader):
            thread.join(60)
        for one in (self._listener, *self._sockets):
            one.close()

    def _read_log(self) -> None:
        stderr = self._server.process.stderr
        assert stderr is not None
        with contextlib.suppress(ValueError):
            for line in stderr:
                self._take(line.decode("utf-8", "replace"))

    def _take(self, line: str) -> None:
        found = _PORT.search(line)
        if found is None:
            return
        port = int(found[1])
        if line.startswith("Failed publickey"):
            self._attempted.add(port)
        elif line.startswith("Accepted publickey"):
            # It may stay open for long, and owes nothing.
            self._open.discard(port)
        elif _END.match(line) and port in self._open:
            self.account.add(FOR_A_REFUSED_KEY if port in self._attempted else FOR_NO_ATTEMPT)
            self._open.discard(port)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._sockets.append(connection)
                self.connections += 1
                if self._refuses and self.account.left:
                    self.refused += 1
                    connection.sendall(REFUSAL)
                    connection.close()
                    continue
                self._lead(connection)

    def _lead(self, connection: socket.socket) -> None:
        onward = socket.socket()
        onward.bind(("127.0.0.1", 0))
        port = onward.getsockname()[1]
        self._open.add(port)
        onward.connect((self._server.host.address, self._server.host.manage_port))
        self._sockets.append(onward)
        for work in (
            lambda: self._carry(connection, onward),
            lambda: self._carry(onward, connection, port),
        ):
            self._threads.append(threading.Thread(target=work, daemon=True))
            self._threads[-1].start()

    def _carry(self, source: socket.socket, sink: socket.socket, port: int = 0) -> None:
        is_first = True
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if port and is_first and data.startswith(REFUSAL[:11]):
                    self.refused += 1
                    self._open.discard(port)
                is_first = False
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
