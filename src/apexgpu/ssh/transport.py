"""The seam to the servers: run a command on a target, within limits, and get a Reply or one of our errors.

Three ways lead there, tried in this order: an open connection (`mux`), paramiko in this process
(`paramiko_link`), and the OpenSSH client where paramiko cannot go (`openssh_link`).
"""

import shlex
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from apexgpu.errors import (
    ApexError,
    DeclinedError,
    DroppedError,
    HostKeyError,
    LoginError,
    RefusedError,
    UnreachableError,
)
from apexgpu.models import PublicKey, Reply, Target
from apexgpu.process import Runner
from apexgpu.ssh import route as routes
from apexgpu.ssh.route import Route
from apexgpu.text import last_line

OnLine = Callable[[str], None]
KILLED = "killed"  # the error code of a command in a container that a signal ended, over a connection that stayed
UNANSWERED = (
    "unanswered"  # the error code of a command that an open connection took and never confirmed
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits in seconds: to connect and log in, for the whole command, and without a word from it."""

    connect: float = 10
    total: float | None = 30
    silence: float | None = None


class UnknownHostKeyError(DeclinedError):
    """The first contact with a target: its key is in no known_hosts file. Nobody but the user can say yes."""

    code = "host_key_unknown"

    def __init__(self, route: Route, key: PublicKey) -> None:
        super().__init__(
            f"the host key of {route.target.alias} is not known yet",
            hint="run the command in a terminal to see and confirm it, or add --accept-new",
        )
        self.route = route
        self.key = key


class ChangedHostKeyError(HostKeyError):
    """A target shows another key than the known one: nothing was sent. `key` is None where only ssh saw it."""

    def __init__(self, message: str, *, hint: str, key: PublicKey | None) -> None:
        super().__init__(message, hint=hint)
        self.key = key


class Transport(Protocol):
    """What can run a command on a target; tests put a strict fake here."""

    def run(
        self,
        target: Target,
        command: str,
        *,
        limits: Limits | None = None,
        on_line: OnLine | None = None,
        once: bool = False,
    ) -> Reply:
        """Run `command` ("" asks for a shell, which starts a container). Never with a terminal.

        `once` marks a command that must not be sent twice: only a fresh connection may carry it.
        """
        ...


class Link(Protocol):
    """One way of speaking SSH over a resolved route."""

    def run(self, route: Route, command: str, *, limits: Limits, on_line: OnLine | None) -> Reply:
        """Connect, log in, run, close."""
        ...


class Warm(Protocol):
    """Connections that stay open between two commands."""

    def run(self, target: Target, command: str, *, limits: Limits) -> Reply | None:
        """The reply over an open connection, None when there is none that took the command.

        DroppedError with the code UNANSWERED when nobody can tell whether it took it.
        """
        ...

    def keep(self, target: Target) -> None:
        """Leave a connection open for the next command, without waiting for it."""
        ...

    def forget(self, target: Target) -> None:
        """End the open connection of ours, if there is one: the next command makes a new login."""
        ...


@dataclass
class Connections:
    """The transport of the product: an open connection where there is one, else what `choose` gives for a route."""

    config: Path
    runner: Runner
    choose: Callable[[Route], Link]
    warm: Warm | None = None
    limits: Limits = field(default_factory=Limits)
    _routes: dict[Target, Route] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(
        self,
        target: Target,
        command: str,
        *,
        limits: Limits | None = None,
        on_line: OnLine | None = None,
        once: bool = False,
    ) -> Reply:
        """See Transport.run."""
        # How long a connection may take is the user's to say (--timeout), whatever the command is.
        limits = self.limits if limits is None else replace(limits, connect=self.limits.connect)
        if target.port == 0:
            message = f"IAM has no port for {target.user} yet, so there is no container on {target.host.name}"
            raise LoginError(message, hint="apexgpu login")
        if self.warm is not None and not once and on_line is None:
            reply = self._over_open(self.warm, target, command, limits)
            if reply is not None:
                return reply
        route = self.route(target)
        reply = self.choose(route).run(route, command, limits=limits, on_line=on_line)
        if self.warm is not None and not once:
            self.warm.keep(target)
        return reply

    def _over_open(self, warm: Warm, target: Target, command: str, limits: Limits) -> Reply | None:
        try:
            return warm.run(target, command, limits=limits)
        except DroppedError as exc:
            # A manage command without `once` changes nothing; a command of the user's might, so it is not repeated.
            if exc.code == UNANSWERED and target.role == "manage":
                return None
            raise

    def forget(self, target: Target) -> None:
        """Let the next command make a new login, for what logins are given there has changed."""
        if self.warm is not None:
            self.warm.forget(target)

    def route(self, target: Target) -> Route:
        """How ssh would go there; asked once a target and process."""
        with self._lock:
            known = self._routes.get(target)
        if known is None:
            known = routes.resolve(target, config=self.config, runner=self.runner)
            with self._lock:
                self._routes[target] = known
        return known


def refused_key(target: Target) -> ApexError:
    """The error for a login that the server refused with every key we have."""
    name = target.host.name
    if target.role == "manage":
        message = f"{target.user} is not registered on {name}, or the key has not reached it yet"
        return RefusedError(message, hint=f"apexgpu register {name}", code="not_registered")
    if target.role == "register":
        message = f"the register account on {name} does not take your key: someone else's push replaced it"
        return RefusedError(message, hint=f"apexgpu register {name}", code="register_key")
    message = f"the container on {name} does not take your key"
    return LoginError(
        message, hint="apexgpu login   (it sends your key to every host again)", code="key_refused"
    )


def locked_key(target: Target, file: Path) -> DeclinedError:
    """The error for a login without the key in `file`, whose passphrase nobody gave."""
    message = f"no login to {target.alias} without the passphrase of {file}, and it was not given"
    return DeclinedError(message, hint=f"ssh-add {shlex.quote(str(file))}", code="key_locked")


def too_slow(target: Target, seen: str) -> DroppedError:
    """The error for a command that was taken and did not end in time; `seen` is what it said until then."""
    last = last_line(seen, "nothing")[-80:]
    name = target.host.name
    # A manage shell asks IAM before it says its first word.
    hint = (
        f"apexgpu status {name}"
        if target.role == "container"
        else f"apexgpu doctor {name}   (does IAM answer?)"
    )
    return DroppedError(
        f"{target.alias} took the login, but did not finish in time; last seen: {last}",
        hint=hint,
        code="timeout",
        seen=seen,
    )


def killed(target: Target, out: str, err: str) -> DroppedError:
    """The error for a command in a container that a signal ended: a stop, or the kernel when memory ran out."""
    message = f"the command on {target.alias} was ended by a signal (out of memory?)"
    return DroppedError(
        message, hint=f"apexgpu status {target.host.name}", code=KILLED, seen=out, err=err
    )


def changed_key(
    target: Target, *, shown: str, known: list[str], files: list[Path], key: PublicKey | None = None
) -> HostKeyError:
    """The error for a host key that is not the known one; fingerprints in OpenSSH's form."""
    where = ", ".join(str(file) for file in files[:1])
    message = (
        f"the host key of {target.alias} has changed: it shows {shown}, known is {' or '.join(known)} ({where}); "
        "nothing was sent"
    )
    hint = "ask the administrators whether this change is theirs before you trust it"
    return ChangedHostKeyError(message, hint=hint, key=key)


def unreachable(target: Target, why: str, *, code: str = "unreachable") -> UnreachableError:
    """The error for a target that does not answer, with the cure its kind of silence has."""
    name = target.host.name
    if target.role != "container":
        return UnreachableError(
            f"{name} ({target.host.address}): {why}", hint=f"apexgpu doctor {name}", code=code
        )
    hints = {
        "connection_refused": f"apexgpu up {name}   (stopped, or its port is not forwarded)",
        "no_route": "ask the administrators to clear the stale forward of your port; nothing else helps",
    }
    return UnreachableError(
        f"the container on {name} ({target.host.address} port {target.port}): {why}",
        hint=hints.get(code, f"apexgpu status {name}"),
        code=code,
    )
