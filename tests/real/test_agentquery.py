"""What an agent is asked and answers: real ssh-agents, and sockets that behave as broken ones do."""

import contextlib
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import agents

from apexgpu.sshfiles.agentquery import (
    AgentReply,
    Agents,
    AgentState,
    agent_socket,
    ask_agent,
)

pytestmark = pytest.mark.openssh


@pytest.fixture
def short() -> Iterator[Path]:
    with agents.short_directory() as directory:
        yield directory


@contextlib.contextmanager
def answering(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """A socket whose every connection is given to `answer`."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60)


def test_an_agent_with_keys_and_a_certificate_lists_them(short: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-qt", "ed25519", "-N", "", "-C", "a ü", "-f", short / "id"], check=True
    )
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", short / "ca"], check=True)
    subprocess.run(
        ["ssh-keygen", "-qs", short / "ca", "-I", "x", "-n", "x", short / "id.pub"],
        check=True,
        capture_output=True,
    )
    with agents.running(short / "socket") as path:
        assert ask_agent(path) == AgentReply(path, AgentState.EMPTY)
        agents.add(path, short / "id")
        reply = ask_agent(path)
    assert reply.state is AgentState.HAS_KEYS
    assert [key.kind for key in reply.keys] == [
        "ssh-ed25519",
        "ssh-ed25519-cert-v01@openssh.com",
    ]
    assert reply.keys[0].comment == "a ü"


def test_a_locked_agent_holds_no_keys(short: Path) -> None:
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", short / "id"], check=True)
    with agents.running(short / "socket") as path:
        agents.add(path, short / "id")
        agents.lock(path)
        assert ask_agent(path).state is AgentState.EMPTY


def test_an_agent_that_hangs_is_silent_after_its_limit(short: Path) -> None:
    with agents.hanging(short / "socket") as path:
        began = time.monotonic()
        assert ask_agent(path, limit=0.3).state is AgentState.SILENT
        assert time.monotonic() - began < 60


def test_an_agent_that_accepts_no_more_connections_is_silent(short: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as waiting:
        listener.bind(str(short / "socket"))
        listener.listen(0)
        for _ in range(2):
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(short / "socket"))
        assert ask_agent(str(short / "socket"), limit=0.3).state is AgentState.SILENT


@pytest.mark.parametrize("what", ["nothing", "file", "directory", "dead socket", "long path", ""])
def test_where_no_agent_listens_there_is_none(short: Path, what: str) -> None:
    path = short / "socket"
    if what == "file":
        path.write_text("x")
    elif what == "directory":
        path.mkdir()
    elif what == "dead socket":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    name = {"": "", "long path": "/tmp/" + "x" * 200}.get(what, str(path))
    assert ask_agent(name) == AgentReply(name, AgentState.ABSENT)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        struct.pack(">I", 0),
        struct.pack(">I", 1 << 31),
        struct.pack(">IB", 1, 5),
        struct.pack(">IBI", 5, 12, 3),
        struct.pack(">IBII", 9, 12, 1, 99),
        struct.pack(">IBI", 5, 12, 1 << 30),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_an_answer_that_is_not_the_protocol_is_broken(short: Path, answer: bytes) -> None:
    def reply(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(answer)

    with answering(short / "socket", reply):
        assert ask_agent(str(short / "socket")).state is AgentState.BROKEN


def test_an_agent_is_asked_once_in_a_run_and_named_once(short: Path) -> None:
    named: list[str] = []
    with agents.hanging(short / "socket") as path:
        asked = Agents(limit=0.3, on_silent=lambda reply: named.append(reply.socket))
        threads = [threading.Thread(target=asked.ask, args=(path,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert asked.ask(path).state is AgentState.SILENT
    assert named == [path]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("SSH_AUTH_SOCK", "/default"),
        ("", "/default"),
        ("none", ""),
        ("$OTHER", "/other"),
        ("${OTHER}", "/other"),
        ("$NOT_SET", ""),
        ("/a b/agent.sock", "/a b/agent.sock"),
    ],
)
def test_the_agent_is_the_one_that_identityagent_names(value: str, expected: str) -> None:
    environment = {"SSH_AUTH_SOCK": "/default", "OTHER": "/other"}
    assert agent_socket(value, environment) == expected
