"""Random combinations of keys, agents, config lines and known_hosts: `apexgpu status` logs in exactly where ssh does.

CI tries 40 combinations of a fixed seed. APEXGPU_AGREEMENT=300 tries 300 (CONTRIBUTING.md), and
APEXGPU_AGREEMENT_SEED=N other ones. The name of a failed test and the seed in its message give its combination again.
"""

import contextlib
import getpass
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests import agents, openssh
from tests.real.agreement import Laptop, certify, keygen, logged_in, run

pytestmark = pytest.mark.openssh

COUNT = int(os.environ.get("APEXGPU_AGREEMENT", "40"))
SEED = os.environ.get("APEXGPU_AGREEMENT_SEED", "9")
KEYS = Path(__file__).parent.parent / "data" / "keys"


@dataclass
class Pool:
    """Keys that combinations are made of: each private file has a public half beside it. Made once."""

    directory: Path
    server: openssh.OpenSSH
    host_key: str
    other_key: str

    @property
    def usable(self) -> list[str]:
        """Keys that an agent accepts."""
        return ["ed25519", "rsa", "small", "ecdsa", "ecdsa521", "pem", "pkcs8"]

    @property
    def all(self) -> list[str]:
        """All keys."""
        return [*self.usable, "encrypted", "encrypted-pem", "sk", "chacha20"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    directory = tmp_path_factory.mktemp("pool")
    for name, words in {
        "ed25519": ("-t", "ed25519"),
        "rsa": ("-t", "rsa", "-b", "2048"),
        "small": ("-t", "rsa", "-b", "1024"),
        "ecdsa": ("-t", "ecdsa"),
        "ecdsa521": ("-t", "ecdsa", "-b", "521"),
        "pem": ("-t", "rsa", "-m", "PEM"),
        "pkcs8": ("-t", "ecdsa", "-m", "PKCS8"),
        "authority": ("-t", "ed25519"),
        "other": ("-t", "ed25519"),
    }.items():
        keygen(directory / name, *words)
    keygen(directory / "encrypted", "-t", "ed25519", passphrase="secret")
    keygen(directory / "encrypted-pem", "-t", "rsa", "-m", "PEM", passphrase="secret")
    for suffix in ("", ".pub"):
        shutil.copy(KEYS / f"id_ed25519_sk{suffix}", directory / f"sk{suffix}")
    shutil.copy(KEYS / "ed25519-chacha20", directory / "chacha20")
    (directory / "chacha20").chmod(0o600)
    public = run("ssh-keygen", "-y", "-P", "secret12", "-f", str(directory / "chacha20"))
    (directory / "chacha20.pub").write_bytes(public)
    # With the usual six, it would also be about the order of the keys: the config's block pins one for that.
    extra = f"MaxAuthTries 30\nTrustedUserCAKeys {directory}/authority.pub\n"
    server = openssh.start(tmp_path_factory.mktemp("server"), extra=extra)
    server.answer("help", "07-up-running")
    host_key = (server.directory / "known_hosts").read_text().split(" ", 1)[1].strip()
    other_key = " ".join((directory / "other.pub").read_text().split()[:2])
    yield Pool(directory, server, host_key, other_key)
    server.stop()


@dataclass
class Combination:
    """One combination, and a description of it."""

    dice: random.Random
    pool: Pool
    laptop: Laptop
    ends: contextlib.ExitStack
    description: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.description.append(text)

    def sometimes(self, probability: float) -> bool:
        return self.dice.random() < probability

    def choose_files(self) -> None:
        """Up to three key files, each perhaps changed in a way that people meet."""
        for number in range(self.dice.choice((0, 1, 1, 2, 3))):
            name = self.dice.choice(self.pool.all)
            path = self.laptop.directory / f"key{number}"
            for suffix in ("", ".pub"):
                shutil.copy(self.pool.directory / f"{name}{suffix}", f"{path}{suffix}")
            path.chmod(0o600)
            change = self.dice.choice(CHANGES)
            change(self, path)
            self.note(f"file {name} {change.__name__}")
            line = path
            if self.sometimes(0.15):
                line = Path(f"{path}.pub")
                self.note("named by its public half")
            self.laptop.lines.append(f"IdentityFile {line}")
        if not self.description:
            self.laptop.lines.append(f"IdentityFile {self.laptop.directory}/absent")

    def choose_agent(self) -> None:
        kind = self.dice.choice(("none", "gone", "default", "default", "named", "off"))
        self.note(f"agent {kind}")
        if kind == "none":
            return
        short = self.ends.enter_context(agents.short_directory())
        if kind == "gone":
            self.laptop.environment["SSH_AUTH_SOCK"] = str(short / "gone")
            return
        names = self.dice.sample(self.pool.usable, self.dice.choice((0, 1, 2, 3)))
        self.note(f"with {names}")
        keys = [self.pool.directory / name for name in names]
        socket = self.ends.enter_context(agents.running(short / "agent", *keys))
        if kind == "named":
            self.laptop.lines.append(f'IdentityAgent "{socket}"')
        else:
            self.laptop.environment["SSH_AUTH_SOCK"] = socket
        if kind == "off":
            self.laptop.lines.append("IdentityAgent none")

    def choose_lines(self) -> None:
        for line in LINES:
            if self.sometimes(0.06):
                self.note(line)
                self.laptop.lines.append(line)
        if self.sometimes(0.35):
            self.note("IdentitiesOnly")
            self.laptop.lines.append("IdentitiesOnly yes")
        self.dice.shuffle(self.laptop.lines)
        if self.sometimes(0.1):
            self.note("behind Match exec")
            self.laptop.lines.append('Match exec "true"\n  ConnectionAttempts 1')

    def choose_known_hosts(self) -> None:
        name = f"[127.0.0.1]:{self.pool.server.host.manage_port}"
        texts = {
            "absent": "",
            "another": f"{name} {self.pool.other_key}\n",
            "without the port": f"127.0.0.1 {self.pool.host_key}\n",
            "revoked": f"{name} {self.pool.host_key}\n@revoked * {self.pool.host_key}\n",
            "glob": f"[127.*]:* {self.pool.host_key}\r\n",
            "broken lines": f"x\n@y\n\0\n{name} {self.pool.host_key}\n",
        }
        if self.sometimes(0.25):
            what = self.dice.choice(sorted(texts))
            self.note(f"known_hosts {what}")
            self.laptop.known_hosts = texts[what]

    def choose_authorized(self) -> None:
        names = self.dice.sample(self.pool.all, self.dice.choice((0, 2, 4, 7)))
        self.note(f"authorized {sorted(names)}")
        self.laptop.authorize(*(self.pool.directory / f"{name}.pub" for name in names))


def unchanged(_combination: Combination, _path: Path) -> None:
    """As ssh-keygen made it."""


def without_public_half(_combination: Combination, path: Path) -> None:
    Path(f"{path}.pub").unlink()


def without_private_half(_combination: Combination, path: Path) -> None:
    path.unlink()


def with_another_public_half(combination: Combination, path: Path) -> None:
    shutil.copy(combination.pool.directory / "other.pub", f"{path}.pub")


def world_readable(_combination: Combination, path: Path) -> None:
    path.chmod(0o644)


def with_windows_line_ends(_combination: Combination, path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def truncated(_combination: Combination, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def emptied(_combination: Combination, path: Path) -> None:
    path.write_bytes(b"")


def a_directory(_combination: Combination, path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_link(_combination: Combination, path: Path) -> None:
    path.rename(f"{path}-real")
    path.symlink_to(f"{path}-real")


def with_valid_certificate(combination: Combination, path: Path) -> None:
    certify(path, combination.pool.directory / "authority", "-n", getpass.getuser())


def with_foreign_certificate(combination: Combination, path: Path) -> None:
    certify(path, combination.pool.directory / "other", "-n", "x", "-V", "-2w:-1w")


CHANGES: list[Callable[[Combination, Path], None]] = [
    *[unchanged] * 6,
    without_public_half,
    without_private_half,
    with_another_public_half,
    world_readable,
    with_windows_line_ends,
    truncated,
    emptied,
    a_directory,
    a_link,
    with_valid_certificate,
    with_foreign_certificate,
]
LINES = [
    "PubkeyAcceptedAlgorithms ssh-ed25519,ecdsa-sha2-nistp256",
    "PubkeyAcceptedAlgorithms -rsa*",
    "PreferredAuthentications publickey",
    "PreferredAuthentications keyboard-interactive,publickey",
    "PubkeyAuthentication no",
    "HostKeyAlgorithms ssh-ed25519",
    "HostKeyAlgorithms -ssh-ed25519",
    "HostKeyAlias lab",
    "PKCS11Provider /nothing.so",
    "KexAlgorithms ecdh-sha2-nistp256",
    "Ciphers aes128-ctr",
    "RequiredRSASize 1536",
    "CheckHostIP yes",
    "GSSAPIAuthentication yes",
    "AddressFamily inet",
    "BindAddress 127.0.0.1",
    "Compression yes",
    "StrictHostKeyChecking accept-new",
]


@pytest.mark.parametrize("number", range(COUNT))
def test_status_logs_in_exactly_where_ssh_does(
    number: int,
    pool: Pool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with contextlib.ExitStack() as ends:
        laptop = Laptop(tmp_path / "laptop", pool.server)
        combination = Combination(random.Random(f"{SEED}-{number}"), pool, laptop, ends)
        combination.choose_files()
        combination.choose_agent()
        combination.choose_lines()
        combination.choose_known_hosts()
        combination.choose_authorized()
        by_ssh = laptop.ssh_logs_in()
        row = laptop.status(capsys, monkeypatch)
        assert logged_in(row) is by_ssh, (
            f"seed {SEED}, number {number}: ssh {by_ssh}; {combination.description}; {row}"
        )
