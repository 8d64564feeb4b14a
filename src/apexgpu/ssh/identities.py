"""The private keys to log in with: what the agent and files hold, in the order in which to offer them."""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from apexgpu.ssh.route import Route

if TYPE_CHECKING:
    import paramiko

# A server counts every key it is offered; OpenSSH's default is to hang up after six.
_MOST_KEYS = 5


def load_paramiko() -> ModuleType:
    """Import paramiko without `invoke`, a third of its import time, which it needs for `Match exec` only."""
    with _IMPORTING:
        if "paramiko" not in sys.modules:
            absent = "invoke" not in sys.modules
            if absent:
                sys.modules["invoke"] = None  # type: ignore[assignment]  # makes `import invoke` fail at once
            try:
                import paramiko  # noqa: F401
            finally:
                if absent:
                    del sys.modules["invoke"]
            logging.getLogger("paramiko").addHandler(logging.NullHandler())
            logging.getLogger("paramiko").propagate = False
        return sys.modules["paramiko"]


_IMPORTING = threading.Lock()


class Identities:
    """The private keys we can log in with: the agent's and files'. Loaded once, for all hosts.

    `preferred` is the file of the key that login registered. `passphrase` is asked at most once a file, and
    returns None where nobody can answer.
    """

    def __init__(
        self, *, preferred: Path | None, fingerprint: str, passphrase: Callable[[Path], str | None]
    ) -> None:
        self._preferred = preferred
        self._fingerprint = fingerprint
        self._passphrase = passphrase
        self._lock = threading.Lock()
        self._files: dict[Path, paramiko.PKey | None] = {}
        self._locked: list[Path] = []
        self._agent: dict[str, Sequence[paramiko.PKey]] = {}

    def offer(self, route: Route) -> list["paramiko.PKey"]:
        """The keys to try, best first: the registered one, then in ssh's order."""
        with self._lock:
            agent = self._agent_keys(route)
            files = [self._preferred] if self._preferred else []
            files += [path for path in route.identity_files if path not in files]
            held = {key.asbytes() for key in agent}
            loaded = [key for path in files if (key := self._load(path, held)) is not None]
        only = route.one("identitiesonly", "no") == "yes"
        named = {key.asbytes() for key in loaded} | {
            blob for path in files if (blob := _public_blob(path))
        }
        agent = [key for key in agent if not only or key.asbytes() in named]
        keys = {key.asbytes(): key for key in reversed([*agent, *loaded])}
        ordered = sorted(
            reversed(keys.values()),
            key=lambda key: (key.fingerprint != self._fingerprint, key.asbytes() not in named),
        )
        return ordered[:_MOST_KEYS]

    def locked(self, offered: Sequence["paramiko.PKey"]) -> Path | None:
        """The file whose passphrase was not given, where a login with `offered` says nothing of the registered key."""
        if any(key.fingerprint == self._fingerprint for key in offered):
            return None
        if self._preferred in self._locked:
            return self._preferred
        return next(iter(self._locked), None) if not offered else None

    def _agent_keys(self, route: Route) -> Sequence["paramiko.PKey"]:
        where = route.one("identityagent", "SSH_AUTH_SOCK")
        if where == "none":
            return []
        if where not in self._agent:
            self._agent[where] = _within(3, lambda: _ask_agent(where)) or []
        return self._agent[where]

    def _load(self, path: Path, held: set[bytes]) -> "paramiko.PKey | None":
        if path in self._files:
            return self._files[path]
        key = None
        blob = _public_blob(path)
        if path.is_file() and not (blob is not None and blob in held):
            key = self._read(path)
        self._files[path] = key
        return key

    def _read(self, path: Path) -> "paramiko.PKey | None":
        paramiko = load_paramiko()
        try:
            return paramiko.PKey.from_path(path)  # type: ignore[no-any-return]
        except (TypeError, paramiko.PasswordRequiredException):
            pass  # encrypted
        except (paramiko.SSHException, OSError, ValueError, paramiko.UnknownKeyType):
            return None
        passphrase = self._passphrase(path)
        if passphrase is not None:
            # By its place: paramiko 5 gave this parameter another name.
            with contextlib.suppress(paramiko.SSHException, OSError, ValueError, TypeError):
                return paramiko.PKey.from_path(path, passphrase.encode())  # type: ignore[no-any-return]
        self._locked.append(path)
        return None


def _public_blob(path: Path) -> bytes | None:
    import base64

    try:
        words = path.with_name(path.name + ".pub").read_text().split()
        return base64.b64decode(words[1])
    except (OSError, ValueError, IndexError):
        return None


def _ask_agent(where: str) -> Sequence["paramiko.PKey"]:
    import os

    paramiko = load_paramiko()
    if where not in {"SSH_AUTH_SOCK", ""}:
        path = os.environ.get(where[1:], "") if where.startswith("$") else where
        os.environ["SSH_AUTH_SOCK"] = str(Path(path).expanduser())
    keys: Sequence[Any] = paramiko.Agent().get_keys()
    turn = threading.Lock()
    for key in keys:
        key.sign_ssh_data = _in_turn(turn, key.sign_ssh_data)
    return keys


def _in_turn(turn: threading.Lock, sign: Callable[..., bytes]) -> Callable[..., bytes]:
    """`sign` for many hosts at once: all keys of an agent use one connection, and would read each other's answers."""

    def signed(*what: Any) -> bytes:
        with turn:
            return sign(*what)

    return signed


def _within(
    seconds: float, work: Callable[[], Sequence["paramiko.PKey"]]
) -> Sequence["paramiko.PKey"] | None:
    """What `work` gives, None when it fails or does not end in time (an agent may hang)."""
    found: list[Sequence[paramiko.PKey]] = []

    def attempt() -> None:
        # An agent that does not answer, or in another tongue, is as good as none.
        with contextlib.suppress(Exception):
            found.append(work())

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None
