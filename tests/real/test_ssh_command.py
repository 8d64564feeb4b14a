"""`apexgpu ssh`: its limit until the keys are exchanged, the terminal's name, and what wrappers print."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests import openssh

from apexgpu import cli
from apexgpu.models import Host
from apexgpu.session import Session

pytestmark = pytest.mark.openssh


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openssh.OpenSSH]:
    found = openssh.start(tmp_path_factory.mktemp("server"))
    yield found
    found.stop()


def ssh(host: Host, config: Path, *words: str) -> int:
    openssh.remember(host)
    environment = {**os.environ, "APEXGPU_SSH_CONFIG": str(config)}
    return cli.main(["ssh", host.name, *words], Session(environment=environment))


class FirstOnly:
    """A port that leads the first connection to a server, and accepts the later ones in silence."""

    def __init__(self, server: Host) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._kept: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def later_connections(self) -> int:
        return len(self._kept) - 2

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)
        for connection in (self._listener, *self._kept):
            connection.close()

    def _serve(self) -> None:
        first, _ = self._listener.accept()
        onward = socket.create_connection((self._server.address, self._server.manage_port))
        for source, sink in ((first, onward), (onward, first)):
            threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()
        self._kept += [first, onward]
        while True:
            try:
                self._kept.append(self._listener.accept()[0])
            except OSError:
                return

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


@pytest.fixture
def port(server: openssh.OpenSSH) -> Iterator[FirstOnly]:
    found = FirstOnly(server.host)
    yield found
    found.close()


def config_for(server: openssh.OpenSSH, port: int, directory: Path, more: str = "") -> Path:
    known = (server.directory / "known_hosts").read_text()
    key = known.split(" ", 1)[1]
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}")
    config = directory / "config"
    old = server.config.read_text()
    new = old.replace(f"{server.directory}/known_hosts", f"{directory}/known_hosts")
    config.write_text(f"{new}{more}")
    return config


def test_a_host_that_becomes_silent_is_left_after_the_users_limit(
    server: openssh.OpenSSH, port: FirstOnly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(server, port.port, tmp_path)
    monkeypatch.setenv("APEXGPU_TIMEOUT", "6")
    began = time.monotonic()
    host = replace(server.host, port=port.port)
    assert ssh(host, config, "--", "true") == 255
    assert port.later_connections == 1
    assert time.monotonic() - began < 30


def test_a_session_lasts_longer_than_the_limit(
    server: openssh.OpenSSH, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APEXGPU_TIMEOUT", "1")
    assert ssh(server.host, server.config, "--", "sleep 2; echo still here") == 0
    assert capfd.readouterr().out == "still here\n"


def test_the_users_own_limit_counts(
    server: openssh.OpenSSH, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text(f"{server.config.read_text()}  ConnectTimeout 77\n")
    seen = record_arguments(tmp_path, monkeypatch)
    assert ssh(server.host, config, "--", "true") == 0
    assert "ConnectTimeout" not in seen.read_text()
    assert ssh(server.host, server.config, "--", "true") == 0
    assert "-o ConnectTimeout=10 " in seen.read_text()


def record_arguments(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a wrapper of ssh on PATH that writes down its arguments, without those of `ssh -G`."""
    seen = directory / "seen"
    wrap(
        directory,
        f'case " $* " in *" -G "*) ;; *) echo "$*" >> {seen};; esac\nexec /usr/bin/ssh "$@"\n',
        monkeypatch,
    )
    return seen


def wrap(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    program = programs / "ssh"
    program.write_text(f"#!/bin/sh\n{script}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("terminal", "sent"),
    [
        ("xterm-ghostty-of-tomorrow", "xterm-256color"),
        ("screen", "screen"),
        ("xterm-256color", "xterm-256color"),
    ],
)
def test_a_terminal_that_the_container_does_not_know_gets_a_name_that_it_knows(
    server: openssh.OpenSSH,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    terminal: str,
    sent: str,
) -> None:
    config = tmp_path / "config"
    config.write_text(f"{server.config.read_text()}  RequestTTY force\n")
    monkeypatch.setenv("TERM", terminal)
    assert ssh(server.host, config, "--", "echo TERM is $TERM") == 0
    assert f"TERM is {sent}\r\n" in capfd.readouterr().out


POST_QUANTUM = """\
case " $* " in *" -G "*|*" -V "*|*" -O "*) ;; *) printf '** WARNING: connection is not using a post-quantum key exchange algorithm.\\r\\n** This session may be vulnerable to "store now, decrypt later" attacks.\\r\\n** The server may need to be upgraded. See https://openssh.com/pq.html\\r\\n' >&2;; esac
exec /usr/bin/ssh "$@"
"""


def test_the_warning_of_a_new_openssh_changes_nothing(
    server: openssh.OpenSSH,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    wrap(tmp_path, POST_QUANTUM, monkeypatch)
    server.answer("help", "07-up-running")
    # With a certificate, ssh does what paramiko would do otherwise.
    config = tmp_path / "config"
    certificate = f"  CertificateFile {tmp_path}/none-cert.pub\n"
    config.write_text(f"{server.config.read_text()}{certificate}")
    for chosen in (server.config, config):
        assert ssh(server.host, chosen, "--", "echo hi; exit 3") == 3
        assert capfd.readouterr().out == "hi\n"
        environment = {**os.environ, "APEXGPU_SSH_CONFIG": str(chosen)}
        words = ["exec", "gpu7", "--json", "--", "echo hi; exit 3"]
        assert cli.main(words, Session(environment=environment)) == 3
        (row,) = json.loads(capfd.readouterr().out)["hosts"]
        assert (row["stdout"], row["exit"]) == ("hi\n", 3)
        assert cli.main(["status", "--json"], Session(environment=environment)) == 0
        (row,) = json.loads(capfd.readouterr().out)["hosts"]
        assert row["running"]
