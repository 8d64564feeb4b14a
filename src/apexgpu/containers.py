"""The containers on the hosts: how they are, and what is done with them.

`status` must stay importable without typer and rich: it is the command that has to feel instant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apexgpu import manyhosts
from apexgpu.manageshell import containershell, hostlock, manage
from apexgpu.manageshell.manage import HostStatus
from apexgpu.manageshell.replies import clean
from apexgpu.models import Container, Host, Outcome
from apexgpu.remote import disks
from apexgpu.results import HostResults, JsonObject
from apexgpu.session import Session

if TYPE_CHECKING:
    from apexgpu.archives.journal import Entry

WATCH_PERIOD = 5.0
"""Seconds between two rounds of `status --watch`."""


@dataclass(frozen=True)
class ContainerStatus:
    """A host's answer about the account's container there."""

    found: HostStatus

    def to_json(self) -> JsonObject:
        """Its keys in a row of `status`; sizes in bytes, times in seconds."""
        container: JsonObject = {"running": False, "state": None}
        if self.found.container is not None:
            container = container_json(self.found.container)
        return {
            "registered": self.found.registered,
            "key_accepted": self.found.registered,
            **container,
            "uptime": self.found.uptime,
            "disks": disks.rows(self.found.disks),
        }


def container_json(container: Container) -> JsonObject:
    """A container in a JSON document."""
    return {
        "running": container.running,
        "state": container.state,
        "addresses": list(container.addresses),
        "memory": container.memory,
    }


@dataclass(frozen=True)
class Statuses(HostResults[ContainerStatus]):
    """What `status` returns. `interrupted` is the work that was cut short, by the name of its host."""

    interrupted: "Mapping[str, Entry]"

    def row(self, outcome: Outcome[ContainerStatus]) -> JsonObject:
        """See HostResults."""
        entry = self.interrupted.get(outcome.host.name)
        return {**super().row(outcome), "interrupted": entry.value() if entry else None}


def status(session: Session, patterns: Sequence[str], *, watch: bool = False) -> Statuses:
    """Ask the hosts that `patterns` name (all if there are none) how the container is there.

    Hosts that are named are also asked for the container's uptime and disks. `watch` asks again and again, as long
    as the user looks at it. The errors of hosts are in the result.
    """
    hosts = session.hosts(patterns)
    look = containershell.detailed_status if patterns else manage.status

    def ask(host: Host) -> ContainerStatus:
        return ContainerStatus(look(session.transport, host))

    with session.reporter.host_rows(Statuses, hosts, watch=watch) as rows:
        outcomes = manyhosts.run(session, hosts, ask, on_done=rows.put)
        while rows.another_round(WATCH_PERIOD):
            outcomes = manyhosts.run(session, hosts, ask, on_done=rows.put)
    return Statuses(outcomes, _interrupted_work(session, hosts))


@dataclass(frozen=True)
class Registration:
    """A host that has the account's container; `changed` is whether it had to be made."""

    changed: bool

    def to_json(self) -> JsonObject:
        """Its keys in a host's row."""
        return {"registered": True, "changed": self.changed}


@dataclass(frozen=True)
class Registrations(HostResults[Registration]):
    """What `register` returns."""


def register_on(session: Session, hosts: Sequence[Host]) -> Registrations:
    """Make the account's container on `hosts`, where there is none yet. It takes minutes.

    Each host is reported when it is done. The errors of hosts are in the result.
    """
    from apexgpu import credentials  # not needed by `status`

    names = ", ".join(host.name for host in hosts)
    if len(hosts) > 4:
        names = f"{len(hosts)} hosts"
    resend = credentials.resend_keys(session)
    with session.reporter.working(f"registering on {names}; do not interrupt") as progress:

        def done(outcome: Outcome[Registration]) -> None:
            name = outcome.host.name
            if outcome.error is not None:
                session.reporter.error(outcome.error, host=name)
            elif outcome.value is not None and outcome.value.changed:
                session.reporter.success(f"{name}: registered. Next: apexgpu up {name}")
            else:
                session.reporter.success(f"{name}: was registered already")

        def work(host: Host) -> Registration:
            changed = manage.register(
                session.transport,
                host,
                state_dir=session.state_dir,
                repost=resend,
                on_line=lambda line: progress.update(f"{host.name}: {clean(line)}"),
            )
            return Registration(changed)

        return Registrations(manyhosts.run(session, hosts, work, on_done=done))


def _interrupted_work(session: Session, hosts: Sequence[Host]) -> "dict[str, Entry]":
    """The work that was cut short on these hosts; not what another apexgpu is busy with right now."""
    if not (session.state_dir / "journal").is_dir():
        return {}
    from apexgpu.archives.journal import Journal

    journal = Journal(session.state_dir)
    interrupted = {}
    for host in hosts:
        entry = journal.find(host.name)
        if entry is not None and not hostlock.in_use(session.state_dir, host):
            interrupted[host.name] = entry
    return interrupted
