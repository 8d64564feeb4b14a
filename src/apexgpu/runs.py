"""Work that outlives the laptop: commands that keep running in a container, their logs and their ends.

    from apexgpu import runs
    from apexgpu.session import Session

    started = runs.start(Session(), "any", ["python", "train.py"], memory=8 * runs.GIB)
    print(started.run.name, "runs on", started.host)
    runs.wait(Session(), started.run.name)

A run is in a session of its own in the container: it survives ssh, this laptop and apexgpu, and ends with the
container. Everything that is known about it is in the container, so a second laptop sees the same.
"""

import re
import secrets
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from apexgpu import containers, gpus, manyhosts, shells
from apexgpu.detached import containerruns, runnotes
from apexgpu.detached.containerruns import (
    GpuCandidate,
    GpuTakenError,
    LogEnd,
    NoSuchRunError,
    Run,
    RunRequest,
    RunState,
)
from apexgpu.errors import (
    ApexError,
    DroppedError,
    NotRegisteredError,
    RefusedError,
    StoppedError,
    UnreachableError,
    UsageError,
)
from apexgpu.gpus import GIB
from apexgpu.models import Host, Outcome, Target
from apexgpu.nvidia import query
from apexgpu.nvidia.choice import Fit
from apexgpu.nvidia.smi import Condition
from apexgpu.results import HostResults, JsonObject, Result
from apexgpu.session import Session
from apexgpu.text import counted, size

__all__ = [
    "ANY",
    "GIB",
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
    "parse_variables",
    "start",
    "stop",
    "wait",
]

ANY = "any"
"""Instead of a host: the best one of `gpus free`. Instead of a GPU: the best one of the host."""

LOOK_SECONDS = 2.0
"""Over how many seconds the GPUs are looked at before one is chosen."""

WAIT_PERIOD = 10.0
"""Seconds between two searches for a free GPU with `wait`."""

WATCH_PERIOD = 5.0
"""Seconds between two looks at the runs with `watch`."""

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
    """What `start` returns: the run and its host."""

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


# Start


@dataclass(frozen=True)
class _Place:
    """A host, and the GPUs on it that a run may use, best first; none where it needs none.

    `by_uuid`: CUDA may number them in another way, because a GPU of the host is lost.
    """

    host: Host
    fits: tuple[Fit, ...] = ()
    by_uuid: bool = False

    @property
    def candidates(self) -> tuple[GpuCandidate, ...]:
        """The GPUs as `containerruns.start` takes them."""
        candidates = []
        for fit in self.fits:
            index = fit.gpu.index
            # Old drivers report no UUID. The lock is then named by the number.
            uuid = fit.gpu.uuid or f"GPU-{index}"
            visible = uuid if self.by_uuid else str(index)
            candidates.append(GpuCandidate(index, uuid, visible))
        return tuple(candidates)


def start(
    session: Session,
    host: str,
    command: Sequence[str],
    *,
    name: str | None = None,
    gpu: str | None = None,
    memory: int | None = None,
    directory: str | None = None,
    variables: Mapping[str, str] | None = None,
    sync: str | None = None,
    wait_for_gpu: bool = False,
) -> StartedRun:
    """Start `command` in the container on `host`, and return as soon as it runs.

    `host` may be ANY: the best host of `gpus free` among the running containers. `command` is one word that the
    container's shell reads, or several that are quoted for it, as in `shells.run`. `gpu` is ANY or the number of a GPU,
    which no other run of any member gets while this one lives; `memory` is how many bytes must be free on it (None: it
    must be empty). `directory` is where the command starts, relative to the home directory there. `variables` are added
    to its environment. `sync` is a directory of this laptop that is copied there first, without what git ignores.
    `wait_for_gpu` waits until a GPU is free.

    Raises UsageError, RefusedError (no GPU is free, the name is taken, no such directory or program, no space),
    StoppedError, and the errors of a connection. Nothing was started then, unless the error is a DroppedError.

    Example: start(session, "gpu7", ["python", "train.py", "--epochs", "90"], gpu="any", memory=8 * GIB)
    """
    words = list(command[1:] if command[:1] == ["--"] else command)
    if not words:
        raise UsageError("no command was given", hint=f"apexgpu run {host} -- CMD")
    request = RunRequest(
        name=_checked_name(name, words),
        id=secrets.token_hex(8),
        command=shells.command_line(words),
        program=_program(words),
        directory=_target_directory(directory, sync),
        owner="",
    )
    if host == ANY and gpu is None:
        gpu = ANY
    _check_gpu(gpu)
    while True:
        try:
            places = _places(session, host, gpu, memory)
            return _start_at_best(session, places, request, variables or {}, sync)
        except (gpus.NoneFreeError, GpuTakenError) as exc:
            if not wait_for_gpu:
                raise
            session.reporter.note(f"{exc.message}; looking again in {WAIT_PERIOD:g} s")
        session.pause(WAIT_PERIOD)


