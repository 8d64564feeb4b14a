"""A server that stops at any stage of a login: `ssh`, `exec` and `status` end within the user's limit and name the host."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests import openssh, terminals
from tests.countingport import Port
from tests.real import stallingserver
from tests.real.agreement import keygen
from tests.waiting import until

from apexgpu import cli
from apexgpu.models import Host
from apexgpu.session import Session

pytestmark = pytest.mark.openssh

MOST_SECONDS = 30  # the limit is 1 s; the rest is for a machine that has other things to do

NO_ANSWER = "it accepts the connection but does not answer"
NO_LOGIN = "the login did not finish in time"
NO_SESSION = "it accepted the login but opened no session in time"
STAGES = {
    "connection": NO_ANSWER,
    "version": NO_ANSWER,
    "key exchange": NO_LOGIN,
    "offered key": NO_LOGIN,
    # paramiko asks only once about a key, with its signature, and is answered.
    "signature": NO_SESSION,
    "login": NO_SESSION,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openssh.OpenSSH]:
    found = openssh.start(tmp_path_factory.mktemp("server"))
    yield found
    found.stop()


@contextlib.contextmanager
def stalled(stage: str, server: openssh.OpenSSH) -> Iterator[int]:
    """The port of a server that says nothing more after `stage`."""
    cut = {
        "connection": stallingserver.nothing,
        "version": stallingserver.version,
        "key exchange": stallingserver.key_exchange,
    }
    if stage in cut:
        with contextlib.closing(stallingserver.Relay(server.host, cut[stage])) as relay:
            yield relay.port
        return
    answers = {"offered key": 0, "signature": 1, "login": math.inf}
    with stallingserver.silent(str(server.directory / "host_key"), answers[stage]) as port:
        yield port


def prepare(
    server: openssh.OpenSSH, port: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Host:
    """Let this laptop know a host whose container is at `port`; a limit of 1 s."""
    key = (server.directory / "known_hosts").read_text().split(" ", 1)[1]
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}")
    config = directory / "config"
    config.write_text(
        f"Host *\n  IdentityFile {server.directory}/id_ed25519\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {directory}/known_hosts\n"
    )
    monkeypatch.setenv("APEXGPU_SSH_CONFIG", str(config))
    monkeypatch.setenv("APEXGPU_TIMEOUT", "1")
    host = replace(server.host, port=port, manage_port=port)
    openssh.remember(host)
    return host


def run(*words: str) -> tuple[int, float]:
    began = time.monotonic()
    code = cli.main(list(words), Session(environment=dict(os.environ)))
    return code, time.monotonic() - began


@pytest.mark.parametrize("stage", STAGES)
def test_no_command_waits_for_a_server_that_stops(
    stage: str,
    server: openssh.OpenSSH,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with stalled(stage, server) as port:
        host = prepare(server, port, tmp_path, monkeypatch)
        commands = [["--", "true"]]
        if stage == "login":
            commands.append([])  # a shell: ssh logs no command
        for command in commands:
            code, seconds = run("ssh", host.name, *command)
            err = capfd.readouterr().err
            assert (code, err.count("error:")) == (5, 1), err
            assert STAGES[stage] in err
            assert host.name in err
            assert seconds < MOST_SECONDS
        code, seconds = run("exec", host.name, "--json", "--", "true")
        (row,) = json.loads(capfd.readouterr().out)["hosts"]
        assert (code, row["error"]["code"]) == (5, "timeout"), row
        assert STAGES[stage] in row["error"]["message"]
        assert seconds < MOST_SECONDS
        code, seconds = run("status", "--json")
        (row,) = json.loads(capfd.readouterr().out)["hosts"]
        assert row["error"]["code"] == "timeout"
        assert seconds < MOST_SECONDS


def test_a_server_whose_turn_it_is_gets_no_second_connection(
    server: openssh.OpenSSH,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """After a change of the network, the host answers others, and this connection never: ssh's log is enough."""
    with (
        stalled("offered key", server) as silent,
        contextlib.closing(Port(replace(server.host, manage_port=silent))) as port,
    ):
        host = prepare(server, port.port, tmp_path, monkeypatch)
        code, seconds = run("ssh", host.name, "--", "true")
        assert code == 5
        assert NO_LOGIN in capfd.readouterr().err
        assert seconds < MOST_SECONDS
        assert port.connections == 1


def test_a_user_who_types_a_passphrase_late_is_logged_in(
    server: openssh.OpenSSH, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keygen(tmp_path / "locked", "-t", "ed25519", passphrase="secret")
    keys = server.directory / "authorized_keys"
    keys.write_text(keys.read_text() + Path(f"{key}.pub").read_text())
    with contextlib.closing(Port(server.host)) as port:
        host = prepare(server, port.port, tmp_path, monkeypatch)
        config = tmp_path / "config"
        config.write_text(config.read_text().replace(f"{server.directory}/id_ed25519", str(key)))
        program = terminals.spawn(
            sys.executable,
            ["-m", "apexgpu", "ssh", host.name, "--", "echo logged in"],
            env=dict(os.environ),
            timeout=60,
        )
        program.expect("passphrase for key")
        # The limit has passed, and apexgpu has looked whether the host answers.
        until(lambda: port.connections >= 2)
        program.sendline("secret")
        program.expect("logged in\r\n")
        program.wait()
        program.close()
    assert program.exitstatus == 0
