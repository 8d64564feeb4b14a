"""Runs: starts, lists, follows, stops and removes them in a container.

The programs `run_*.sh` and `runs_*.sh` of `remote/programs` do it there. All that is known
about a run is in the container, in `~/.cache/apexgpu/runs/NAME`, so every laptop sees the same.
"""

import base64
import binascii
import re
import secrets
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from apexgpu.errors import ApexError, RefusedError
from apexgpu.manageshell import containershell
from apexgpu.models import Host, Reply, Target
from apexgpu.process import Runner
from apexgpu.readers import number
from apexgpu.remote import remotescript
from apexgpu.ssh.failures import classify, failure_error
from apexgpu.ssh.transport import Limits, Transport
from apexgpu.transfer.copyconnection import ssh_options

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""What a run may be called: it is the name of a directory."""

LONGEST_SHOWN = 2000
"""Characters of a command line that lists contain; the container keeps all of it."""

START_LIMIT = 60.0
"""Seconds that a start may take: the start-up files of a login shell may be slow."""

PIECE = 16 * 1024 * 1024
"""Bytes of a log that one command sends at most; a longer log takes several."""

FOLLOW_SECONDS = 600
"""How long one command follows a log before the next one takes over."""

_SILENCE = 45.0
"""Seconds without a sign of life after which a followed connection is taken for dead."""

_STARTING = 60  # seconds after which a run without any process is not being started any more
_SSH_FAILED = 255  # the exit status of ssh for failures of its own
_SIGNALLED = (
    128  # exit statuses above it are those of programs that a signal ended, as shells report them
)


class RunState(StrEnum):
    """What became of a run."""

    RUNNING = "running"
    DONE = "done"  # exit status 0
    FAILED = "failed"
    KILLED = "killed"  # ended by a signal
    LOST = "lost"  # the container was stopped while it ran


@dataclass(frozen=True, slots=True)
class GpuCandidate:
    """A GPU that a run may use: nvidia-smi's number, the UUID, and what CUDA_VISIBLE_DEVICES gets."""

    index: int
    uuid: str
    visible: str


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What `start` is to start.

    `id` is unique: it marks the processes. `command` is a line for the container's shell; `program` is its first word
    where the shell does not have to find that out, else "". `directory` is relative to the home directory there.
    `gpus` are tried in order; none means a run without a GPU of its own. `owner` is shown to other members that find
    the GPU taken. `variables` is what `send_variables` returned.
    """

    name: str
    id: str
    command: str
    program: str
    directory: str
    gpus: tuple[GpuCandidate, ...] = ()
    owner: str = ""
    variables: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A run, as the container describes it. Times are Unix times.

    `exit` is the exit status of a run that has ended by itself. `cpu` is in percent of one core, `memory` and
    `gpu_memory` are bytes, all of the processes that exist now; None where that is unknown. `log_bytes` is how much
    the run has printed. `gpu` and `uuid` are those of the GPU that is locked for it.
    """

    name: str
    id: str
    state: RunState
    command: str
    directory: str
    began: int | None
    ended: int | None = None
    exit: int | None = None
    gpu: int | None = None
    uuid: str = ""
    cpu: float | None = None
    memory: int | None = None
    gpu_memory: int | None = None
    log_bytes: int = 0
    last_line: str = ""

    @property
    def is_running(self) -> bool:
        """Whether one of its processes exists."""
        return self.state is RunState.RUNNING


class GpuTakenError(RefusedError):
    """Another run holds every GPU that would do."""

    code = "gpu_taken"


class NoSuchRunError(RefusedError):
    """There is no run of this name on the host."""

    code = "no_run"


# Start


