"""Your containers: make them, start and stop them, and see how they are.

    from apexgpu import containers
    from apexgpu.session import Session

    result = containers.up(Session(), ["gpu7", "gpu8"])
    for outcome in result.outcomes:
        print(outcome.host.name, outcome.error or outcome.value.started.container.addresses)

Host names may be globs, such as `gpu1?`. The errors of single hosts are in the result; errors of
the whole command, such as a host name that does not exist, are raised.

`status` must stay importable without typer and rich, and without what only the others need: it has
to feel instant.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from apexgpu import manyhosts, questions
from apexgpu.errors import (
    ApexError,
    ConfigError,
    NoForwardError,
    RefusedError,
    StoppedError,
    UnreachableError,
)
from apexgpu.manageshell import containershell, hostlock, manage, replies
from apexgpu.manageshell.containershell import Activity
from apexgpu.manageshell.manage import HostStatus
from apexgpu.manageshell.replies import StartReply, StopReply
from apexgpu.models import Container, Host, Outcome, Target
from apexgpu.reporter import HostRows
from apexgpu.results import HostResults, JsonObject
from apexgpu.session import Session
from apexgpu.ssh.route import config_arguments
from apexgpu.text import counted

if TYPE_CHECKING:
    from apexgpu.archives.journal import JournalEntry
    from apexgpu.manageshell.starting import StartedContainer

START_WAIT = 120.0
"""Seconds that a start may print nothing, and that the container's port may take to answer."""

_MOST_LINES = 12
_LONGEST_LINE = 200
"""What `up` shows of a host's output: so many lines, of so many letters."""


# status


@dataclass(frozen=True)
class ContainerStatus:
    """A host's answer about the account's container there."""

    found: HostStatus

    def to_json(self) -> JsonObject:
        """Its keys in a row of `status`; sizes in bytes, times in seconds."""
        # `running` and `registered` are older than the states, and remain for the scripts that read them.
        container: JsonObject = {
            "running": False,
            "state": None if self.found.registered else "not_registered",
        }
        if self.found.container is not None:
            container = _container_json(self.found.container)
        return {
            "registered": self.found.registered,
            "key_accepted": self.found.registered,
            **container,
            "uptime": self.found.uptime,
            "disks": [disk.to_json() for disk in self.found.disks],
            "reachable": self.found.reachable,
        }


def _container_json(container: Container) -> JsonObject:
    return {
        "running": container.running,
        "state": container.state.lower(),
        "addresses": list(container.addresses),
        "memory": container.memory,
    }


@dataclass(frozen=True)
class Statuses(HostResults[ContainerStatus]):
    """What `status` returns.

    `interrupted` is the work that was cut short, by the name of its host.
    """

    interrupted: "Mapping[str, JournalEntry]"

    def row(self, outcome: Outcome[ContainerStatus]) -> JsonObject:
        """See HostResults."""
        entry = self.interrupted.get(outcome.host.name)
        return {**super().row(outcome), "interrupted": entry.to_json() if entry else None}


def status(session: Session, patterns: Sequence[str], *, watch: float | None = None) -> Statuses:
    """Ask the hosts that `patterns` name (all if there are none) how the container is there.

    Hosts that are named are also asked for the container's uptime and disks. With `watch` they are
    asked again and again, with a pause of so many seconds, as long as the user looks at it. The
    errors of hosts are in the result.
    """
    hosts = session.hosts(patterns)

    def ask(host: Host) -> ContainerStatus:
        if patterns:
            found = containershell.detailed_status(session.transport, host)
        else:
            found = manage.status(session.transport, host)
        return ContainerStatus(_with_reachability(session, host, found))

    def ask_all(rows: HostRows) -> Statuses:
        outcomes = manyhosts.run(session, hosts, ask, on_done=rows.put)
        outcomes = [_with_unread_lines(outcome) for outcome in outcomes]
        return Statuses(outcomes, _interrupted_work(session, hosts))

    with session.reporter.host_rows(Statuses, hosts, watch=watch) as rows:
        result = ask_all(rows)
        while rows.another_round(result):
            result = ask_all(rows)
    return result


