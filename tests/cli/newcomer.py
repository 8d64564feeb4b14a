"""Somebody with an empty laptop before a lab: a HOME, the program in this process or at a terminal, and a spy
that stands between the program and IAM and counts what is sent."""

import http.client
import io
import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pexpect
import pytest

from apexgpu import cli
from apexgpu.render.screen import Screen
from apexgpu.session import Session
from apexgpu.ssh import history
from apexgpu_lab.inprocess import Lab, running
from tests.terminals import plain, spawn

ROOT = Path(__file__).parent.parent.parent
LIMIT = 60
FOREIGN = (
    'from="10.0.0.0/8" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFI3ejlo01kPk+MsgdwAb2xJDPBYsBpWoEBu0NMWG8Xh other laptop\n'
    "# a remark of the user's\n"
)
"""What the user had in IAM before: a key of another machine with an option, and a comment."""


@dataclass
class Spy:
    """A server that hands every request on to IAM. `posts` are the forms that were sent, in order."""

    iam: str
    posts: list[dict[str, str]] = field(default_factory=list)
    gets: list[str] = field(default_factory=list)
    connects: list[str] = field(default_factory=list)
    before_post: Callable[[], None] = lambda: None
    after_post: Callable[[], None] = lambda: None
    url: str = ""

    @contextmanager
    def serving(self) -> Iterator["Spy"]:
        """Listen on loopback while the block runs."""
        spy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                spy.gets.append(urlsplit(self.path).path)
                spy.forward(self, b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                spy.posts.append(
                    {name: values[0] for name, values in parse_qs(body.decode()).items()}
                )
                spy.before_post()
                spy.forward(self, body)
                spy.after_post()

            def do_CONNECT(self) -> None:
                spy.connects.append(self.path)
                self.send_error(403, "no TLS here")

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing on the terminal."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join(LIMIT)

    def forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """The same request to IAM, and its answer back; an absolute path is what a proxy gets."""
        upstream = http.client.HTTPConnection(urlsplit(self.iam).netloc, timeout=LIMIT)
        try:
            headers = {
                name: value
                for name, value in handler.headers.items()
                if name.lower() != "connection"
            }
            upstream.request(handler.command, urlsplit(handler.path).path, body, headers)
            answer = upstream.getresponse()
            data = answer.read()
        finally:
            upstream.close()
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "date", "server"}:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)


@dataclass(frozen=True)
class Said:
    """How a run of the program ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        document = json.loads(self.out)
        assert document["schema"] == 1
        return document


class Piped(io.StringIO):
    """A stdin that is no terminal."""

    def isatty(self) -> bool:
        return False


@dataclass
class Newcomer:
    """The laptop. `run` is the program without a terminal, `at_terminal` the real one in a pseudo-terminal."""

    home: Path
    lab: Lab
    spy: Spy
    heard: list[str] = field(default_factory=list)

    def run(self, *words: str, stdin: str = "") -> Said:
        """Run the command line in this process; everything that it says is kept in `heard` too."""
        out, err = io.StringIO(), io.StringIO()
        screen = Screen(out=out, err=err, stdin=Piped(stdin))
        code = cli.main(words, Session(environment=os.environ), screen)
        self.heard += [out.getvalue(), err.getvalue()]
        return Said(code, out.getvalue(), err.getvalue())

    def log_in(self, *words: str, user: str = "alice") -> Said:
        """Log in with the right password on stdin; new host keys are trusted."""
        return self.run(
            "login",
            user,
            "--password-stdin",
            "--yes",
            "--accept-new",
            *words,
            stdin=self.password(user) + "\n",
        )

    @contextmanager
    def at_terminal(self, *words: str) -> "Iterator[pexpect.spawn[str]]":
        """The real program with a terminal of its own; its whole output is kept in `heard`."""
        heard = io.StringIO()
        child = spawn(
            sys.executable,
            ["-m", "apexgpu", *words],
            timeout=LIMIT,
            dimensions=(50, 200),
            echo=False,
            env=dict(os.environ),
        )
        child.logfile_read = heard
        try:
            yield child
        finally:
            child.close(force=True)
            self.heard.append(plain(heard.getvalue()))

    def password(self, user: str = "alice") -> str:
        """The right password of a user."""
        return self.lab.password(user)

    @property
    def ssh(self) -> Path:
        """The user's ~/.ssh."""
        return self.home / ".ssh"

    @property
    def config(self) -> Path:
        """The user's ssh config."""
        return self.ssh / "config"

    def configure(self, text: str) -> None:
        """Write the user's ssh config."""
        self.ssh.mkdir(mode=0o700, exist_ok=True)
        self.config.write_text(text)

    @property
    def state(self) -> Path:
        """Where apexgpu remembers things."""
        return Path(os.environ["APEXGPU_STATE_DIR"])

    def stored(self, user: str = "alice") -> str:
        """What IAM keeps for a user."""
        return self.lab.call(lambda lab_state: lab_state.users.keys.get(user, ""))

    def store(self, text: str, user: str = "alice") -> None:
        """Let IAM know the user and these keys."""

        def change(lab_state: Any) -> None:
            lab_state.users.ensure_registered(user)
            lab_state.users.keys[user] = text

        self.lab.call(change)

    def files(self) -> dict[str, bytes]:
        """Every file under HOME and of apexgpu's own, by its path.

        Not that of the connections which ended without a login: servers count them, so each run adds its own.
        """
        places = (self.home, self.state, Path(os.environ["APEXGPU_CONFIG_DIR"]))
        return {
            str(path): path.read_bytes()
            for place in places
            for path in place.rglob("*")
            if path.is_file() and path.name != history.FILE_NAME
        }


def ended(child: "pexpect.spawn[str]") -> int:
    """Wait for the program at a terminal; its exit code."""
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus is not None, child.signalstatus
    return child.exitstatus


@contextmanager
def newcomer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, hosts: int = 2, registered: bool = False
) -> Iterator[Newcomer]:
    """An empty HOME before a lab of `hosts` hosts; nothing of the lab's own ssh config is used."""
    home = Path(os.environ["HOME"])
    _believe_in_home(tmp_path / "bin", monkeypatch)
    config = Path(os.environ["APEXGPU_CONFIG_DIR"])
    config.mkdir()
    (config / "config.toml").write_text("keep_connections = false\n")
    with (
        running(tmp_path / "lab", hosts=hosts, registered=registered) as lab,
        Spy(lab.iam_url).serving() as spy,
    ):
        monkeypatch.setenv("APEXGPU_IAM_URL", spy.url)
        yield Newcomer(home, lab, spy)


def _believe_in_home(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `ssh` before the real one in PATH: ssh takes its home from the password database, not from HOME.

    `ssh -G` prints its default key files with a `~`, which stands for that home.
    """
    directory.mkdir()
    script = directory / "ssh"
    script.write_text(
        """#!/bin/sh
case " $* " in
*" -G "*)
    exec 3>&1
    status=$( { { /usr/bin/ssh -o "UserKnownHostsFile=$HOME/.ssh/known_hosts" "$@"; echo $? >&4; } |
        sed "s#^identityfile ~/#identityfile $HOME/#" >&3; } 4>&1 )
    exit "$status"
esac
exec /usr/bin/ssh -o "UserKnownHostsFile=$HOME/.ssh/known_hosts" "$@"
"""
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
