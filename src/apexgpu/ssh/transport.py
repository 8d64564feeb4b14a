"""Running a command on a target: the interface that the rest of apexgpu uses, and how a connection is chosen.

`Connections` tries four ways in this order:

1. a connection that an earlier command of the same run has made (`paramikoclient`): two round trips,
2. an open OpenSSH ControlMaster (`controlmaster`), at a twentieth of the cost of a new login,
3. a new connection in this process (`paramikoclient`),
4. a new connection of the `ssh` program (`opensshclient`), where paramiko lacks a feature that the user's ssh config
   asks for, such as ProxyJump.

All of them return the same `Reply` and raise the same errors (`failures`).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Protocol, runtime_checkable

from apexgpu.boundedoutput import OnLine as OnLine
from apexgpu.boundedoutput import OnOutput, OutputTaker
from apexgpu.errors import ApexError, LoginError, UnansweredError
from apexgpu.models import Host, Reply, Target
from apexgpu.process import Runner
from apexgpu.ssh import route as routes
from apexgpu.ssh.route import Route

_LEAST_LIMIT = 1.0  # seconds that a new connection gets in any case


MOST_OUTPUT = 1 << 24
"""Bytes of stdout, and of stderr, that a reply may have: more than any listing or report needs."""


_MOST_MANAGE_OUTPUT = 1 << 20
"""The same for a manage shell. The longest reply are tar's complaints about each file of a damaged archive."""


@dataclass(frozen=True, slots=True)
class UsedKey:
    """The key with which a login succeeded, and the fingerprints of those that the server refused before it.

    ssh reports no fingerprint for a private key file without a public half: then `fingerprint` is "", and `refused`
    contains its path. Both `fingerprint` and `path` are "" for a login without any key.
    """

    fingerprint: str
    path: str = ""
    refused: tuple[str, ...] = ()


OnLogin = Callable[[Route, UsedKey], None]
"""Receives each login over a new connection."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits in seconds: for connecting and logging in, for the whole command, and between two outputs of it.

    None means no limit. `output` limits stdout and stderr, in bytes each. A command that prints more ends with a
    TooMuchOutputError. `keeps_reading` is for commands that must not be cut off: then the middle of the
    output is left out instead.
    """

    connect: float = 10
    total: float | None = 30
    silence: float | None = None
    output: int = MOST_OUTPUT
    keeps_reading: bool = False


class SshVerdict(Enum):
    """Why an ssh of this run could not log in."""

    HOST_KEY_UNKNOWN = "it does not know the host key"
    KEY_REFUSED = "the server accepted none of its keys"


class Transport(Protocol):
    """Runs commands on targets. Tests replace it with a strict fake."""

    def run(
        self,
        target: Target,
        command: str,
        *,
        limits: Limits | None = None,
        on_line: OnLine | None = None,
        once: bool = False,
    ) -> Reply:
        """Run `command` without a terminal, and return its output and exit status.

        An empty command asks for a shell, which makes a manage shell start the container. `once` is for commands that
        must not run twice, or that try whether a login works: only a new connection carries them. An open one may turn
        out to be dead, and what is sent to a manage host is repeated if something else than its shell replies over it.
        """
        ...


class StreamingTransport(Transport, Protocol):
    """A transport that can pass on the output of a command while it runs."""

    def stream(self, target: Target, command: str, *, limits: Limits, taker: OutputTaker) -> Reply:
        """As `run`, and `taker` gets all of the output; the reply has what `limits` let it keep."""
        ...


class Client(Protocol):
    """An SSH client that makes a new connection for each command."""

    def run(self, route: Route, command: str, *, limits: Limits, on_line: OnOutput | None) -> Reply:
        """Connect, log in, run the command, disconnect."""
        ...


@runtime_checkable
class ReusingClient(Client, Protocol):
    """A client that keeps its connections until the program ends, for further commands of the same run."""

    def run_again(
        self, target: Target, command: str, *, limits: Limits, on_line: OnOutput | None
    ) -> Reply | None:
        """Run the command over a connection that was made before; None if there is none, and nothing was sent."""
        ...

    def close(self, target: Target) -> None:
        """Close that connection."""
        ...