def parse_variables(words: Sequence[str], file: str | None) -> dict[str, str]:
    """The variables of `NAME=VALUE` words, and of a file with such lines, which the words override.

    In the file, blank lines and lines that begin with `#` are skipped; values are taken as they are, without quotes or
    expansions. Raises UsageError, which quotes no value: it may be a secret.
    """
    variables: dict[str, str] = {}
    if file is not None:
        try:
            lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            reason = getattr(exc, "strerror", None) or "it is not UTF-8 text"
            message = f"cannot read {file}: {reason}"
            raise UsageError(message, hint=f"ls -l {shlex.quote(file)}") from None
        for number, line in enumerate(lines, start=1):
            if line.strip() and not line.lstrip().startswith("#"):
                name, value = _parse_variable(line.lstrip(), f"line {number} of {file}")
                variables[name] = value
    for word in words:
        name, value = _parse_variable(word, "--env")
        variables[name] = value
    return variables


def _parse_variable(text: str, where: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise UsageError(f"{where}: expected NAME=VALUE", hint="apexgpu run --help")
    return name, value


def _checked_name(name: str | None, words: Sequence[str]) -> str:
    """The name of the run: the user's, or one made of the program and some letters that no other run has."""
    if name is None:
        program = words[0].split()[0] if words[0].split() else "run"
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(program).name.partition(".")[0])
        if stem in {"python", "python2", "python3", "bash", "sh"} and len(words) > 1:
            stem = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(words[1]).name.partition(".")[0])
        letters = "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(4))
        return f"{stem.strip('-')[:24] or 'run'}-{letters}"
    if not containerruns.NAME.fullmatch(name):
        message = (
            f"a run cannot be called {name}: a name has letters, digits, dots, dashes and underscores, "
            "and begins with a letter or digit"
        )
        raise UsageError(message, hint="apexgpu run --help")
    return name


def _program(words: Sequence[str]) -> str:
    """The program, or the shell's own command, that a command line begins with; "" where only the shell can tell."""
    if len(words) > 1:
        return words[0]
    first = re.match(r"\s*([\w./+-]+)(?=\s|$)", words[0], re.ASCII)
    return first[1] if first is not None else ""


def _target_directory(directory: str | None, sync: str | None) -> str:
    if directory is not None:
        return directory
    if sync is not None:
        return Path(sync).expanduser().resolve().name or "~"
    return "~"


def _check_gpu(gpu: str | None) -> None:
    if gpu is not None and gpu != ANY and not re.fullmatch(r"[0-9]{1,3}", gpu):
        message = f"{gpu} is not a GPU: name its number in `apexgpu gpus`, or any"
        raise UsageError(message, hint="apexgpu gpus")


