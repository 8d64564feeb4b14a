"""Real OpenSSH servers on loopback for the figures: one sshd that listens on many addresses."""

import getpass
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from apexgpu import account
from apexgpu.models import Host
from apexgpu.sshfiles import configblock

_WORDS = """\
========== Hi, U
========== Welcome to APEX GPU Server (IP: A)
========== Your LXC Container Information:
Name:           U
State:          STOPPED
========== Have a good day :-)
"""


@dataclass(frozen=True, slots=True)
class Farm:
    """The servers and the files a client needs."""

    directory: Path
    hosts: tuple[Host, ...]

    @property
    def config(self) -> Path:
        """An ssh config with the hosts, the key, the known hosts, and the key exchange that paramiko uses too."""
        return self.directory / "config"

    def environment(self, *, keep: bool) -> dict[str, str]:
        """apexgpu's settings for this farm; with `keep`, connections stay open between commands."""
        settings = self.directory / ("keep" if keep else "cold")
        settings.mkdir(exist_ok=True)
        if not keep:  # the default keeps them
            (settings / "config.toml").write_text("keep_connections = false\n")
        return {
            "APEXGPU_CONFIG_DIR": str(settings),
            "APEXGPU_STATE_DIR": str(self.directory / "state"),
            "APEXGPU_SSH_CONFIG": str(self.config),
            "APEXGPU_USER": getpass.getuser(),
            "APEXGPU_IAM_URL": "http://127.0.0.1:9",
            "XDG_RUNTIME_DIR": str(self.directory / "run"),
            "CLUSTERSHELL_CFGDIR": str(self.directory),
            "SSH_AUTH_SOCK": "",
        }

    def of(self, hosts: Sequence[Host]) -> "Farm":
        """The same servers, with other hosts in the ssh config and in apexgpu's memory."""
        _write_client(self.directory, hosts)
        return Farm(self.directory, tuple(hosts))


def _write_client(directory: Path, hosts: Sequence[Host]) -> None:
    (directory / "config").write_bytes(
        configblock.merge(b"", hosts)
        + f"Host *\n  IdentityFile {directory}/id_ed25519\n  IdentitiesOnly yes\n  BatchMode yes\n"
        f"  UserKnownHostsFile {directory}/known_hosts\n  KexAlgorithms curve25519-sha256\n".encode()
    )
    account.save(directory / "state", account.Account(user=getpass.getuser(), hosts=tuple(hosts)))


@contextmanager
def farm(count: int, *, shells: bool = False, words: str = _WORDS) -> Iterator[Farm]:
    """`count` hosts; everything is gone at the end. With `shells` they run what they are told, as containers do."""
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    port, network = 20022, f"127.{100 + os.getpid() % 100}"  # two runs at once are two farms
    hosts = tuple(
        Host(
            f"gpu{number + 2}",
            f"{network}.{number // 200}.{number % 200 + 2}",
            getpass.getuser(),
            port,
            port,
        )
        for number in range(count)
    )
    for key in ("host_key", "id_ed25519"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / key], check=True
        )
    shutil.copy(directory / "id_ed25519.pub", directory / "authorized_keys")
    (directory / "words").write_text(words)
    (directory / "run").mkdir(mode=0o700)
    # SHLVL keeps bash from reading the account's .bashrc, whose cost would be measured instead of ours.
    common = (
        f"HostKey {directory}/host_key\nPidFile none\nUsePAM no\nStrictModes no\nMaxStartups 2000\n"
        f"AuthorizedKeysFile {directory}/authorized_keys\nPermitRootLogin yes\nSetEnv SHLVL=2\n"
        + ("Subsystem sftp internal-sftp\n" if shells else f"ForceCommand cat {directory}/words\n")
    )
    key = " ".join((directory / "host_key.pub").read_text().split()[:2])
    (directory / "known_hosts").write_text(
        "".join(f"[{host.address}]:{port} {key}\n" for host in hosts)
    )
    _write_client(directory, hosts)
    Path("/run/sshd").mkdir(exist_ok=True)
    servers = []
    for first in range(0, count, 16):  # sshd listens on 16 addresses at most
        some = hosts[first : first + 16]
        file = directory / f"sshd_config.{first}"
        file.write_text("".join(f"ListenAddress {host.address}:{port}\n" for host in some) + common)
        servers.append(
            subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", file], stderr=subprocess.DEVNULL)
        )
    try:
        for host in hosts[::16]:
            _await(directory, host)
        yield Farm(directory, hosts)
    finally:
        for sshd in servers:
            sshd.terminate()
            sshd.wait()
        subprocess.run(["pkill", "-f", f"ControlPath={directory}"], check=False)
        shutil.rmtree(directory, ignore_errors=True)


def _await(directory: Path, host: Host) -> None:
    for _ in range(100):
        done = subprocess.run(
            ["ssh", "-F", directory / "config", host.manage_name, "help"],
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            return
        time.sleep(0.1)
    raise RuntimeError(done.stderr.decode())
