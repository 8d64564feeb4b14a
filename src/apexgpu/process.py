"""Local programs: the only module that starts any. Argument lists only, always with a time limit, never a shell.

    LocalRunner.run     run to the end and return the output
    LocalRunner.stream  … and pass on each line as it arrives
    LocalRunner.attach  let the program use the terminal
    LocalRunner.spawn   start a program that outlives this one
    run_all             run several at once; none can hold the others up, not even one that no signal reaches
    start_timed         start one of these, to wait for it later
    start_async         start a program for asyncio code that writes to it and reads from it

`subprocess` and `asyncio` are imported where they are used: many commands start no program.
"""

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import IO, TYPE_CHECKING, Protocol

from apexgpu.boundedoutput import BoundedOutput, OnOutput, OutputTaker, taker_of
from apexgpu.errors import (
    ApexError,
    MissingProgramError,
    ProgramTimeoutError,
    TooMuchOutputError,
)
from apexgpu.platforms import hints, processcontrol, programs
from apexgpu.platforms.starting import background_flags, neutral_directory, own_group_flags
from apexgpu.platforms.system import current, is_windows
from apexgpu.text import last_line, size

if TYPE_CHECKING:
    import asyncio
    import subprocess

_CHUNK = 65536
_POLL = 0.02  # seconds between two looks whether a program is ready
_ASYNC_BUFFER = 1 << 20  # bytes in a pipe, or read from it and not used yet
_SSH_FAILED = 255
_MOST_OUTPUT = 1 << 24  # bytes that are read of a program of `run_all`
_MOST_REPLY = (
    1 << 26
)  # bytes that are read of a program of `run`; git lists all ignored files of a large project
_LONGEST_WAIT = 0.5  # seconds: before Python 3.14, Ctrl-C does not end a wait on Windows
_PARTS_AHEAD = 64  # how many parts of a program's output wait to be processed


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended: its arguments, exit status, and output as bytes.

    A negative `code` is the signal that ended it. `timed_out`: it was killed at a time limit. `too_much`: it was
    killed because it printed too much. `is_cut`: the middle of its output is left out.
    """

    argv: tuple[str, ...]
    code: int
    out: bytes
    err: bytes
    timed_out: bool = False
    too_much: bool = False
    is_cut: bool = False

    @property
    def text(self) -> str:
        """Stdout as text; bytes that are not UTF-8 become replacement characters."""
        return self.out.decode("utf-8", "replace")

    @property
    def last_error_line(self) -> str:
        """The last line of stderr that is not empty, else the exit status in words."""
        return last_line(self.err.decode("utf-8", "replace"), f"exit status {self.code}")


@dataclass(frozen=True, slots=True)
class Readiness:
    """How to see that a program has got past its beginning, and the seconds that this may take."""

    is_ready: Callable[[], bool]
    limit: float


Watch = Callable[[Callable[[], None], threading.Event], None]
"""Watches a program while it runs. It gets a function that ends the program, and an event that is set at its end."""


class Runner(Protocol):
    """Runs local programs. Tests replace it with a strict fake. A program that is missing is a MissingProgramError."""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 30,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run to the end. `env` is added to our environment.

        ProgramTimeoutError after `timeout` seconds, TooMuchOutputError if it prints more than 64 MiB.
        """
        ...

    def stream(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        on_line: OnOutput | None,
        total: float | None,
        silence: float | None,
        output: int | None = None,
        keeps_reading: bool = False,
        ready: "Readiness | None" = None,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run with `stdin`, and pass the output on to `on_line` as it arrives.

        The program is killed after `total` seconds, after `silence` seconds without output, or if it is not `ready` in
        time; what it printed until then is returned, with `timed_out` set. If it prints more than `output` bytes it is
        killed too, with `too_much` set; with `keeps_reading`, it goes on, and the middle of its output is left out.
        `env` is added to our environment.
        """
        ...

    def attach(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        watch: "Watch | None" = None,
    ) -> int:
        """Let the program use our terminal until it ends; return its exit status as a shell would, 130 for Ctrl-C.

        `env` is added to our environment. `watch` is called in a thread of its own.
        """
        ...

    def spawn(self, argv: Sequence[str]) -> None:
        """Start a program that outlives us, without our terminal. One that is missing is ignored.

        It runs in the root directory, so that it keeps no other directory in use: file names must be absolute.
        """
        ...

    def spawn_reader(self, argv: Sequence[str]) -> int | None:
        """As `spawn`, for a program that reads from us: return the file descriptor of its stdin, which is a pipe.

        None if the program is missing. The program sees the end of its stdin when we close it, or end.
        """
        ...


class LocalRunner:
    """The real Runner."""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 30,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """See Runner.run."""
        import subprocess

        process = _start(argv, subprocess.PIPE if stdin else subprocess.DEVNULL, env)
        kept = BoundedOutput(_MOST_REPLY)
        streams = _Output(process, kept)
        if process.stdin is not None:
            threading.Thread(target=_feed, args=(process.stdin, stdin), daemon=True).start()
        deadline = time.monotonic() + timeout
        try:
            end = streams.read(OutputTaker(), timeout, None, keeps_reading=False)
            if end is _End.TOO_MUCH:
                message = (
                    f"{argv[0]} printed more than {size(_MOST_REPLY)}, and the rest was not read"
                )
                raise TooMuchOutputError(message, hint="apexgpu doctor")
            if end is _End.OF_STREAMS:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
            if process.poll() is None:
                message = f"{argv[0]} did not end within {timeout:g} s"
                raise ProgramTimeoutError(message, hint="apexgpu doctor")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            streams.stop()
        return Completed(tuple(argv), process.returncode, kept.out, kept.err)

    def stream(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        on_line: OnOutput | None,
        total: float | None,
        silence: float | None,
        output: int | None = None,
        keeps_reading: bool = False,
        ready: "Readiness | None" = None,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """See Runner.stream."""
        with _input_file(stdin) as input_file:
            process = _start(argv, input_file, env)
        kept = BoundedOutput(output)
        streams = _Output(process, kept)
        try:
            end = streams.read(taker_of(on_line), total, silence, keeps_reading, ready)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            streams.stop()
        if end is not _End.OF_STREAMS:
            process.kill()
        return Completed(
            tuple(argv),
            process.wait(),
            kept.out,
            kept.err,
            timed_out=end is _End.TIME_LIMIT,
            too_much=end is _End.TOO_MUCH,
            is_cut=kept.is_full,
        )

    def attach(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        watch: "Watch | None" = None,
    ) -> int:
        """See Runner.attach."""
        import subprocess

        interrupts: list[int] = []
        # Ctrl-C goes to both of us; it is the program's to handle.
        previous = signal.signal(signal.SIGINT, lambda number, _frame: interrupts.append(number))
        try:
            process = subprocess.Popen(
                _command(argv),
                env=_environment(env),
                preexec_fn=processcontrol.before_start(),
            )
            with _watched(process, watch):
                status = process.wait()
        except FileNotFoundError as error:
            raise _not_started(argv[0], error) from None
        finally:
            signal.signal(signal.SIGINT, previous)
        # Without a terminal on the server, ssh has no way to pass Ctrl-C on; it ends with its own status.
        if status == _SSH_FAILED and interrupts:
            return 130
        return 128 - status if status < 0 else status

    def spawn(self, argv: Sequence[str]) -> None:
        """See Runner.spawn."""
        import subprocess

        _spawn(argv, subprocess.DEVNULL)

    def spawn_reader(self, argv: Sequence[str]) -> int | None:
        """See Runner.spawn_reader."""
        stdin, ours = os.pipe()
        try:
            started = _spawn(argv, stdin)
        finally:
            os.close(stdin)
        if not started:
            os.close(ours)
            return None
        return ours


@contextlib.contextmanager
def _watched(process: "subprocess.Popen[bytes]", watch: Watch | None) -> Iterator[None]:
    """Have `watch` called in a thread during the block, and wait for it after the block."""
    if watch is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=watch, args=(process.terminate, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _feed(pipe: IO[bytes], data: bytes) -> None:
    """Write a program's stdin. One that ends before it has read everything is not an error."""
    with contextlib.suppress(OSError), pipe:
        pipe.write(data)


def _spawn(argv: Sequence[str], stdin: int) -> bool:
    """Start a program that outlives us; whether it was found."""
    import subprocess

    try:
        process = _start_detached(argv, stdin, subprocess.DEVNULL)
    except OSError:
        return False
    # Without a status, Popen would warn when it is deleted that the process still runs.
    process.returncode = 0
    return True


def _start_detached(argv: Sequence[str], stdin: int, stderr: int) -> "subprocess.Popen[bytes]":
    import subprocess

    return subprocess.Popen(
        _command(argv),
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
        creationflags=background_flags(current()),
        cwd=neutral_directory(current()),
    )


class BackgroundProgram:
    """A program that outlives us, as long as it is watched."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def __del__(self) -> None:
        """Leave it alone."""
        if self._process.returncode is None:
            self._process.returncode = 0  # Popen would warn that it still runs

    def has_ended(self) -> bool:
        """Whether it has ended already."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it, if it still runs."""
        if not self.has_ended():
            self._process.kill()
            self._process.wait()


def start_background(argv: Sequence[str], stderr: int) -> BackgroundProgram:
    """Start a program that outlives us and writes its messages to the file descriptor `stderr`.

    MissingProgramError if it is missing.
    """
    import subprocess

    try:
        return BackgroundProgram(_start_detached(argv, subprocess.DEVNULL, stderr))
    except FileNotFoundError as error:
        raise _not_started(argv[0], error) from None


class _End(Enum):
    """Why reading a program's output ended."""

    OF_STREAMS = "both streams have ended"
    TIME_LIMIT = "a time limit"
    TOO_MUCH = "too much output"


class _Stream(Enum):
    """One of the two that a program writes."""

    OUT = "stdout"
    ERR = "stderr"


class _Output:
    """The two output streams of a process, read by a thread each. (Windows cannot wait for two pipes.)"""

    def __init__(self, process: "subprocess.Popen[bytes]", kept: BoundedOutput) -> None:
        self._process = process
        self._kept = kept
        # A bounded queue: a program that prints faster than we read waits, as it does for a slow terminal.
        self._parts: queue.Queue[tuple[_Stream, bytes]] = queue.Queue(_PARTS_AHEAD)
        self._stopped = False
        for stream, pipe in ((_Stream.OUT, process.stdout), (_Stream.ERR, process.stderr)):
            thread = threading.Thread(target=self._pump, args=(pipe, stream), daemon=True)
            thread.start()

    def stop(self) -> None:
        """Let the threads end, although nobody takes what they have read."""
        self._stopped = True

    def _pump(self, pipe: IO[bytes], stream: _Stream) -> None:
        with pipe:
            while data := os.read(pipe.fileno(), _CHUNK):
                self._put(stream, data)
                if self._stopped:
                    return
        self._put(stream, b"")  # the end of this stream

    def _put(self, stream: _Stream, data: bytes) -> None:
        while not self._stopped:
            with contextlib.suppress(queue.Full):
                self._parts.put((stream, data), timeout=1)
                return

    def read(
        self,
        taker: OutputTaker,
        total: float | None,
        silence: float | None,
        keeps_reading: bool,
        ready: "Readiness | None" = None,
    ) -> _End:
        """Read until both streams end, a time limit comes first, or there is too much output."""
        if ready is not None and not self._await(ready):
            return _End.TIME_LIMIT
        deadline = None if total is None else time.monotonic() + total
        open_streams = 2
        while open_streams:
            timeout = silence
            if deadline is not None:
                time_left = max(0.0, deadline - time.monotonic())
                if silence is None:
                    timeout = time_left
                else:
                    timeout = min(time_left, silence)
            try:
                stream, data = self._next_part(timeout)
            except queue.Empty:
                return _End.TIME_LIMIT
            if deadline is not None and time.monotonic() >= deadline:
                return _End.TIME_LIMIT
            if not data:
                open_streams -= 1
            if stream is _Stream.OUT:
                self._kept.add_out(data)
                taker.take_out(data)
            else:
                self._kept.add_err(data)
                taker.take_err(data)
            if self._kept.is_full and not keeps_reading:
                return _End.TOO_MUCH
        taker.end()
        return _End.OF_STREAMS

    def _next_part(self, limit: float | None) -> tuple[_Stream, bytes]:
        """What was read next; raises queue.Empty after `limit` seconds."""
        end = None if limit is None else time.monotonic() + limit
        while True:
            left = _LONGEST_WAIT if end is None else min(_LONGEST_WAIT, end - time.monotonic())
            try:
                return self._parts.get(timeout=max(0.0, left))
            except queue.Empty:
                if end is not None and time.monotonic() >= end:
                    raise

    def _await(self, ready: "Readiness") -> bool:
        """Wait until the program is ready or has ended; False if neither happens in time."""
        deadline = time.monotonic() + ready.limit
        while self._process.poll() is None and not ready.is_ready():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        return True


@dataclass(frozen=True, slots=True)
class TimedCommand:
    """A program for `run_all`: its arguments, a limit in seconds, its stdin, and variables for its environment."""

    argv: tuple[str, ...]
    limit: float
    stdin: bytes = b""
    env: Mapping[str, str] | None = None


def run_all(commands: Sequence[TimedCommand]) -> list[Completed]:
    """Run programs at once and return when each has ended or reached its limit; results in the order of `commands`.

    A program at its limit is killed with its children, and is not waited for: one that reads a dead network file
    system cannot be killed. MissingProgramError if one is missing; then the others are killed.

    Each has its own session, so that it cannot ask on the terminal and Ctrl-C does not reach it. Output goes to files
    instead of pipes, so that a child that keeps running in the background does not keep a pipe open.
    """
    running: list[StartedProgram] = []
    with contextlib.ExitStack() as files:
        try:
            for command in commands:
                running.append(StartedProgram(command, files))
            return [one.wait() for one in running]
        except BaseException:
            for one in running:
                one.kill()
            raise


@contextlib.contextmanager
def start_timed(command: TimedCommand) -> "Iterator[StartedProgram]":
    """Start a program as `run_all` does. It is killed at the end of the block, if it runs then."""
    with contextlib.ExitStack() as files:
        program = StartedProgram(command, files)
        try:
            yield program
        finally:
            program.kill()


class StartedProgram:
    """A program of `run_all` or `start_timed` that was started."""

    def __init__(self, command: TimedCommand, files: contextlib.ExitStack) -> None:
        import subprocess
        import tempfile

        temporary = tempfile.TemporaryFile
        stdin = files.enter_context(temporary())
        self._stdout = files.enter_context(temporary())
        self._stderr = files.enter_context(temporary())
        stdin.write(command.stdin)
        stdin.seek(0)
        self._command = command
        self._deadline = time.monotonic() + command.limit
        try:
            self._process = subprocess.Popen(
                _command(command.argv),
                stdin=stdin,
                stdout=self._stdout,
                stderr=self._stderr,
                env=_parsed_environment(command.env),
                start_new_session=True,
                creationflags=own_group_flags(current()),
            )
        except FileNotFoundError as error:
            raise _not_started(command.argv[0], error) from None

    def wait(self) -> Completed:
        """Wait until it has ended, or until its limit."""
        import subprocess

        timed_out = False
        while not timed_out:
            left = self._deadline - time.monotonic()
            try:
                self._process.wait(max(0.0, min(left, _LONGEST_WAIT)))
                break
            except subprocess.TimeoutExpired:
                timed_out = left <= 0
        if timed_out:
            self.kill()
        self._stdout.seek(0)
        self._stderr.seek(0)
        out, err = self._stdout.read(_MOST_OUTPUT), self._stderr.read(_MOST_OUTPUT)
        return Completed(self._command.argv, self._process.returncode, out, err, timed_out)

    def output_until(self, is_enough: Callable[[str], bool]) -> str:
        """Wait until what it has printed on stdout is enough, it has ended, or reached its limit; return that."""
        # A read that leaves the position of the file alone, because the program shares it. Windows has none.
        read_at = getattr(os, "pread", None)
        if read_at is None:
            return self.wait().text
        while True:
            ended = self._process.poll() is not None or time.monotonic() >= self._deadline
            text = str(read_at(self._stdout.fileno(), _MOST_OUTPUT, 0), "utf-8", "replace")
            if ended or is_enough(text):
                return text
            time.sleep(_POLL)

    def kill(self) -> None:
        """Kill it with its children, if it runs."""
        import subprocess

        if self._process.poll() is not None:
            return
        processcontrol.kill_group(self._process.pid)
        try:
            self._process.wait(0.3)
        except subprocess.TimeoutExpired:
            # It hangs in the kernel. Leave it behind, without a warning of Popen's.
            self._process.returncode = -signal.SIGTERM


async def start_async(
    argv: Sequence[str],
    *,
    own_group: bool = True,
    cwd: bytes | None = None,
    env: Mapping[str, str] | None = None,
) -> "asyncio.subprocess.Process":
    """Start a program whose three streams are pipes. MissingProgramError if it is missing.

    With `own_group` it cannot ask on the terminal, and Ctrl-C does not reach it.
    """
    import asyncio
    import logging  # as asyncio does

    # A program that ends just while its streams are closed may be asked for its status twice. asyncio then warns on
    # stderr of an "unknown child process", which is nothing that a user has to know.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *_command(argv),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            limit=_ASYNC_BUFFER,
            cwd=cwd,
            env=_parsed_environment(env),
            start_new_session=own_group,
            creationflags=own_group_flags(current()) if own_group else 0,
        )
    except FileNotFoundError as error:
        raise _not_started(argv[0], error) from None
    _enlarge_pipes(process)
    return process