def _with_reachability(session: Session, host: Host, found: HostStatus) -> HostStatus:
    """The status with `reachable`, where a start was interrupted: the port may not be forwarded."""
    if not _has_start_records(session):
        return found
    from apexgpu.manageshell import startrecords

    container = found.container
    if container is None or startrecords.find(session.state_dir, host) is None:
        return found
    if container.running and found.reachable is None:
        found = containershell.with_reachability(session.transport, host, found)
    if found.reachable or not container.running:
        startrecords.end(session.state_dir, host)
    return found


def _has_start_records(session: Session) -> bool:
    """Whether a start may have been interrupted: `status` need not import the records otherwise."""
    return (session.state_dir / "starts").is_dir()


def _with_unread_lines(outcome: Outcome[ContainerStatus]) -> Outcome[ContainerStatus]:
    """The outcome with an error if a part of the host's answer is not understood. What is stays in it."""
    if outcome.value is None or outcome.value.found.container is None:
        return outcome
    error = replies.unread_lines(outcome.value.found.container, outcome.host.name)
    return outcome if error is None else replace(outcome, error=error)


def _interrupted_work(session: Session, hosts: Sequence[Host]) -> "Mapping[str, JournalEntry]":
    """The interrupted work on these hosts, without what another apexgpu is doing right now."""
    if not (session.state_dir / "journal").is_dir():
        return {}
    from apexgpu.archives.journal import Journal

    journal = Journal(session.state_dir)
    interrupted = {}
    for host in hosts:
        try:
            entry = journal.find(host.name)
        except ConfigError as exc:
            # One entry that cannot be read must not hide the other hosts.
            session.reporter.error(exc, host=host.name)
            continue
        if entry is not None and not hostlock.in_use(session.state_dir, host):
            interrupted[host.name] = entry
    return interrupted


# register


@dataclass(frozen=True)
class Registration:
    """An account and a container on a host; `changed` is whether they were made just now."""

    changed: bool

    def to_json(self) -> JsonObject:
        """Its keys in a row of `register`."""
        return {"registered": True, "changed": self.changed}


class Registrations(HostResults[Registration]):
    """What `register` returns."""


def register(
    session: Session,
    patterns: Sequence[str],
    *,
    everything: bool = False,
) -> Registrations:
    """Make your account and container on the hosts that `patterns` name.

    This takes minutes and must not be interrupted: only an administrator can delete a half-made
    account. Hosts where you are registered already are left alone.
    """
    return register_on(session, session.some_hosts(patterns, everything))


def register_on(session: Session, hosts: Sequence[Host]) -> Registrations:
    """As `register`, on these hosts."""
    from apexgpu import credentials  # `status` does not need it

    reporter = session.reporter
    resend_keys = credentials.resend_keys(session)
    doing = f"registering on {_list_names(hosts)}; do not interrupt"
    with reporter.working(doing) as progress, reporter.errors_as_they_come() as errors:

        def work(host: Host) -> Registration:
            # While a registration runs, the account has an ordinary shell, and a connection that
            # another apexgpu opens in that time keeps it.
            with session.transport.dropped_after(host):
                changed = manage.register(
                    session.transport,
                    host,
                    state_dir=session.state_dir,
                    resend_keys=resend_keys,
                    on_line=lambda line: progress.update(f"{host.name}: {replies.clean(line)}"),
                )
            return Registration(changed)

        def report(outcome: Outcome[Registration]) -> None:
            name = outcome.host.name
            if outcome.error is not None:
                errors.put(outcome)
            elif outcome.value is not None and outcome.value.changed:
                reporter.success(f"{name}: registered. Next: apexgpu up {name}")
            else:
                reporter.success(f"{name}: was registered already")

        outcomes = manyhosts.run(session, hosts, work, on_done=report)
    if session.account.user == session.user:
        registered = [outcome.host.name for outcome in outcomes if outcome.error is None]
        session.remember(session.account.with_registered(registered))
    return Registrations(outcomes)


