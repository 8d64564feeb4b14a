"""An IAM that lies, drips, floods or answers in another language: each request against each such answer.

Whatever comes is a value that was checked, or one of our errors; within the time limit, and within the
size limit however much is sent.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import pytest

from apexgpu.errors import ApexError
from apexgpu.iam import hostlist
from apexgpu.iam.client import CONFIG_LIMIT, PAGE_LIMIT, IamClient
from apexgpu.iam.publickeys import parse_all
from apexgpu.iam.pushlog import parse_push_log

TIMEOUT = 0.4
FLOOD = 64 * 1024 * 1024
# What a client may have been sent before its "no more" arrives: its limit, and the kernel's buffers.
MOST_SENT = 24 * 1024 * 1024

Send = Callable[[socket.socket], object]


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole answer whose body ends with the connection."""
    lines = [b"HTTP/1.1 " + status, b"Connection: close", *headers, b"", body]
    return b"\r\n".join(lines)


def sends(data: bytes) -> Send:
    return lambda connection: connection.sendall(data)


def drip(data: bytes) -> Send:
    """Send a byte now and then, for as long as anybody listens."""

    def send(connection: socket.socket) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(TIMEOUT / 4)

    return send


def flood(head: bytes, block: bytes) -> Send:
    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(FLOOD // len(block)):
            connection.sendall(block)

    return send


def never(connection: socket.socket) -> None:
    """Wait until the client disconnects."""
    while connection.recv(65536):
        pass


TEXT = b"Content-Type: text/plain"
HEAD = answer(b"", TEXT)
DEEP = b"[" * 50_000
BLOCK = b"x" * 65536

ANSWERS: Mapping[str, Send] = {
    "nothing at all": lambda _: None,
    "silence": never,
    "half a status line": sends(b"HTTP/1."),
    "another protocol": sends(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "a TLS alert": sends(b"\x15\x03\x01\x00\x02\x02\x28"),
    "random bytes": sends(bytes(range(256)) * 40),
    "a status that is no number": sends(b"HTTP/1.1 OK 200\r\n\r\n"),
    "status 0": sends(answer(b"", status=b"000 X")),
    "status 999": sends(answer(b"22001", TEXT, status=b"999 X")),
    "status 100 for ever": flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "204": sends(answer(b"", status=b"204 No Content")),
    "206": sends(answer(b"220", TEXT, status=b"206 Partial Content")),
    "400": sends(answer(b"x", status=b"400 Bad Request")),
    "401": sends(answer(b"x", status=b"401 Unauthorized")),
    "403": sends(answer(b"x", status=b"403 Forbidden")),
    "418": sends(answer(b"x", status=b"418 X")),
    "429": sends(answer(b"x", status=b"429 X")),
    "502": sends(answer(b"x", status=b"502 Bad Gateway")),
    "503": sends(answer(b"x", status=b"503 X")),
    "301 to itself": sends(answer(b"", b"Location: /", status=b"301 X")),
    "302 to another server": sends(
        answer(b"", b"Location: http://10.9.9.9/log/push", status=b"302 X")
    ),
    "302 to a file": sends(answer(b"", b"Location: file:///etc/passwd", status=b"302 X")),
    "302 to no URL": sends(answer(b"", b"Location: http://[", status=b"302 X")),
    "302 to nowhere": sends(answer(b"", status=b"302 X")),
    "307": sends(answer(b"", b"Location: /", status=b"307 X")),
    "a web page": sends(answer(b"<html>Log in</html>", b"Content-Type: text/html")),
    "a web page that says it is text": sends(answer(b"\xef\xbb\xbf \n<!doctype html>", TEXT)),
    "a compressed body": sends(answer(b"\x1f\x8b\x08\x00", TEXT, b"Content-Encoding: gzip")),
    "a shorter body than announced": sends(answer(b"220", TEXT, b"Content-Length: 50")),
    "two lengths": sends(answer(b"22001", b"Content-Length: 1", b"Content-Length: 5")),
    "a length that is no number": sends(answer(b"22001", b"Content-Length: five")),
    "a negative length": sends(answer(b"22001", b"Content-Length: -5")),
    "a broken chunk": sends(answer(b"zz\r\n22001\r\n", b"Transfer-Encoding: chunked")),
    "a header without a name": sends(answer(b"22001", b": x")),
    "a NUL in a header": sends(answer(b"22001", b"X: a\0b")),
    "a header without end": flood(b"HTTP/1.1 200 OK\r\nX: ", BLOCK),
    "headers without end": flood(b"HTTP/1.1 200 OK\r\n", b"X-Header: 1\r\n" * 5000),
    "a body without end": flood(HEAD, BLOCK),
    "lines without end": flood(HEAD, b"Host a\n" * 9000),
    "chunks without end": flood(
        answer(b"", TEXT, b"Transfer-Encoding: chunked"), b"1\r\nx\r\n" * 10_000
    ),
    "a head that drips": drip(b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 50),
    "a body that drips": drip(HEAD + b"2" * 1000),
}
"""Answers that no request may take for good ones."""

GARBAGE: Mapping[str, bytes] = {
    "nothing": b"",
    "deep JSON": DEEP,
    "a number that is none": b"22001x",
    "other digits": "٢٢٠٠١".encode(),
    "a superscript": "²".encode(),
    "port 0": b"0",
    "port 65536": b"65536",
    "a negative port": b"-22001",
    "five thousand digits": b"9" * 5000,
    "UTF-16": "22001".encode("utf-16"),
    "Latin-1": b"M\xfcller",
    "controls": b"\x1b[2J\x1b]0;owned\x07\r\n\0",
    "bidi": "\u202e22001".encode(),
    "one long line": b"a" * 60_000,
    "many lines": b"Host x\n" * 8000,
    "our markers": b"# BEGIN apexgpu\nHost *\n  ProxyCommand touch /tmp/owned\n# END apexgpu\n",
    "a done in the middle": b"not [2026-01-01 00:00:00]done\n",
    "a key that is none": b"ssh-ed25519 AAAA me\nssh-rsa " + b"B" * 4000,
}
"""Plain text that is not what was requested."""

REQUESTS = ("port", "name", "keys", "config", "page", "log", "post")


class Server:
    """A port that answers every connection in the same way; `sent` is how many bytes it got rid of."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.sent = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(20)
                self._read_request(connection)
                self._send(_Counting(connection, self))  # type: ignore[arg-type]
                connection.shutdown(socket.SHUT_WR)

    def _read_request(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        while len(body) < length:
            body += connection.recv(65536)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(20)


class _Counting:
    """A connection that counts what is sent over it."""

    def __init__(self, connection: socket.socket, server: Server) -> None:
        self._connection = connection
        self._server = server

    def sendall(self, data: bytes) -> None:
        self._connection.sendall(data)
        self._server.sent += len(data)

    def recv(self, size: int) -> bytes:
        return self._connection.recv(size)


@pytest.fixture
def serve() -> Iterator[Callable[[Send], Server]]:
    servers: list[Server] = []

    def start(send: Send) -> Server:
        servers.append(Server(send))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def ask(client: IamClient, request: str) -> object:
    """Make a request, and read the answer with the parser that apexgpu uses for it."""
    match request:
        case "port":
            return client.port("alice")
        case "name":
            return client.name("alice")
        case "keys":
            return parse_all(client.stored_keys("alice"))
        case "config":
            return hostlist.parse(client.config("alice"), user="alice")
        case "page":
            client.open_page("alice")
            return None
        case "log":
            return parse_push_log(client.push_log_text())
        case _:
            client.post_keys("alice", "ssh-ed25519 AAAA me", "pa55")
            return None


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("name", ANSWERS)
def test_a_bad_answer_is_one_of_our_errors_in_time(
    name: str, request_name: str, serve: Callable[[Send], Server]
) -> None:
    server = serve(ANSWERS[name])
    start = time.monotonic()
    with pytest.raises(ApexError) as caught:
        ask(IamClient(server.url, timeout=TIMEOUT), request_name)
    # A request may take twice the limit of a step. `page` asks again to find out more.
    assert time.monotonic() - start < 20 * TIMEOUT
    assert len(caught.value.message) < 400
    assert "\x1b" not in caught.value.message
    assert "pa55" not in caught.value.message + str(caught.value.hint)
    assert server.sent < MOST_SENT


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("name", GARBAGE)
def test_text_that_is_not_what_was_requested_is_no_success(
    name: str, request_name: str, serve: Callable[[Send], Server]
) -> None:
    client = IamClient(serve(sends(answer(GARBAGE[name], TEXT))).url, timeout=10)
    if request_name == "name":
        found = ask(client, "name")  # any text may be a person's name; it is escaped where shown
        assert isinstance(found, str)
        assert len(found) <= CONFIG_LIMIT
    elif request_name == "keys":
        assert ask(client, "keys") == []
    elif request_name == "log":
        assert not parse_push_log(client.push_log_text()).done
        assert len(client.push_log_text()) <= PAGE_LIMIT
    else:
        with pytest.raises(ApexError) as caught:
            ask(client, request_name)
        assert len(caught.value.message) < 400
        assert "\x1b" not in caught.value.message


def test_there_are_hundreds_of_cases() -> None:
    assert (len(ANSWERS) + len(GARBAGE)) * len(REQUESTS) >= 400
