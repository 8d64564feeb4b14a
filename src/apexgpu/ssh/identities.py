"""The private keys that paramiko logs in with, from ssh-agent and key files, in the order in which to offer them.

paramiko is given only what it certainly uses as ssh would. Everything else (hardware keys, certificates, ciphers and
file formats that its libraries do not read) is skipped, and an offer says so: then OpenSSH has to try.
"""

import base64
import errno
import io
import logging
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from apexgpu.iam.publickeys import parse_all, rsa_bits
from apexgpu.models import PublicKey
from apexgpu.platforms import owner
from apexgpu.ssh.route import Route
from apexgpu.sshfiles import agentquery
from apexgpu.sshfiles.agentquery import AgentKey, AgentReply, Agents
from apexgpu.sshfiles.privatekeys import has_line_ends_for_ssh, openssh_header, public_path

if TYPE_CHECKING:
    import paramiko

# OpenSSH's server disconnects after six refused keys (MaxAuthTries in sshd_config(5)).
_MOST_KEYS = 5
_SIGN_LIMIT = 60.0  # seconds; an agent may ask its user. Our own limit for the login ends first.
# An RSA key of 8192 bits has 6.5 KiB. The checks of a larger one take the library longer than a login may take.
_LARGEST_FILE = 8 * 1024
_BEGIN_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_KINDS = {
    "ssh-ed25519": "Ed25519Key",
    "ssh-rsa": "RSAKey",
    "ecdsa-sha2-nistp256": "ECDSAKey",
    "ecdsa-sha2-nistp384": "ECDSAKey",
    "ecdsa-sha2-nistp521": "ECDSAKey",
}
"""The key types that paramiko knows, and its class for each."""

_PEM_KINDS = {
    b"-----BEGIN RSA PRIVATE KEY-----": "RSAKey",
    b"-----BEGIN EC PRIVATE KEY-----": "ECDSAKey",
}
_CIPHERS = {"aes256-ctr", "aes256-cbc"}
"""The ciphers of key files that paramiko reads for every type of key; the first is ssh-keygen's default."""

_importing = threading.Lock()


def load_paramiko() -> ModuleType:
    """Import paramiko without `invoke`, which takes a third of the time and is needed for `Match exec` only."""
    with _importing:
        if "paramiko" in sys.modules:
            return sys.modules["paramiko"]
        without_invoke = "invoke" not in sys.modules
        if without_invoke:
            # None in sys.modules makes `import invoke` raise ImportError, which paramiko handles.
            sys.modules["invoke"] = None  # type: ignore[assignment]
        try:
            import paramiko
        finally:
            if without_invoke:
                del sys.modules["invoke"]
        # Its failures are reported as ours; its log would repeat them on the terminal.
        logger = logging.getLogger("paramiko")
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        return paramiko


class SkipReason(Enum):
    """Why a key was not offered over paramiko, although ssh may offer it."""

    LOCKED = "its passphrase was not entered"
    WRONG_PASSPHRASE = "the passphrase that was entered does not open it"  # noqa: S105 - a reason
    UNREADABLE = "permission denied"
    TOO_OPEN = "others may read it, so ssh does not use it"
    BLOCKING = "it is a pipe, and reading it waits for whoever writes to it"
    ONLY_OPENSSH = "only OpenSSH can use it"


@dataclass(frozen=True, slots=True)
class SkippedKey:
    """A key that was not offered. `path` is its file, None if an agent has it."""

    path: Path | None
    reason: SkipReason


