"""What `apexgpu` alone shows: how things are, and the one command that comes next.

    from apexgpu import overview
    from apexgpu.session import Session

    print(overview.take(Session()).next_command)

Nothing is asked and nothing is changed. A lab that does not answer costs a few seconds at most.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from apexgpu import containers
from apexgpu.archives.journal import Journal
from apexgpu.errors import ApexError, ConfigError, UnreachableError
from apexgpu.iam import hostlist
from apexgpu.iam.client import IamClient
from apexgpu.manageshell import hostlock, manage, startrecords
from apexgpu.models import Host, Outcome
from apexgpu.results import JsonObject, Result
from apexgpu.session import Session
from apexgpu.ssh import fanout
from apexgpu.text import counted

LONGEST_WAIT = 3.0
"""Seconds that IAM and each host may take. Who only types `apexgpu` does not want to wait."""


@dataclass(frozen=True)
class Overview(Result):
    """How things are. The lists are names of hosts.

    `user` is None before the first login. `silent` are the hosts without an answer,
    `failing` those with another error (a refused key, an unknown host key). `interrupted` is
    a sentence for each piece of work that was cut short. `new` are hosts that IAM has now and this
    laptop does not know yet. `iam_answers` is None if IAM was not asked. `everyday` are the commands
    to list, each with a line about it.
    """

    next_command: str
    user: str | None = None
    iam_answers: bool | None = None
    running: Sequence[str] = ()
    stopped: Sequence[str] = ()
    not_registered: Sequence[str] = ()
    silent: Sequence[str] = ()
    failing: Sequence[str] = ()
    interrupted: Sequence[str] = ()
    new: Sequence[str] = ()
    vpn: str = ""
    everyday: Sequence[tuple[str, str]] = ()

    def to_json(self) -> JsonObject:
        """See Result."""
        return {
            "ok": True,
            "user": self.user,
            "iam_answers": self.iam_answers,
            "running": list(self.running),
            "stopped": list(self.stopped),
            "not_registered": list(self.not_registered),
            "unreachable": list(self.silent),
            "failing": list(self.failing),
            "interrupted": list(self.interrupted),
            "new_hosts": list(self.new),
            "next": self.next_command,
        }


@dataclass
class _IamAnswer:
    """What IAM lists now; None until it has answered."""

    hosts: tuple[Host, ...] | None = None


@dataclass
class _States:
    """The hosts by the state of the container."""

    running: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    not_registered: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    failing: list[str] = field(default_factory=list)


def take(session: Session, *, everyday: Sequence[tuple[str, str]] = ()) -> Overview:
    """Ask IAM and the hosts how things are. Their failures are part of the answer, and not errors."""
    account = session.account
    if not account.hosts or account.user != session.settings.user:
        return Overview("apexgpu login", vpn=session.settings.vpn, everyday=everyday)
    limit = min(LONGEST_WAIT, session.settings.timeout)
    session = session.with_flags(timeout=f"{limit:g}")
    hosts = account.hosts
    with session.reporter.working(f"asking {counted(len(hosts), 'host')}"):
        answer = _IamAnswer()
        # A daemon: an IAM that hangs must not keep the program from ending.
        iam = threading.Thread(target=_ask_iam, args=(session, answer), daemon=True)
        iam.start()
        outcomes = fanout.each(hosts, lambda host: manage.status(session.transport, host))
        iam.join(limit)
    states = _sort(outcomes)
    known = {host.name for host in hosts}
    listed = answer.hosts or ()
    new = [host.name for host in listed if host.name not in known]
    interrupted, resume = _interrupted(session, hosts)
    return Overview(
        resume or _next_command(session, hosts, states, new),
        user=account.user,
        iam_answers=answer.hosts is not None,
        running=states.running,
        stopped=states.stopped,
        not_registered=states.not_registered,
        silent=states.silent,
        failing=states.failing,
        interrupted=interrupted,
        new=new,
        vpn=session.settings.vpn,
        everyday=everyday,
    )


def _ask_iam(session: Session, answer: _IamAnswer) -> None:
    try:
        client = IamClient(session.account.iam_url, timeout=session.settings.timeout)
        text = client.config(session.user)
        answer.hosts = hostlist.parse(text, user=session.user, networks=session.networks)
    except ApexError:
        return  # IAM does not answer, or not as IAM does


def _sort(outcomes: Sequence[Outcome[manage.HostStatus]]) -> _States:
    states = _States()
    for outcome in outcomes:
        name = outcome.host.name
        status = outcome.value
        if isinstance(outcome.error, UnreachableError):
            states.silent.append(name)
        elif status is None:
            states.failing.append(name)
        elif status.container is None:
            states.not_registered.append(name)
        elif status.container.running:
            states.running.append(name)
        else:
            states.stopped.append(name)
    return states


def _interrupted(session: Session, hosts: Sequence[Host]) -> tuple[list[str], str]:
    """A sentence for each piece of interrupted work, and the command that resumes the first one."""
    journal = Journal(session.state_dir)
    facts = []
    commands = []
    for host in hosts:
        if hostlock.in_use(session.state_dir, host):
            continue  # another apexgpu is working on it right now
        try:
            entry = journal.find(host.name)
        except ConfigError as exc:
            facts.append(exc.message)
            commands.append(exc.hint or "apexgpu status")
            continue
        if entry is not None:
            facts.append(entry.describe())
            commands.append(entry.resume_command)
        elif startrecords.find(session.state_dir, host) is not None:
            facts.append(f"the start on {host.name} was interrupted")
            commands.append(f"apexgpu up {host.name}")
    return facts, commands[0] if commands else ""


def _next_command(
    session: Session, hosts: Sequence[Host], states: _States, new: Sequence[str]
) -> str:
    if new:
        return "apexgpu config sync"
    by_name = {host.name: host for host in hosts}
    if states.running:
        return containers.ssh_command(session, by_name[states.running[0]])
    if states.stopped:
        return f"apexgpu up {states.stopped[0]}"
    if states.not_registered:
        return f"apexgpu register {states.not_registered[0]}"
    return "apexgpu doctor"
