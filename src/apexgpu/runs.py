"""Work that outlives the laptop: commands that keep running in a container, their logs and their ends.

    from apexgpu import runs
    from apexgpu.session import Session

    for outcome in runs.list_runs(Session()).outcomes:
        print(outcome.host.name, outcome.value)
    runs.wait(Session(), "train-x7k2")

`apexgpu.runstart` starts them.

A run is in a session of its own in the container: it survives ssh, this laptop and apexgpu, and ends with the
container. Everything that is known about it is in the container, so a second laptop sees the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apexgpu import containers, manyhosts, questions
from apexgpu.detached import containerruns, runnotes
from apexgpu.detached.containerruns import (
    LogEnd,
    NoSuchRunError,
    Run,
    RunState,
)
from apexgpu.errors import (
    ApexError,
    NotRegisteredError,
    StoppedError,
    UnansweredError,
    UnreachableError,
    UsageError,
)
from apexgpu.models import Host, Outcome
from apexgpu.results import HostResults, JsonObject, Result
from apexgpu.session import Session
from apexgpu.text import counted

__all__ = [
    "FollowedRun",
    "HostRuns",
    "RemovedRuns",
    "Run",
    "RunList",
    "RunState",
    "StartedRun",
    "StoppedRuns",
    "clean",
    "follow",
    "list_runs",
    "logs",
    "stop",
    "wait",
]

STOP_GRACE = 10
"""Seconds that a run may take to end by itself before it is killed."""

RECENT = 20
"""How many ended runs of a host `list_runs` shows unless it is asked for all."""

KEPT_LOG = 1024 * 1024
"""How many bytes of a log are kept for a JSON document."""

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True)
class HostRuns:
    """The runs on one host, oldest first, or the reason why no container runs there. `hidden` are not listed."""

    runs: tuple[Run, ...] = ()
    absent: ApexError | None = None
    hidden: int = 0

    def to_json(self) -> JsonObject:
        """Its keys in a host's row."""
        return {"state": "running" if self.absent is None else self.absent.code}


@dataclass(frozen=True)
class RunList(HostResults[HostRuns]):
    """What `list_runs` returns."""

    missing = HostRuns().to_json() | {"state": None}

    def to_json(self) -> JsonObject:
        """`runs` has a row for each run, `hosts` says which hosts were asked."""
        rows = []
        for outcome in self.outcomes:
            if outcome.value is not None:
                rows += [run_json(run, outcome.host.name) for run in outcome.value.runs]
        return {"ok": self.ok, "runs": rows, "hosts": super().to_json()["hosts"]}


@dataclass(frozen=True)
class StartedRun(Result):
    """What `runstart.start` returns: the run and its host."""

    host: str
    run: Run

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "runs": [run_json(self.run, self.host)]}


@dataclass(frozen=True)
class FollowedRun(Result):
    """What `logs` and `wait` return: the run as it is at the end.

    `is_waited_for`: its exit status is the command's. `log` is the end of the log (KEPT_LOG bytes at most) if it was
    not passed on.
    """

    host: str
    run: Run
    is_waited_for: bool = False
    log: str | None = None

    @property
    def exit_code(self) -> int:
        """See Result. A run that wrote down no status, because it was killed or lost, is a failure."""
        if not self.is_waited_for:
            return 0
        if self.run.exit is None:
            return 1
        return min(self.run.exit, 255)

    def to_json(self) -> JsonObject:
        """See Result."""
        row = run_json(self.run, self.host)
        if self.log is not None:
            row["log"] = self.log
        return {"ok": self.ok, "runs": [row]}


@dataclass(frozen=True)
class StoppedRuns(Result):
    """What `stop` returns: the runs as they are now, and the names of those that had ended before."""

    runs: tuple[tuple[str, Run], ...]
    ended_before: tuple[str, ...]

    def to_json(self) -> JsonObject:
        """See Result."""
        rows = []
        for host, run in self.runs:
            changed = run.name not in self.ended_before
            rows.append({**run_json(run, host), "changed": changed})
        return {"ok": True, "runs": rows}


@dataclass(frozen=True)
class RemovedNames:
    """The names of the runs whose files were removed from a host."""

    names: tuple[str, ...]

    def to_json(self) -> JsonObject:
        """Its keys in a host's row."""
        return {"removed": list(self.names), "changed": bool(self.names)}


