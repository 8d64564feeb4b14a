"""`apexgpu ssh`: its limit until the login, its statuses and streams, open connections, the terminal's name, and what wrappers print."""

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests import openssh
from tests.countingport import Port
from tests.waiting import until

from apexgpu import cli
from apexgpu.models import Host
from apexgpu.session import Session
from apexgpu.ssh import attachedssh, controlmaster

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


@pytest.fixture
def silent() -> Iterator[Port]:
    with contextlib.closing(Port()) as port:
        yield port


def config_for(server: openssh.OpenSSH, port: int, directory: Path, more: str = "") -> Path:
    known = (server.directory / "known_hosts").read_text()
    key = known.split(" ", 1)[1]
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}")
    config = directory / "config"
    old = server.config.read_text()
    new = old.replace(f"{server.directory}/known_hosts", f"{directory}/known_hosts")
    config.write_text(f"{new}{more}")
    return config


def test_a_host_that_is_silent_is_left_after_the_users_limit_and_named(
    server: openssh.OpenSSH,
    silent: Port,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = config_for(server, silent.port, tmp_path)
    monkeypatch.setenv("APEXGPU_TIMEOUT", "3")
    began = time.monotonic()
    host = replace(server.host, port=silent.port)
    assert ssh(host, config, "--", "true") == 5
    assert "it accepts the connection but does not answer" in capfd.readouterr().err
    assert time.monotonic() - began < 30


# Takes the place of the ssh that has the terminal, but not of those that only ask.
FOR_THE_USER = (
    'case " $* " in *" BatchMode=yes "*|*" -G "*) ;; *) {};; esac\nexec /usr/bin/ssh "$@"\n'
)


def test_a_host_that_is_silent_during_the_login_is_left_too(
    server: openssh.OpenSSH,
    silent: Port,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # Such an ssh has exchanged keys, and then waits without a limit.
    wrap(tmp_path, FOR_THE_USER.format("exec tail -f /dev/null"), monkeypatch)
    config = config_for(server, silent.port, tmp_path)
    monkeypatch.setenv("APEXGPU_TIMEOUT", "2")
    host = replace(server.host, port=silent.port)
    assert ssh(host, config, "--", "true") == 5
    assert "it accepts the connection but does not answer" in capfd.readouterr().err


def test_an_ssh_that_waits_for_its_user_has_no_limit(
    server: openssh.OpenSSH,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    question = tmp_path / "question"
    os.mkfifo(question)
    wrap(tmp_path, FOR_THE_USER.format(f"read answer < {question}"), monkeypatch)
    monkeypatch.setenv("APEXGPU_TIMEOUT", "1")
    with contextlib.closing(Port(server.host)) as port:

        def answer_late() -> None:
            # The limit has passed, and apexgpu looks whether the host answers.
            until(lambda: port.connections)
            question.write_text("yes\n")

        thread = threading.Thread(target=answer_late)
        thread.start()
        config = config_for(server, port.port, tmp_path)
        assert ssh(replace(server.host, port=port.port), config, "--", "echo in") == 0
        thread.join(60)
    assert capfd.readouterr().out == "in\n"


def test_an_ssh_that_waits_for_its_user_has_a_long_limit(
    server: openssh.OpenSSH,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """sshd closes such a login after two minutes; another server may not."""
    log = "debug1: SSH2_MSG_NEWKEYS received\\ndebug1: Server accepts key: k\\n"
    asks = f"printf '{log}' > \"$2\"; exec tail -f /dev/null"
    wrap(tmp_path, FOR_THE_USER.format(asks), monkeypatch)
    monkeypatch.setenv("APEXGPU_TIMEOUT", "1")
    monkeypatch.setattr(attachedssh, "_USERS_LIMIT", 3.0)
    with contextlib.closing(Port(server.host)) as port:
        config = config_for(server, port.port, tmp_path)
        assert ssh(replace(server.host, port=port.port), config, "--", "true") == 5
        assert port.connections == 1  # apexgpu looked whether the host answers, and waited on
    assert "the login did not finish in time" in capfd.readouterr().err


def test_a_jump_host_may_ask_its_user_for_longer_than_the_limit(
    server: openssh.OpenSSH,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    started = tmp_path / "started"
    proxy = tmp_path / "proxy"
    # It takes three times the limit, as for a second factor.
    proxy.write_text(
        f"#!/bin/sh\necho >> {started}\nsleep 3\n"
        f"exec ssh -F {server.config} -p {server.host.port} -W {server.host.address}:{server.host.port} "
        f"{server.host.address}\n"
    )
    proxy.chmod(0o755)
    monkeypatch.setenv("APEXGPU_TIMEOUT", "1")
    config = tmp_path / "config"
    config.write_text(f"{server.config.read_text()}  ProxyCommand {proxy}\n")
    assert ssh(server.host, config, "--", "echo in") == 0
    assert capfd.readouterr().out == "in\n"
    assert started.read_text().count("\n") == 1  # nobody was asked twice


def test_a_status_of_255_is_the_commands_own_and_nothing_is_sent_twice(
    server: openssh.OpenSSH, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(Port(server.host)) as port:
        config = config_for(server, port.port, tmp_path)
        host = replace(server.host, port=port.port)
        assert ssh(host, config, "--", "echo out; echo err >&2; exit 255") == 255
        assert capfd.readouterr() == ("out\n", "err\n")
        assert port.connections == 1


def test_what_ssh_reports_is_shown_as_by_plain_ssh(
    server: openssh.OpenSSH,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "config"
    more = f"UserKnownHostsFile {tmp_path}/empty\n  StrictHostKeyChecking accept-new\n"
    config.write_text(f"Host *\n  {more}{server.config.read_text()}")
    plain = ["-F", str(config), f"-p{server.host.port}", server.host.address, "echo in"]
    subprocess.run(["ssh", *plain], check=True)
    expected = capfd.readouterr()
    assert "Permanently added" in expected.err
    (tmp_path / "empty").unlink()
    assert ssh(server.host, config, "--", "echo in") == 0
    assert capfd.readouterr() == expected


def test_a_refused_key_is_explained_once_and_no_password_is_asked_for(
    server: openssh.OpenSSH, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"], check=True
    )
    config = tmp_path / "config"
    own_key = f"{server.directory}/id_ed25519"
    config.write_text(server.config.read_text().replace(own_key, f"{tmp_path}/k"))
    assert ssh(server.host, config, "--", "true") == 4
    said = capfd.readouterr().err
    assert said.count("error:") == 1
    assert "Permission denied" not in said


class TestOverAnOpenConnection:
    @pytest.fixture
    def port(self, server: openssh.OpenSSH) -> Iterator[Port]:
        with contextlib.closing(Port(server.host)) as port:
            yield port

    @pytest.fixture
    def host(self, server: openssh.OpenSSH, port: Port, tmp_path: Path) -> Iterator[Host]:
        """A container to which a connection is open."""
        host = replace(server.host, port=port.port)
        config = config_for(server, port.port, tmp_path)
        os.environ["APEXGPU_SSH_CONFIG"] = str(config)
        openssh.remember(host, keep_connections=True)
        sockets = Path(os.environ["XDG_RUNTIME_DIR"]) / "apexgpu"
        assert cli.main(["exec", host.name, "--", "true"]) == 0
        until(lambda: any(path.is_socket() for path in sockets.iterdir()))
        port.connections = 0
        yield host
        controlmaster.close_all()

    def ssh(self, host: Host, *words: str) -> int:
        return cli.main(["ssh", host.name, *words], Session(environment=dict(os.environ)))

    def test_no_new_one_is_made_and_statuses_and_streams_are_those_of_ssh(
        self, host: Host, port: Port, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert self.ssh(host, "--", "echo out; echo err >&2; exit 255") == 255
        assert capfd.readouterr() == ("out\n", "err\n")
        assert self.ssh(host, "--", "kill -9 $$") == 255
        assert port.connections == 0

    def test_one_that_has_lost_its_network_is_left_after_three_seconds(
        self, host: Host, port: Port, capfd: pytest.CaptureFixture[str]
    ) -> None:
        port.freeze()
        assert self.ssh(host, "--", "echo in") == 0
        assert capfd.readouterr() == ("in\n", "")
        assert port.connections == 1


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
