"""ssh-agents for tests: real ones, and one that accepts connections and never answers."""

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from apexgpu.sshfiles.agentquery import request


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A temporary directory with a path that is short enough for sockets; anybody may enter it."""
    directory = Path(tempfile.mkdtemp(prefix="ag-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)  # an agent removes its socket by itself


@contextlib.contextmanager
def running(path: Path, *keys: Path) -> Iterator[str]:
    """A real ssh-agent at the socket `path`, with `keys`."""
    command = ["ssh-agent", "-D", "-a", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # it listens
            add(str(path), *keys)
            yield str(path)
        finally:
            process.terminate()


def add(path: str, *keys: Path, confirm: bool = False) -> None:
    """Add private keys to the agent at `path`. `confirm`: it is to ask its user before it signs."""
    options = ["-c"] if confirm else []
    for key in keys:
        subprocess.run(
            ["ssh-add", "-q", *options, key],
            check=True,
            capture_output=True,
            env={**os.environ, "SSH_AUTH_SOCK": path},
        )


def lock(path: str) -> None:
    """Lock the agent at `path` with a passphrase: SSH_AGENTC_LOCK of the agent protocol."""
    message = struct.pack(">BI", 22, 6) + b"secret"
    assert request(path, message, limit=60) == (6, b"")  # SSH_AGENT_SUCCESS


@contextlib.contextmanager
def hanging(path: Path) -> Iterator[str]:
    """A socket at `path` that accepts connections and answers nothing, as a locked vault's does."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(100)
        yield str(path)