def start(transport: Transport, host: Host, request: RunRequest) -> GpuCandidate | None:
    """Start a run, and return the GPU that it got.

    Raises RefusedError (the name is taken, no such directory or program, no space), GpuTakenError, StoppedError,
    NotRegisteredError, and the errors of `transport`. After a DroppedError the run may have started.
    """
    gpus = "\n".join(f"{gpu.index} {gpu.uuid} {gpu.visible}" for gpu in request.gpus)
    info = " ".join(
        [
            f"id={request.id}",
            f"command={_encode(_shortened(request.command))}",
            f"dir={_encode(request.directory)}",
        ]
    )
    command = remotescript.sh_command(
        "run_processes.sh",
        "gpu_locks.sh",
        "run_start.sh",
        arguments=[
            request.name,
            request.id,
            info,
            request.directory,
            request.command,
            remotescript.text("run_supervise.sh"),
            gpus,
            request.owner,
            request.variables,
            request.program,
        ],
    )
    reply = containershell.execute(transport, host, command, total=START_LIMIT)
    answer = _last_answer(reply, host)
    word, _, rest = answer.partition(" ")
    if word == "started":
        uuid = rest.partition(" ")[2]
        for gpu in request.gpus:
            if gpu.uuid == uuid:
                return gpu
        return None
    reason, _, detail = rest.partition(" ")
    raise _start_error(host, request, reason, detail)


def _shortened(command: str) -> str:
    if len(command) <= LONGEST_SHOWN:
        return command
    return f"{command[:LONGEST_SHOWN]}…"


def _start_error(host: Host, request: RunRequest, reason: str, detail: str) -> ApexError:
    container = f"the container on {host.name}"
    if reason == "exists":
        message = f"there is a run called {request.name} on {host.name} already"
        return RefusedError(message, hint=f"apexgpu runs {host.name}", code="run_exists")
    if reason == "no_directory":
        message = f"there is no directory {request.directory} in {container}"
        hint = f"apexgpu ssh {host.name} -- mkdir -p {shlex.quote(request.directory)}"
        return RefusedError(message, hint=hint, code="no_directory")
    if reason == "no_command":
        message = f"{container} cannot execute the command: {detail}"
        hint = f"apexgpu ssh {host.name} -- ls"
        if request.program:
            hint = f"apexgpu ssh {host.name} -- type {shlex.quote(request.program)}"
        return RefusedError(message, hint=hint, code="no_command")
    if reason == "gpu_taken":
        whose = f" ({detail})" if detail else ""
        message = f"another run on {host.name} has taken the GPU meanwhile{whose}"
        return GpuTakenError(message, hint=f"apexgpu gpus {host.name}")
    if reason == "no_flock":
        message = f"{container} has no flock, which keeps two runs from one GPU"
        hint = f"apexgpu ssh {host.name} -- sudo apt install -y util-linux"
        return RefusedError(message, hint=hint, code="no_flock")
    if reason == "no_space":
        message = f"{container} could not write the files of the run: {detail or 'no space'}"
        hint = f"apexgpu ssh {host.name} -- df -h"
        return RefusedError(message, hint=hint, code="no_space")
    message = f"{container} sent an unknown answer: {reason} {detail}"
    return ApexError(message, hint=f"apexgpu runs {host.name}", code="unexpected")


def send_variables(
    runner: Runner,
    target: Target,
    ssh_arguments: Sequence[str],
    variables: Mapping[str, str],
    *,
    connect: float,
    ask: bool,
) -> str:
    """Store environment variables in the container for a run; return what `RunRequest.variables` needs.

    The values may be secrets, so they travel on stdin and into a file that only the user can read: command lines are
    visible to every user of a machine. The run deletes the file when it has read it. `connect` is in seconds; `ask` is
    whether somebody can answer ssh's question for a passphrase. Raises the errors of a login.
    """
    name = f".variables-{secrets.token_hex(8)}"
    lines = [f"export {key}={shlex.quote(value)}\n" for key, value in variables.items()]
    directory = '"$HOME/.cache/apexgpu/runs"'
    command = f"umask 077; mkdir -p {directory} && cat >{directory}/{name}"
    options = ssh_options(connect=connect, ask=ask, control=None, master=False)
    completed = runner.run(
        ["ssh", "-T", *options, *ssh_arguments, command],
        stdin="".join(lines).encode(),
        timeout=connect + 30,
    )
    if completed.code == 0:
        return name
    stderr = completed.err.decode("utf-8", "replace")
    failure = classify(stderr) if completed.code == _SSH_FAILED else None
    if failure is not None:
        raise failure_error(target, failure, stderr)
    message = (
        f"the container on {target.host.name} could not store the environment of the run: "
        f"{completed.last_error_line}"
    )
    raise RefusedError(message, hint=f"apexgpu ssh {target.host.name} -- df -h", code="no_space")


