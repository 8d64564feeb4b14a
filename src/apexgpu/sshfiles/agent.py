"""The user's ssh-agent: which keys it has, and adding one. It is reached through `ssh-add` only."""

from pathlib import Path

from apexgpu.errors import MissingProgramError, UnreachableError
from apexgpu.iam.publickeys import parse_all
from apexgpu.models import PublicKey
from apexgpu.platforms import keychain
from apexgpu.platforms.system import current
from apexgpu.process import Runner
from apexgpu.sshfiles.keyfiles import read_text
from apexgpu.sshfiles.privatekeys import decrypt, parse_private_key

TIME_LIMIT = 3.0
"""Seconds that the agent may take to answer."""


def list_agent_keys(runner: Runner) -> list[PublicKey]:
    """Return the keys of the ssh-agent; [] if there is no agent, or none that answers in time."""
    try:
        return query_agent(runner)
    except (MissingProgramError, UnreachableError):
        return []


def query_agent(runner: Runner) -> list[PublicKey]:
    """Return the keys of the ssh-agent; [] if there is no agent.

    Raises:
        UnreachableError: the agent does not answer in time.
        MissingProgramError: `ssh-add` is not installed.
    """
    completed = runner.run(["ssh-add", "-L"], timeout=TIME_LIMIT)
    if completed.code != 0:
        return []
    return parse_all(completed.text)


def add_to_agent(path: Path, runner: Runner, passphrase: str | None = None) -> bool:
    """Add the private key at `path` to the agent; return whether that worked.

    A `passphrase` never becomes an argument or an environment variable: the key is decrypted here
    and given to `ssh-add` on its stdin. For an encrypted key without a passphrase, `ssh-add` gets
    the terminal and asks for it.
    """
    data = read_text(path).encode("utf-8", "surrogateescape")
    key = parse_private_key(data)
    try:
        if key is None or not key.encrypted:
            return runner.run(["ssh-add", str(path)], timeout=TIME_LIMIT).code == 0
        if passphrase is None:
            return runner.attach(["ssh-add", *keychain.add_option(current()), str(path)]) == 0
        clear = decrypt(path.read_bytes(), passphrase)
        if clear is None:
            return False
        return runner.run(["ssh-add", "-"], stdin=clear, timeout=TIME_LIMIT).code == 0
    except (MissingProgramError, UnreachableError):
        return False
