"""Showing what many hosts gave, and the question of host keys that stands before it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apexgpu.errors import ApexError, ConfigError
from apexgpu.models import Host, Outcome, PublicKey, Reply, T, Target
from apexgpu.results import error_json
from apexgpu.session import Session
from apexgpu.ssh import fanout
from apexgpu.ssh.failures import UnknownHostKeyError
from apexgpu.ssh.route import keep_host_keys_hint
from apexgpu.ssh.transport import Limits, OnLine


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key seen for the first time: who shows it, and the error that says so."""

    alias: str
    name: str
    key: PublicKey
    seen: UnknownHostKeyError


def run(
    session: Session,
    hosts: Sequence[Host],
    work: Callable[[Host], T],
    *,
    on_done: Callable[[Outcome[T]], None] = lambda _: None,
) -> list[Outcome[T]]:
    """Fan out; when host keys are new, ask for all of them at once and do those hosts again."""
    waiting: list[Outcome[T]] = []
    can_answer = session.accept_new or session.reporter.can_ask

    def done(outcome: Outcome[T]) -> None:
        if can_answer and isinstance(outcome.error, UnknownHostKeyError):
            waiting.append(outcome)
        else:
            on_done(outcome)

    outcomes = fanout.each(hosts, work, on_done=done)
    for _ in range(2):  # the host itself, then the container behind it
        if not waiting:
            break
        new = [
            outcome.error for outcome in waiting if isinstance(outcome.error, UnknownHostKeyError)
        ]
        again = [outcome.host for outcome in waiting]
        waiting.clear()
        trust(session, new)
        redone = {outcome.host: outcome for outcome in fanout.each(again, work, on_done=done)}
        outcomes = [redone.get(outcome.host, outcome) for outcome in outcomes]
    for outcome in waiting:
        on_done(outcome)
    return outcomes


def trust(session: Session, seen: Sequence[UnknownHostKeyError]) -> None:
    """Show the fingerprints of all new host keys in one table, ask once, and add them to known_hosts."""
    from apexgpu.iam.publickeys import fingerprint
    from apexgpu.ssh.hostkeys import known_hosts_name
    from apexgpu.sshfiles import knownhostsedit

    unique = {(error.route.target.alias, error.key.blob): error for error in seen}
    new = [
        NewKey(alias, known_hosts_name(error.route), error.key, error)
        for (alias, _), error in unique.items()
    ]
    by_file: dict[Path, list[NewKey]] = {}
    for entry in new:
        by_file.setdefault(_kept_in(session, entry), []).append(entry)
    if not session.accept_new:
        session.reporter.note("These hosts show keys that this laptop has not seen before:")
        rows = [(entry.alias, entry.key.kind, fingerprint(entry.key)) for entry in new]
        session.reporter.table(("HOST", "TYPE", "FINGERPRINT"), rows)
        if not session.reporter.confirm(
            "Are they the lab's (compare with an administrator if in doubt)? Trust all of them"
        ):
            raise new[0].seen
    for file, entries in by_file.items():
        hashed = entries[0].seen.route.option("hashknownhosts", "no") == "yes"
        knownhostsedit.record_added(session.state_dir, file, [entry.name for entry in entries])
        knownhostsedit.add(file, [(entry.name, entry.key) for entry in entries], hashed=hashed)
        session.reporter.success(
            f"{len(entries)} host key{'s' if len(entries) > 1 else ''} added to {file}"
        )


def _kept_in(session: Session, entry: NewKey) -> Path:
    """The file for a new key; ConfigError where the user's config keeps none, for then no key could ever be checked."""
    file = entry.seen.route.new_host_keys_file
    if file is None:
        where = entry.seen.route.option("userknownhostsfile", "none")
        message = f"your ssh config keeps no host keys: UserKnownHostsFile is {where}, also for {entry.alias}"
        raise ConfigError(
            message, hint=keep_host_keys_hint(session.settings.ssh_config), code="no_known_hosts"
        )
    return file


class Trusting:
    """The transport for work that must not begin anew: new host keys of one host are put to the user as they come up.

    Other hosts are merely looked at, by many threads at once: nothing is asked for them.

    Such a key is seen before anything is sent, so the command is simply sent again once it is trusted.
    """

    def __init__(self, session: Session, host: Host) -> None:
        self._session = session
        self._host = host

    def run(
        self,
        target: Target,
        command: str,
        *,
        limits: Limits | None = None,
        on_line: OnLine | None = None,
        once: bool = False,
    ) -> Reply:
        """See transport.Transport."""
        link = self._session.transport
        try:
            return link.run(target, command, limits=limits, on_line=on_line, once=once)
        except UnknownHostKeyError as exc:
            if target.host != self._host or not (
                self._session.accept_new or self._session.reporter.can_ask
            ):
                raise
            trust(self._session, [exc])
        return link.run(target, command, limits=limits, on_line=on_line, once=once)


def rows(
    outcomes: Sequence[Outcome[T]], value: Callable[[T], dict[str, Any]]
) -> list[dict[str, Any]]:
    """The `hosts` list of a JSON document."""
    return [
        {
            "host": outcome.host.name,
            "ok": outcome.ok,
            "error": error_json(outcome.error),
            **(value(outcome.value) if outcome.value is not None else {}),
        }
        for outcome in outcomes
    ]


def finish(
    session: Session, outcomes: Sequence[Outcome[T]], value: Callable[[T], dict[str, Any]]
) -> int:
    """JSON for all hosts, and the exit code of the whole."""
    code = fanout.exit_code(outcomes)
    session.screen.document({"ok": code == 0, "hosts": rows(outcomes, value)})
    return code


def show_error(session: Session, host: Host, error: ApexError) -> None:
    """One host's error line and hint."""
    session.screen.error(error, host=host.name)
