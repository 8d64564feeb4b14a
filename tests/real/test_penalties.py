"""Before an sshd with PerSourcePenalties: each way in is tried once, and a refused address is named with the time to wait.

With sshd 9.8 and newer it is the real server that refuses. Before that, `penalties.PenalizingRelay` does.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import openssh
from tests.longruns import LONG
from tests.real.agreement import keygen
from tests.real.penalties import PenalizingRelay
from tests.waiting import until

from apexgpu import cli
from apexgpu.session import Session

pytestmark = pytest.mark.openssh


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[PenalizingRelay]:
    """A server with the defaults of PerSourcePenalties, that this laptop knows as gpu7."""
    server = openssh.start(tmp_path / "server", extra="LogLevel VERBOSE", penalties=True)
    server.answer("help", "07-up-running")
    found = PenalizingRelay(server)
    openssh.remember(found.host)
    yield found
    server.process.terminate()
    server.process.wait(60)
    found.close()
    server.stop()


def write_config(
    relay: PenalizingRelay,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    key: Path,
    known: bool = True,
) -> None:
    server = directory / "server"
    host_key = (server / "known_hosts").read_text().split(" ", 1)[1]
    text = f"[127.0.0.1]:{relay.host.port} {host_key}" if known else ""
    (directory / "known_hosts").write_text(text)
    (directory / "config").write_text(
        f"Host *\n  IdentityFile {key}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {directory}/known_hosts\n  GlobalKnownHostsFile none\n"
    )
    monkeypatch.setenv("APEXGPU_SSH_CONFIG", str(directory / "config"))


def run(*words: str) -> int:
    return cli.main(list(words), Session(environment=dict(os.environ)))


# A command, and the connections that end without a login: paramiko's, and OpenSSH's that confirms it; or that of the
# program which does the work, and one that finds out why it failed. A mount has two such programs, sshfs and sftp.
REFUSED_KEY = {
    "status": 2,
    "exec gpu7 -- true": 2,
    "ssh gpu7 -- true": 1,
    "cp {file} gpu7:x": 2,
    "mount gpu7 {directory}": 3,
    "tunnel gpu7 8888 --background": 2,
}
UNKNOWN_HOST_KEY = {
    "status": 2,
    "exec gpu7 -- true": 2,
    "ssh gpu7 -- true": 2,
    "cp {file} gpu7:x": 2,
    "mount gpu7 {directory}": 3,
}


def words_of(line: str, directory: Path) -> list[str]:
    (directory / "file").write_text("x")
    (directory / "empty").mkdir(exist_ok=True)
    return line.format(file=directory / "file", directory=directory / "empty").split()


@pytest.mark.parametrize("line", REFUSED_KEY)
def test_a_refused_key_is_tried_once_in_each_way(
    line: str, relay: PenalizingRelay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(relay, tmp_path, monkeypatch, key=keygen(tmp_path / "other", "-t", "ed25519"))
    run(*words_of(line, tmp_path))
    relay.settle()
    assert (relay.connections, relay.refused) == (REFUSED_KEY[line], 0)


@pytest.mark.parametrize("line", UNKNOWN_HOST_KEY)
def test_an_unknown_host_key_is_looked_at_once_in_each_way(
    line: str,
    relay: PenalizingRelay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    key = tmp_path / "server" / "id_ed25519"
    write_config(relay, tmp_path, monkeypatch, key=key, known=False)
    assert run(*words_of(line, tmp_path)) == 7
    relay.settle()
    assert (relay.connections, relay.refused) == (UNKNOWN_HOST_KEY[line], 0)
    assert "--accept-new" in capfd.readouterr().err


def test_an_address_that_is_refused_is_told_how_long_to_wait(
    relay: PenalizingRelay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A command is repeated until the server refuses this address. The account of the relay says when that is."""
    write_config(relay, tmp_path, monkeypatch, key=keygen(tmp_path / "other", "-t", "ed25519"))
    errors = []
    while not relay.account.left:
        before = relay.connections
        assert before < 20
        run("exec", "gpu7", "--json", "--", "true")
        relay.settle()
        (row,) = json.loads(capfd.readouterr().out)["hosts"]
        errors.append(row["error"])
    # A refusal may come in the middle of a command, with the second of its two connections.
    assert {error["code"] for error in errors[:-1]} == {"key_refused"}
    assert errors[-1]["code"] in {"key_refused", "penalized"}
    counted = relay.connections - relay.refused
    before = relay.connections
    assert run("exec", "gpu7", "--json", "--", "true") == 5
    left = relay.account.left
    (row,) = json.loads(capfd.readouterr().out)["hosts"]
    assert row["error"]["code"] == "penalized"
    assert relay.connections == before + 1  # it is not tried in another way
    assert relay.refused >= 1
    message = row["error"]["message"]
    assert f"because of {counted} connections without a login" in message
    found = re.search(r"wait (\d+) s", message)
    assert found is not None
    wait = int(found[1])
    assert left <= wait <= left + 5
    assert row["error"]["hint"] == f"sleep {wait}; apexgpu status gpu7"
    # So is every other command, with one connection each.
    for line in ("ssh gpu7 -- true", "cp {file} gpu7:x"):
        before = relay.connections
        assert run(*words_of(line, tmp_path)) == 5
        assert "refuses connections from this address" in capfd.readouterr().err
        assert relay.connections <= before + 2
    if LONG:
        # The user does as told.
        write_config(relay, tmp_path, monkeypatch, key=tmp_path / "server" / "id_ed25519")
        end = time.monotonic() + wait
        until(lambda: time.monotonic() >= end)
        assert run("exec", "gpu7", "--", "echo in") == 0
        assert "in\n" in capfd.readouterr().out
