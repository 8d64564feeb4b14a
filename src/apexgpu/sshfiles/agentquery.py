"""Asks an ssh-agent which keys it holds, over its own protocol and within a time limit.

`ssh-add` asks only the agent in SSH_AUTH_SOCK and waits for it forever. ssh asks the one that
IdentityAgent names, which may be another. The answer distinguishes "there is no agent" from "it does
not answer" and "it holds no keys".
"""

import os
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from apexgpu.platforms import sockets
from apexgpu.platforms.system import is_windows

TIME_LIMIT = 3.0
"""Seconds that an agent may take to answer."""

DEFAULT_AGENT = "SSH_AUTH_SOCK"
"""The value of IdentityAgent that means: the agent that the environment variable SSH_AUTH_SOCK names."""

# The message numbers of draft-miller-ssh-agent.
_REQUEST_IDENTITIES = 11
_IDENTITIES_ANSWER = 12
_LARGEST_ANSWER = 256 * 1024  # the limit of OpenSSH's own programs
_MOST_KEYS = 2048  # likewise
_WINDOWS_PIPE = r"\\.\pipe\openssh-ssh-agent"


class AgentState(Enum):
    """What is known about an ssh-agent. The value completes the sentence "the ssh-agent …"."""

    ABSENT = "is not running"
    SILENT = "does not answer"
    BROKEN = "answers with something that is not the agent protocol"
    EMPTY = "has no keys"
    HAS_KEYS = "has keys"


@dataclass(frozen=True, slots=True)
class AgentKey:
    """A public key or certificate that an agent holds. `blob` is in the format of RFC 4253."""

    blob: bytes
    comment: str

    @property
    def kind(self) -> str:
        """The type of the key: `ssh-ed25519`, or that of a certificate."""
        length = int.from_bytes(self.blob[:4], "big")
        return self.blob[4 : 4 + length].decode("ascii", "replace")


@dataclass(frozen=True, slots=True)
class AgentReply:
    """The state of the agent at `socket` ("" if no agent is configured), and the keys that it holds."""

    socket: str
    state: AgentState
    keys: tuple[AgentKey, ...] = ()


def agent_socket(identity_agent: str, environment: Mapping[str, str]) -> str:
    """Return the socket of the agent that ssh asks; "" if it asks none.

    `identity_agent` is the value of IdentityAgent as `ssh -G` prints it, which has expanded `~` and
    tokens but leaves `SSH_AUTH_SOCK`, `none` and `$VARIABLE`; DEFAULT_AGENT if it prints none.
    """
    value = identity_agent
    if value == "none":
        return ""
    if value in {"", DEFAULT_AGENT}:
        default = _WINDOWS_PIPE if is_windows() else ""
        return environment.get(DEFAULT_AGENT, "") or default
    if value.startswith("$"):
        return environment.get(value[1:].strip("{}"), "")
    if value.startswith("~/"):  # before OpenSSH 8.4
        return str(Path.home()) + value[1:]
    return value


def ask_agent(path: str, *, limit: float = TIME_LIMIT) -> AgentReply:
    """Ask the agent at the socket `path` for its keys. Takes at most `limit` seconds; raises nothing."""
    if not path:
        return AgentReply(path, AgentState.ABSENT)
    try:
        kind, body = request(path, bytes([_REQUEST_IDENTITIES]), limit=limit)
    except TimeoutError:
        return AgentReply(path, AgentState.SILENT)
    except (EOFError, ValueError):
        return AgentReply(path, AgentState.BROKEN)
    except OSError:
        return AgentReply(path, AgentState.ABSENT)
    keys = None
    if kind == _IDENTITIES_ANSWER:
        keys = _parse_identities(body)
    if keys is None:
        return AgentReply(path, AgentState.BROKEN)
    return AgentReply(path, AgentState.HAS_KEYS if keys else AgentState.EMPTY, keys)


def request(path: str, message: bytes, *, limit: float) -> tuple[int, bytes]:
    """Send one message to the agent at the socket `path`; return the type and the body of its answer.

    Raises:
        TimeoutError: the agent does not answer within `limit` seconds.
        EOFError: it closed the connection.
        ValueError: the answer is empty or too large.
        OSError: there is no agent at `path`.
    """
    framed = struct.pack(">I", len(message)) + message
    if is_windows():
        from apexgpu.timelimit import run_with_limit

        answer = run_with_limit(lambda: _exchange_over_pipe(path, framed), limit, name="ssh-agent")
    else:
        answer = _exchange_over_socket(path, framed, time.monotonic() + limit)
    return answer[0], answer[1:]


