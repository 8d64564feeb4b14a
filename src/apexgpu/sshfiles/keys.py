"""Key pairs of this machine: those of the agent and of ~/.ssh, which to prefer, and how to make one.

The text of authorized_keys is `publickeys`'s; its names are offered here too. No private key leaves this
module, and none is decrypted but to hand it to the user's own agent.
"""

import os
import shlex
import stat
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from apexgpu.errors import ApexError, ConfigError, MissingProgramError, UnreachableError
from apexgpu.iam.publickeys import parse_all, parse_line, rsa_bits
from apexgpu.models import PublicKey
from apexgpu.process import Runner
from apexgpu.sshfiles.privatekeys import PrivateKey, derive, ssh_reads

AGENT_LIMIT = 3.0
_LARGEST = 64 * 1024
_SMALLEST_RSA = 2048
# Hardware keys come last: they want a touch for every connection, and only OpenSSH can use them.
_RANKS = {
    "ssh-ed25519": 0,
    "ecdsa-sha2-nistp256": 1,
    "ecdsa-sha2-nistp384": 1,
    "ecdsa-sha2-nistp521": 1,
    "ssh-rsa": 2,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key that can be logged in with: its private file (None: only the agent has it) and public part.

    `source` is "agent" when the agent holds it (no passphrase will be asked), whether or not there is a file;
    `encrypted` is about the file.
    """

    path: Path | None
    public: PublicKey
    source: Literal["agent", "file"]
    encrypted: bool


def agent_keys(runner: Runner) -> list[PublicKey]:
    """The keys that the ssh agent offers; none when there is no agent, or none that answers within 3 s."""
    try:
        done = runner.run(["ssh-add", "-L"], timeout=AGENT_LIMIT)
    except (MissingProgramError, UnreachableError):
        return []
    return parse_all(done.text) if done.code == 0 else []


def discover(ssh_dir: Path, agent: Sequence[PublicKey]) -> list[KeyPair]:
    """The key pairs to offer, best first: ed25519, ECDSA, RSA of 2048 bits or more, hardware keys.

    A pair from a file has its private half there or in `agent`; certificates, DSA, files of another user's,
    and a `.pub` that belongs to another key are not offered.
    """
    found: dict[tuple[str, str], KeyPair] = {}
    for path in _own_files(ssh_dir):
        pair = _from_private(path)
        if pair is not None and _unusable(pair.public) is None:
            found.setdefault(_identity(pair.public), pair)
    comments = {_identity(key): key.comment for key in _published(ssh_dir)}
    for key in agent:
        if _unusable(key) is not None:
            continue
        known = found.get(_identity(key))
        named = replace(key, comment=comments.get(_identity(key), key.comment))
        found[_identity(key)] = (
            replace(known, source="agent")
            if known
            else KeyPair(None, named, "agent", encrypted=False)
        )
    return sorted(found.values(), key=_preference)


def load(path: Path, agent: Sequence[PublicKey] = ()) -> KeyPair:
    """The pair that `path` (private or public file) stands for; ConfigError with the reason if none.

    A public file's private half must lie beside it or in `agent`. See `read_public` for a key of another
    machine's.
    """
    path = path.expanduser()
    text = _text(path)
    if _looks_private(text):
        private, public = path, _public_of(path, text)
    else:
        private, public = path.with_suffix(""), _only_key(path, text)
    reason = _unusable(public)
    if reason is not None:
        raise ConfigError(f"{path}: {reason}", hint="ssh-keygen -t ed25519")
    in_agent = _identity(public) in {_identity(key) for key in agent}
    pair = _from_private(private) if path.suffix == ".pub" or private == path else None
    if pair is not None and _identity(pair.public) == _identity(public):
        return replace(pair, source="agent" if in_agent else "file")
    if in_agent:
        return KeyPair(None, public, "agent", encrypted=False)
    raise _no_private_half(path, private)


def read_public(path: Path) -> PublicKey:
    """The public key of a file, for a key of another machine; ConfigError with the reason if there is none.

    Given a private key, its public part is returned and nothing else of it.
    """
    path = path.expanduser()
    text = _text(path)
    public = _public_of(path, text) if _looks_private(text) else _only_key(path, text)
    reason = _unusable(public)
    if reason is not None:
        raise ConfigError(f"{path}: {reason}", hint="ssh-keygen -t ed25519")
    return public


def generate(path: Path, *, comment: str, passphrase: str | None) -> KeyPair:
    """Make an ed25519 pair at `path`, or at a spare name beside it where `path` or `path`.pub exists.

    The private file (0600, OpenSSH's format) is there before the public one; nothing is ever overwritten.
    """
    from apexgpu.sshfiles.privatekeys import new_ed25519, save_new

    private, line = new_ed25519(" ".join(comment.split()), passphrase)
    public = parse_line(line)
    if public is None:
        raise ApexError(f"the new key for {path} could not be read back")
    path = save_new(path, private, f"{public.line}\n".encode())
    return KeyPair(path, public, "file", encrypted=bool(passphrase))


def add_to_agent(path: Path, runner: Runner, passphrase: str | None = None) -> bool:
    """Hand the private key at `path` to the agent; False when there is no agent, or it would not.

    A `passphrase` goes into no argument and no environment: the key is decrypted here and given to `ssh-add`
    on its stdin. Without one, `ssh-add` gets the terminal and asks for itself.
    """
    key = derive(_text(path).encode("utf-8", "surrogateescape"))
    try:
        if key is None or not key.encrypted:
            return runner.run(["ssh-add", str(path)], timeout=AGENT_LIMIT).code == 0
        if passphrase is None:
            return runner.attach(["ssh-add", str(path)]) == 0
        from apexgpu.sshfiles.privatekeys import decrypted

        clear = decrypted(path.read_bytes(), passphrase)
        return (
            clear is not None
            and runner.run(["ssh-add", "-"], stdin=clear, timeout=AGENT_LIMIT).code == 0
        )
    except (MissingProgramError, UnreachableError):
        return False


def _identity(key: PublicKey) -> tuple[str, str]:
    return (key.kind, key.blob)


def _pub(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


def _preference(pair: KeyPair) -> tuple[object, ...]:
    # What asks for no passphrase first, then what ssh would offer by itself, then by name.
    name = pair.path.name if pair.path else "~"
    return (_RANKS[pair.public.kind], pair.source != "agent", pair.encrypted, len(name), name)


def _unusable(key: PublicKey) -> str | None:
    """Why this key is no good for logging in, or None."""
    if key.kind == "ssh-dss":
        return "a DSA key, which today's ssh refuses"
    if "-cert-v01@" in key.kind:
        return "a certificate, not a key"
    if key.kind not in _RANKS:
        return f"a key of type {key.kind[:40]}, which apexgpu does not know"
    if key.kind == "ssh-rsa" and rsa_bits(key) < _SMALLEST_RSA:
        return f"an RSA key of only {rsa_bits(key)} bits"
    return None


def _own_files(ssh_dir: Path) -> list[Path]:
    """The regular files of `ssh_dir` that are this user's, are not public halves, and could be keys.

    Not those with a dot name: they are temporary files, of ours or an editor's.
    """
    try:
        names = [
            path
            for path in sorted(ssh_dir.iterdir())
            if path.suffix != ".pub" and path.name[0] != "."
        ]
        return [path for path in names if _own(path)]
    except OSError:
        return []


def _published(ssh_dir: Path) -> Iterable[PublicKey]:
    """The keys of the `.pub` files that are this user's."""
    with suppress(OSError):
        for path in sorted(ssh_dir.glob("*.pub")):
            if _own(path):
                yield from parse_all(_text(path))[:1]


def _own(path: Path) -> bool:
    # Sockets of ControlMasters and FIFOs live in ~/.ssh too: opening one would hang.
    try:
        found = path.stat()
    except OSError:
        return False
    mine = sys.platform == "win32" or found.st_uid == os.getuid()
    return stat.S_ISREG(found.st_mode) and mine and found.st_size <= _LARGEST


def _from_private(path: Path) -> KeyPair | None:
    """The pair whose private half is at `path`, or None when ssh could not use it."""
    key = _private(path)
    if key is None:
        return None
    beside = _beside(path)
    if key.public is None:
        # The old PEM format hides the public part when encrypted: the .pub has to be believed.
        return KeyPair(path, beside, "file", key.encrypted) if beside else None
    if beside is not None and _identity(beside) != _identity(key.public):
        return None
    return KeyPair(path, beside or key.public, "file", key.encrypted)


def _private(path: Path) -> PrivateKey | None:
    if not _own(path) or not _private_enough(path):
        return None
    with suppress(ConfigError):
        text = _text(path)
        data = text.encode("utf-8", "surrogateescape")
        return derive(data) if _looks_private(text) and ssh_reads(data) else None
    return None


def _beside(path: Path) -> PublicKey | None:
    """The key of the `.pub` file that belongs to `path`, if that file is this user's."""
    pub = _pub(path)
    with suppress(ConfigError):
        found = parse_all(_text(pub)) if _own(pub) else []
        return found[0] if found else None
    return None


def _private_enough(path: Path) -> bool:
    # ssh itself ignores a key that others may read, so offering it would end in 'permission denied'.
    return sys.platform == "win32" or not path.stat().st_mode & 0o077


def _looks_private(text: str) -> bool:
    return text.lstrip().startswith("-----BEGIN ") and "PRIVATE KEY-----" in text[:200]


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file", hint="ls ~/.ssh")
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"{path}: too large for a key", hint="ls -l ~/.ssh")
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint=f"ls -l {path}") from error


