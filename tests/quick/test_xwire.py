"""The words of the X11 protocol: names of displays, cookies, logins; and that old Pythons can read what is sent."""

import ast
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from apexgpu.remote import remotescript
from apexgpu.remote.programs import xdisplay, xwire
from apexgpu.remote.programs.xdisplay import Connection, NotLetInError, NotThereError

THERE = ("xwire.py", "xdisplay.py", "xcheck.py")


@pytest.mark.parametrize(
    ("name", "number", "host", "path"),
    [
        (":0", 0, "", "/tmp/.X11-unix/X0"),
        ("unix:12.0", 12, "", "/tmp/.X11-unix/X12"),
        ("localhost:10.0", 10, "localhost", ""),
        ("127.0.0.1:0.0", 0, "127.0.0.1", ""),
        ("[::1]:3", 3, "::1", ""),
        (
            "/private/tmp/com.apple.launchd.x/org.xquartz:0",
            0,
            "",
            "/private/tmp/com.apple.launchd.x/org.xquartz:0",
        ),
    ],
)
def test_the_name_of_a_display(name: str, number: int, host: str, path: str) -> None:
    found = xwire.parse_display(name)
    assert found is not None
    assert (found.number, found.host, found.path, found.port) == (number, host, path, 6000 + number)


@pytest.mark.parametrize("name", ["", "0", ":", ":x", "a:b", ":-1", ":123456", "localhost"])
def test_what_names_no_display(name: str) -> None:
    assert xwire.parse_display(name) is None


def entry(number: bytes, kind: bytes, data: bytes, family: int = 256) -> bytes:
    fields = b"".join(
        struct.pack(">H", len(one)) + one for one in (b"gpu7-alice", number, kind, data)
    )
    return struct.pack(">H", family) + fields


@pytest.mark.parametrize(
    ("file", "found"),
    [
        (b"", None),
        (entry(b"10", b"MIT-MAGIC-COOKIE-1", b"right"), b"right"),
        (
            entry(b"11", b"MIT-MAGIC-COOKIE-1", b"other")
            + entry(b"10", b"MIT-MAGIC-COOKIE-1", b"right"),
            b"right",
        ),
        (
            entry(b"10", b"XDM-AUTHORIZATION-1", b"other")
            + entry(b"", b"MIT-MAGIC-COOKIE-1", b"any"),
            b"any",
        ),
        (entry(b"1", b"MIT-MAGIC-COOKIE-1", b"other"), None),
        (entry(b"10", b"MIT-MAGIC-COOKIE-1", b"right")[:20], None),
    ],
)
def test_the_cookie_for_a_display(file: bytes, found: bytes | None) -> None:
    assert xwire.cookie_for(file, 10) == found


@contextmanager
def answering(answer: bytes | None) -> Iterator[xwire.Display]:
    """A server that reads something and says `answer`, or nothing at all."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as client:
                client.recv(4096)
                client.sendall(answer or b"")
                if answer is None:
                    done.wait(30)

        thread = threading.Thread(target=serve)
        thread.start()
        yield xwire.Display(server.getsockname()[1] - 6000, "127.0.0.1", "")
        done.set()
        thread.join(30)


REFUSAL = b"No protocol specified\n".ljust(24, b"\0")


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (struct.pack("<BBHHH", 0, 22, 11, 0, 6) + REFUSAL, NotLetInError, "No protocol specified"),
        (struct.pack("<BxHHH", 2, 0, 0, 6) + REFUSAL, NotLetInError, "No protocol specified"),
        (b"", NotThereError, "it closed the connection"),
        (b"HTTP/1.1", NotThereError, "it closed the connection"),
        (None, NotThereError, "no answer in time"),
    ],
)
def test_a_login_that_fails_says_why_and_within_its_limit(
    answer: bytes | None, error: type[Exception], words: str
) -> None:
    with answering(answer) as place, pytest.raises(error, match=words):
        Connection(place, b"x" * 16, 1)


def test_nobody_at_a_port_or_a_socket(runtime: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1] - 6000
    with pytest.raises(NotThereError, match="connection refused"):
        xdisplay.connect(xwire.Display(number, "127.0.0.1", ""), 1)
    with pytest.raises(NotThereError, match="no such file"):
        xdisplay.connect(xwire.Display(0, "", str(runtime / "X0")), 1)
    with pytest.raises(NotThereError, match="label"):
        xdisplay.connect(xwire.Display(0, "a..b", ""), 1)


def test_a_system_without_such_sockets_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(NotThereError, match="no such sockets on this system"):
        xdisplay.connect(xwire.Display(0, "", "/tmp/.X11-unix/X0"), 1)


def test_what_is_sent_is_one_program_of_the_standard_library_that_python_3_5_can_read() -> None:
    text = remotescript.python_text(*THERE)
    tree = ast.parse(text, feature_version=(3, 5))
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Match)
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, newer)] == []
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            hints = [node.returns, *(one.annotation for one in node.args.args)]
            assert not [hint for hint in hints if isinstance(hint, ast.Subscript | ast.BinOp)], (
                node.name
            )
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len(defined) == len(set(defined))  # the files are one, and none hides a name of another
    assert len(remotescript.python_command(*THERE, request={})) < 100_000  # Linux takes 131,072
