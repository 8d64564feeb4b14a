"""A client of the protocol that an OpenSSH ControlMaster speaks on its socket, version 4 (PROTOCOL.mux in OpenSSH).

`ssh -S SOCKET host command` starts a process for each command. This client does the same in-process, which for 18 hosts
takes a third of the time. The protocol:

- A message is a uint32 length and a payload; a payload begins with a uint32 type. Integers are big-endian, a string is
  a uint32 length and its bytes. Both sides begin with a HELLO that contains the version.
- The client passes its stdin, stdout and stderr to the master as file descriptors (SCM_RIGHTS), right after the message
  that asks for a session. The master answers that the session is open, and later sends the exit status.
- A request id lets a client match replies to several requests. Each connection here makes one request, with id 0.

Unix sockets only, so never on Windows.
"""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from apexgpu.boundedoutput import BoundedOutput, OutputTaker
from apexgpu.platforms import sockets

# Message types, named as in PROTOCOL.mux (MUX_MSG_…, MUX_C_… from the client, MUX_S_… from the server).
_MUX_MSG_HELLO = 0x00000001
_MUX_C_NEW_SESSION = 0x10000002
_MUX_C_TERMINATE = 0x10000005
_MUX_C_OPEN_FWD = 0x10000006
_MUX_C_STOP_LISTENING = 0x10000009
_MUX_S_OK = 0x80000001
_MUX_S_EXIT_MESSAGE = 0x80000004
_MUX_S_SESSION_OPENED = 0x80000006
_MUX_FWD_LOCAL = 1
_VERSION = 4
_REQUEST_ID = 0
_NO_ESCAPE_CHARACTER = 0xFFFFFFFF

_LONGEST_MESSAGE = 1 << 18
_CHUNK = 65536

ERRORS = (OSError, struct.error, ValueError)
"""What a MuxConnection raises if the master closes, answers nothing in time, or is something else than a master."""


@dataclass(frozen=True, slots=True)
class SessionOutput:
    """What a command printed, and its exit status: None if it has none, because it was killed or did not finish.

    `too_much`: it printed more than the limit and was not read to its end. `is_cut`: a part of its output is left out.
    """

    out: str
    err: str
    exit_status: int | None
    timed_out: bool = False
    too_much: bool = False
    is_cut: bool = False