def _public_of(path: Path, text: str) -> PublicKey:
    key: PrivateKey | None = derive(text.encode("utf-8", "surrogateescape"))
    public = key.public if key is not None else None
    beside = _beside(path)
    if public is None and key is not None and beside is not None:
        return beside
    if public is None:
        raise ConfigError(
            f"{path}: the public half cannot be told from this private key",
            hint=f"ssh-keygen -y -f {path} > {path}.pub",
        )
    if beside is not None and _identity(beside) != _identity(public):
        raise ConfigError(
            f"{path}.pub belongs to another key than {path}",
            hint=f"ssh-keygen -y -f {path} > {path}.pub",
        )
    return beside or public


def _only_key(path: Path, text: str) -> PublicKey:
    found = parse_all(text)
    if len(found) == 1:
        return replace(found[0], options="")
    if text.startswith("PuTTY-User-Key-File"):
        raise ConfigError(
            f"{path}: a PuTTY key", hint=f"puttygen {path} -O private-openssh -o ~/.ssh/id_putty"
        )
    if text.startswith("---- BEGIN SSH2 PUBLIC KEY"):
        raise ConfigError(
            f"{path}: an SSH2 public key", hint=f"ssh-keygen -i -f {path} > {path.stem}.pub"
        )
    reason = f"{len(found)} keys, where one is wanted" if found else "no ssh key"
    raise ConfigError(f"{path}: {reason}", hint="ls ~/.ssh/*.pub")


def _no_private_half(path: Path, private: Path) -> ConfigError:
    if _own(private) and not _private_enough(private):
        return ConfigError(
            f"{private}: others may read it, so ssh will not use it", hint=f"chmod 600 {private}"
        )
    if private.exists() and not _own(private):
        return ConfigError(f"{private}: the file is another user's", hint=f"ls -l {private}")
    if _own(private) and not ssh_reads(private.read_bytes()):
        name = shlex.quote(str(private))
        new = f"{name}.new && chmod 600 {name}.new && mv {name}.new {name}"
        return ConfigError(
            f"{private}: ssh cannot read a key with such line ends (Windows', or none at its end)",
            hint=f"""printf '%s\\n' "$(tr -d '\\r' <{name})" >{new}""",
        )
    return ConfigError(
        f"{path}: the private half is neither in {private} nor in the agent",
        hint="ssh-add -l   # what the agent has",
    )