def _places(session: Session, host: str, gpu: str | None, memory: int | None) -> list[_Place]:
    """Where the run may start, best first."""
    if gpu is None:
        return [_Place(containers.one_host(session, host))]
    patterns = () if host == ANY else (containers.one_host(session, host).name,)
    if gpu != ANY:
        if host == ANY:
            message = (
                f"--gpu {gpu} needs a host: the number of a GPU means something on one host only"
            )
            raise UsageError(message, hint="apexgpu gpus")
        chosen = containers.one_host(session, host)
        return [_numbered_gpu(session, chosen, int(gpu))]
    found = _free_gpus(session, patterns, memory)
    hosts = {known.name: known for known in session.known_hosts}
    places = [_Place(hosts[offer.host], offer.fits, offer.by_uuid) for offer in found.offers]
    if host == ANY:
        _report_choice(session, found)
    return places


def _free_gpus(session: Session, patterns: Sequence[str], memory: int | None) -> gpus.FreeGpus:
    """The free GPUs; NoneFreeError, or the error of the only host, if there are none."""
    found = gpus.free(session, patterns, memory=memory, seconds=LOOK_SECONDS)
    if found.error is None:
        return found
    if len(found.outcomes) == 1:
        (outcome,) = found.outcomes
        if outcome.error is not None:
            raise outcome.error
        if outcome.value is not None and outcome.value.absent is not None:
            if not isinstance(outcome.value.absent, StoppedError):
                raise outcome.value.absent
            containers.offer_start(session, outcome.host)
            return _free_gpus(session, patterns, memory)
    raise found.error


def _numbered_gpu(session: Session, host: Host, number: int) -> _Place:
    """The GPU with a number, free or not: the user wants this one."""
    transport, connect = session.transport, session.settings.timeout
    with session.reporter.working(f"looking at GPU {number} of {host.name}"):
        (outcome,) = manyhosts.run(
            session, [host], lambda target: query.look(transport, target, connect=connect)
        )
    if isinstance(outcome.error, StoppedError):
        containers.offer_start(session, host)
        return _numbered_gpu(session, host, number)
    if outcome.error is not None:
        raise outcome.error
    (report,) = outcome.value or ()
    for gpu in report.gpus:
        if gpu.index != number:
            continue
        if gpu.condition is not Condition.HEALTHY:
            message = f"GPU {number} of {host.name} cannot be used: {gpu.condition.value}"
            raise RefusedError(message, hint=f"apexgpu gpus {host.name}", code="no_gpu")
        fit = Fit(gpu, gpu.free or 0, gpu.used or 0, gpu.utilization)
        if not fit.is_empty:
            in_use = size(gpu.used)
            session.reporter.warn(f"GPU {number} of {host.name} is in use: {in_use} of its memory")
        return _Place(host, (fit,), by_uuid=not report.is_complete)
    message = f"there is no GPU {number} on {host.name}"
    raise RefusedError(message, hint=f"apexgpu gpus {host.name}", code="no_gpu")


def _report_choice(session: Session, found: gpus.FreeGpus) -> None:
    """Say why the best host is the best, and why others were not considered."""
    best = found.offers[0]
    fit = best.fits[0]
    session.reporter.note(
        f"{best.host} has the best free GPU: {fit.gpu.index} ({fit.gpu.name}), {size(fit.free)} free, "
        f"load {'unknown' if fit.load is None else f'{fit.load} %'}"
    )
    for outcome in found.outcomes:
        if outcome.error is not None:
            session.reporter.note(f"not {outcome.host.name}: {outcome.error.message}")
    for reason, why in (
        (StoppedError, "container stopped"),
        (NotRegisteredError, "not registered"),
    ):
        names = gpus.names_of_absent(found.outcomes, reason)
        if names:
            session.reporter.note(f"not {', '.join(names)}: {why}")
    offered = {offer.host for offer in found.offers}
    busy = [
        outcome.host.name
        for outcome in found.outcomes
        if outcome.value is not None
        and outcome.value.absent is None
        and outcome.host.name not in offered
    ]
    if busy:
        session.reporter.note(f"not {', '.join(busy)}: no GPU is free")


def _start_at_best(
    session: Session,
    places: Sequence[_Place],
    request: RunRequest,
    variables: Mapping[str, str],
    sync: str | None,
) -> StartedRun:
    """Start the run at the first place whose GPU nobody has taken meanwhile."""
    *first_places, last_place = places
    for place in first_places:
        try:
            return _start_at(session, place, request, variables, sync)
        except GpuTakenError as exc:
            session.reporter.note(exc.message)
    return _start_at(session, last_place, request, variables, sync)