def _enlarge_pipes(process: "asyncio.subprocess.Process") -> None:
    """Give stdin and stdout buffers of 1 MiB, so that each turn of a busy event loop moves more (Linux only)."""
    for number in (0, 1):
        transport = process._transport.get_pipe_transport(number)  # type: ignore[attr-defined]
        processcontrol.enlarge_pipe(transport.get_extra_info("pipe"), _ASYNC_BUFFER)


def _parsed_environment(added: Mapping[str, str] | None) -> dict[str, str]:
    """Our environment for a program whose output we read, with `added`.

    Its messages are in English then, and so are those of the program that ssh runs on a server: `SendEnv LC_*`, which
    many systems have in /etc/ssh/ssh_config, carries the user's language there.
    """
    environment = {**os.environ, "LC_ALL": "C"}
    environment.pop("LANGUAGE", None)
    return environment | dict(added or {})


def own_language() -> dict[str, str]:
    """The variables that give a program the user's language back: an editor's window, unlike a program that we read."""
    return {name: os.environ.get(name, "") for name in ("LC_ALL", "LANGUAGE")}


def _command(argv: Sequence[str]) -> list[str]:
    """The command line, with the program where it is to be looked for."""
    return [programs.to_start(argv[0]), *argv[1:]]


@contextlib.contextmanager
def _input_file(data: bytes) -> Iterator[int]:
    """A descriptor from which a program reads `data`: a file, so that nobody has to write while it runs."""
    import subprocess
    import tempfile

    if not data:
        yield subprocess.DEVNULL
        return
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file.fileno()


