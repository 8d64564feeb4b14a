"""A member's laptop before real OpenSSH servers: apexgpu as a normal user, with a HOME of its own."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import openssh

from apexgpu import account

SFTP = "Subsystem sftp /usr/lib/openssh/sftp-server"
# Names of this test process alone: a mount whose sshfs was killed is known by its host's name, and tests run beside
# each other.
SEVEN, EIGHT = f"gpu{os.getpid()}7", f"gpu{os.getpid()}8"
_START = 0.2  # seconds that `apexgpu --version` may take on a machine that has nothing else to do
NOBODY, DAEMON = 65534, 1  # two accounts that every Debian has


@dataclass(frozen=True)
class Said:
    """What a command came to, and the seconds that it took, as on a machine that has nothing else to do."""

    code: int
    out: str
    err: str
    seconds: float


def _become(uid: int) -> tuple[str, ...]:
    """Another user, who may mount nothing by himself. That he may read all files is for a Python below /root."""
    return (
        "setpriv",
        f"--reuid={uid}",
        f"--regid={uid}",
        "--clear-groups",
        "--inh-caps=+dac_read_search",
        "--ambient-caps=+dac_read_search",
    )


class Member:
    """Commands of apexgpu, and any others, run as the user `uid` where the tests are root's, else as who runs them."""

    def __init__(
        self, directory: Path, servers: Sequence[openssh.OpenSSH], uid: int = NOBODY
    ) -> None:
        self.directory, self.servers, self.uid = directory, list(servers), uid
        self.home = directory / "home"
        self.state = directory / "state"
        for path in (self.home, self.state, directory / "config"):
            path.mkdir(parents=True)
        self.files = directory / "files"  # what the container has
        self.files.mkdir()
        self._write_client()
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("XDG_", "APEXGPU_", "SSH_"))
            },
            "HOME": str(self.home),
            "APEXGPU_STATE_DIR": str(self.state),
            "PYTHONDONTWRITEBYTECODE": "1",
            "APEXGPU_CONFIG_DIR": str(directory / "config"),
            "APEXGPU_SSH_CONFIG": str(directory / "ssh_config"),
            "APEXGPU_IAM_URL": "http://127.0.0.1:9",
            "LANG": "C.UTF-8",
        }
        if self.as_root:
            for path in (directory, *directory.rglob("*")):
                if self.files not in (path, *path.parents):
                    os.chown(path, uid, uid)

        self.socket = ""  # that of an agent
        self.slowness = 1.0
        self._measure()

    def _measure(self) -> None:
        """Find out how many times slower than an idle machine this one is now; the slowest counts."""
        began = time.monotonic()
        with self.popen(self.apexgpu("--version")) as process:
            process.communicate(timeout=60)
        self.slowness = max(self.slowness, (time.monotonic() - began) / _START)

    @property
    def as_root(self) -> bool:
        """Whether the tests are root's, so that another user can be taken."""
        return os.getuid() == 0

    def _write_client(self) -> None:
        lines, known = [], ""
        for number, server in enumerate(self.servers):
            shutil.copy(server.directory / "id_ed25519", self.directory / f"key{number}")
            known += (server.directory / "known_hosts").read_text()
            names = f"{server.host.name} {server.host.manage_name}"
            lines.append(f"Host {names}\n  IdentityFile {self.directory}/key{number}\n")
        (self.directory / "known_hosts").write_text(known)
        common = f"  IdentitiesOnly yes\n  UserKnownHostsFile {self.directory}/known_hosts\n"
        (self.directory / "ssh_config").write_text("".join(lines) + f"Host *\n{common}")
        self.remember()
        (self.directory / "config" / "config.toml").write_text("keep_connections = false\n")

    def remember(self) -> None:
        """As a login leaves it."""
        hosts = tuple(one.host for one in self.servers)
        account.save(self.state, account.Account(user=hosts[0].user, hosts=hosts))
        if self.as_root:
            for path in (self.state, *self.state.rglob("*")):
                os.chown(path, self.uid, self.uid)

    def popen(self, argv: Sequence[str], **more: Any) -> "subprocess.Popen[str]":
        """Any program, as the member."""
        who = _become(self.uid) if self.as_root else ()
        pipes = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "stdin": subprocess.DEVNULL,
            "text": True,
        }
        return subprocess.Popen([*who, *argv], env=self.environment, cwd="/", **{**pipes, **more})

    def apexgpu(self, *words: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "apexgpu", *words]

    def __call__(self, *words: str) -> Said:
        began = time.monotonic()
        with self.popen(self.apexgpu(*words)) as process:
            out, err = process.communicate(timeout=60)
        seconds = time.monotonic() - began
        if seconds / self.slowness > 2:
            self._measure()  # other programs may have begun to work since
        return Said(process.returncode, out, err, seconds / self.slowness)

    def mounted(self, *words: str, host: str = "") -> Path:
        """Mount the container's files; where they are."""
        host = host or SEVEN
        said = self("mount", host, "--remote", str(self.files), *words)
        assert said.code == 0, said.err
        return self.home / "apexgpu" / host

    def mounts(self, *, in_time: bool = False) -> list[dict[str, Any]]:
        """What `mounts` says; `in_time`, in serial tests only: without waiting for anything that hangs."""
        said = self("mounts", "--json")
        assert said.code == 0, said.err
        assert not in_time or said.seconds < 5, said
        found: list[dict[str, Any]] = json.loads(said.out)["mounts"]
        return found

    def python(self, code: str, *words: str) -> "subprocess.Popen[str]":
        """A program of the member's, in Python."""
        return self.popen([sys.executable, "-I", "-S", "-c", code, *words])

    def result(self, code: str, *words: str) -> str:
        """What such a program prints."""
        with self.python(code, *words) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return out

    def processes(self, name: str) -> list[int]:
        """The processes called `name` that belong to mounts of this laptop."""
        found = []
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                mine = f"APEXGPU_MOUNT={self.home}".encode() in (path / "environ").read_bytes()
                if mine and (path / "comm").read_text().strip() == name:
                    found.append(int(path.name))
        return found


@contextlib.contextmanager
def member(*names: str) -> Iterator[Member]:
    """A laptop before one server for each name; nothing stays mounted, and nothing stays."""
    # Not below pytest's own directory, which only root may enter; short, for the names of sockets.
    directory = Path(tempfile.mkdtemp(prefix="apexgpu-"))
    directory.chmod(0o755)
    servers: list[openssh.OpenSSH] = []
    try:
        for name in names or (SEVEN,):
            servers.append(openssh.start(directory / f"sshd-{name}", extra=SFTP, name=name))
        laptop = Member(directory / "laptop", servers)
        try:
            yield laptop
        finally:
            laptop("unmount", "--all", "--force")
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(directory)
