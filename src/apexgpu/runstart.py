"""Starts work that outlives the laptop: chooses a GPU, copies a directory, starts a command in a container.

    from apexgpu import runstart
    from apexgpu.session import Session

    started = runstart.start(Session(), "any", ["python", "train.py"], memory=8 * runstart.GIB)
    print(started.run.name, "runs on", started.host)

What becomes of it afterwards is in `apexgpu.runs`.
"""

import contextlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from apexgpu import containers, gpus, manyhosts, shells
from apexgpu.detached import containerruns, runnotes
from apexgpu.detached.containerruns import GpuCandidate, GpuTakenError, Run, RunRequest, RunState
from apexgpu.errors import (
    ApexError,
    DroppedError,
    NotRegisteredError,
    RefusedError,
    StoppedError,
    UsageError,
)
from apexgpu.gpus import GIB
from apexgpu.models import Host, Target
from apexgpu.nvidia import query
from apexgpu.nvidia.choice import Fit
from apexgpu.nvidia.smi import Condition
from apexgpu.platforms import hints
from apexgpu.runs import StartedRun
from apexgpu.session import Session
from apexgpu.text import size

__all__ = ["ANY", "GIB", "parse_variables", "start"]

ANY = "any"
"""Instead of a host: the best one of `gpus free`. Instead of a GPU: the best one of the host."""

LOOK_SECONDS = 2.0
"""Over how many seconds the GPUs are looked at before one is chosen."""

WAIT_PERIOD = 10.0
"""Seconds between two searches for a free GPU with `wait_for_gpu`."""


_MOST_VARIABLES = 1 << 20  # bytes of a file of variables


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
        raise UsageError("no command was given", hint="apexgpu run --help")
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
        for number, line in enumerate(_lines_of(file), start=1):
            if line.strip() and not line.lstrip().startswith("#"):
                name, value = _parse_variable(line.lstrip(), f"line {number} of {file}")
                variables[name] = value
    for word in words:
        name, value = _parse_variable(word, "--env")
        variables[name] = value
    return variables


def _lines_of(file: str) -> list[str]:
    """The lines of a file with variables, which may be a pipe."""
    try:
        with Path(file).expanduser().open("rb") as opened:
            data = opened.read(_MOST_VARIABLES + 1)
        # Programs on Windows begin a file with a byte order mark, and end its lines with CRLF.
        text = data.decode("utf-8-sig")
    except (OSError, RuntimeError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not UTF-8 text"
        message = f"cannot read {file}: {reason}"
        raise UsageError(message, hint=hints.look_at(file)) from None
    if len(data) > _MOST_VARIABLES:
        message = f"{file} is too long for a file of variables"
        raise UsageError(message, hint=hints.look_at(file))
    # Not splitlines(): a value may contain the characters that end a line only in other places, such as U+2028.
    return [line.removesuffix("\r") for line in text.split("\n")]


def _parse_variable(text: str, where: str) -> tuple[str, str]:
    if "\0" in text:
        raise UsageError(f"{where}: a variable cannot contain a NUL", hint="apexgpu run --help")
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
        request = replace(request, variables=_send_variables(session, host, variables))
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


def _send_variables(session: Session, host: Host, variables: Mapping[str, str]) -> str:
    """Store the variables in the container; what the request needs to name them.

    The connection of the start is made meanwhile, because each login takes long on a long line.
    """
    arguments = shells.ssh_arguments(session, host)

    def send(*, ask: bool) -> str:
        return containerruns.send_variables(
            session.runner,
            Target(host, "container"),
            arguments,
            variables,
            connect=session.settings.timeout,
            ask=ask,
        )

    # This ssh asks nothing: the other connection may be asking for a passphrase or about a host key.
    sent = _InBackground(lambda: send(ask=False))
    containers.ensure_running(session, host)
    stored = sent.result()
    if stored is None:
        stored = send(ask=session.reporter.can_ask)
    return stored


class _InBackground:
    """Work in a thread that nobody has to wait for."""

    def __init__(self, work: Callable[[], str]) -> None:
        self._value: str | None = None
        self._thread = threading.Thread(target=self._do, args=[work], daemon=True)
        self._thread.start()

    def _do(self, work: Callable[[], str]) -> None:
        with contextlib.suppress(ApexError):
            self._value = work()

    def result(self) -> str | None:
        """Wait; the value, or None if the work failed."""
        self._thread.join()
        return self._value


def _send_start(session: Session, host: Host, request: RunRequest) -> GpuCandidate | None:
    """Start the run; a stopped container is started first if the user agrees."""

    def begin(target: Host) -> GpuCandidate | None:
        try:
            return containerruns.start(session.transport, target, request)
        except DroppedError as exc:
            return _find_started(session, target, request, exc)

    try:
        with session.reporter.working(f"starting {request.name} on {host.name}"):
            (outcome,) = manyhosts.run(session, [host], begin)
    except KeyboardInterrupt:
        # The container may have the command already, and finishes the start without us.
        session.reporter.warn(
            f"{request.name} may have started on {host.name}", hint=f"apexgpu runs {host.name}"
        )
        raise
    if isinstance(outcome.error, StoppedError):
        containers.offer_start(session, host)
        (outcome,) = manyhosts.run(session, [host], begin)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def _find_started(
    session: Session, host: Host, request: RunRequest, lost: DroppedError
) -> GpuCandidate | None:
    """The GPU of a run whose start was sent without an answer; the run's own id shows that it started.

    Raises the error of the start if the run cannot be seen: it may still be starting.
    """
    try:
        for run in containerruns.list_runs(session.transport, host, [request.name]):
            if run.id == request.id:
                return _candidate(request, run.uuid)
    except ApexError:
        pass  # the connection is still lost
    message = f"{lost.message}; {request.name} may have started on {host.name}"
    raise lost.with_message(message, hint=f"apexgpu runs {host.name}")


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
        raise RefusedError(message, hint=hints.look_at(directory), code="no_source")
    ignored = gitignore.ignored_paths(directory, session.runner)
    if ignored:
        names = sorted(path.decode("utf-8", "replace") for path in ignored)
        shown = ", ".join(names[:5])
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        session.reporter.note(f"not copied, because git ignores it: {shown}{more}")
    place = target if target != "~" else "."
    copying.copy(session, [f"{directory}/.", f"{host.name}:{place}"], ignored=ignored)