# up


@dataclass(frozen=True)
class Start:
    """A container that answers SSH, and what its start reported."""

    started: "StartedContainer"

    def to_json(self) -> JsonObject:
        """Its keys in a row of `up`."""
        driver = self.started.driver
        driver_json: JsonObject | None = None
        if driver is not None:
            driver_json = {
                "host": driver.host,
                "container": driver.container,
                "installed": driver.installed,
            }
        return {
            **_container_json(self.started.container),
            "changed": not self.started.was_running,
            "driver": driver_json,
        }


class Starts(HostResults[Start]):
    """What `up` returns."""


def up(
    session: Session,
    patterns: Sequence[str],
    *,
    everything: bool = False,
    wait: float = START_WAIT,
) -> Starts:
    """Start the containers on the hosts that `patterns` name, and wait until they answer SSH.

    `wait` is in seconds; see START_WAIT. A container that an interrupted snapshot or recover still
    works on is not started, unless the session says yes to everything.
    """
    hosts = session.some_hosts(patterns, everything)

    def report(outcome: Outcome[Start]) -> None:
        if _can_be_restarted(session, outcome):
            return  # it is reported after the question
        if outcome.error is not None:
            errors.put(outcome)
        elif outcome.value is not None:
            _report_start(session, outcome.host, outcome.value)

    allow_during_backup = session.yes
    with session.reporter.errors_as_they_come() as errors:
        outcomes = _start(session, hosts, wait, allow_during_backup, report)
    stuck = {outcome.host for outcome in outcomes if _can_be_restarted(session, outcome)}
    outcomes = _offer_restarts(session, outcomes, wait, allow_during_backup)
    session.reporter.errors([outcome for outcome in outcomes if outcome.host in stuck])
    return Starts(outcomes)


def _can_be_restarted(session: Session, outcome: Outcome[Start]) -> bool:
    """Whether a stop and a start help, and cannot end anything that runs: see `startrecords`."""
    from apexgpu.manageshell import startrecords  # `status` does not need it

    if not isinstance(outcome.error, NoForwardError):
        return False
    record = startrecords.find(session.state_dir, outcome.host)
    return record is not None and record.is_recent


def _offer_restarts(
    session: Session, outcomes: list[Outcome[Start]], wait: float, allow_during_backup: bool
) -> list[Outcome[Start]]:
    """Stop and start the containers that an interrupted start left without a port, if the user agrees."""
    stuck = [outcome.host for outcome in outcomes if _can_be_restarted(session, outcome)]
    if not stuck:
        return outcomes
    restarted: dict[Host, Outcome[Start]] = {}
    if _may_restart(session, stuck):
        stops = _stop(session, stuck, partial(_report_stop, session, next_command=False))
        stopped = [host for host in stuck if stops[host].ok]

        def report(outcome: Outcome[Start]) -> None:
            if outcome.value is not None:
                _report_start(session, outcome.host, outcome.value)

        if stopped:
            again = _start(session, stopped, wait, allow_during_backup, report)
            restarted = {outcome.host: outcome for outcome in again}
    results = []
    for outcome in outcomes:
        result = restarted.get(outcome.host, outcome)
        if outcome.host in stuck and result.error is not None:
            error = result.error
            if isinstance(error, NoForwardError):
                hint = f"apexgpu up {outcome.host.name} --yes"
                error = error.with_message(error.message, hint=hint)
            result = replace(result, error=error)
        results.append(result)
    return results


def _may_restart(session: Session, hosts: Sequence[Host]) -> bool:
    question = questions.RESTART_STUCK.fill(hosts=_list_names(hosts))
    if session.yes:
        return True
    return session.reporter.can_ask and session.reporter.confirm(question)


