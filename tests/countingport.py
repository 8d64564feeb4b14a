"""A port before a server that counts the connections to it, and lets them freeze."""

import socket
import threading

from apexgpu.models import Host


class Port:
    """A port that counts connections. It leads them to `server`; without one, nothing comes back."""

    def __init__(self, server: Host | None = None) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._kept: list[socket.socket] = []
        self._frozen: set[socket.socket] = set()
        self.connections = 0
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def freeze(self) -> None:
        """Let nothing pass any more over the connections that are open."""
        self._frozen |= set(self._kept)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)
        for connection in (self._listener, *self._kept):
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._kept.append(connection)
            self.connections += 1
            if self._server is not None:
                self._lead(connection, self._server)

    def _lead(self, connection: socket.socket, server: Host) -> None:
        onward = socket.create_connection((server.address, server.manage_port))
        self._kept.append(onward)
        for source, sink in ((connection, onward), (onward, connection)):
            threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if source not in self._frozen:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return
