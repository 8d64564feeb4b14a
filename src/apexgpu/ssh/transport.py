"""The seam to the servers: run a command on a target, within limits, and get a Reply or one of our errors.

Three ways lead there, tried in this order: an open connection (`mux`), paramiko in this process
(`paramiko_link`), and the OpenSSH client where paramiko cannot go (`openssh_link`).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from apexgpu.errors import LoginError, UnansweredError
from apexgpu.models import Reply, Target
from apexgpu.process import Runner
from apexgpu.ssh import route as routes
from apexgpu.ssh.route import Route

OnLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits in seconds: to connect and log in, for the whole command, and without a word from it."""

    connect: float = 10
    total: float | None = 30
    silence: float | None = None


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

        UnansweredError when nobody can tell whether it took it.
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
        except UnansweredError:
            # A manage command without `once` changes nothing; a command of the user's might, so it is not repeated.
            if target.role == "manage":
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
