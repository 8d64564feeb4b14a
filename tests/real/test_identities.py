"""The private keys to log in with."""

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest

from apexgpu.models import Host, Target
from apexgpu.ssh.identities import Identities
from apexgpu.ssh.route import Route


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of a real ssh-agent with one key."""
    directory = Path(tempfile.mkdtemp(prefix="agent-"))  # a short path, for a socket
    command = ["ssh-agent", "-D", "-a", str(directory / "socket")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            running.stdout.readline()  # it listens
            monkeypatch.setenv("SSH_AUTH_SOCK", str(directory / "socket"))
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "id"], check=True
            )
            subprocess.run(["ssh-add", "-q", directory / "id"], check=True)
            yield directory
        finally:
            running.terminate()
            shutil.rmtree(directory, ignore_errors=True)  # its socket goes by itself


def test_an_agent_signs_for_many_hosts_at_once(agent: Path) -> None:
    identities = Identities(preferred=None, fingerprint="", passphrase=lambda _file: None)
    target = Target(Host("gpu7", "10.0.0.7", "alice", 22001), "container")
    key: Any
    (key,) = identities.offer(Route(target, {"identityfile": [str(agent / "nothing")]})).keys
    public = paramiko.Ed25519Key(data=key.asbytes())
    good: list[bool] = []
    together = threading.Barrier(8)

    def log_in(host: int) -> None:
        together.wait()
        for number in range(40):
            data = f"{host} {number}".encode()
            signature = paramiko.Message(bytes(key.sign_ssh_data(data, "ssh-ed25519")))
            good.append(public.verify_ssh_sig(data, signature))

    threads = [threading.Thread(target=log_in, args=(host,), daemon=True) for host in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert good == [True] * 320


def offered(path: Path, passphrase: str | None) -> list[str]:
    """The fingerprints that are offered for a route with one encrypted file, whose passphrase is given when asked."""
    asked: list[Path] = []

    def tell(file: Path) -> str | None:
        asked.append(file)
        return passphrase

    identities = Identities(preferred=None, fingerprint="", passphrase=tell)
    target = Target(Host("gpu7", "10.0.0.7", "alice", 22001), "container")
    route = Route(target, {"identityfile": [str(path)], "identityagent": ["none"]})
    keys = list(identities.offer(route).fingerprints)
    assert keys == list(identities.offer(route).fingerprints)
    assert asked == [path]  # once
    return keys


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_an_encrypted_key_is_offered_when_its_passphrase_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"id_{kind}"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "secret", "-f", path], check=True)
    said = subprocess.run(
        ["ssh-keygen", "-lf", f"{path}.pub"], check=True, capture_output=True, text=True
    ).stdout
    assert offered(path, "secret") == [said.split()[1]]
    assert offered(path, "wrong") == []
    assert offered(path, None) == []


@pytest.mark.parametrize(
    ("clear", "preferred", "named"),
    [
        (True, "id_locked", True),
        (True, "id_clear", False),
        (True, None, False),
        (False, None, True),
    ],
)
def test_only_a_locked_key_that_should_have_opened_the_door_is_named(
    tmp_path: Path, clear: bool, preferred: str | None, named: bool
) -> None:
    for name, passphrase in {"id_clear": "", "id_locked": "secret"}.items():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", tmp_path / name],
            check=True,
        )
    files = [str(tmp_path / name) for name in ("id_clear", "id_locked")][0 if clear else 1 :]
    said = subprocess.run(
        ["ssh-keygen", "-lf", tmp_path / (preferred or "id_clear")], check=True, capture_output=True
    )
    identities = Identities(
        preferred=tmp_path / preferred if preferred else None,
        fingerprint=said.stdout.decode().split()[1],
        passphrase=lambda _file: None,
    )
    target = Target(Host("gpu7", "10.0.0.7", "alice", 22001), "container")
    offered = identities.offer(Route(target, {"identityfile": files, "identityagent": ["none"]}))
    assert len(offered.keys) == clear
    assert identities.locked_file(offered) == (tmp_path / "id_locked" if named else None)
