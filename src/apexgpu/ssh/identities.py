"""The private keys that paramiko logs in with, from ssh-agent and key files, in the order in which to offer them."""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from apexgpu.ssh.route import Route
from apexgpu.timelimit import run_with_limit

if TYPE_CHECKING:
    import paramiko

# OpenSSH's server disconnects after six refused keys (MaxAuthTries in sshd_config(5)).
_MOST_KEYS = 5
_AGENT_LIMIT = 3.0  # seconds; an agent may hang
_DEFAULT_AGENT = "SSH_AUTH_SOCK"

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


class Identities:
    """The private keys of the user. Each agent and each file is read once, for all hosts.

    `preferred` is the file of the key that `apexgpu login` registered, `fingerprint` the SHA256 fingerprint of that
    key. `passphrase` is called at most once for a file; it returns None if nobody can enter one.
    """

    def __init__(
        self, *, preferred: Path | None, fingerprint: str, passphrase: Callable[[Path], str | None]
    ) -> None:
        self._preferred = preferred
        self._fingerprint = fingerprint
        self._ask_passphrase = passphrase
        self._lock = threading.Lock()
        self._file_keys: dict[Path, paramiko.PKey | None] = {}
        self._locked_files: list[Path] = []
        self._agent_keys: dict[str, Sequence[paramiko.PKey]] = {}

    def keys_to_offer(self, route: Route) -> list["paramiko.PKey"]:
        """The keys to try, best first: the registered key, then the order of ssh. No key twice.

        ssh offers first what the agent holds of the configured files, then those files, then the agent's other keys
        (unless IdentitiesOnly is set).
        """
        with self._lock:
            agent_keys = list(self._keys_of_agent(route))
            files = self._files(route)
            blobs_in_agent = {key.asbytes() for key in agent_keys}
            file_keys = []
            for path in files:
                key = self._key_in_file(path, blobs_in_agent)
                if key is not None:
                    file_keys.append(key)

        configured_blobs = {key.asbytes() for key in file_keys}
        for path in files:
            blob = _public_blob(path)
            if blob is not None:
                configured_blobs.add(blob)
        if route.option("identitiesonly", "no") == "yes":
            agent_keys = [key for key in agent_keys if key.asbytes() in configured_blobs]

        unique: dict[bytes, paramiko.PKey] = {}
        for key in [*agent_keys, *file_keys]:
            unique.setdefault(key.asbytes(), key)

        def rank(key: "paramiko.PKey") -> tuple[bool, bool]:
            return key.fingerprint != self._fingerprint, key.asbytes() not in configured_blobs

        # sorted() keeps the order of keys with the same rank.
        return sorted(unique.values(), key=rank)[:_MOST_KEYS]

    def locked_file(self, offered: Sequence["paramiko.PKey"]) -> Path | None:
        """The file whose missing passphrase may be why a login with the keys `offered` was refused.

        None if the registered key was offered: then the passphrase of another one made no difference.
        """
        if any(key.fingerprint == self._fingerprint for key in offered):
            return None
        if self._preferred in self._locked_files:
            return self._preferred
        if not offered and self._locked_files:
            return self._locked_files[0]
        return None

    def _files(self, route: Route) -> list[Path]:
        files = [self._preferred] if self._preferred else []
        files += [path for path in route.identity_files if path not in files]
        return files

    def _keys_of_agent(self, route: Route) -> Sequence["paramiko.PKey"]:
        name = route.option("identityagent", _DEFAULT_AGENT)
        if name == "none":
            return []
        if name not in self._agent_keys:
            self._agent_keys[name] = _ask_agent_in_time(name)
        return self._agent_keys[name]

    def _key_in_file(self, path: Path, blobs_in_agent: set[bytes]) -> "paramiko.PKey | None":
        """The key in a file; None if it cannot be used, or need not be read because the agent holds it."""
        if path not in self._file_keys:
            key = None
            if path.is_file() and _public_blob(path) not in blobs_in_agent:
                key = self._read_file(path)
            self._file_keys[path] = key
        return self._file_keys[path]

    def _read_file(self, path: Path) -> "paramiko.PKey | None":
        paramiko = load_paramiko()
        try:
            return paramiko.PKey.from_path(path)  # type: ignore[no-any-return]
        except (TypeError, paramiko.PasswordRequiredException):
            pass  # it is encrypted
        except (paramiko.SSHException, OSError, ValueError, paramiko.UnknownKeyType):
            return None
        passphrase = self._ask_passphrase(path)
        if passphrase is not None:
            with contextlib.suppress(paramiko.SSHException, OSError, ValueError, TypeError):
                # By position: paramiko 5 has another name for this parameter.
                return paramiko.PKey.from_path(path, passphrase.encode())  # type: ignore[no-any-return]
        self._locked_files.append(path)
        return None


def _public_blob(path: Path) -> bytes | None:
    """The public key in the .pub file beside a private key."""
    import base64

    try:
        words = path.with_name(path.name + ".pub").read_text().split()
        return base64.b64decode(words[1])
    except (OSError, ValueError, IndexError):
        return None


def _ask_agent_in_time(name: str) -> Sequence["paramiko.PKey"]:
    """The keys of an agent; none if it fails or does not answer in time.

    paramiko has no time limit for an agent.
    """
    try:
        return run_with_limit(lambda: _ask_agent(name), _AGENT_LIMIT, name="ssh-agent")
    except Exception:  # any failure, also of the protocol, means an agent that cannot be used
        return []


def _ask_agent(name: str) -> Sequence["paramiko.PKey"]:
    """The keys of the agent that IdentityAgent names: SSH_AUTH_SOCK, $VARIABLE or a path."""
    paramiko = load_paramiko()
    if name not in {_DEFAULT_AGENT, ""}:
        path = os.environ.get(name[1:], "") if name.startswith("$") else name
        # paramiko reads nothing else.
        os.environ["SSH_AUTH_SOCK"] = str(Path(path).expanduser())
    keys: Sequence[Any] = paramiko.Agent().get_keys()
    lock = threading.Lock()
    for key in keys:
        key.sign_ssh_data = _one_at_a_time(lock, key.sign_ssh_data)
    return keys


def _one_at_a_time(lock: threading.Lock, sign: Callable[..., bytes]) -> Callable[..., bytes]:
    """`sign` for several threads: all keys of an agent share one connection, and would read each other's answers."""

    def locked_sign(*arguments: Any) -> bytes:
        with lock:
            return sign(*arguments)

    return locked_sign
