"""A laptop before one real sshd, where `ssh HOST true` and `apexgpu status` can be compared."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests import openssh

from apexgpu import cli
from apexgpu.account import Account, save
from apexgpu.models import Target
from apexgpu.session import Session
from apexgpu.ssh import sshoptions
from apexgpu.ssh.route import target_arguments

_SSH_LIMIT = 30  # seconds after which ssh itself hangs


@dataclass
class Laptop:
    """A directory with keys and an ssh config, and an account that knows one host.

    `lines` are the lines of the config. `known_hosts` is the text of the only known_hosts file. `environment` is added
    to the environment of both programs.
    """

    directory: Path
    server: openssh.OpenSSH
    lines: list[str] = field(default_factory=list)
    known_hosts: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    account_key: Path | None = None
    more_known_hosts: list[Path] = field(default_factory=list)
    err: str = ""

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.known_hosts = (self.server.directory / "known_hosts").read_text()

    @property
    def config(self) -> Path:
        """The ssh config."""
        return self.directory / "config"

    def write(self) -> None:
        """Write the config and the known_hosts file."""
        file = self.directory / "known_hosts"
        if not file.exists():
            file.write_text(self.known_hosts)
        files = [file, *self.more_known_hosts]
        own = "".join(f"  {line}\n" for line in self.lines)
        self.config.write_text(
            f"Host *\n  UserKnownHostsFile {' '.join(str(path) for path in files)}\n  GlobalKnownHostsFile none\n{own}"
        )

    def authorize(self, *public: Path) -> None:
        """Let the server accept these keys alone."""
        lines = [path.read_text() for path in public]
        (self.server.directory / "authorized_keys").write_text("".join(lines))

    def ssh_logs_in(self) -> bool:
        """Whether `ssh HOST true` succeeds."""
        self.write()
        target = Target(self.server.host, "manage")
        options = [*sshoptions.UNATTENDED, *sshoptions.NOT_SHARED]
        argv = [
            *("ssh", "-F", str(self.config), *target_arguments(target)),
            *(*sshoptions.arguments(options), target.alias, "true"),
        ]
        done = subprocess.run(
            argv,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_SSH_LIMIT,
            check=False,
            env=self._environment(),
        )
        return done.returncode == 0

    def status(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> dict[str, Any]:
        """The row of the host in `apexgpu status --json`."""
        import json

        self.write()
        host = self.server.host
        identity = str(self.account_key) if self.account_key else ""
        state = Path(os.environ["APEXGPU_STATE_DIR"])
        save(state, Account(user=host.user, hosts=(host,), identity_file=identity))
        settings = Path(os.environ["APEXGPU_CONFIG_DIR"])
        settings.mkdir(exist_ok=True)
        (settings / "config.toml").write_text("keep_connections = false\n")
        for name in ("SSH_AUTH_SOCK", *self.environment):
            monkeypatch.delenv(name, raising=False)
        for name, value in self._environment().items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        cli.main(["--json", "status"], Session(environment=os.environ))
        out, self.err = capsys.readouterr()
        (row,) = json.loads(out)["hosts"]
        assert isinstance(row, dict)
        return row

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "APEXGPU_SSH_CONFIG": str(self.config), **self.environment}


def logged_in(row: Mapping[str, Any]) -> bool:
    """Whether a row of `status` proves a login: the account is registered, and the container's state is known."""
    return bool(row["ok"] and row["registered"])


def keygen(path: Path, *words: str, passphrase: str = "") -> Path:
    """Make a key with `ssh-keygen WORDS`."""
    run("ssh-keygen", "-q", "-N", passphrase, "-f", str(path), *words)
    return path


def certify(key: Path, authority: Path, *words: str) -> Path:
    """Sign the public half of `key`; the certificate's path."""
    run("ssh-keygen", "-q", "-s", str(authority), "-I", "x", *words, f"{key}.pub")
    return key.with_name(f"{key.name}-cert.pub")


def run(*argv: str, stdin: bytes = b"") -> bytes:
    """Run a program that must succeed; its stdout."""
    done = subprocess.run(list(argv), check=True, capture_output=True, input=stdin)
    return done.stdout


def publish(private: Path, files: Sequence[Path] = ()) -> Path:
    """The public half of a private key that has none, written where ssh does not look for it."""
    public = private.with_name(f"published-{private.name}")
    public.write_bytes(run("ssh-keygen", "-y", "-f", str(private)))
    return public
