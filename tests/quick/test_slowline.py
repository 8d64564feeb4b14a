"""The line that the speed of commands is measured on: its delay, and how it counts round trips."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from bench.slowline import Address, Count, Line

RTT = 0.1


class Server:
    """Sends `hello`, and then answers each byte with two, the second of them a little later."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address(*self._listener.getsockname())
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(b"hello")
            while connection.recv(1):
                connection.sendall(b"a")
                threading.Event().wait(RTT / 10)
                connection.sendall(b"b")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def line() -> Iterator[Line]:
    with Line(RTT) as found:
        yield found


@pytest.fixture
def relay(line: Line) -> Iterator[Address]:
    server = Server()
    yield line.lead(Address("127.0.0.1", 0), server.address)
    server.close()


def connect(relay: Address) -> socket.socket:
    connection = socket.create_connection((relay.host, relay.port), timeout=60)
    assert connection.recv(5) == b"hello"
    return connection


def ask(connection: socket.socket) -> None:
    connection.sendall(b"?")
    assert connection.recv(1) == b"a"
    assert connection.recv(1) == b"b"


def test_a_connection_takes_two_round_trips_until_it_brings_something(
    line: Line, relay: Address
) -> None:
    began = time.monotonic()
    with connect(relay):
        assert time.monotonic() - began > 2 * RTT * 0.95
        assert line.count == Count(1, 2)


def test_an_answer_takes_a_round_trip_also_in_parts(line: Line, relay: Address) -> None:
    with connect(relay) as connection:
        began = time.monotonic()
        ask(connection)
        assert time.monotonic() - began > RTT * 0.95
        ask(connection)
        assert line.count == Count(1, 4)


def test_connections_at_the_same_time_share_their_rounds(line: Line, relay: Address) -> None:
    both = [socket.create_connection((relay.host, relay.port), timeout=60) for _ in range(2)]
    for connection in both:
        with connection:
            assert connection.recv(5) == b"hello"
    assert line.count == Count(2, 2)


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_connection_after_the_answer_of_another_one_goes_on_from_its_round(
    line: Line, relay: Address, is_closed: bool
) -> None:
    with connect(relay) as first:
        if is_closed:
            first.close()
        with connect(relay) as connection:
            ask(connection)
            assert line.count == Count(2, 5)


def test_connections_to_different_hosts_share_their_rounds(line: Line) -> None:
    server = Server()
    one = line.lead(Address("127.0.0.1", 0), server.address, "one")
    other = line.lead(Address("127.0.0.1", 0), server.address, "other")
    web_site = line.lead(Address("127.0.0.1", 0), server.address)
    with connect(one), connect(other):
        assert line.count == Count(2, 2)
        with connect(web_site):  # it may be asked because of what a host has answered
            assert line.count == Count(3, 4)
    server.close()


def test_a_connection_that_was_open_before_the_count_costs_only_its_round_trips(
    line: Line, relay: Address
) -> None:
    with connect(relay) as connection:
        ask(connection)
        line.start_count()
        assert line.count == Count(0, 0)
        ask(connection)
        assert line.count == Count(0, 1)
        with connect(relay):
            assert line.count == Count(1, 3)


def test_a_connection_that_is_used_again_goes_on_from_the_round_of_its_host(
    line: Line, relay: Address
) -> None:
    with connect(relay) as first, connect(relay) as second:
        ask(second)
        assert line.count == Count(2, 5)
        ask(first)
        assert line.count == Count(2, 6)