def _start(
    session: Session,
    hosts: Sequence[Host],
    wait: float,
    allow_during_backup: bool,
    report: Callable[[Outcome[Start]], None],
) -> list[Outcome[Start]]:
    """Start the containers, show what the hosts print meanwhile, and offer the ports of before."""
    from apexgpu.manageshell import starting  # `status` does not need it

    # A host whose key is new is asked twice (see manyhosts). `starting.up` records here what the first start
    # answered, so that the second round does not start the container again.
    started: dict[str, StartReply] = {}
    with session.reporter.working(f"starting on {_list_names(hosts)}") as progress:
        shown = dict.fromkeys((host.name for host in hosts), 0)

        def show_line(host: Host, line: str) -> None:
            text = replies.clean(line).lstrip("= ")
            progress.update(f"{host.name}: {text}")
            # A screenful at most: whatever a host prints, what was there before stays in sight.
            if starting.is_milestone(text) and shown[host.name] < _MOST_LINES:
                shown[host.name] += 1
                session.reporter.note(f"  {host.name}: {text[:_LONGEST_LINE]}")

        def work(host: Host) -> Start:
            if not allow_during_backup:
                _refuse_during_backup(session, host)
            return _start_one(session, host, wait, partial(show_line, host), started)

        try:
            outcomes = manyhosts.run(session, hosts, work, on_done=report)
        except KeyboardInterrupt:
            _report_interruption(session, hosts)
            raise
    newly_started = []
    for outcome in outcomes:
        if outcome.value is not None and not outcome.value.started.was_running:
            newly_started.append(outcome.host)
    _offer_port_maps(session, newly_started)
    return outcomes


def _start_one(
    session: Session,
    host: Host,
    wait: float,
    on_line: Callable[[str], None],
    started: dict[str, StartReply],
) -> Start:
    """Start one container. The start stays on record unless the container is certainly reachable, or stopped."""
    from apexgpu.manageshell import starting, startrecords  # `status` does not need them

    if host.name not in started:
        running = _prepare_start(session, host)
        if running is not None:
            startrecords.end(session.state_dir, host)
            return Start(running)
    try:
        container = starting.up(
            session.transport,
            host,
            state_dir=session.state_dir,
            wait=wait,
            pause=session.pause,
            on_line=on_line,
            started=started,
        )
    except (UnreachableError, NoForwardError):
        raise  # it may run without its port
    except ApexError:
        startrecords.end(session.state_dir, host)
        raise
    startrecords.end(session.state_dir, host)
    return Start(container)


def _prepare_start(session: Session, host: Host) -> "StartedContainer | None":
    """Record the start of a stopped container; return one that runs and accepts a login already.

    NoForwardError for a container that an earlier start left without its port.
    """
    from apexgpu.manageshell import starting, startrecords

    # Two independent questions, on a slow line as fast as one.
    login = starting.LoginAttempt(session.transport, host)
    container = starting.state_before_start(session.transport, host)
    if not container.running:
        startrecords.record(session.state_dir, host)
        return None
    if container.addresses and login.succeeded():
        return starting.StartedContainer(container, was_running=True, driver=None)
    if startrecords.find(session.state_dir, host) is not None:
        # A start would find nothing to do, and wait for the port in vain.
        error = starting.port_error(session.transport, host)
        if error is not None:
            raise error
    return None


def _report_interruption(session: Session, hosts: Sequence[Host]) -> None:
    """Report the containers that may run without their port now."""
    from apexgpu.manageshell import startrecords

    names = [host.name for host in hosts if startrecords.find(session.state_dir, host) is not None]
    if names:
        message = (
            f"the start on {', '.join(names)} was interrupted: the container may be running without "
            "its port, so that nobody can log in"
        )
        session.reporter.warn(message, hint=f"apexgpu up {' '.join(names)}")


