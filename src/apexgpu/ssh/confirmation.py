"""paramiko first, and OpenSSH for the final say: a failure of paramiko counts only when OpenSSH confirms it.

A success over paramiko counts. So do failures of the network, and commands that were sent. Everything else (a refused
key, a key that cannot be read, an unknown host key, an exception of a library) is tried once more over OpenSSH, with
the same command. If that succeeds, the rest of the run uses OpenSSH, and so do later runs, until the cause changes
(`history`).

Each connection that ends without a login counts for sshd's penalties. So where another ssh of this run has just failed
(sshfs, a copy, `apexgpu ssh`), a single connection finds out the rest: OpenSSH's where the keys were refused, and
paramiko's, which shows the host key, where ssh does not know that.

A refusal need not be confirmed where another host, with the same options, accepted one of the refused keys in this run:
then it is about this host.
"""

import threading
from collections.abc import Callable

from apexgpu.boundedoutput import OnOutput
from apexgpu.errors import (
    AgentRefusedError,
    ApexError,
    DeclinedError,
    DroppedError,
    HostKeyError,
    LocalKeyError,
    LoginError,
    NothingOfferedError,
    RefusedError,
    RevokedHostKeyError,
    SilentAgentError,
    TooManyKeysError,
)
from apexgpu.models import Reply, Target
from apexgpu.ssh.failures import UnknownHostKeyError
from apexgpu.ssh.history import ConnectionHistory, login_digest
from apexgpu.ssh.hostkeys import known_hosts_name
from apexgpu.ssh.identities import SkipReason
from apexgpu.ssh.opensshclient import OpenSshClient
from apexgpu.ssh.paramikoclient import ParamikoClient, Stage, UnconfirmedError
from apexgpu.ssh.route import Route
from apexgpu.ssh.transport import Limits, OnLogin, SshVerdict, UsedKey
from apexgpu.sshfiles.knownhosts import KnownHosts

_LONGEST_WAIT = 0.5  # seconds