@dataclass(frozen=True, slots=True)
class Offer:
    """The keys for one login, best first; what was left out; and what the agent answered."""

    keys: tuple["paramiko.PKey", ...]
    skipped: tuple[SkippedKey, ...]
    agent: AgentReply

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The SHA256 fingerprints of the keys, in their order."""
        return tuple(key.fingerprint for key in self.keys)

    def reason_of(self, path: Path | None) -> SkipReason | None:
        """Why the key in the file `path` was left out; None if it was not."""
        for skipped in self.skipped:
            if skipped.path == path and path is not None:
                return skipped.reason
        return None


class AgentSignError(Exception):
    """The agent did not sign: it went away, or did not answer in time."""


@dataclass(frozen=True, slots=True)
class _File:
    """What a key file comes to: a key to offer, its public half as far as it is known, or why it is skipped."""

    key: "paramiko.PKey | None" = None
    public: bytes | None = None
    reason: SkipReason | None = None
    has_certificate: bool = False


class Identities:
    """The private keys of the user. Each agent and each file is read once, for all hosts.

    `preferred` is the file of the key that `apexgpu login` registered, `fingerprint` the SHA256 fingerprint of that
    key. `passphrase` is called at most once for a file; it returns None if nobody can enter one.
    """

    def __init__(
        self,
        *,
        preferred: Path | None,
        fingerprint: str,
        passphrase: Callable[[Path], str | None],
        agents: Agents | None = None,
    ) -> None:
        self.preferred = preferred
        self.fingerprint = fingerprint
        self._ask_passphrase = passphrase
        self._agents = agents or Agents()
        self._lock = threading.Lock()
        self._files: dict[Path, _File] = {}
        self._agent_keys: dict[str, list[paramiko.PKey | None]] = {}

    def offer(self, route: Route) -> Offer:
        """The keys to try, best first: the registered key, then the order of ssh. No key twice.

        ssh offers first what the agent holds of the configured files, then those files, then the agent's other keys
        (unless IdentitiesOnly is set).
        """
        # Outside the lock: a silent agent costs its limit, and must not delay hosts that ask another one.
        agent = self._agents.ask(route.agent_socket)
        with self._lock:
            agent_keys = self._keys_of_agent(agent)
            blobs_in_agent = {key.asbytes() for key in agent_keys if key is not None}
            files = {}
            for path in self._paths(route):
                files[path] = self._read_once(path, blobs_in_agent)

        configured = {file.public for file in files.values() if file.public is not None}
        candidates = [key for key in agent_keys if key is not None]
        if route.option("identitiesonly", "no") == "yes":
            candidates = [key for key in candidates if key.asbytes() in configured]
        candidates += [file.key for file in files.values() if file.key is not None]
        unique: dict[bytes, paramiko.PKey] = {}
        for key in candidates:
            if _is_allowed(key, route):
                unique.setdefault(key.asbytes(), key)

        def rank(key: "paramiko.PKey") -> tuple[bool, bool]:
            return key.fingerprint != self.fingerprint, key.asbytes() not in configured

        # sorted() keeps the order of keys with the same rank.
        keys = sorted(unique.values(), key=rank)[:_MOST_KEYS]
        skipped = _skipped_files(files)
        if None in agent_keys:
            # The agent holds a key that paramiko cannot use, such as a certificate.
            skipped.append(SkippedKey(None, SkipReason.ONLY_OPENSSH))
        return Offer(tuple(keys), tuple(skipped), agent)

    def locked_file(self, offer: Offer) -> Path | None:
        """The file whose missing passphrase may be why a login with `offer` was refused.

        None if the registered key was offered: then the passphrase of another one made no difference.
        """
        if self.fingerprint in offer.fingerprints:
            return None
        if offer.reason_of(self.preferred) is SkipReason.LOCKED:
            return self.preferred
        locked = [skipped for skipped in offer.skipped if skipped.reason is SkipReason.LOCKED]
        if not offer.keys and locked:
            return locked[0].path
        return None

    def _paths(self, route: Route) -> list[Path]:
        paths = [self.preferred] if self.preferred else []
        paths += [path for path in route.identity_files if path not in paths]
        return paths

    def _keys_of_agent(self, agent: AgentReply) -> list["paramiko.PKey | None"]:
        """The keys of an agent for paramiko; None for each that only OpenSSH can use."""
        if not agent.keys:
            return []
        if agent.socket not in self._agent_keys:
            keys = [_agent_key(agent.socket, held) for held in agent.keys]
            self._agent_keys[agent.socket] = keys
        return self._agent_keys[agent.socket]

    def _read_once(self, path: Path, blobs_in_agent: set[bytes]) -> _File:
        if path not in self._files:
            self._files[path] = self._read(path, blobs_in_agent)
        return self._files[path]

    def _read(self, path: Path, blobs_in_agent: set[bytes]) -> _File:
        """Read a key file. It may be anything: what is not certainly a key for paramiko is left to OpenSSH."""
        published = _published_blob(public_path(path))
        file = _File(
            public=published, has_certificate=_exists(path.with_name(path.name + "-cert.pub"))
        )
        try:
            data, reason = _read_private_file(path)
        except OSError as exc:
            # Without search permission for its directory, a file does not exist for ssh either.
            if exc.errno in {errno.EACCES, errno.EPERM} and _exists(path):
                return replace(file, reason=SkipReason.UNREADABLE)
            return file
        except ValueError:  # a NUL in the name
            return file
        if data is None:
            return replace(file, reason=reason)

        header = openssh_header(data) if data.startswith(_BEGIN_OPENSSH) else None
        contained = header.public if header is not None else _blob_in(data)
        public = published or contained
        # IdentityFile may also name the public half alone; then the private key is in the agent.
        is_public_file = header is None and contained is not None
        if is_public_file or public in blobs_in_agent:
            return replace(file, public=public)
        if header is not None and public != contained:
            # ssh offers what the .pub file contains, and then does not find the private half of it.
            return replace(file, reason=SkipReason.ONLY_OPENSSH)
        key, reason = self._load(path, data)
        if key is None:
            return replace(file, public=public, reason=reason)
        if published not in {None, key.asbytes()}:
            return replace(file, reason=SkipReason.ONLY_OPENSSH)
        return replace(file, key=key, public=key.asbytes())

    def _load(self, path: Path, data: bytes) -> tuple["paramiko.PKey | None", SkipReason | None]:
        """The key in `data`, or why there is none for paramiko."""
        class_name = None
        encrypted = False
        cipher = "none"
        if data.startswith(_BEGIN_OPENSSH):
            header = openssh_header(data)
            if header is not None and has_line_ends_for_ssh(data):
                class_name = _KINDS.get(header.kind)
                cipher = header.cipher
                encrypted = cipher != "none"
        else:
            for begin, name in _PEM_KINDS.items():
                if data.startswith(begin):
                    class_name = name
                    encrypted = b"ENCRYPTED" in data[:200]
        if class_name is None:
            return None, SkipReason.ONLY_OPENSSH
        passphrase = None
        if encrypted:
            if cipher not in {"none", *_CIPHERS}:
                return None, SkipReason.ONLY_OPENSSH
            passphrase = self._ask_passphrase(path)
            if passphrase is None:
                return None, SkipReason.LOCKED
        key = _parse(class_name, data, passphrase)
        if key is not None:
            return key, None
        return None, SkipReason.WRONG_PASSPHRASE if encrypted else SkipReason.ONLY_OPENSSH


def _skipped_files(files: dict[Path, _File]) -> list[SkippedKey]:
    """What paramiko cannot use of the key files, certificates beside them included."""
    skipped = []
    for path, file in files.items():
        if file.reason is not None:
            skipped.append(SkippedKey(path, file.reason))
        if file.has_certificate:
            certificate = path.with_name(path.name + "-cert.pub")
            skipped.append(SkippedKey(certificate, SkipReason.ONLY_OPENSSH))
    return skipped


def _read_private_file(path: Path) -> tuple[bytes | None, SkipReason | None]:
    """The bytes of a private key file that ssh would use; or None, and why it would not.

    Raises OSError if it cannot be read.
    """
    status = path.stat()
    if stat.S_ISFIFO(status.st_mode):
        return None, SkipReason.BLOCKING
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return None, None  # ssh finds no key in it
    if status.st_size > _LARGEST_FILE:
        return None, SkipReason.ONLY_OPENSSH
    data = path.read_bytes()
    is_private_text = data.startswith(b"-----BEGIN ")
    # ssh checks the permissions only of files that belong to its user.
    is_own = owner.is_users_own(status, or_roots=False)
    if is_private_text and is_own and owner.others_may_read(status):
        return None, SkipReason.TOO_OPEN
    return data, None


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except (OSError, ValueError):
        return False
    return True


def _published_blob(path: Path) -> bytes | None:
    """The public key in a .pub file; None if there is none."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_FILE:
            return None
        return _blob_in(path.read_bytes())
    except (OSError, ValueError):
        return None