def _start_at(
    session: Session,
    place: _Place,
    request: RunRequest,
    variables: Mapping[str, str],
    sync: str | None,
) -> StartedRun:
    host = place.host
    if sync is not None:
        _copy_directory(session, host, sync, request.directory)
    request = replace(request, gpus=place.candidates, owner=f"{session.user} {request.name}")
    if variables:
        containers.ensure_running(session, host)
        stored = containerruns.send_variables(
            session.runner,
            Target(host, "container"),
            shells.ssh_arguments(session, host),
            variables,
            connect=session.settings.timeout,
            ask=session.reporter.can_ask,
        )
        request = replace(request, variables=stored)
    chosen = _send_start(session, host, request)
    runnotes.remember(session.state_dir, request.name, host.name)
    run = Run(
        name=request.name,
        id=request.id,
        state=RunState.RUNNING,
        command=request.command,
        directory=request.directory,
        began=int(time.time()),
        gpu=None if chosen is None else chosen.index,
        uuid="" if chosen is None else chosen.uuid,
    )
    where = f"{host.name}" if chosen is None else f"GPU {chosen.index} of {host.name}"
    session.reporter.success(f"{run.name} runs on {where}")
    session.reporter.note(
        f"it keeps running without this laptop; to see its output: apexgpu runs logs {run.name} --follow"
    )
    return StartedRun(host.name, run)


def _send_start(session: Session, host: Host, request: RunRequest) -> GpuCandidate | None:
    """Start the run; a stopped container is started first if the user agrees."""

    def begin(target: Host) -> GpuCandidate | None:
        try:
            return containerruns.start(session.transport, target, request)
        except DroppedError:
            # The start may have got through. The run's own id tells.
            for run in containerruns.list_runs(session.transport, target, [request.name]):
                if run.id == request.id:
                    return _candidate(request, run.uuid)
            raise

    with session.reporter.working(f"starting {request.name} on {host.name}"):
        (outcome,) = manyhosts.run(session, [host], begin)
    if isinstance(outcome.error, StoppedError):
        containers.offer_start(session, host)
        (outcome,) = manyhosts.run(session, [host], begin)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def _candidate(request: RunRequest, uuid: str) -> GpuCandidate | None:
    for gpu in request.gpus:
        if gpu.uuid == uuid:
            return gpu
    return None


def _copy_directory(session: Session, host: Host, source: str, target: str) -> None:
    """Copy a directory of this laptop into the container, without what git ignores."""
    # Imported here: they need asyncio, and most runs copy nothing.
    from apexgpu import copying
    from apexgpu.transfer import gitignore

    directory = Path(source).expanduser()
    if not directory.is_dir():
        message = f"there is no directory {directory} on this laptop"
        raise RefusedError(message, hint=f"ls -ld {shlex.quote(str(directory))}", code="no_source")
    ignored = gitignore.ignored_paths(directory, session.runner)
    if ignored:
        names = sorted(path.decode("utf-8", "replace") for path in ignored)
        shown = ", ".join(names[:5])
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        session.reporter.note(f"not copied, because git ignores it: {shown}{more}")
    place = target if target != "~" else "."
    copying.copy(session, [f"{directory}/.", f"{host.name}:{place}"], ignored=ignored)


# List


