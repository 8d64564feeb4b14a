"""The user's key pairs: find those that a login can use, choose the best, load one, make a new one.

authorized_keys text is in `iam.publickeys`. A private key never leaves this package, and it is
decrypted only to be added to the user's own agent (`sshfiles.agent`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from apexgpu.errors import ApexError, ConfigError
from apexgpu.iam.publickeys import parse_line, rsa_bits
from apexgpu.models import PublicKey
from apexgpu.process import Runner
from apexgpu.sshfiles.keyfiles import (
    is_private_text,
    list_private_candidates,
    no_private_key_error,
    only_public_key,
    public_part,
    read_public_files,
    read_text,
    read_usable_private,
    same_key,
)

_SMALLEST_RSA = 2048
# Hardware keys are last: they need a touch for every connection, and only OpenSSH can use them.
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
    """A key for logging in: its private file (None: only the agent has it) and its public part.

    `source` is "agent" if the agent has the key (then no passphrase is needed), even if there is
    a file too. `encrypted` is about the file.
    """

    path: Path | None
    public: PublicKey
    source: Literal["agent", "file"]
    encrypted: bool


def discover(ssh_dir: Path, agent: Sequence[PublicKey], runner: Runner) -> list[KeyPair]:
    """Return the key pairs that a login can use, best first.

    The order is ed25519, ECDSA, RSA of 2048 bits or more, hardware keys. The private half is in
    `ssh_dir` or in `agent`. Certificates, DSA keys, files of other users and keys whose `.pub` file
    belongs to another key are left out, and files that the installed ssh cannot read.
    """
    pairs: dict[tuple[str, str], KeyPair] = {}
    for pair in pairs_from_files(list_private_candidates(ssh_dir), runner):
        pairs.setdefault(_identity(pair.public), pair)
    # The agent knows only the comment that a key was added with; the .pub file's is the user's own.
    comments = {_identity(public): public.comment for public in read_public_files(ssh_dir)}
    for public in agent:
        if why_unusable(public) is not None:
            continue
        identity = _identity(public)
        if identity in pairs:
            pairs[identity] = replace(pairs[identity], source="agent")
        else:
            named = replace(public, comment=comments.get(identity, public.comment))
            pairs[identity] = KeyPair(None, named, "agent", encrypted=False)
    return sorted(pairs.values(), key=preference)


def pairs_from_files(paths: Sequence[Path], runner: Runner) -> list[KeyPair]:
    """Return the key pairs of those private files that a login can use, in the order of `paths`."""
    from concurrent.futures import ThreadPoolExecutor

    if not paths:
        return []
    # ssh-keygen reads each file: a few milliseconds, several at once.
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda path: _pair_from_file(path, runner), paths))
    pairs = []
    for pair in read:
        if pair is not None and why_unusable(pair.public) is None:
            pairs.append(pair)
    return pairs


def load(path: Path, agent: Sequence[PublicKey], runner: Runner) -> KeyPair:
    """Return the key pair of `path`, which is its private or its public file.

    The private half must be in the file (for a public file, in the one beside it) or in `agent`.
    For a key of another machine see `read_public`.

    Raises:
        ConfigError: the pair cannot be used, with the reason.
    """
    path = path.expanduser()
    text = read_text(path)
    if is_private_text(text):
        private = path
        public = public_part(path, text, runner)
    else:
        private = path.with_suffix("")
        public = only_public_key(path, text)
    _check_usable(path, public)
    in_agent = any(same_key(public, other) for other in agent)
    pair = None
    # A public file without the suffix .pub is not the neighbour of a private file.
    if path.suffix == ".pub" or private == path:
        pair = _pair_from_file(private, runner)
    if pair is not None and same_key(pair.public, public):
        return replace(pair, source="agent" if in_agent else "file")
    if in_agent:
        return KeyPair(None, public, "agent", encrypted=False)
    raise no_private_key_error(path, private, runner)


def read_public(path: Path, runner: Runner) -> PublicKey:
    """Return the public key in a file, which may be a key of another machine.

    Of a private key, only the public part is returned.

    Raises:
        ConfigError: there is no usable key in the file, with the reason.
    """
    path = path.expanduser()
    text = read_text(path)
    if is_private_text(text):
        public = public_part(path, text, runner)
    else:
        public = only_public_key(path, text)
    _check_usable(path, public)
    return public


def generate(path: Path, *, comment: str, passphrase: str | None) -> KeyPair:
    """Make an ed25519 pair at `path`, or at a spare name beside it if `path` or `path`.pub exists.

    The private file (mode 0600, OpenSSH's format) is written before the public one.

    Raises:
        ConfigError: the files cannot be written.
    """
    from apexgpu.sshfiles.privatekeys import generate_ed25519, save_pair

    one_line_comment = " ".join(comment.split())
    private, line = generate_ed25519(one_line_comment, passphrase)
    public = parse_line(line)
    if public is None:
        raise ApexError(f"the new key for {path} could not be read back")
    path = save_pair(path, private, f"{public.line}\n".encode())
    return KeyPair(path, public, "file", encrypted=bool(passphrase))


def _pair_from_file(path: Path, runner: Runner) -> KeyPair | None:
    private = read_usable_private(path, runner)
    if private is None:
        return None
    public, encrypted = private
    return KeyPair(path, public, "file", encrypted)


def _identity(key: PublicKey) -> tuple[str, str]:
    return (key.kind, key.blob)


def preference(pair: KeyPair) -> tuple[object, ...]:
    """The key to sort pairs with: the better type, then no passphrase prompt, then names that ssh tries."""
    # ssh's own names (id_rsa) are short; "~" sorts a key without a file behind all names.
    name = pair.path.name if pair.path else "~"
    return (_RANKS[pair.public.kind], pair.source != "agent", pair.encrypted, len(name), name)


def _check_usable(path: Path, public: PublicKey) -> None:
    reason = why_unusable(public)
    if reason is not None:
        raise ConfigError(f"{path}: {reason}", hint="ssh-keygen -t ed25519")


def why_unusable(key: PublicKey) -> str | None:
    """Return why this key cannot be used to log in, or None."""
    if key.kind == "ssh-dss":
        return "a DSA key, which current versions of ssh refuse"
    if "-cert-v01@" in key.kind:
        return "a certificate, not a key"
    if key.kind not in _RANKS:
        return f"a key of type {key.kind[:40]}, which apexgpu does not know"
    if key.kind == "ssh-rsa" and rsa_bits(key) < _SMALLEST_RSA:
        return f"an RSA key of only {rsa_bits(key)} bits"
    return None