class RemovedRuns(HostResults[RemovedNames]):
    """What `clean` returns."""


def run_json(run: Run, host: str) -> JsonObject:
    """A run in a JSON document. Times in seconds since 1970 become ISO 8601; memory is in bytes, CPU in percent."""
    return {
        "name": run.name,
        "host": host,
        "gpus": [] if run.gpu is None else [run.gpu],
        "gpu_uuid": run.uuid or None,
        "state": run.state.value,
        "exit": run.exit,
        "started": _iso_time(run.began),
        "ended": _iso_time(run.ended),
        "command": run.command,
        "directory": run.directory,
        "cpu": None if run.cpu is None else round(run.cpu, 1),
        "memory": run.memory,
        "gpu_memory": run.gpu_memory,
        "log_bytes": run.log_bytes,
        "last_line": run.last_line,
    }


def _iso_time(seconds: int | None) -> str | None:
    if seconds is None:
        return None
    from datetime import datetime

    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat()
    except (OverflowError, ValueError, OSError):
        return None


# List


def list_runs(
    session: Session,
    patterns: Sequence[str] = (),
    *,
    everything: bool = False,
    watch: float | None = None,
) -> RunList:
    """List the runs on the hosts that `patterns` name, or on all hosts.

    Of the runs that have ended, the last RECENT of each host are listed unless `everything` is set. `watch` keeps the
    list on the screen and up to date, with a pause of so many seconds between two looks. A host
    without a running container is a failure only if it is named.
    """
    hosts = session.hosts(patterns)
    with session.reporter.host_rows(RunList, hosts, watch=watch) as rows:

        def look(host: Host) -> HostRuns:
            return _look(session, host, named=bool(patterns), everything=everything)

        result = RunList(manyhosts.run(session, hosts, look, on_done=rows.put))
        alive: set[tuple[str, str]] = set()
        _newly_ended(result, alive)
        while rows.another_round(result):
            result = RunList(manyhosts.run(session, hosts, look, on_done=rows.put))
            for text in _newly_ended(result, alive):
                session.reporter.notify(text)
    return result


def _newly_ended(result: RunList, alive: set[tuple[str, str]]) -> list[str]:
    """What became of runs that were `alive` (host and id) and are not any more; `alive` is brought up to date.

    A host that does not answer says nothing about its runs.
    """
    texts = []
    for outcome in result.outcomes:
        for run in outcome.value.runs if outcome.value is not None else ():
            key = (outcome.host.name, run.id)
            if run.is_running:
                alive.add(key)
            elif key in alive:
                alive.remove(key)
                texts.append(f"{run.name} on {outcome.host.name}: {run.state.value}")
    return texts


def _look(session: Session, host: Host, *, named: bool, everything: bool) -> HostRuns:
    try:
        found = containerruns.list_runs(session.transport, host)
    except (StoppedError, NotRegisteredError) as exc:
        if named:
            raise
        return HostRuns(absent=exc)
    if everything:
        return HostRuns(found)
    ended = [run for run in found if not run.is_running]
    too_old = {run.name for run in ended[:-RECENT]}
    return HostRuns(tuple(run for run in found if run.name not in too_old), hidden=len(too_old))


# Log and end


def logs(
    session: Session,
    name: str,
    *,
    on_data: Callable[[bytes], None] | None = None,
    follow: bool = False,
    tail: int | None = None,
    is_waited_for: bool = False,
) -> FollowedRun:
    """Read the log of a run, and pass it on piece by piece, as bytes. Without `on_data`, its end is in the result.

    `tail` reads the last lines only. `follow` waits for the rest until the run ends; a connection that is lost is made
    again, and the log goes on at the same byte. Raises NoSuchRunError, UsageError (several hosts have such a run), and
    the errors of a connection.
    """
    host, run = _find(session, name)
    return _read(session, host, run, on_data, follow=follow, tail=tail, is_waited_for=is_waited_for)


