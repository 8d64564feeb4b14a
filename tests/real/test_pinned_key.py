"""A key that only an agent with many keys has: with the block in the ssh config, every program logs in."""

import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests import agents, openssh
from tests.waiting import until

from apexgpu import sshconfig
from apexgpu.account import Account
from apexgpu.iam.publickeys import fingerprint, parse_all
from apexgpu.session import Session
from apexgpu.sshfiles.configblock import merge

pytestmark = [pytest.mark.openssh, pytest.mark.timeout(180)]
LIMIT = 60
OTHER_KEYS = 11
SFTP_SERVER = "/usr/lib/openssh/sftp-server"


@dataclass
class Laptop:
    """A laptop whose agent has twelve keys, the account's last, before a server that disconnects after six."""

    server: openssh.OpenSSH
    config: Path
    directory: Path

    def run(self, *argv: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=LIMIT, check=False
        )

    def assert_runs(self, *argv: str, stdin: str = "") -> str:
        done = self.run(*argv, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def ssh(self) -> str:
        """The ssh command that is given to rsync and sshfs."""
        return shlex.join(["ssh", "-F", str(self.config), "-o", "BatchMode=yes"])


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Laptop]:
    server = openssh.start(
        tmp_path / "server", extra=f"MaxAuthTries 6\nSubsystem sftp {SFTP_SERVER}"
    )
    keys = [tmp_path / f"other{number}" for number in range(OTHER_KEYS)]
    for key in keys:
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
        subprocess.run(argv, check=True)
    own = server.directory / "id_ed25519"
    with (
        agents.short_directory() as directory,
        agents.running(directory / "agent", *keys, own) as agent,
    ):
        monkeypatch.setenv("SSH_AUTH_SOCK", agent)
        public = parse_all(own.with_suffix(".pub").read_text())[0]
        own.unlink()
        config = tmp_path / "config"
        known_hosts = f"Host *\n  UserKnownHostsFile {server.directory}/known_hosts\n"
        session = Session(
            flags={"ssh_config": str(config)},
            settled_account=Account(
                user=server.host.user, fingerprint=fingerprint(public), public_key=public.line
            ),
        )
        identity_file = sshconfig.key_to_pin(session)
        block = merge(known_hosts.encode(), [server.host], identity_file=identity_file)
        config.write_bytes(block)
        try:
            yield Laptop(server, config, tmp_path)
        finally:
            server.stop()


def test_without_the_pinned_key_the_server_disconnects(laptop: Laptop) -> None:
    bare = merge(laptop.config.read_bytes(), [laptop.server.host])
    laptop.config.write_bytes(bare)
    done = laptop.run("ssh", "-F", str(laptop.config), "-o", "BatchMode=yes", "gpu7", "true")
    assert done.returncode == 255
    assert "Too many authentication failures" in done.stderr


def test_ssh_scp_sftp_and_rsync_log_in(laptop: Laptop) -> None:
    config = ["-F", str(laptop.config)]
    file = laptop.directory / "file"
    file.write_text("content")
    there = laptop.directory / "there"
    there.mkdir()
    assert laptop.assert_runs("ssh", *config, "gpu7", "echo hello") == "hello\n"
    laptop.assert_runs("scp", "-q", *config, str(file), f"gpu7:{there}/scp")
    batch = f"put {file} {there}/sftp\n"
    laptop.assert_runs("sftp", "-q", *config, "-b", "-", "gpu7", stdin=batch)
    laptop.assert_runs("rsync", "-e", laptop.ssh, str(file), f"gpu7:{there}/rsync")
    assert {path.name for path in there.iterdir()} == {"scp", "sftp", "rsync"}


def test_both_names_of_the_host_log_in(laptop: Laptop) -> None:
    for name in ("gpu7", "gpu7-manage"):
        laptop.assert_runs("ssh", "-F", str(laptop.config), name, "true")


def test_the_way_that_vs_code_calls_ssh_logs_in(laptop: Laptop) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = ["ssh", "-F", str(laptop.config), "-T", "-D", str(port), "gpu7", "bash"]
    assert laptop.assert_runs(*argv, stdin="echo from $((40 + 2))\n") == "from 42\n"


def test_a_tunnel_logs_in(laptop: Laptop) -> None:
    forwarded = laptop.directory / "forwarded"
    host = laptop.server.host
    argv = [
        "ssh",
        "-F",
        str(laptop.config),
        "-N",
        "-L",
        f"{forwarded}:127.0.0.1:{host.port}",
        "gpu7",
    ]
    with subprocess.Popen(argv) as tunnel:
        until(lambda: forwarded.exists() or tunnel.poll() is not None)
        assert forwarded.exists()
        tunnel.terminate()


@pytest.mark.skipif(shutil.which("sshfs") is None, reason="sshfs is not installed")
@pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="no /dev/fuse")
def test_a_mount_logs_in(laptop: Laptop) -> None:
    (laptop.directory / "there").mkdir()
    (laptop.directory / "there" / "file").write_text("content")
    mounted = laptop.directory / "mounted"
    mounted.mkdir()
    remote = f"gpu7:{laptop.directory}/there"
    laptop.assert_runs("sshfs", "-F", str(laptop.config), remote, str(mounted))
    try:
        assert (mounted / "file").read_text() == "content"
    finally:
        laptop.assert_runs("fusermount3", "-u", str(mounted))