def _refuse_during_backup(session: Session, host: Host) -> None:
    """Raise when the server's tar may still be saving the container, or unpacking it."""
    from apexgpu.archives.journal import Journal, Stage

    entry = Journal(session.state_dir).find(host.name)
    if entry is None or entry.stage not in {Stage.TAR, Stage.UNPACK}:
        return
    damage = "spoil the archive" if entry.stage is Stage.TAR else "start half a container"
    message = (
        f"{entry.describe()}: a start now would {damage}; finish it first "
        f"(or start anyway: apexgpu up {host.name} --yes)"
    )
    raise RefusedError(message, hint=f"apexgpu {entry.what} {host.name}", code="under_way")


def _report_start(session: Session, host: Host, start: Start) -> None:
    driver = start.started.driver
    if driver is not None and not driver.installed:
        session.reporter.warn(
            f"{host.name}: the container's NVIDIA driver ({driver.container or 'none'}) is not the "
            f"host's ({driver.host}); CUDA programs will fail there; tell the administrators that "
            "the installer for this driver is missing"
        )
    state = "was up already" if start.started.was_running else "is up"
    session.reporter.success(f"{host.name} {state}. Next: {ssh_command(session, host)}")


def ssh_command(session: Session, host: Host) -> str:
    """The command with which the user reaches the container."""
    # Plain `ssh` finds the host only in the config that it reads by itself.
    if config_arguments(session.settings.ssh_config):
        return f"apexgpu ssh {host.name}"
    return f"ssh {host.name}"


def _offer_port_maps(session: Session, hosts: Sequence[Host]) -> None:
    """After a start, offer to make the port maps again that the stop removed.

    They are forgotten after a no.
    """
    from apexgpu.manageshell import portmaps  # `status` does not need it

    lost: dict[Host, tuple[int, ...]] = {}
    for host in hosts:
        ports = portmaps.remembered(session.state_dir, host)
        if ports:
            lost[host] = ports
    if not lost:
        return
    listed = "; ".join(f"{host.name}: {', '.join(map(str, lost[host]))}" for host in lost)
    reporter = session.reporter
    if not session.yes and not reporter.can_ask:
        host, ports = next(iter(lost.items()))
        command = f"apexgpu port {host.name} {ports[0]}"
        reporter.note(f"port maps that the stop removed: {listed}; to map one again: {command}")
        return
    if not session.yes and not reporter.confirm(questions.OPEN_PORTS.fill(ports=listed)):
        for host in lost:
            portmaps.forget(session.state_dir, host)
        return

    def map_again(host: Host) -> None:
        portmaps.map_again(
            session.transport,
            host,
            lost[host],
            note=lambda text: reporter.note(f"{host.name}: {text}"),
        )

    manyhosts.run(session, list(lost), map_again)


# down


@dataclass(frozen=True)
class Stop:
    """A stopped container, with the port maps that the stop removed."""

    reply: StopReply

    def to_json(self) -> JsonObject:
        """Its keys in a row of `down`."""
        return {
            "state": "stopped",
            "changed": self.reply.was_running,
            "unmapped": list(self.reply.unmapped),
        }


class Stops(HostResults[Stop]):
    """What `down` returns."""


def down(session: Session, patterns: Sequence[str], *, everything: bool = False) -> Stops:
    """Stop the containers on the hosts that `patterns` name, after a question if they run.

    Files stay; programs end. DeclinedError when the user declines. Port maps are remembered for the
    next `up`.
    """
    report = partial(_report_stop, session, next_command=True)
    return _down(session, session.some_hosts(patterns, everything), report)


