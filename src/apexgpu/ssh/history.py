"""What apexgpu remembers of its connections, so that it does not make the same useless one again.

- The logins for which only OpenSSH works, in a state file. Each is remembered with its cause, as a digest of everything
  that decides it: the options of ssh, the key files, the agent. When one of these changes, the digest does too, and
  paramiko is tried again.
- What an ssh of this run has already found out, so that it is not confirmed by another one.
- The connections of the last minutes that ended before a login, in the same file. sshd 9.8 and newer refuses an address
  for a while after some of them (PerSourcePenalties in sshd_config(5)), and hangs up at once.
"""

import contextlib
import hashlib
import json
import math
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apexgpu import readers
from apexgpu.errors import ApexError, PenalizedError
from apexgpu.files import private_directory, replace_atomically
from apexgpu.ssh.route import Route
from apexgpu.ssh.transport import SshVerdict

FILE_NAME = "connections.json"
_VERSION = 1
_MOST_REMEMBERED = 64
# In seconds, what sshd's defaults are: for how long it refuses an address, and what each connection adds to that.
_LONGEST_WAIT = 600.0
_LEAST_WAIT = 15.0
_FOR_A_REFUSAL = 5.0
_FOR_A_LOOK = 1.0
_MARGIN = (
    2.0  # sshd counts in whole seconds, and other programs of this address may have looked too
)
_REFUSAL = "Not allowed at this time"  # sshd 9.8 and newer, before it hangs up
_TOO_BIG = 1 << 20

# Options of `ssh -G` that do not decide which keys are offered.
_NOT_ABOUT_KEYS = {"host", "hostname", "port", "hostkeyalias", "localforward", "remoteforward"}


@dataclass(frozen=True, slots=True)
class _EarlyEnd:
    """A connection to `address` that ended before a login, when it did, and the seconds that sshd adds for it."""

    address: str
    time: float
    seconds: float


class ConnectionHistory:
    """The history of one account, with a state file; without `file` only that of this run. Safe for several threads.

    `identity` names the key that login registered: another key is another cause.
    """

    def __init__(self, file: Path | None = None, identity: str = "") -> None:
        self._file = file
        self._identity = identity
        self._lock = threading.Lock()
        self._openssh: dict[str, float] = {}
        self._early: list[_EarlyEnd] = []
        self._is_loaded = False
        self._verdicts: dict[str, SshVerdict] = {}

    # Logins for which only OpenSSH works

    def prefers_openssh(self, route: Route) -> bool:
        """Whether paramiko failed on this route, OpenSSH did not, and nothing has changed since."""
        with self._lock:
            self._load()
            known = self._openssh
            if not known:
                return False
        return login_digest(route, self._identity) in known or _place_digest(route) in known

    def remember_openssh(self, route: Route, *, everywhere: bool) -> None:
        """Remember that only OpenSSH works: for all targets with the same keys, or for this target alone."""
        digest = login_digest(route, self._identity) if everywhere else _place_digest(route)
        with self._lock:
            self._load()
            self._openssh[digest] = time.time()
            self._save()

    # What ssh has found out

    def ssh_failed(self, route: Route, verdict: SshVerdict) -> None:
        """Remember that an ssh which something else has run (sshfs, a copy, the user's session) did not log in."""
        self.ended_early(route, refused=verdict is SshVerdict.KEY_REFUSED)
        with self._lock:
            self._verdicts[_address(route)] = verdict

    def take_verdict(self, route: Route) -> SshVerdict | None:
        """What the last such ssh has found out. Only once: afterwards, the user may have changed it."""
        with self._lock:
            return self._verdicts.pop(_address(route), None)

    # Connections that ended before a login

    def logged_in(self, route: Route) -> None:
        """Forget what came before: the server accepts logins."""
        address = _address(route)
        with self._lock:
            self._verdicts.pop(address, None)
            self._load()
            others = [end for end in self._early if end.address != address]
            if len(others) < len(self._early):
                self._early = others
                self._save()

    def ended_early(self, route: Route, *, refused: bool = True) -> None:
        """Remember a connection that ended before a login: with refused keys, or after a look at the host key."""
        seconds = _FOR_A_REFUSAL if refused else _FOR_A_LOOK
        with self._lock:
            self._load()
            self._early.append(_EarlyEnd(_address(route), time.time(), seconds))
            self._save()

    def penalty(self, route: Route, greeting: str) -> ApexError | None:
        """The error for a server that hung up at once, if that is probably a penalty; None if it is not.

        `greeting` is what it sent instead of its version.
        """
        with self._lock:
            self._load()
            ends = [end for end in self._early if end.address == _address(route)]
        if _REFUSAL in greeting:
            certainty = "refuses connections from this address for a while"
        elif not greeting and ends:
            certainty = (
                "answered a moment ago and now closes every connection at once; it probably "
                "refuses this address for a while"
            )
        else:
            return None
        host = route.target.host
        wait = _wait(ends, time.time())
        message = (
            f"{host.name} ({route.address} port {route.port}) {certainty}, because of "
            f"{len(ends) or 'earlier'} connections without a login (PerSourcePenalties in "
            f"sshd_config); wait {wait} s before the next attempt, at most ten minutes"
        )
        hint = f"sleep {wait}; apexgpu status {host.name}"
        return PenalizedError(message, hint=hint)

    # The state file

    def _load(self) -> None:
        if not self._is_loaded:
            self._is_loaded = True
            self._openssh, self._early = _load(self._file)

    def _save(self) -> None:
        oldest = time.time() - _LONGEST_WAIT
        self._early = [end for end in self._early if end.time > oldest][-_MOST_REMEMBERED:]
        if self._file is None:
            return
        newest = sorted(self._openssh.items(), key=lambda item: item[1])[-_MOST_REMEMBERED:]
        document = {
            "version": _VERSION,
            "openssh": [{"cause": cause, "time": when} for cause, when in newest],
            "early": [
                {"address": end.address, "time": end.time, "seconds": end.seconds}
                for end in self._early
            ],
        }
        # A history that cannot be kept costs time later, and must not cost this run its result.
        with contextlib.suppress(OSError):
            private_directory(self._file.parent)
            replace_atomically(self._file, json.dumps(document, indent=1).encode() + b"\n")


def _wait(ends: Sequence[_EarlyEnd], now: float) -> int:
    """The seconds until sshd with its defaults accepts this address again; at least the shortest time."""
    expiry = 0.0
    for end in ends:
        expiry = max(expiry, end.time) + end.seconds
    left = max(_LEAST_WAIT, expiry - now) + _MARGIN
    return math.ceil(min(_LONGEST_WAIT, left))


def _load(file: Path | None) -> tuple[dict[str, float], list[_EarlyEnd]]:
    """The contents of a state file; nothing if there is none, or one that is damaged."""
    openssh: dict[str, float] = {}
    early: list[_EarlyEnd] = []
    if file is None:
        return openssh, early
    try:
        if file.stat().st_size > _TOO_BIG:
            return openssh, early
        document = readers.json_object(file.read_bytes(), FILE_NAME)
        for entry in document.objects("openssh"):
            openssh[entry.text("cause")] = entry.time("time")
        oldest = time.time() - _LONGEST_WAIT
        ends = document.objects("early") if "early" in document else []
        for entry in ends:
            end = _EarlyEnd(entry.text("address"), entry.time("time"), entry.decimal("seconds"))
            if end.time > oldest:
                early.append(end)
    except (OSError, ApexError):
        return {}, []
    return openssh, early


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