def _read(
    session: Session,
    host: Host,
    run: Run,
    on_data: Callable[[bytes], None] | None,
    *,
    follow: bool,
    tail: int | None,
    is_waited_for: bool,
) -> FollowedRun:
    """See `logs`."""
    position = _Position(0 if tail is None else -tail)
    kept = bytearray()

    def pass_on(offset: int, data: bytes) -> None:
        missing = position.take(offset, len(data))
        if missing:
            session.reporter.warn(
                f"{missing} bytes of the output are missing here: of a long log, the last part is kept"
            )
        if on_data is not None:
            on_data(data)
            return
        kept.extend(data)
        del kept[:-KEPT_LOG]

    patience = _Patience(session) if follow else None
    try:
        _read_to_end(session, host, run, position, patience, pass_on)
        ended = _run_now(session, host, run, patience)
    except KeyboardInterrupt:
        if run.is_running:
            session.reporter.note(f"{run.name} keeps running on {host.name}")
        raise
    text = None if on_data is not None else kept.decode("utf-8", "replace")
    return FollowedRun(host.name, ended, is_waited_for, text)


class _Patience:
    """How to go on after a connection was lost: with pauses that become longer as long as nothing comes."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pause = _FIRST_PAUSE

    def reset(self) -> None:
        """Something came: the next pause is short."""
        self._pause = _FIRST_PAUSE

    def wait(self, lost: UnreachableError) -> None:
        """Tell why, and wait."""
        self._session.reporter.note(f"{lost.message}; connecting again in {self._pause:g} s")
        self._session.pause(self._pause)
        self._pause = min(_LONGEST_PAUSE, self._pause * 2)


def _read_to_end(
    session: Session,
    host: Host,
    run: Run,
    position: "_Position",
    patience: _Patience | None,
    pass_on: Callable[[int, bytes], None],
) -> None:
    """Read the log to its end, in parts and over as many connections as that takes.

    Without `patience`, up to what there is now, over one connection.
    """
    anew = False  # the connection of the commands before carries this one too
    while True:
        before = position.next
        try:
            part = containerruns.read_log(
                session.transport,
                host,
                run.name,
                offset=position.next,
                follow=patience is not None,
                on_data=pass_on,
                run_id=run.id,
                anew=anew,
            )
        except UnreachableError as exc:
            is_dead = isinstance(exc, UnansweredError) and not anew
            anew = True
            if is_dead:
                continue
            if patience is None:
                raise
            if position.next != before:
                patience.reset()
            patience.wait(exc)
            continue
        if patience is not None:
            patience.reset()
        position.next = max(position.next, part.offset)
        if part.end is LogEnd.GONE:
            raise containerruns.no_such_run(run.name, host)
        if part.end is not LogEnd.MORE:
            return


class _Position:
    """How far a log has been read: the offset to ask for next, or -N for the last N lines."""

    def __init__(self, offset: int) -> None:
        self.next = offset

    def take(self, offset: int, count: int) -> int:
        """Go on behind `count` bytes at `offset`; how many bytes are missing before them."""
        missing = offset - self.next if self.next >= 0 else 0
        self.next = offset + count
        return max(0, missing)


def follow(
    session: Session, started: StartedRun, *, on_data: Callable[[bytes], None] | None = None
) -> FollowedRun:
    """Read the log of a run that was just started until its end. The result's exit code is that of its command."""
    host = containers.one_host(session, started.host)
    return _read(session, host, started.run, on_data, follow=True, tail=None, is_waited_for=True)


def wait(session: Session, name: str) -> FollowedRun:
    """Wait until a run has ended. The result's exit code is that of its command."""
    with session.reporter.working(f"waiting for {name}"):
        return logs(
            session, name, on_data=lambda _data: None, follow=True, tail=1, is_waited_for=True
        )


def _run_now(session: Session, host: Host, run: Run, patience: _Patience | None = None) -> Run:
    """The run as it is now. With `patience`, ask again until the host can be reached."""
    while True:
        try:
            for newer in containerruns.list_runs(session.transport, host, [run.name]):
                return newer
            raise containerruns.no_such_run(run.name, host)
        except UnreachableError as exc:
            if patience is None:
                raise
            patience.wait(exc)


def _find(session: Session, name: str) -> tuple[Host, Run]:
    """The run called `name`, or `HOST:NAME`, and its host."""
    host_name, separator, run_name = name.rpartition(":")
    if separator:
        host = containers.one_host(session, host_name)
        return host, _only_run(session, host, run_name)
    known = {host.name: host for host in session.known_hosts}
    noted = runnotes.load(session.state_dir).host_of(run_name)
    if noted in known:
        try:
            return known[noted], _only_run(session, known[noted], run_name)
        except (NoSuchRunError, StoppedError):
            pass  # removed, and maybe started again elsewhere
    return _search(session, run_name)


