"""What apexgpu remembers of its connections, so that it does not make the same useless one again.

- The logins for which only OpenSSH works, in a state file. Each is remembered with its cause, as a digest of everything
  that decides it: the options of ssh, the key files, the agent. When one of these changes, the digest does too, and
  paramiko is tried again.
- The connections of this run that ended before a login. sshd 9.8 and newer refuses an address for a while after some of
  them (PerSourcePenalties in sshd_config(5)), and hangs up at once.
"""

import contextlib
import hashlib
import json
import shutil
import threading
import time
from pathlib import Path

from apexgpu import readers
from apexgpu.errors import ApexError, PenalizedError
from apexgpu.files import private_directory, replace_atomically
from apexgpu.ssh.route import Route

FILE_NAME = "connections.json"
_VERSION = 1
_MOST_REMEMBERED = 64
_LONGEST_WAIT = 600.0  # the longest that sshd's defaults refuse an address
_LEAST_WAIT = 15  # the shortest
_SECONDS_FOR_EACH = 5  # what sshd's defaults add for a failed login
_REFUSAL = "Not allowed at this time"  # sshd 9.8 and newer, before it hangs up
_TOO_BIG = 1 << 20

# Options of `ssh -G` that do not decide which keys are offered.
_NOT_ABOUT_KEYS = {"host", "hostname", "port", "hostkeyalias", "localforward", "remoteforward"}


class ConnectionHistory:
    """The history of one account, with a state file; without `file` only that of this run. Safe for several threads.

    `identity` names the key that login registered: another key is another cause.
    """

    def __init__(self, file: Path | None = None, identity: str = "") -> None:
        self._file = file
        self._identity = identity
        self._lock = threading.Lock()
        self._openssh: dict[str, float] | None = None
        self._early: dict[str, int] = {}

    # Logins for which only OpenSSH works

    def prefers_openssh(self, route: Route) -> bool:
        """Whether paramiko failed on this route, OpenSSH did not, and nothing has changed since."""
        with self._lock:
            known = self._known()
            if not known:
                return False
        return login_digest(route, self._identity) in known or _place_digest(route) in known

    def remember_openssh(self, route: Route, *, everywhere: bool) -> None:
        """Remember that only OpenSSH works: for all targets with the same keys, or for this target alone."""
        digest = login_digest(route, self._identity) if everywhere else _place_digest(route)
        with self._lock:
            self._known()[digest] = time.time()
            self._save()

    # Connections that ended before a login

    def logged_in(self, route: Route) -> None:
        """Forget what came before: the server accepts logins."""
        with self._lock:
            self._early.pop(_address(route), None)

    def ended_early(self, route: Route) -> None:
        """Remember a connection that ended before a login: a refused key, or only a look at the host key."""
        address = _address(route)
        with self._lock:
            self._early[address] = self._early.get(address, 0) + 1

    def penalty(self, route: Route, greeting: str) -> ApexError | None:
        """The error for a server that hung up at once, if that is probably a penalty; None if it is not.

        `greeting` is what it sent instead of its version.
        """
        with self._lock:
            count = self._early.get(_address(route), 0)
        if _REFUSAL in greeting:
            certainty = "refuses connections from this address for a while"
        elif not greeting and count:
            certainty = (
                "answered a moment ago and now closes every connection at once; it probably "
                "refuses this address for a while"
            )
        else:
            return None
        host = route.target.host
        wait = min(_LONGEST_WAIT, max(_LEAST_WAIT, _SECONDS_FOR_EACH * count))
        message = (
            f"{host.name} ({route.address} port {route.port}) {certainty}, because of "
            f"{count or 'earlier'} connections without a login (PerSourcePenalties in "
            f"sshd_config); wait {wait:.0f} s before the next attempt, at most ten minutes"
        )
        hint = f"sleep {wait:.0f}; apexgpu status {host.name}"
        return PenalizedError(message, hint=hint)

    def _known(self) -> dict[str, float]:
        if self._openssh is None:
            self._openssh = _load(self._file)
        return self._openssh

    def _save(self) -> None:
        if self._file is None or self._openssh is None:
            return
        newest = sorted(self._openssh.items(), key=lambda item: item[1])[-_MOST_REMEMBERED:]
        document = {
            "version": _VERSION,
            "openssh": [{"cause": cause, "time": when} for cause, when in newest],
        }
        # A history that cannot be kept costs time later, and must not cost this run its result.
        with contextlib.suppress(OSError):
            private_directory(self._file.parent)
            replace_atomically(self._file, json.dumps(document, indent=1).encode() + b"\n")


def _load(file: Path | None) -> dict[str, float]:
    """The contents of a state file; nothing if there is none, or one that is damaged."""
    known: dict[str, float] = {}
    if file is None:
        return known
    try:
        if file.stat().st_size > _TOO_BIG:
            return known
        for entry in readers.json_object(file.read_bytes(), FILE_NAME).objects("openssh"):
            known[entry.text("cause")] = entry.time("time")
    except (OSError, ApexError):
        return {}
    return known


def _address(route: Route) -> str:
    return f"{route.address} {route.port}"


def login_digest(route: Route, identity: str) -> str:
    """A digest of all that decides which keys are offered and can be used for a login on `route`."""
    options = [
        [name, *values] for name, values in route.options.items() if name not in _NOT_ABOUT_KEYS
    ]
    states = [_state(Path(route.agent_socket))] if route.agent_socket else []
    for path in route.identity_files:
        for suffix in ("", ".pub", "-cert.pub"):
            states.append(_state(path.with_name(path.name + suffix)))
    return _digest("login", route.user, identity, options, states, _ssh_state())


def _place_digest(route: Route) -> str:
    """A digest of all that decides how a connection to this target is made and which host key is accepted."""
    options = [[name, *values] for name, values in route.options.items()]
    states = [_state(path) for path in route.known_hosts_files]
    return _digest("place", route.address, route.port, options, states, _ssh_state())


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _ssh_state() -> str:
    program = shutil.which("ssh")
    return _state(Path(program)) if program else ""


def _state(path: Path) -> str:
    """A text that changes when the file does."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return f"{path} absent"
    return (
        f"{path} {status.st_mtime_ns} {status.st_size} {status.st_ino} {status.st_mode:o} "
        f"{status.st_uid}"
    )