def _down(
    session: Session, hosts: Sequence[Host], report: Callable[[Outcome[Stop]], None]
) -> Stops:
    with session.reporter.working(f"checking {_list_names(hosts)}"):
        activities = manyhosts.run(session, hosts, lambda host: _find_activity(session, host))
    confirm_stop(session, activities)
    answering = [outcome.host for outcome in activities if outcome.ok]
    stops = _stop(session, answering, report)
    session.reporter.errors(activities)
    outcomes: list[Outcome[Stop]] = []
    for outcome in activities:
        if outcome.error is not None:
            outcomes.append(Outcome(outcome.host, None, outcome.error))
        else:
            outcomes.append(stops[outcome.host])
    return Stops(outcomes)


def restart(
    session: Session,
    patterns: Sequence[str],
    *,
    everything: bool = False,
    wait: float = START_WAIT,
) -> Starts:
    """Stop the containers as `down` does, and start those that are down then as `up` does.

    A host whose container cannot be stopped has that error in its row. After an interruption, the
    containers that were stopped and not started again are reported.
    """
    stopped: list[Host] = []

    def report(outcome: Outcome[Stop]) -> None:
        # What comes next is done by this command itself.
        _report_stop(session, outcome, next_command=False)
        if outcome.ok:
            stopped.append(outcome.host)

    started: dict[Host, Outcome[Start]] = {}
    try:
        stops = _down(session, session.some_hosts(patterns, everything), report)
        if stopped:
            for start in up(session, [host.name for host in stopped], wait=wait).outcomes:
                started[start.host] = start
    except (KeyboardInterrupt, ApexError):
        _report_left_stopped(session, stopped)
        raise
    rows = []
    for stop in stops.outcomes:
        not_stopped: Outcome[Start] = Outcome(stop.host, None, stop.error)
        rows.append(started.get(stop.host, not_stopped))
    return Starts(rows)


def _report_left_stopped(session: Session, hosts: Sequence[Host]) -> None:
    """Report the containers that a restart has stopped and not begun to start."""
    from apexgpu.manageshell import startrecords

    # A start that was begun and interrupted has been reported by `up`.
    names = [host.name for host in hosts if startrecords.find(session.state_dir, host) is None]
    if names:
        message = f"{', '.join(names)}: stopped, and not started again"
        session.reporter.warn(message, hint=f"apexgpu up {' '.join(names)}")


def _find_activity(session: Session, host: Host) -> Activity | None:
    """What runs in the container; None for a stopped container."""
    if not manage.container_state(session.transport, host).running:
        return None
    return containershell.activity(session.transport, host)


def confirm_stop(session: Session, activities: Sequence[Outcome[Activity | None]]) -> None:
    """Show what runs in the containers, and ask whether to stop them.

    DeclinedError when the user declines.
    """
    running = []
    busy = []
    for outcome in activities:
        if outcome.value is None:
            continue
        show_activity(session, outcome.host, outcome.value)
        running.append(outcome.host)
        if outcome.value.busy:
            busy.append(outcome.host.name)
    if not running:
        return
    names = _list_names(running)
    if busy:
        session.confirm(questions.STOP_IN_USE.fill(hosts=names, busy=", ".join(busy)))
    else:
        session.confirm(questions.STOP.fill(hosts=names))


def show_activity(session: Session, host: Host, activity: Activity | None) -> None:
    """Report what a stop would end, for a user who is about to be asked."""
    if activity is None or session.yes:
        return
    for line in activity.sessions:
        session.reporter.note(f"  {host.name}: logged in: {line}")
    for line in activity.gpu_processes:
        session.reporter.note(f"  {host.name}: on a GPU: {line}")
    for name in activity.runs:
        session.reporter.note(f"  {host.name}: a run that would end: {name}")