class ConfirmingClient:
    """A transport.Client that connects with paramiko, and with OpenSSH where that is not enough."""

    def __init__(
        self,
        make_paramiko: Callable[[OnLogin], ParamikoClient],
        openssh: OpenSshClient,
        history: ConnectionHistory,
        *,
        identity: str = "",
        on_login: OnLogin = lambda _route, _key: None,
    ) -> None:
        """`make_paramiko` gets the function to call with each accepted key; `identity` is as in `history`.

        `on_login` is called with those keys too. The logins of `openssh` are reported by itself.
        """
        self._on_login = on_login
        self._paramiko = make_paramiko(self._note_login)
        self._openssh = openssh
        self._history = history
        self._identity = identity
        self._changed = threading.Condition()
        self._accepted: dict[str, set[str]] = {}
        self._first: set[str] = set()
        self._finished: set[str] = set()

    def run(self, route: Route, command: str, *, limits: Limits, on_line: OnOutput | None) -> Reply:
        """See transport.Client."""
        verdict = self._history.take_verdict(route)
        uses_openssh = route.needs_openssh or verdict is SshVerdict.KEY_REFUSED
        if uses_openssh or self._history.prefers_openssh(route) or _has_markers(route):
            return self._openssh.run(route, command, limits=limits, on_line=on_line)
        try:
            return self._paramiko.attempt(route, command, limits=limits, on_line=on_line)
        except UnconfirmedError as exc:
            unconfirmed = exc
        is_unknown = isinstance(unconfirmed.error, UnknownHostKeyError)
        if is_unknown and verdict is SshVerdict.HOST_KEY_UNKNOWN:
            raise unconfirmed.error
        if unconfirmed.stage is not Stage.LOGIN:
            return self._confirm(route, command, limits, on_line, unconfirmed)
        return self._confirm_login(route, command, limits, on_line, unconfirmed)

    def run_again(
        self, target: Target, command: str, *, limits: Limits, on_line: OnOutput | None
    ) -> Reply | None:
        """See transport.ReusingClient."""
        return self._paramiko.run_again(target, command, limits=limits, on_line=on_line)

    def close(self, target: Target) -> None:
        """See transport.ReusingClient."""
        self._paramiko.close(target)

    def explain(self, route: Route, log: str, limits: Limits) -> ApexError | None:
        """See transport.ExplainingClient."""
        return self._openssh.explain(route, log, limits)

    def ssh_failed(self, route: Route, verdict: SshVerdict) -> None:
        """See transport.ExplainingClient."""
        self._history.ssh_failed(route, verdict)

    def _note_login(self, route: Route, key: UsedKey) -> None:
        self._on_login(route, key)
        with self._changed:
            digest = login_digest(route, self._identity)
            self._accepted.setdefault(digest, set()).add(key.fingerprint)
            self._changed.notify_all()

    def _confirm_login(
        self,
        route: Route,
        command: str,
        limits: Limits,
        on_line: OnOutput | None,
        unconfirmed: UnconfirmedError,
    ) -> Reply:
        """As `_confirm`, but where many hosts refuse at once, first one of them alone."""
        offer = unconfirmed.offer
        if offer is not None and any(
            skipped.reason is SkipReason.BLOCKING for skipped in offer.skipped
        ):
            # ssh would wait for that pipe, and never log in anywhere.
            raise unconfirmed.error
        digest = login_digest(route, self._identity)
        with self._changed:
            is_first = digest not in self._first
            self._first.add(digest)
            while not is_first and digest not in self._finished:
                if self._is_known_refusal(digest, unconfirmed):
                    raise unconfirmed.error
                # The first one ends within its own limits. On Windows, Ctrl-C does not end a wait without one.
                self._changed.wait(_LONGEST_WAIT)
            if self._is_known_refusal(digest, unconfirmed):
                raise unconfirmed.error
        try:
            return self._confirm(route, command, limits, on_line, unconfirmed)
        finally:
            with self._changed:
                self._finished.add(digest)
                self._changed.notify_all()

    def _is_known_refusal(self, digest: str, unconfirmed: UnconfirmedError) -> bool:
        """Whether the server refused all keys, one of which another host accepted: then it is about this host.

        A server that hangs up before it has seen them all has not refused the rest.
        """
        offer = unconfirmed.offer
        if offer is None or set(offer.fingerprints) != set(unconfirmed.refused):
            return False
        return not self._accepted.get(digest, set()).isdisjoint(unconfirmed.refused)

    def _confirm(
        self,
        route: Route,
        command: str,
        limits: Limits,
        on_line: OnOutput | None,
        unconfirmed: UnconfirmedError,
    ) -> Reply:
        shown = None
        if isinstance(unconfirmed.error, UnknownHostKeyError):
            shown = unconfirmed.error.key
        everywhere = unconfirmed.stage is Stage.LOGIN
        try:
            reply = self._openssh.run(
                route, command, limits=limits, on_line=on_line, host_key=shown
            )
        except DroppedError:
            # The login succeeded.
            self._history.remember_openssh(route, everywhere=everywhere)
            raise
        except ApexError as confirmed:
            raise _more_specific(unconfirmed.error, confirmed) from None
        self._history.remember_openssh(route, everywhere=everywhere)
        return reply


def _has_markers(route: Route) -> bool:
    """Whether known_hosts has authorities or revoked keys for this server, which only OpenSSH checks."""
    return KnownHosts(route.known_hosts_files).has_markers(known_hosts_name(route))


def _more_specific(ours: ApexError, openssh: ApexError) -> ApexError:
    """Of two errors for one failure, the one with more details. OpenSSH decides what kind of failure it is."""
    if isinstance(openssh, HostKeyError):
        # Ours has both fingerprints and the key.
        is_same = isinstance(ours, HostKeyError) and not isinstance(openssh, RevokedHostKeyError)
        return ours if is_same else openssh
    is_login_failure = isinstance(openssh, LoginError | RefusedError)
    if not is_login_failure or isinstance(openssh, AgentRefusedError):
        return openssh
    if isinstance(ours, UnknownHostKeyError | NothingOfferedError):
        return openssh  # ssh may have offered more than paramiko
    if isinstance(ours, LocalKeyError | DeclinedError | SilentAgentError):
        return ours  # it names the key that could not be offered
    if isinstance(openssh, TooManyKeysError) and isinstance(ours, LoginError | RefusedError):
        return ours  # the key that matters was offered first, and refused
    return openssh
