"""Works on many hosts at once, and asks about all new host keys in one question.

Every module for users that connects to hosts goes through this one: it is the only place where host
keys are accepted.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apexgpu import questions
from apexgpu.errors import ConfigError
from apexgpu.models import Host, Outcome, Reply, T, Target
from apexgpu.session import Session
from apexgpu.ssh import fanout
from apexgpu.ssh.failures import UnknownHostKeyError
from apexgpu.ssh.route import keep_host_keys_advice
from apexgpu.ssh.transport import Limits, OnLine
from apexgpu.tables import Column

if TYPE_CHECKING:
    from apexgpu.ssh.hostkeys import NewHostKey

# A host key can be new twice: first that of the host, then that of the container behind it.
HOST_KEY_COLUMNS = (
    Column("HOST", least=6),
    Column("TYPE", keep=0),
    Column("FINGERPRINT"),  # never cut: the user compares it
)

_ROUNDS_OF_NEW_KEYS = 2


def run(
    session: Session,
    hosts: Sequence[Host],
    work: Callable[[Host], T],
    *,
    on_done: Callable[[Outcome[T]], None] = lambda _: None,
) -> list[Outcome[T]]:
    """Run `work` on all hosts at once; return a value or an error for each, in their order.

    The hosts whose keys are new wait for the others; then the user is asked about all those keys
    together, and `work` is run again on these hosts. `on_done` is called in this thread with each
    final outcome as it arrives.

    Raises UnknownHostKeyError when the user does not accept the keys. Nobody can be asked without a
    terminal; each host then fails with this error.

    Example:
        transport = session.transport
        outcomes = manyhosts.run(session, hosts, lambda host: manage.status(transport, host))
    """
    can_accept = session.accept_new or session.reporter.can_ask
    waiting: list[Outcome[T]] = []

    def sort_out(outcome: Outcome[T]) -> None:
        if can_accept and isinstance(outcome.error, UnknownHostKeyError):
            waiting.append(outcome)
        else:
            on_done(outcome)

    outcomes = fanout.each(hosts, work, on_done=sort_out)
    for _ in range(_ROUNDS_OF_NEW_KEYS):
        if not waiting:
            break
        again = [outcome.host for outcome in waiting]
        accept_host_keys(session, _unknown_keys(waiting))
        waiting.clear()
        by_host = {outcome.host: outcome for outcome in fanout.each(again, work, on_done=sort_out)}
        outcomes = [by_host.get(outcome.host, outcome) for outcome in outcomes]
    for outcome in waiting:
        on_done(outcome)
    return outcomes


def _unknown_keys(outcomes: Sequence[Outcome[T]]) -> list[UnknownHostKeyError]:
    errors = [outcome.error for outcome in outcomes]
    return [error for error in errors if isinstance(error, UnknownHostKeyError)]


def accept_host_keys(session: Session, errors: Sequence[UnknownHostKeyError]) -> None:
    """Show the fingerprints of all new host keys, ask once, and add the keys to known_hosts.

    With `--accept-new` nobody is asked. Raises the first of `errors` when the user declines,
    ConfigError when the user's ssh config keeps no host keys.
    """
    # paramiko and known_hosts are needed for new keys only, and `status` has to start fast.
    from apexgpu.iam.publickeys import fingerprint
    from apexgpu.ssh import hostkeys

    new_keys = hostkeys.new_host_keys(errors)
    by_file: dict[Path, list[NewHostKey]] = {}
    for new_key in new_keys:
        by_file.setdefault(_file_for(session, new_key), []).append(new_key)
    if not session.accept_new:
        session.reporter.note("These hosts show keys that this laptop has not seen before:")
        rows = [(new.alias, new.key.kind, fingerprint(new.key)) for new in new_keys]
        session.reporter.table(HOST_KEY_COLUMNS, rows)
        if not session.reporter.confirm(questions.TRUST_HOST_KEYS.fill()):
            raise errors[0]
    for file, keys in by_file.items():
        hostkeys.add(file, keys, session.state_dir)
        plural = "s" if len(keys) > 1 else ""
        session.reporter.success(f"{len(keys)} host key{plural} added to {file}")


def _file_for(session: Session, new_key: "NewHostKey") -> Path:
    if new_key.file is not None:
        return new_key.file
    # Without a file, no host key could ever be checked.
    message = (
        f"your ssh config keeps no host keys: UserKnownHostsFile is {new_key.configured_files}, "
        f"also for {new_key.alias}; {keep_host_keys_advice(session.settings.ssh_config)}"
    )
    raise ConfigError(message, hint=f"ssh -G {new_key.alias}", code="no_known_hosts")


class AcceptingTransport:
    """A transport that asks about new host keys as they appear, for work that must run only once.

    It asks about the keys of one host. A new key is found before anything is sent, so the command
    is simply sent again. Nobody is asked about the keys of other hosts: such work only looks at
    them, in many threads at once.
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
        session, transport = self._session, self._session.transport
        try:
            return transport.run(target, command, limits=limits, on_line=on_line, once=once)
        except UnknownHostKeyError as exc:
            can_accept = session.accept_new or session.reporter.can_ask
            if target.host != self._host or not can_accept:
                raise
            accept_host_keys(session, [exc])
        return transport.run(target, command, limits=limits, on_line=on_line, once=once)