# List


def list_runs(transport: Transport, host: Host, names: Sequence[str] = ()) -> tuple[Run, ...]:
    """The runs on a host, oldest first; only those called `names` if there are any.

    Raises StoppedError, NotRegisteredError and the errors of `transport`.
    """
    command = remotescript.sh_command("run_processes.sh", "runs_list.sh", arguments=names)
    reply = containershell.query(transport, host, command)
    return parse_list(reply, host)


def parse_list(reply: Reply, host: Host) -> tuple[Run, ...]:
    """The runs in the output of `runs_list.sh`."""
    listing = _Listing()
    lines = remotescript.answers(reply.out)
    for line in lines:
        listing.feed(line)
    if "end" not in lines:
        hint = f"apexgpu ssh {host.name} -- ls .cache/apexgpu/runs"
        raise remotescript.no_answer_error(reply, host.name, hint=hint)
    runs = [listing.run(fields) for fields in listing.runs]
    return tuple(sorted(runs, key=lambda run: (run.began or 0, run.name)))


@dataclass(frozen=True, slots=True)
class _Process:
    """A process of a run: its session, when it started, the CPU ticks it has used, and its resident pages.

    `mark` is the id of its run, where its session's leader has ended.
    """

    session: int
    pid: int
    start: int
    ticks: int
    pages: int
    mark: str


class _Listing:
    """The lines of `runs_list.sh`, as they come."""

    def __init__(self) -> None:
        self.runs: list[list[str]] = []
        self._now = 0
        self._container = 0
        self._ticks_per_second = 100
        self._page = 4096
        self._rounds: list[list[_Process]] = []
        self._gpu_memory: dict[int, int] = {}

    def feed(self, line: str) -> None:
        """Take one line. What is not understood concerns one value only, which stays unknown."""
        word, _, rest = line.partition(" ")
        if word == "run":
            fields = rest.split("|")
            if len(fields) == 8 and NAME.fullmatch(fields[0]):
                self.runs.append(fields)
        elif word == "clock":
            numbers = [number(part) or 0 for part in rest.split()]
            if len(numbers) == 4:
                self._now, self._container, ticks, page = numbers
                self._ticks_per_second = ticks or 100
                self._page = page or 4096
        elif word == "processes":
            self._rounds.append([])
        elif word == "process" and self._rounds:
            self._feed_process(rest.split(" "))
        elif word == "gpu":
            pid, _, memory = rest.partition(" ")
            self._feed_gpu(number(pid), number(memory.rpartition(" ")[2]))

    def _feed_process(self, words: list[str]) -> None:
        numbers = [number(word) for word in words[:5]]
        if len(words) != 6 or None in numbers:
            return
        session, pid, start, ticks, pages = (value or 0 for value in numbers)
        self._rounds[-1].append(_Process(session, pid, start, ticks, pages, words[5]))

    def _feed_gpu(self, pid: int | None, mebibytes: int | None) -> None:
        if pid is not None and mebibytes is not None:
            self._gpu_memory[pid] = self._gpu_memory.get(pid, 0) + mebibytes * 1024 * 1024

    def run(self, fields: list[str]) -> Run:
        """The run of one line."""
        name, identity, _begun, end, _stop, size, last, info = fields
        values = _info_values(info)
        run_id = values.get("id", "")
        began = number(values.get("began", ""))
        status, ended = _two_numbers(end)
        session, start, container = _three_numbers(identity)
        members = [_members(processes, session, start, run_id) for processes in self._rounds]
        alive = members[-1] if members and ended is None else []
        return Run(
            name=name,
            id=run_id,
            state=self._state(status, ended, alive, session, container, began),
            command=_decode(values.get("command", "")),
            directory=_decode(values.get("dir", "")),
            began=began,
            ended=ended,
            exit=status,
            gpu=number(values.get("gpu", "")),
            uuid=values.get("uuid", "").strip("-"),
            log_bytes=number(size) or 0,
            last_line=_last_printed_line(_decode(last)),
            cpu=self._cpu(members) if alive else None,
            memory=sum(process.pages for process in alive) * self._page if alive else None,
            gpu_memory=self._gpu_memory_of(alive),
        )

    def _state(
        self,
        status: int | None,
        ended: int | None,
        alive: Sequence[_Process],
        session: int | None,
        container: int | None,
        began: int | None,
    ) -> RunState:
        if ended is not None and status is not None:
            if status == 0:
                return RunState.DONE
            return RunState.KILLED if status > _SIGNALLED else RunState.FAILED
        if alive:
            return RunState.RUNNING
        if session is None:
            # It is being started, or the start was cut off before there was a process.
            is_new = began is None or self._now - began < _STARTING
            return RunState.RUNNING if is_new else RunState.LOST
        if container and self._container and container != self._container:
            return RunState.LOST
        # Nobody wrote down how it ended, and the container was up all the time.
        return RunState.KILLED

    def _cpu(self, members: Sequence[Sequence[_Process]]) -> float | None:
        """Percent of one core between the two looks."""
        if len(members) != 2:
            return None
        before = {process.pid: process.ticks for process in members[0]}
        used = 0
        for process in members[1]:
            if process.pid in before:
                used += max(0, process.ticks - before[process.pid])
        return 100 * used / self._ticks_per_second / _BETWEEN_LOOKS

    def _gpu_memory_of(self, processes: Sequence[_Process]) -> int | None:
        known = [self._gpu_memory[one.pid] for one in processes if one.pid in self._gpu_memory]
        return sum(known) if known else None