def list_runs(
    session: Session, patterns: Sequence[str] = (), *, everything: bool = False, watch: bool = False
) -> RunList:
    """List the runs on the hosts that `patterns` name, or on all hosts.

    Of the runs that have ended, the last RECENT of each host are listed unless `everything` is set. `watch` keeps the
    list on the screen and up to date. A host without a running container is a failure only if it is named.
    """
    hosts = session.hosts(patterns)
    with session.reporter.host_rows(RunList, hosts, watch=watch) as rows:

        def look(host: Host) -> HostRuns:
            return _look(session, host, named=bool(patterns), everything=everything)

        outcomes = manyhosts.run(session, hosts, look, on_done=rows.put)
        while rows.another_round(WATCH_PERIOD):
            outcomes = manyhosts.run(session, hosts, look, on_done=rows.put)
    return RunList(outcomes)


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
    position = _Position(0 if tail is None else -tail)
    kept = bytearray()

    def pass_on(offset: int, data: bytes) -> None:
        position.advance(offset, len(data))
        if on_data is not None:
            on_data(data)
            return
        kept.extend(data)
        del kept[:-KEPT_LOG]

    try:
        _read_to_end(session, host, run, position, follow, pass_on)
    except KeyboardInterrupt:
        if run.is_running:
            session.reporter.note(f"{run.name} keeps running on {host.name}")
        raise
    text = None if on_data is not None else kept.decode("utf-8", "replace")
    return FollowedRun(host.name, _run_now(session, host, run), is_waited_for, text)


def _read_to_end(
    session: Session,
    host: Host,
    run: Run,
    position: "_Position",
    follow: bool,
    pass_on: Callable[[int, bytes], None],
) -> None:
    """Read the log to its end, in parts and over as many connections as that takes."""
    pause = _FIRST_PAUSE
    while True:
        before = position.next
        try:
            part = containerruns.read_log(
                session.transport,
                host,
                run.name,
                offset=position.next,
                follow=follow,
                on_data=pass_on,
            )
        except UnreachableError as exc:
            if not follow:
                raise
            if position.next != before:
                pause = _FIRST_PAUSE
            session.reporter.note(f"{exc.message}; connecting again in {pause:g} s")
            session.pause(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)
            continue
        pause = _FIRST_PAUSE
        position.next = max(position.next, part.offset)
        if part.end is LogEnd.GONE:
            raise containerruns.no_such_run(run.name, host)
        if part.end is not LogEnd.MORE:
            return


class _Position:
    """How far a log has been read: the offset to ask for next."""

    def __init__(self, offset: int) -> None:
        self.next = offset

    def advance(self, offset: int, count: int) -> None:
        self.next = offset + count


def follow(
    session: Session, started: StartedRun, *, on_data: Callable[[bytes], None] | None = None
) -> FollowedRun:
    """Read the log of a run that was just started until its end. The result's exit code is that of its command."""
    name = f"{started.host}:{started.run.name}"
    return logs(session, name, on_data=on_data, follow=True, is_waited_for=True)


def wait(session: Session, name: str) -> FollowedRun:
    """Wait until a run has ended. The result's exit code is that of its command."""
    with session.reporter.working(f"waiting for {name}"):
        return logs(
            session, name, on_data=lambda _data: None, follow=True, tail=1, is_waited_for=True
        )


def _run_now(session: Session, host: Host, run: Run) -> Run:
    """The run as it is now."""
    for newer in containerruns.list_runs(session.transport, host, [run.name]):
        return newer
    raise containerruns.no_such_run(run.name, host)


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
        session.confirm(f"Remove {counted(len(rows), 'run')} with their logs?")

    def remove(host: Host) -> RemovedNames:
        runs = ended[host.name]
        if not runs:
            return RemovedNames(())
        return RemovedNames(containerruns.remove(session.transport, host, runs))

    answering = [outcome.host for outcome in outcomes if outcome.host.name in ended]
    removed = {outcome.host.name: outcome for outcome in manyhosts.run(session, answering, remove)}
    results: list[Outcome[RemovedNames]] = []
    count = 0
    for outcome in outcomes:
        if outcome.error is not None:
            results.append(Outcome(outcome.host, None, outcome.error))
            session.reporter.error(outcome.error, host=outcome.host.name)
            continue
        result = removed[outcome.host.name]
        results.append(result)
        count += len(result.value.names) if result.value is not None else 0
    session.reporter.success(
        f"{counted(count, 'run')} removed" if rows else "there is no run to remove"
    )
    return RemovedRuns(results)
