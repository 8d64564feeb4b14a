"""The private keys to log in with."""

import subprocess
from pathlib import Path

import pytest

from apexgpu.models import Host, Target
from apexgpu.ssh.identities import Identities
from apexgpu.ssh.route import Route


def offered(path: Path, passphrase: str | None) -> list[str]:
    """The fingerprints that are offered for a route with one encrypted file, whose passphrase is given when asked."""
    asked: list[Path] = []

    def tell(file: Path) -> str | None:
        asked.append(file)
        return passphrase

    identities = Identities(preferred=None, fingerprint="", passphrase=tell)
    target = Target(Host("gpu7", "10.0.0.7", "alice", 22001), "container")
    route = Route(target, {"identityfile": [str(path)], "identityagent": ["none"]})
    keys = [key.fingerprint for key in identities.offer(route)]
    assert keys == [key.fingerprint for key in identities.offer(route)]
    assert asked == [path]  # once
    return keys


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_an_encrypted_key_is_offered_when_its_passphrase_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"id_{kind}"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "secret", "-f", path], check=True)
    said = subprocess.run(["ssh-keygen", "-lf", f"{path}.pub"], check=True, capture_output=True, text=True).stdout
    assert offered(path, "secret") == [said.split()[1]]
    assert offered(path, "wrong") == []
    assert offered(path, None) == []
