"""Programs that run in a container: started with pipes or a terminal, watched, and hung up on."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from apexgpu.platforms import pseudoterminals
from apexgpu.platforms.system import is_windows
from apexgpu_lab.processes import kill_group

GRACE = 1.0  # seconds between the hang-up and the end for a program whose client has gone
_LAST_WORDS = (
    3.0  # seconds to read on from a terminal whose shell has ended, where something still holds it
)
TerminalSize = tuple[int, int, int, int]


class RunningProgram:
    """One program: its output streams, its input, and its end."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        stdout: asyncio.StreamReader | None,
        stderr: asyncio.StreamReader | None,
        stdin: asyncio.StreamWriter | None,
        master: int | None,
    ) -> None:
        self.process = process
        self.stdout = stdout
        self.stderr = stderr
        self.stdin = stdin
        self._master = master

    @property
    def terminal(self) -> bool:
        """Whether it has a terminal."""
        return self._master is not None

    def end_input(self) -> None:
        """Tell the program that nothing more will come."""
        if self.stdin is None:
            return
        with contextlib.suppress(OSError, RuntimeError):
            if self.terminal:
                self.stdin.write(b"\x04")
            else:
                self.stdin.close()

    def resize(self, size: TerminalSize) -> None:
        """The client's window has another size."""
        if self._master is not None:
            pseudoterminals.set_size(self._master, size)

    def signal(self, name: str) -> None:
        """Send a signal by its name without SIG."""
        number = getattr(signal, f"SIG{name}", None)
        if isinstance(number, signal.Signals) and self.process.returncode is None:
            kill_group(self.process.pid, number)

    async def hang_up(self) -> None:
        """The client has gone: hang up, and after a moment of grace end what did not listen."""
        if self.process.returncode is not None:
            return
        kill_group(self.process.pid, getattr(signal, "SIGHUP", signal.SIGTERM))
        try:
            await asyncio.wait_for(self.process.wait(), GRACE)
        except TimeoutError:
            await self._end()

    async def _end(self) -> None:
        if self.process.returncode is None:
            kill_group(self.process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            await self.process.wait()

    async def close(self) -> None:
        """End a program that runs on, and let go of pipes that others may still hold open."""
        await self._end()
        if self.stdin is not None:
            self.stdin.close()
        transport = getattr(
            self.process, "_transport", None
        )  # asyncio has no public way to close the pipes
        if transport is not None:
            transport.close()
        for stream in (self.stdout, self.stderr):
            reading = getattr(stream, "_transport", None)
            if reading is not None:
                reading.close()


async def start_with_pipes(argv: list[str], env: dict[str, str], cwd: Path) -> RunningProgram:
    """Start a program with stdin, stdout and stderr on pipes."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        env=env,
        cwd=cwd,
        start_new_session=not is_windows(),
    )
    return RunningProgram(process, process.stdout, process.stderr, process.stdin, None)


async def start_with_terminal(
    argv: list[str], env: dict[str, str], cwd: Path, size: TerminalSize
) -> RunningProgram:
    """Start a program on a terminal of its own (not on Windows)."""
    master, slave = pseudoterminals.open_terminal()
    pseudoterminals.set_size(master, size)
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            cwd=cwd,
            preexec_fn=pseudoterminals.become_leader,
        )
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: _TerminalEnd(reader), os.fdopen(master, "rb", 0))
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(os.dup(master), "wb", 0)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    return RunningProgram(process, reader, None, writer, master)


async def wait_for_end(program: RunningProgram, pumps: list[asyncio.Task[None]]) -> int:
    """Wait as sshd does: for every holder of the pipes, but for a terminal's own program only. Exit status."""
    if program.terminal:
        await program.process.wait()
        await asyncio.wait(pumps, timeout=_LAST_WORDS)
    else:
        await asyncio.gather(*pumps)
    return await program.process.wait()


class _TerminalEnd(asyncio.StreamReaderProtocol):
    """A terminal ends with an error, on which a StreamReader would drop what was not read yet: an end is an end."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Its last holder let go."""
        super().connection_lost(None)
