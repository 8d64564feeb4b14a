"""A real OpenSSH server on loopback in the place of a lab host: its manage shell says recorded words."""

import contextlib
import getpass
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from apexgpu import account
from apexgpu.models import Host

TRANSCRIPTS = Path(__file__).parent / "data" / "transcripts"

_SHELL = """\
import json, os, sys
words = os.environ.get("SSH_ORIGINAL_COMMAND", "").split()
answers = json.load(open(sys.argv[1]))
answer = answers.get(" ".join(words))
if answer is None:
    os.execv(sys.argv[2], [sys.argv[2], "-c", os.environ.get("SSH_ORIGINAL_COMMAND", "cat")])
sys.stdout.write(answer["stdout"]); sys.stdout.flush()
sys.stderr.write(answer.get("stderr") or ""); sys.stderr.flush()
sys.exit(answer["exit"])
"""


@dataclass
class OpenSSH:
    """A running sshd and what a client needs: `host` names it, `config` is an ssh config with its keys."""

    directory: Path
    host: Host
    config: Path
    process: subprocess.Popen[bytes]
    within: Sequence[str] = ()

    def answer(self, command: str, transcript: str) -> None:
        """Let the manage shell answer `command` as a recording does."""
        self.say(command, json.loads((TRANSCRIPTS / f"{transcript}.json").read_text()))

    def say(self, command: str, reply: dict[str, object]) -> None:
        """Let it answer `command` with stdout, stderr and exit."""
        file = self.directory / "answers.json"
        answers = json.loads(file.read_text())
        answers[command] = reply
        file.write_text(json.dumps(answers))

    @property
    def force_command(self) -> str:
        """What sshd runs for every login, in the place of the account's login shell."""
        (line,) = re.findall(r"^ForceCommand (.*)$", self._config.read_text(), re.MULTILINE)
        return str(line)

    @property
    def _config(self) -> Path:
        return self.directory / "sshd_config"

    def change_shell(self, shell: str) -> None:
        """Give the account another login shell. As after `chsh`, open connections keep the one that they have."""
        old = self._config.read_text()
        self._config.write_text(old.replace(self.force_command, shell))
        self.process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """End it and its sessions without a word, as a crash does."""
        for pid in family(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(60)

    def freeze(self) -> list[int]:
        """Stop it and its sessions where they are, so that it takes connections and says nothing. Which processes."""
        frozen = family(self.process.pid)
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        return frozen

    def thaw(self, frozen: list[int]) -> None:
        """Let what `freeze` has stopped run on."""
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def again(self) -> None:
        """Start it again on the same port, with the same keys."""
        if self.process.stderr is not None:
            self.process.stderr.close()
        self.process = _sshd(self.directory / "sshd_config", self.within)
        await_port(self.host.address, self.host.manage_port, self.process)

    def stop(self) -> None:
        """End the server and every session of it."""
        for pid in family(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.process.terminate()
        self.process.wait(60)
        if self.process.stderr is not None:
            self.process.stderr.close()


def start(
    directory: Path,
    *,
    extra: str = "",
    name: str = "gpu7",
    address: str = "127.0.0.1",
    home: Path | None = None,
    shell: str = "/bin/sh",
    penalties: bool = False,
    within: Sequence[str] = (),
) -> OpenSSH:
    """Start sshd on a free port; manage and container are the same server here.

    `home` and `shell` replace the account's. `within` is a program that starts sshd, such as unshare(1). `penalties` leaves sshd's on (since OpenSSH 9.8).
    """
    directory.mkdir(parents=True, exist_ok=True)
    for key in ("host_key", "id_ed25519"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / key], check=True
        )
    (directory / "authorized_keys").write_bytes((directory / "id_ed25519.pub").read_bytes())
    (directory / "answers.json").write_text("{}")
    (directory / "shell.py").write_text(_SHELL)
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    force = shlex.join(
        [sys.executable, "-S", str(directory / "shell.py"), str(directory / "answers.json"), shell]
    )
    server = directory / "sshd_config"
    # Without penalties, unless a test is about them: what one test does wrong must not lock out the next one.
    if version() >= (9, 8) and not penalties:
        extra = f"PerSourcePenalties no\n{extra}"
    # SHLVL keeps bash from reading the account's .bashrc.
    server.write_text(
        f"ListenAddress {address}:{port}\nHostKey {directory}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {directory}/authorized_keys\nPermitRootLogin yes\nPasswordAuthentication no\n"
        f"KbdInteractiveAuthentication no\nForceCommand {force}\nMaxStartups 1000\n"
        f"SetEnv SHLVL=2{f' HOME={home}' if home else ''}\nMaxSessions 1000\n{extra}\n"
    )
    host_key = (directory / "host_key.pub").read_text().split()
    (directory / "known_hosts").write_text(f"[{address}]:{port} {host_key[0]} {host_key[1]}\n")
    config = directory / "config"
    config.write_text(
        f"Host *\n  IdentityFile {directory}/id_ed25519\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {directory}/known_hosts\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    process = _sshd(server, within)
    await_port(address, port, process)
    host = Host(name, address, getpass.getuser(), port, port)
    return OpenSSH(directory, host, config, process, within)


def remember(host: Host, *, keep_connections: bool = False) -> None:
    """Let this laptop know one host, as a login leaves it, and open each connection anew unless they are kept."""
    account.save(
        Path(os.environ["APEXGPU_STATE_DIR"]), account.Account(user=host.user, hosts=(host,))
    )
    settings = Path(os.environ["APEXGPU_CONFIG_DIR"])
    settings.mkdir(exist_ok=True)
    (settings / "config.toml").write_text(f"keep_connections = {str(keep_connections).lower()}\n")


@cache
def version() -> tuple[int, ...]:
    """The version of this machine's sshd."""
    said = subprocess.run(["/usr/sbin/sshd", "-V"], capture_output=True, text=True, check=False)
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", said.stderr)
    assert found is not None, said
    return tuple(int(number) for number in found.groups())


def _sshd(config: Path, within: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*within, "/usr/sbin/sshd", "-D", "-e", "-f", config], stderr=subprocess.PIPE, cwd="/"
    )


def family(pid: int) -> list[int]:
    """A process and all below it, the oldest first."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            found += [int(child) for child in children]
    return found


def await_port(address: str, port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(process.stderr.read().decode() if process.stderr else "sshd ended")
        try:
            with socket.create_connection((address, port), timeout=1) as probe:
                if probe.recv(4) == b"SSH-":
                    return
        except OSError:
            threading.Event().wait(0.01)
    message = "sshd did not answer"
    raise RuntimeError(message)