def _stop(
    session: Session, hosts: Sequence[Host], report: Callable[[Outcome[Stop]], None]
) -> dict[Host, Outcome[Stop]]:
    from apexgpu.manageshell import portmaps  # `status` does not need it

    if not hosts:
        return {}
    with (
        session.reporter.working(f"stopping on {_list_names(hosts)}") as progress,
        session.reporter.errors_as_they_come() as errors,
    ):

        def work(host: Host) -> Stop:
            reply = manage.down(
                session.transport,
                host,
                state_dir=session.state_dir,
                on_line=lambda line: progress.update(f"{host.name}: {replies.clean(line)}"),
            )
            portmaps.remember(session.state_dir, host, reply.ports)
            # The other end of an open connection is gone, which it may take half a minute to notice.
            session.transport.close(Target(host, "container"))
            return Stop(reply)

        def take(outcome: Outcome[Stop]) -> None:
            if outcome.error is not None:
                errors.put(outcome)
            else:
                report(outcome)

        outcomes = manyhosts.run(session, hosts, work, on_done=take)
    return {outcome.host: outcome for outcome in outcomes}


def _report_stop(session: Session, outcome: Outcome[Stop], *, next_command: bool) -> None:
    name = outcome.host.name
    if outcome.value is not None and outcome.value.reply.was_running:
        removed = ""
        if outcome.value.reply.user_maps:
            maps = ", ".join(outcome.value.reply.user_maps)
            removed = f" Port maps that were removed: {maps}."
        if next_command:
            session.reporter.success(f"{name} is down.{removed} Next: apexgpu up {name}")
        else:
            session.reporter.success(f"{name} is down.{removed}")
    else:
        session.reporter.success(f"{name} was down already")


# Going into one container


def one_host(session: Session, name: str, *, several: str = "apexgpu status") -> Host:
    """Return the host called `name`.

    UsageError, with the hint `several`, for a glob that matches more than one: see Session.one_host.
    """
    return session.one_host(name, several=several)


def is_running(session: Session, host: Host) -> bool:
    """Whether the container accepts a login.

    False for a stopped container; every other problem is raised.
    """
    try:
        containershell.query(session.transport, host, "true")
    except StoppedError:
        return False
    return True


def ensure_running(session: Session, host: Host, command: str = "true") -> str:
    """Make sure that the container accepts a login, for a program that is about to need one.

    A stopped container is started if the user agrees. Returns the output of `command` in a
    container that was running, "" for one that had to be started. Raises whatever is in the way:
    DeclinedError, StoppedError (nobody can be asked), UnreachableError …
    """

    def query(host: Host) -> str | None:
        try:
            return containershell.query(session.transport, host, command).out
        except StoppedError:
            return None

    (outcome,) = manyhosts.run(session, [host], query)
    if isinstance(outcome.error, NoForwardError):
        _restart_or_raise(session, host, outcome.error)
        return ""
    if outcome.error is not None:
        raise outcome.error
    if outcome.value is None:
        offer_start(session, host)
    return outcome.value or ""


def _restart_or_raise(session: Session, host: Host, error: NoForwardError) -> None:
    """Stop and start a container that an interrupted start left without its port, if the user agrees."""
    unreachable: list[Outcome[Start]] = [Outcome(host, None, error)]
    (outcome,) = _offer_restarts(session, unreachable, START_WAIT, False)
    if outcome.error is not None:
        raise outcome.error


def offer_start(session: Session, host: Host) -> None:
    """Start the stopped container if the user agrees.

    StoppedError when nobody can be asked, DeclinedError when the user declines.
    """
    if not session.yes and not session.reporter.can_ask:
        raise replies.container_stopped(host.name)
    # What would be refused after a yes is refused before the question.
    _refuse_during_backup(session, host)
    session.confirm(questions.START.fill(host=host.name))

    def report(outcome: Outcome[Start]) -> None:
        if outcome.value is not None:
            _report_start(session, host, outcome.value)

    # The user agreed to a start, but not to one in the middle of a backup.
    (outcome,) = _start(session, [host], START_WAIT, False, report)
    if outcome.error is not None:
        raise outcome.error


def _list_names(hosts: Sequence[Host]) -> str:
    if len(hosts) > 4:
        return counted(len(hosts), "host")
    return ", ".join(host.name for host in hosts)