@runtime_checkable
class ExplainingClient(Protocol):
    """A client that understands the log of an ssh of its user's."""

    def explain(self, route: Route, log: str, limits: Limits) -> ApexError | None:
        """Why an ssh could not log in, from its log (LogLevel=DEBUG1); None if the log does not tell."""
        ...

    def ssh_failed(self, route: Route, verdict: SshVerdict) -> None:
        """Remember why an ssh that something else has run did not log in."""
        ...


class OpenConnections(Protocol):
    """Connections that stay open between commands, also between runs of apexgpu."""

    def run(
        self, target: Target, command: str, *, limits: Limits, taker: OutputTaker | None = None
    ) -> Reply | None:
        """Run the command over the open connection. None if there is none, and the command did not start.

        Raises UnansweredError if the connection took the command but did not confirm that it started.
        """
        ...

    def open_in_background(self, target: Target) -> None:
        """Open a connection for later commands, without waiting for it."""
        ...

    def socket(self, target: Target) -> Path | None:
        """The socket at which ssh itself can use the open connection; None if there is none."""
        ...

    def close(self, target: Target) -> None:
        """Close the open connection, if there is one."""
        ...


@dataclass
class Connections:
    """The real `Transport`. `client_for` chooses a client for a route that has no open connection.

    `is_manage_reply` tells whether a manage shell wrote a reply. sshd keeps the login shell that an account had when a
    connection was made: over one from the time of a registration, bash on the host would run the commands. So no
    connection to a manage host is kept before its shell has replied, and none that has replied anything else.
    """

    config: Path
    runner: Runner
    client_for: Callable[[Route], Client]
    open_connections: OpenConnections | None = None
    limits: Limits = field(default_factory=Limits)
    is_manage_reply: Callable[[Reply], bool] = lambda _reply: True
    _routes: dict[Target, Route] = field(default_factory=dict)
    _reusing: dict[Target, ReusingClient] = field(default_factory=dict)
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
        if limits is None:
            limits = self.limits
        else:
            # The user decides how long connecting may take (--timeout), whatever the command is.
            limits = replace(limits, connect=self.limits.connect)
        if target.role != "container":
            # A manage command that changes something must not be cut off, whatever it prints.
            limits = replace(limits, output=_MOST_MANAGE_OUTPUT, keeps_reading=once)
        _check_port(target)
        if not once:
            reply = self._over_kept_connection(target, command, limits, on_line)
            if reply is not None:
                return reply
        # Whoever waits for lines waits for long: a connection of its own is checked for life meanwhile.
        if self.open_connections is not None and not once and on_line is None:
            began = time.monotonic()
            reply = self._over_open_connection(self.open_connections, target, command, limits)
            if reply is not None:
                return reply
            # The time for an open connection that does not answer is a part of the user's limit.
            limits = _without_time_since(began, limits)
        reply = self._over_new_connection(target, command, limits, on_line)
        if not self._is_recognised(target, reply):
            self.close(target)
        elif not once:
            self.open_in_background(target)
        return reply

    def stream(self, target: Target, command: str, *, limits: Limits, taker: OutputTaker) -> Reply:
        """See StreamingTransport.stream. For commands in a container."""
        limits = replace(limits, connect=self.limits.connect)
        _check_port(target)
        if self.open_connections is not None:
            began = time.monotonic()
            reply = self.open_connections.run(target, command, limits=limits, taker=taker)
            if reply is not None:
                return reply
            limits = _without_time_since(began, limits)
        reply = self._over_new_connection(target, command, limits, taker)
        if self.open_connections is not None:
            self.open_connections.open_in_background(target)
        return reply

    def _over_new_connection(
        self, target: Target, command: str, limits: Limits, on_line: OnOutput | None
    ) -> Reply:
        route = self.route(target)
        client = self.client_for(route)
        if isinstance(client, ReusingClient):
            self._reusing[target] = client
        return client.run(route, command, limits=limits, on_line=on_line)

    def _over_kept_connection(
        self, target: Target, command: str, limits: Limits, on_line: OnOutput | None
    ) -> Reply | None:
        """The reply over a connection that this run has made before; None if there is none."""
        client = self._reusing.get(target)
        if client is None:
            return None
        reply = client.run_again(target, command, limits=limits, on_line=on_line)
        if reply is not None and not self._is_recognised(target, reply):
            self.close(target)
            return None
        return reply

    def _over_open_connection(
        self, connections: OpenConnections, target: Target, command: str, limits: Limits
    ) -> Reply | None:
        """The reply over the open connection. None if it is to be asked for over a new one.

        Manage commands that change something are sent with `once`, so those that arrive here can be repeated. A command
        in the container may be anything.
        """
        try:
            reply = connections.run(target, command, limits=limits)
        except UnansweredError:
            if target.role == "manage":
                return None
            raise
        if reply is not None and not self._is_recognised(target, reply):
            connections.close(target)
            return None
        return reply

    def _is_recognised(self, target: Target, reply: Reply) -> bool:
        return target.role != "manage" or self.is_manage_reply(reply)

    def explain_failure(self, target: Target, log: str) -> ApexError | None:
        """Why an ssh that the user runs could not log in, from its log; None if the log does not tell."""
        route = self.route(target)
        client = self.client_for(route)
        if not isinstance(client, ExplainingClient):
            return None
        return client.explain(route, log, self.limits)

    def ssh_failed(self, target: Target, error: ApexError) -> None:
        """Remember why an ssh that something else has run (sshfs, a copy) did not log in, if `error` is about that.

        The next command finds out the rest with one connection: servers count those that end without a login.
        """
        from apexgpu.ssh.failures import HostKeyNotTrustedError

        if isinstance(error, HostKeyNotTrustedError):
            verdict = SshVerdict.HOST_KEY_UNKNOWN
        elif isinstance(error, LoginError):
            verdict = SshVerdict.KEY_REFUSED
        else:
            return
        route = self.route(target)
        client = self.client_for(route)
        if isinstance(client, ExplainingClient):
            client.ssh_failed(route, verdict)

    def open_socket(self, target: Target) -> Path | None:
        """The socket at which ssh can use the connection that is open to `target`; None if there is none."""
        if self.open_connections is None:
            return None
        return self.open_connections.socket(target)

    def open_in_background(self, target: Target) -> None:
        """Open a connection for later commands, without waiting for it, if connections are kept."""
        if self.open_connections is not None:
            self.open_connections.open_in_background(target)

    def close(self, target: Target) -> None:
        """Close the open connections, so that the next command logs in anew, with what a login now gives it."""
        client = self._reusing.get(target)
        if client is not None:
            client.close(target)
        if self.open_connections is not None:
            self.open_connections.close(target)

    def drop(self, host: Host) -> None:
        """Close the open connections to a host and to the container there, because a login now leads to something else.

        That is so after a registration, and after everything that replaces or changes the container.
        """
        self.close(Target(host, "manage"))
        self.close(Target(host, "container"))

    @contextlib.contextmanager
    def dropped_after(self, host: Host) -> Iterator[None]:
        """Do `drop` after the block, also when it fails: then nobody knows how far it got."""
        try:
            yield
        finally:
            self.drop(host)

    def route(self, target: Target) -> Route:
        """How ssh reaches the target. `ssh -G` runs once for each target."""
        with self._lock:
            route = self._routes.get(target)
        if route is None:
            # Without the lock, so that many hosts can be resolved at once.
            route = routes.resolve(target, config=self.config, runner=self.runner)
            with self._lock:
                self._routes[target] = route
        return route


def _check_port(target: Target) -> None:
    if target.port == 0:
        message = (
            f"IAM has no port for {target.user} yet, so there is no container on {target.host.name}"
        )
        raise LoginError(message, hint="apexgpu login")


def _without_time_since(began: float, limits: Limits) -> Limits:
    """Limits for connecting after an attempt that began at `began`, a value of `time.monotonic`."""
    time_left = limits.connect - (time.monotonic() - began)
    return replace(limits, connect=max(min(_LEAST_LIMIT, limits.connect), time_left))