_BETWEEN_LOOKS = 0.3  # seconds that runs_list.sh sleeps between the two


def _members(
    processes: Sequence[_Process], session: int | None, start: int | None, run_id: str
) -> list[_Process]:
    """The processes of a run. A number alone proves nothing: see `members` in run_processes.sh."""
    leader = [process for process in processes if process.pid == session]
    if leader and leader[0].start != start:
        return []
    return [
        process
        for process in processes
        if process.session == session and (leader or process.mark == run_id)
    ]


# Log


class LogEnd(StrEnum):
    """Why a part of a log ended."""

    MORE = "more"  # the limit of the part: there is more, or more may come
    ENDED = "ended"  # the run has ended, and this was all
    COMPLETE = "complete"  # all there is now; or the run has no process any more, and wrote no end
    GONE = "gone"  # the run was removed


@dataclass(frozen=True, slots=True)
class LogPart:
    """What `read_log` saw: the offset behind the last byte, why it ended, and the exit status and time of the run."""

    offset: int
    end: LogEnd
    exit: int | None = None
    ended: int | None = None


def read_log(
    transport: Transport,
    host: Host,
    name: str,
    *,
    offset: int,
    follow: bool,
    on_data: Callable[[int, bytes], None],
    run_id: str = "",
    anew: bool = False,
) -> LogPart:
    """Read a part of a run's log from the byte `offset` on; -N means the last N lines.

    With a `run_id`, the log is gone where another run has the name now. `on_data` gets each piece with its offset as it
    arrives; the log is kept within limits, so an offset may be larger than the end of the piece before. With `follow`,
    wait for what is still to come. `anew` makes a new connection, because one that is open may be dead. Raises the
    errors of `containershell.query`; after a DroppedError, go on behind the last piece.
    """
    reader = _LogReader(offset, on_data)
    mode = "follow" if follow else "once"
    command = remotescript.sh_command(
        "run_processes.sh",
        "run_log.sh",
        arguments=[name, str(offset), mode, str(PIECE), str(FOLLOW_SECONDS), run_id],
    )
    # The lines are taken as they arrive: the reply need not keep them all.
    limits = Limits(total=None, silence=_SILENCE, output=1 << 16, keeps_reading=True)
    reply = containershell.query(
        transport, host, command, limits=limits, on_line=reader.feed, once=anew
    )
    if reader.part is None:
        hint = f"apexgpu runs {host.name}"
        raise remotescript.no_answer_error(reply, host.name, hint=hint)
    return reader.part