class Agents:
    """The agents that one run of the program asks, each once. Safe for several threads."""

    def __init__(
        self,
        *,
        limit: float = TIME_LIMIT,
        on_silent: Callable[[AgentReply], None] = lambda _reply: None,
        load_keys: Callable[[], bool] = lambda: False,
    ) -> None:
        """`on_silent` is called once for each agent that does not answer.

        `load_keys` puts keys into the system's own agent where it has none yet; it returns whether it did.
        """
        self._load_keys = load_keys
        self._limit = limit
        self._on_silent = on_silent
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._replies: dict[str, AgentReply] = {}

    def ask(self, path: str) -> AgentReply:
        """What the agent at `path` answered in this run; it is asked now if it was not yet."""
        with self._lock:
            lock = self._locks.setdefault(path, threading.Lock())
        # Others wait for the first answer: a silent agent costs its limit once, not once for each host.
        with lock:
            if path not in self._replies:
                reply = ask_agent(path, limit=self._limit)
                is_empty = reply.state is AgentState.EMPTY and path == default_socket()
                if is_empty and self._load_keys():
                    reply = ask_agent(path, limit=self._limit)
                self._replies[path] = reply
                if reply.state is AgentState.SILENT:
                    self._on_silent(reply)
            return self._replies[path]


def _exchange_over_socket(path: str, data: bytes, deadline: float) -> bytes:
    with sockets.unix_socket() as connection:
        connection.settimeout(_seconds_until(deadline))
        try:
            connection.connect(path)
        except BlockingIOError:
            # Linux: the queue of connections is full, because the agent accepts none.
            raise TimeoutError from None
        connection.sendall(data)

        def receive(count: int) -> bytes:
            connection.settimeout(_seconds_until(deadline))
            return connection.recv(count)

        return _read_answer(receive)


def _exchange_over_pipe(path: str, data: bytes) -> bytes:
    """As _exchange_over_socket, over a named pipe of Windows."""
    with Path(path).open("r+b", buffering=0) as pipe:
        pipe.write(data)
        return _read_answer(lambda count: pipe.read(count) or b"")


def _read_answer(receive: Callable[[int], bytes]) -> bytes:
    length = int.from_bytes(_read_exactly(receive, 4), "big")
    if not 0 < length <= _LARGEST_ANSWER:
        message = f"an answer of {length} bytes"
        raise ValueError(message)
    return _read_exactly(receive, length)


def _read_exactly(receive: Callable[[int], bytes], count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = receive(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _parse_identities(body: bytes) -> tuple[AgentKey, ...] | None:
    """The keys of an IDENTITIES_ANSWER, or None if it is damaged."""
    count = int.from_bytes(body[:4], "big")
    if len(body) < 4 or count > _MOST_KEYS:
        return None
    keys = []
    position = 4
    for _ in range(count):
        blob, position = _read_string(body, position)
        comment, position = _read_string(body, position)
        if blob is None or comment is None:
            return None
        keys.append(AgentKey(blob, comment.decode("utf-8", "replace")))
    return tuple(keys)


def _read_string(data: bytes, position: int) -> tuple[bytes | None, int]:
    """The length-prefixed string at `position` and the position behind it; None if it is cut off."""
    start = position + 4
    end = start + int.from_bytes(data[position:start], "big")
    if start > len(data) or end > len(data):
        return None, end
    return data[start:end], end


def _seconds_until(deadline: float) -> float:
    # Not 0, which would mean: do not wait at all.
    return max(0.001, deadline - time.monotonic())


def silent_agent_fact(reply: AgentReply) -> str:
    """The fact that an agent does not answer, for messages: what, and what usually causes it."""
    return (
        f"the ssh-agent at {reply.socket} does not answer within {TIME_LIMIT:g} s "
        "(a locked vault, or an agent forwarded from a machine that is gone)"
    )


def default_socket() -> str:
    """The socket of the agent in SSH_AUTH_SOCK; "" if the variable is not set."""
    return agent_socket(DEFAULT_AGENT, os.environ)