def _blob_in(data: bytes) -> bytes | None:
    """The first public key in the text of a public key file."""
    for key in parse_all(data.decode("utf-8", "surrogateescape"))[:1]:
        return base64.b64decode(key.blob)
    return None


def _parse(class_name: str, data: bytes, passphrase: str | None) -> "paramiko.PKey | None":
    """The key that paramiko reads from the text of a key file; None if it cannot."""
    key_class = getattr(load_paramiko(), class_name)
    try:
        text = io.StringIO(data.decode("ascii"))
        # By position: the name of this parameter differs between versions of paramiko.
        return key_class.from_private_key(text, passphrase)  # type: ignore[no-any-return]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        # paramiko, cryptography and pynacl raise dozens of classes for odd files, and the Rust part of cryptography
        # a BaseException. Whatever it is: OpenSSH reads the file itself.
        return None


def _agent_key(socket: str, held: AgentKey) -> "paramiko.PKey | None":
    """A key of an agent for paramiko; None if only OpenSSH can use it: a hardware key, a certificate …"""
    if held.kind not in _KINDS:
        return None
    paramiko = load_paramiko()
    try:
        key = paramiko.agent.AgentKey(agent=_SigningAgent(socket), blob=held.blob)
        if key.inner_key is None or key.asbytes() != held.blob:
            return None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # as in _parse
        return None
    return key  # type: ignore[no-any-return]


class _SigningAgent:
    """What an AgentKey of paramiko needs of its agent. Each signature has its own connection, and a time limit."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    def _send_message(self, message: Any) -> tuple[int, "paramiko.Message"]:
        try:
            kind, body = agentquery.request(self._socket, message.asbytes(), limit=_SIGN_LIMIT)
        except (OSError, EOFError, ValueError) as exc:
            raise AgentSignError(str(exc) or type(exc).__name__) from None
        return kind, load_paramiko().Message(body)


def _is_allowed(key: "paramiko.PKey", route: Route) -> bool:
    """Whether ssh would offer a key of this type and size."""
    kind = key.get_name()
    accepted = route.key_algorithms
    if kind == "ssh-rsa":
        public = PublicKey(kind, base64.b64encode(key.asbytes()).decode("ascii"))
        if rsa_bits(public) < route.least_rsa_bits:
            return False
        return not accepted or bool(accepted & {"rsa-sha2-512", "rsa-sha2-256"})
    return not accepted or kind in accepted