def _only_run(session: Session, host: Host, name: str) -> Run:
    (outcome,) = manyhosts.run(
        session, [host], lambda target: containerruns.list_runs(session.transport, target, [name])
    )
    if outcome.error is not None:
        raise outcome.error
    for run in outcome.value or ():
        return run
    raise containerruns.no_such_run(name, host)


def _search(session: Session, name: str) -> tuple[Host, Run]:
    """Ask all hosts for a run."""
    hosts = session.hosts(())

    def look(host: Host) -> tuple[Run, ...]:
        try:
            return containerruns.list_runs(session.transport, host, [name])
        except (StoppedError, NotRegisteredError):
            return ()

    with session.reporter.working(f"looking for {name} on {counted(len(hosts), 'host')}"):
        outcomes = manyhosts.run(session, hosts, look)
    found = [(outcome.host, run) for outcome in outcomes for run in outcome.value or ()]
    if len(found) == 1:
        host, run = found[0]
        runnotes.remember(session.state_dir, run.name, host.name)
        return host, run
    if found:
        names = ", ".join(f"{host.name}:{run.name}" for host, run in found)
        raise UsageError(f"several hosts have a run called {name}: {names}", hint="apexgpu runs")
    silent = [outcome.host.name for outcome in outcomes if outcome.error is not None]
    message = f"there is no run called {name}"
    if silent:
        message += f" on the hosts that answered ({', '.join(silent)} did not)"
    raise NoSuchRunError(message, hint="apexgpu runs --all")


# Stop and clean


def stop(session: Session, names: Sequence[str]) -> StoppedRuns:
    """End runs: all processes of each get TERM, and those that are left after STOP_GRACE seconds KILL."""
    stopped = []
    ended_before = []
    for name in names:
        host, run = _find(session, name)
        with session.reporter.working(f"stopping {run.name} on {host.name}"):
            was_running = containerruns.stop(session.transport, host, run, grace=STOP_GRACE)
        if was_running:
            session.reporter.success(f"{run.name} on {host.name} is stopped")
        else:
            session.reporter.success(f"{run.name} on {host.name} had ended before")
            ended_before.append(run.name)
        stopped.append((host.name, _run_now(session, host, run)))
    return StoppedRuns(tuple(stopped), tuple(ended_before))


def clean(session: Session, patterns: Sequence[str] = ()) -> RemovedRuns:
    """Remove the files of the runs that have ended, their logs too, after a question.

    DeclinedError when the user declines.
    """
    hosts = session.hosts(patterns)

    def look(host: Host) -> HostRuns:
        return _look(session, host, named=bool(patterns), everything=True)

    with session.reporter.working(f"looking at {counted(len(hosts), 'host')}"):
        outcomes = manyhosts.run(session, hosts, look)
    ended: dict[str, list[Run]] = {}
    for outcome in outcomes:
        if outcome.value is not None:
            ended[outcome.host.name] = [run for run in outcome.value.runs if not run.is_running]
    rows = [(host, run.name, run.state.value) for host, runs in ended.items() for run in runs]
    if rows:
        session.reporter.table(("HOST", "NAME", "STATE"), rows)
        counts = {"runs": counted(len(rows), "run"), "count": len(rows)}
        session.confirm(questions.REMOVE_RUNS.fill(**counts))

    def remove(host: Host) -> RemovedNames:
        runs = ended[host.name]
        if not runs:
            return RemovedNames(())
        return RemovedNames(containerruns.remove(session.transport, host, runs))

    answering = [outcome.host for outcome in outcomes if outcome.host.name in ended]
    removed = {outcome.host.name: outcome for outcome in manyhosts.run(session, answering, remove)}
    session.reporter.errors(outcomes)
    results: list[Outcome[RemovedNames]] = []
    count = 0
    for outcome in outcomes:
        if outcome.error is not None:
            results.append(Outcome(outcome.host, None, outcome.error))
            continue
        result = removed[outcome.host.name]
        results.append(result)
        count += len(result.value.names) if result.value is not None else 0
    session.reporter.success(
        f"{counted(count, 'run')} removed" if rows else "there is no run to remove"
    )
    return RemovedRuns(results)