def _start(
    argv: Sequence[str], stdin: int, env: Mapping[str, str] | None
) -> "subprocess.Popen[bytes]":
    """Start a program whose output is read."""
    import subprocess

    try:
        return subprocess.Popen(
            _command(argv),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_parsed_environment(env),
        )
    except FileNotFoundError as error:
        raise _not_started(argv[0], error) from None


def _not_started(program: str, error: FileNotFoundError) -> ApexError:
    """The error for a program that could not be started."""
    if programs.is_too_long(error):
        message = f"the command line for {program} is too long for Windows"
        return ApexError(message, hint="apexgpu explain command_too_long", code="command_too_long")
    return missing(program)


def _environment(added: Mapping[str, str] | None) -> dict[str, str] | None:
    """Our environment with `added`; None, for Popen to use ours, if nothing is added."""
    return {**os.environ, **added} if added else None


def in_background() -> bool:
    """Whether a shell started us with `&`. A program that then reads from the terminal would be stopped."""
    return processcontrol.is_in_background()


def stdout_is_terminal() -> bool:
    """Whether a program that is started on our output would write to a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def which(program: str) -> str | None:
    """The path of a program, None if it is not installed."""
    if is_windows():
        return programs.windows_path(program, os.environ)
    import shutil

    return shutil.which(program)


def missing(program: str) -> MissingProgramError:
    """The error for a program that is not installed, with the command that installs it on this system."""
    return MissingProgramError(f"{program} is not installed", hint=hints.install(program))