class _LogReader:
    """The lines of `run_log.sh`, as they arrive."""

    def __init__(self, offset: int, on_data: Callable[[int, bytes], None]) -> None:
        self.part: LogPart | None = None
        self._offset = offset
        self._on_data = on_data

    def feed(self, line: str) -> None:
        """Take one line."""
        if not line.startswith(remotescript.MARK):
            return
        word, _, rest = line.removeprefix(remotescript.MARK).strip().partition(" ")
        if word == "at":
            self._offset = number(rest) or 0
        elif word == "data":
            data = _decode_bytes(rest)
            self._on_data(self._offset, data)
            self._offset += len(data)
        elif word in {end.value for end in LogEnd}:
            status, ended = _two_numbers(rest)
            self.part = LogPart(self._offset, LogEnd(word), status, ended)


# Stop and remove


def stop(transport: Transport, host: Host, run: Run, *, grace: int) -> bool:
    """End a run: TERM to all its processes, and KILL after `grace` seconds. False if it had ended before."""
    command = remotescript.sh_command(
        "run_processes.sh", "run_stop.sh", arguments=[run.name, run.id, str(grace)]
    )
    reply = containershell.execute(transport, host, command, total=grace + 30)
    answer = _last_answer(reply, host)
    if answer == "missing":
        raise no_such_run(run.name, host)
    return answer != "over"


def remove(transport: Transport, host: Host, runs: Sequence[Run]) -> tuple[str, ...]:
    """Delete the files of runs that have ended; the names of those that are gone."""
    words = [f"{run.name}={run.id}" for run in runs]
    command = remotescript.sh_command("run_processes.sh", "runs_remove.sh", arguments=words)
    reply = containershell.execute(transport, host, command, total=60)
    removed = []
    for answer in remotescript.answers(reply.out):
        word, _, name = answer.partition(" ")
        if word == "removed":
            removed.append(name)
    return tuple(removed)


def no_such_run(name: str, host: Host) -> NoSuchRunError:
    """The error for a name that no run on the host has."""
    message = f"there is no run called {name} on {host.name}"
    return NoSuchRunError(message, hint=f"apexgpu runs {host.name}")


# Values in answers


def _last_answer(reply: Reply, host: Host) -> str:
    answers = remotescript.answers(reply.out)
    if not answers:
        hint = f"apexgpu runs {host.name}"
        raise remotescript.no_answer_error(reply, host.name, hint=hint)
    return answers[-1]


def _two_numbers(text: str) -> tuple[int | None, int | None]:
    words = text.split(" ")
    if len(words) != 2:
        return None, None
    return number(words[0]), number(words[1])


def _three_numbers(text: str) -> tuple[int | None, int | None, int | None]:
    words = text.split(" ")
    if len(words) != 3:
        return None, None, None
    return number(words[0]), number(words[1]), number(words[2])


def _info_values(line: str) -> dict[str, str]:
    values = {}
    for word in line.split(" "):
        name, _, value = word.partition("=")
        values[name] = value
    return values


def _encode(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


def _decode_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _decode(text: str) -> str:
    return _decode_bytes(text).decode("utf-8", "replace")


def _last_printed_line(text: str) -> str:
    """The last line that is not blank. A progress bar writes many lines over each other, with carriage returns."""
    for line in reversed(re.split(r"[\r\n]", text)):
        if line.strip():
            return line.strip()
    return ""