class MuxConnection:
    """A connection to a master. Close it with `with`. Deadlines are values of `time.monotonic`."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._stdout: int | None = None
        self._stderr: int | None = None
        self.session_requested = False
        """Whether the master was asked for a session: from then on, the command may have started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()
        for pipe in (self._stdout, self._stderr):
            if pipe is not None:
                os.close(pipe)

    def greet(self, deadline: float) -> bool:
        """Exchange HELLO messages; whether the other side is a master with our version of the protocol."""
        hello = struct.pack(">II", _MUX_MSG_HELLO, _VERSION)
        self._send(hello)
        return self._receive(deadline).startswith(hello)

    def open_session(
        self,
        command: str,
        deadline: float,
        *,
        before_request: Callable[[], None] = lambda: None,
    ) -> bool:
        """Start `command` in a session without a terminal, with an empty stdin; whether the server accepted it.

        `before_request` is called right before the master is asked for it.
        """
        if not self.greet(deadline):
            return False
        before_request()
        terminal = x11 = agent = subsystem = 0
        request = struct.pack(">II", _MUX_C_NEW_SESSION, _REQUEST_ID) + _string(b"")  # reserved
        request += struct.pack(">IIIII", terminal, x11, agent, subsystem, _NO_ESCAPE_CHARACTER)
        request += _string(b"") + _string(command.encode())  # the value of TERM, the command
        self.session_requested = True
        self._send(request)
        self._send_streams()
        return _type(self._receive(deadline)) == _MUX_S_SESSION_OPENED

    def read_session(
        self,
        deadline: float | None,
        limit: int,
        *,
        keeps_reading: bool = False,
        taker: OutputTaker | None = None,
    ) -> SessionOutput:
        """Read both streams and the exit status until all three end, or until the deadline.

        A stream with more than `limit` bytes ends the session too; with `keeps_reading`, its middle is left out.
        `taker` gets all of both streams.
        """
        assert self._stdout is not None  # noqa: S101 - open_session made the pipes
        assert self._stderr is not None  # noqa: S101 - open_session made the pipes
        output = BoundedOutput(limit)
        messages = BoundedOutput(_LONGEST_MESSAGE)
        taker = taker or OutputTaker()

        def take_out(data: bytes) -> None:
            output.add_out(data)
            taker.take_out(data)

        def take_err(data: bytes) -> None:
            output.add_err(data)
            taker.take_err(data)

        takers = {
            self._stdout: take_out,
            self._stderr: take_err,
            self._socket.fileno(): messages.add_out,
        }

        def is_too_much() -> bool:
            return messages.is_full or (output.is_full and not keeps_reading)

        timed_out = not _read_all(takers, deadline, is_too_much)
        taker.end()
        exit_status = _exit_status(messages.out)
        return SessionOutput(
            output.out_text,
            output.err_text,
            exit_status,
            timed_out,
            is_too_much(),
            output.is_full,
        )

    def open_forward(
        self,
        port: int,
        host: str,
        host_port: int,
        deadline: float,
        before_request: Callable[[], None],
    ) -> bool:
        """Have the master listen on 127.0.0.1:`port` and forward to `host`:`host_port` (-L); whether it does."""
        request = struct.pack(">III", _MUX_C_OPEN_FWD, _REQUEST_ID, _MUX_FWD_LOCAL)
        request += _string(b"127.0.0.1") + struct.pack(">I", port)
        request += _string(host.encode()) + struct.pack(">I", host_port)
        if not self.greet(deadline):
            return False
        before_request()
        self._send(request)
        return _type(self._receive(deadline)) == _MUX_S_OK

    def terminate(self, deadline: float) -> None:
        """Have the master exit, and wait until it agrees."""
        if self.greet(deadline):
            self._send(struct.pack(">II", _MUX_C_TERMINATE, _REQUEST_ID))
            self._receive(deadline)

    def stop_listening(self, deadline: float) -> bool:
        """Have the master accept no more clients, and exit after its last session; whether it agrees."""
        if not self.greet(deadline):
            return False
        self._send(struct.pack(">II", _MUX_C_STOP_LISTENING, _REQUEST_ID))
        return _type(self._receive(deadline)) == _MUX_S_OK

    def _send_streams(self) -> None:
        stdin = os.open(os.devnull, os.O_RDONLY)
        self._stdout, stdout = os.pipe()
        self._stderr, stderr = os.pipe()
        for descriptor in (stdin, stdout, stderr):
            # The master reads one byte of data with each descriptor.
            sockets.send_descriptor(self._socket, descriptor)
            os.close(descriptor)

    def _send(self, payload: bytes) -> None:
        self._socket.sendall(_string(payload))

    def _receive(self, deadline: float) -> bytes:
        (length,) = struct.unpack(">I", self._receive_exactly(4, deadline))
        if length > _LONGEST_MESSAGE:
            message = "this is not a ControlMaster"
            raise ValueError(message)
        return self._receive_exactly(length, deadline)

    def _receive_exactly(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            more = self._socket.recv(size - len(data))
            if not more:
                message = "the ControlMaster closed the connection"
                raise ValueError(message)
            data += more
        return bytes(data)


def connect(path: Path, timeout: float) -> MuxConnection | None:
    """Connect to the master at `path`; None if there is none. A socket on which nobody listens is deleted."""
    connection = sockets.unix_socket()
    connection.settimeout(timeout)
    try:
        connection.connect(str(path))
    except ConnectionRefusedError:
        connection.close()
        # A master that was killed leaves its socket behind.
        path.unlink(missing_ok=True)
        return None
    except OSError:
        # There is no socket, or a master that is busy: without its socket, nobody could use it any more.
        connection.close()
        return None
    return MuxConnection(connection)


def is_alive(path: Path, timeout: float = 1) -> bool:
    """Whether a master answers at `path`."""
    connection = connect(path, timeout)
    if connection is None:
        return False
    with connection:
        try:
            return connection.greet(time.monotonic() + timeout)
        except ERRORS:
            return False


def forward(
    path: Path,
    port: int,
    host: str,
    host_port: int,
    *,
    timeout: float = 3,
    before_request: Callable[[], None] = lambda: None,
) -> bool:
    """Have the master at `path` listen on 127.0.0.1:`port` for `host`:`host_port`; whether it does.

    `before_request` is called when the master has answered, right before it is asked. A caller that holds the port
    gives it up there.
    """
    connection = connect(path, timeout)
    if connection is None:
        return False
    with connection:
        try:
            deadline = time.monotonic() + timeout
            return connection.open_forward(port, host, host_port, deadline, before_request)
        except ERRORS:
            return False


def stop_listening(path: Path, *, timeout: float = 1) -> None:
    """Let nobody use the master at `path` from now on. It exits at once, or after the sessions that it carries."""
    connection = connect(path, timeout)
    if connection is None:
        return
    with connection, contextlib.suppress(*ERRORS):
        connection.stop_listening(time.monotonic() + timeout)
    # It removes its socket by itself, unless it does not answer.
    path.unlink(missing_ok=True)


def terminate(path: Path, *, timeout: float = 3) -> None:
    """Have the master at `path` exit, if there is one, with all connections that it carries."""
    connection = connect(path, timeout)
    if connection is None:
        return
    with connection, contextlib.suppress(*ERRORS):
        connection.terminate(time.monotonic() + timeout)


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _type(payload: bytes) -> int | None:
    """The type of a message."""
    if len(payload) < 4:
        return None
    return int.from_bytes(payload[:4], "big")


def _exit_status(data: bytes) -> int | None:
    """The exit status in the messages of a session, None if there is none."""
    position = 0
    while position + 4 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        payload = data[position + 4 : position + 4 + length]
        position += 4 + length
        if _type(payload) == _MUX_S_EXIT_MESSAGE and len(payload) == 12:
            _, _, status = struct.unpack(">III", payload)  # type, session id, exit status
            return int(status)
    return None


def _read_all(
    takers: Mapping[int, Callable[[bytes], None]],
    deadline: float | None,
    is_too_much: Callable[[], bool],
) -> bool:
    """Read from descriptors until each has ended or there is too much; False at the deadline.

    `takers` get what was read from each descriptor.
    """
    poller = sockets.Poller(takers)
    waiting = len(takers)
    while waiting and not is_too_much():
        milliseconds = None
        if deadline is not None:
            milliseconds = max(0.0, deadline - time.monotonic()) * 1000
        ready = poller.wait(milliseconds)
        # The time too, for a command that never stops printing.
        if not ready or (deadline is not None and time.monotonic() >= deadline):
            return False
        for descriptor in ready:
            data = _read(descriptor)
            takers[descriptor](data)
            if not data:
                poller.forget(descriptor)
                waiting -= 1
    return True


def _read(descriptor: int) -> bytes:
    """What can be read now; nothing at the end, or if the connection was reset."""
    try:
        return os.read(descriptor, _CHUNK)
    except OSError:
        return b""
