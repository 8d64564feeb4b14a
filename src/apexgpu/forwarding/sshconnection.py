"""One ssh connection that carries forwards: its command line, its start, its heartbeat, its end.

ssh runs `cat` in the container instead of `-N`. What we write to it comes back through the whole
path (laptop, network, sshd, container): this is the heartbeat. When the process that started ssh is
killed, the input of `cat` ends, so `cat` ends and ssh with it: no ssh is left that keeps a port.
"""

import asyncio
import contextlib
import re
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from pathlib import Path

from apexgpu.forwarding import relay
from apexgpu.forwarding.relay import SshListener
from apexgpu.platforms.system import current
from apexgpu.process import start_async
from apexgpu.ssh import sshoptions

_HEARTBEAT = b"apexgpu-pulse"
_OPEN_FAILED = re.compile(r"open failed: (?:connect failed: )?(.+)$")
_FORBIDDEN = "administratively prohibited"
_IDLE_BYTES = 4096
"""Bytes that heartbeats and keep-alives alone may move while nothing gets through."""

_RECENT = 60.0
"""Seconds for which a refusal is reported: a program that needs the port tries again within them."""

_MISSED_KEEP_ALIVES = 3
_READ_SIZE = 4096
_CLOSE_LIMIT = 1.0


def argv(
    ssh_arguments: Sequence[str],
    forwards: Sequence[tuple[str, str]],
    *,
    connect_timeout: float,
    keep_alive: float,
    control: Path | None = None,
    platform: str | None = None,
) -> list[str]:
    """Return the ssh command line.

    `ssh_arguments` are config file, address and, last, the alias; `forwards` are pairs of (local
    end, destination); times are in seconds; `control` is the control socket to create, over which
    ssh can be given more forwards.

    ssh asks nothing and shares no connection: a master of the user's would keep the forwards when
    we are gone. A forward that fails is not fatal, as the user's own config may have forwards whose
    ports are in use; it is on Windows, where our own local ends are ports that could be in use.
    """
    platform = platform or current()
    *path, alias = ssh_arguments
    words = ["ssh", *path, "-T", "-a", "-x"]
    words += sshoptions.arguments(
        [
            *sshoptions.UNATTENDED,
            *sshoptions.COMMAND_ONLY,
            *sshoptions.shared(control),
            *sshoptions.keep_alive(keep_alive, _MISSED_KEEP_ALIVES),
            sshoptions.connect_timeout(connect_timeout),
            "ConnectionAttempts=1",  # the supervisor tries again
            "TCPKeepAlive=yes",
            "ClearAllForwardings=no",  # the user's config may say yes, which would clear ours, too
            "StreamLocalBindUnlink=yes",
            f"ExitOnForwardFailure={'yes' if platform == 'win32' else 'no'}",
            "LogLevel=INFO",  # its messages are the reasons that we report
        ]
    )
    for local_end, destination in forwards:
        words += ["-L", f"{local_end}:{destination}"]
    return [*words, alias, "exec cat"]


def bytes_moved_by(pid: int) -> int:
    """Return the bytes that process `pid` has carried, as counted by the system (proc_pid_io(5)).

    Each byte is read once and written once. Raises OSError on systems that do not count.
    """
    counters = {}
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        name, value = line.split(": ")
        counters[name] = int(value)
    return (counters["rchar"] + counters["wchar"]) // 2


class SshConnection:
    """A running ssh. `start` returns once the whole path answers, `wait` once it no longer does."""

    def __init__(self, argv: Sequence[str], *, progress: Callable[[], int]) -> None:
        """`progress` returns a number that grows while bytes move: a full line is not a dead one."""
        self._argv = argv
        self._progress = progress
        self._process: Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._heartbeat_came = asyncio.Event()
        self._last_heartbeat = 0.0
        self._waiters: list[asyncio.Future[None]] = []
        self.last_error = ""
        self._refusal = ""
        self._refused_at = 0.0
        self._counted_from: int | None = None
        self._bytes_per_heartbeat = 0
        self._heartbeats = 0
        self._bytes_carried = 0

    @property
    def refusal(self) -> str:
        """How the container recently refused a connection; empty if it did not."""
        is_recent = time.monotonic() - self._refused_at < _RECENT
        return self._refusal if is_recent else ""

    @property
    def pid(self) -> int | None:
        """The process number of ssh."""
        return self._process.pid if self._process else None

    async def start(self, limit: float) -> bool:
        """Start ssh; True if the whole path answers within `limit` seconds, else see `last_error`."""
        self._process = await start_async(self._argv)
        self._readers = [
            asyncio.create_task(self._read_heartbeats()),
            asyncio.create_task(self._read_errors()),
        ]
        if await self._answers(limit):
            return True
        if self._process.returncode is None:
            self.last_error = f"ssh did not get through within {limit:g} s"
        return False

    async def wait(self, interval: float, timeout: float, wanted: asyncio.Event) -> None:
        """Return when ssh has ended, or when a heartbeat has not come back for `timeout` seconds.

        A heartbeat is sent every `interval` seconds, and at once when `wanted` is set: then a
        program is waiting to use the tunnel.
        """
        ended = asyncio.create_task(self._running.wait())
        try:
            while not ended.done():
                wanted.clear()
                waiter = asyncio.create_task(wanted.wait())
                await asyncio.wait(
                    {ended, waiter}, timeout=interval, return_when=asyncio.FIRST_COMPLETED
                )
                waiter.cancel()
                if not ended.done() and not await self._is_alive(timeout):
                    self.last_error = f"nothing came through for {timeout:g} s"
                    return
        finally:
            ended.cancel()

    def heard_within(self, seconds: float) -> bool:
        """Tell whether a heartbeat came back within the last `seconds`."""
        return time.monotonic() - self._last_heartbeat < seconds

    async def wait_for_heartbeat(self, limit: float) -> None:
        """Return at the next heartbeat, when ssh has ended, or after `limit` seconds."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await asyncio.wait({waiter}, timeout=limit)

    async def forwarding_is_forbidden(
        self, probe: SshListener, listeners: Sequence[SshListener], limit: float
    ) -> bool:
        """Tell whether the container's sshd forbids every one of our forwards.

        `probe` leads to a port without a listener and is tried first: if it is not forbidden, a
        program that serves a single connection (gdbserver, `nc -l`) does not lose it to us.
        """
        for listener in (probe, *listeners):
            self._refusal = ""
            await relay.connect_until_dropped(listener, limit)
            # What ssh reported about it arrives before the next heartbeat.
            await self._answers(limit)
            if _FORBIDDEN not in self._refusal:
                self._refusal = ""  # that of the probe is not news for the user
                return False
        self.last_error = f"{_FORBIDDEN}: its sshd forwards to no such port"
        return True

    async def start_counting(self, limit: float) -> bool:
        """Start to count the bytes that ssh carries; False on systems that do not count.

        One heartbeat is sent to learn how many bytes it takes: they are not part of the count.
        """
        pid = self._running.pid
        try:
            before = bytes_moved_by(pid)
            await self._answers(limit)
            self._counted_from = bytes_moved_by(pid)
        except OSError:
            return False
        self._bytes_per_heartbeat = self._counted_from - before
        self._heartbeats = 0
        return True

    @property
    def bytes_carried(self) -> int:
        """Bytes carried since `start_counting`, without heartbeats; kept after ssh has ended."""
        process = self._process
        if self._counted_from is None or process is None or process.returncode is not None:
            return self._bytes_carried
        with contextlib.suppress(OSError):
            moved = bytes_moved_by(process.pid) - self._counted_from
            carried = moved - self._heartbeats * self._bytes_per_heartbeat
            self._bytes_carried = max(self._bytes_carried, carried)
        return self._bytes_carried

    async def kill(self) -> None:
        """End ssh, whatever state it is in. Its ports are free afterwards."""
        if self._process is not None and self._process.returncode is None:
            # Not SIGTERM: an ssh that hangs or is stopped would ignore it.
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def read_to_end(self) -> None:
        """After `kill`: read what ssh has still written to stderr."""
        if self._readers:
            # Not for long: a child of ssh may keep the pipe open.
            await asyncio.wait(self._readers, timeout=_CLOSE_LIMIT)
        for task in self._readers:
            task.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        self._wake_waiters()

    @property
    def _running(self) -> Process:
        assert self._process is not None  # noqa: S101 - start() was called
        return self._process

    async def _is_alive(self, timeout: float) -> bool:
        """Tell whether a heartbeat comes back. True if ssh has ended: `wait` notices that itself.

        On a full line a heartbeat may be late. It is given more time as long as bytes move.
        """
        if self.heard_within(min(1.0, timeout)):
            return True
        moved = self._progress()
        while not await self._answers(timeout):
            moved_before, moved = moved, self._progress()
            if moved - moved_before < _IDLE_BYTES:
                return self._running.returncode is not None
        return True

    async def _answers(self, limit: float) -> bool:
        """Tell whether a heartbeat comes back within `limit` seconds, from an ssh that still runs."""
        heartbeat = asyncio.create_task(self._send_heartbeat())
        ended = asyncio.create_task(self._running.wait())
        await asyncio.wait({heartbeat, ended}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        answered = heartbeat.done() and not ended.done()
        heartbeat.cancel()
        ended.cancel()
        return answered

    async def _send_heartbeat(self) -> None:
        """Send a heartbeat and wait until one comes back."""
        stdin = self._running.stdin
        assert stdin is not None  # noqa: S101 - it is a pipe
        self._heartbeat_came.clear()
        self._heartbeats += 1
        with contextlib.suppress(ConnectionError):
            stdin.write(_HEARTBEAT + b"\n")
            await stdin.drain()
        await self._heartbeat_came.wait()

    async def _read_heartbeats(self) -> None:
        stdout = self._running.stdout
        assert stdout is not None  # noqa: S101 - it is a pipe
        recent = b""
        while data := await stdout.read(_READ_SIZE):
            # A ~/.bashrc may print something before cat starts; it is skipped.
            recent = (recent + data)[-_READ_SIZE:]
            if _HEARTBEAT in recent:
                recent = b""
                self._last_heartbeat = time.monotonic()
                self._heartbeat_came.set()
                self._wake_waiters()

    def _wake_waiters(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def _read_errors(self) -> None:
        stderr = self._running.stderr
        assert stderr is not None  # noqa: S101 - it is a pipe
        while data := await stderr.read(_READ_SIZE):
            for line in data.decode("utf-8", "replace").splitlines():
                open_failed = _OPEN_FAILED.search(line)
                if open_failed:
                    self._refusal = open_failed[1].strip()
                    self._refused_at = time.monotonic()
                elif line.strip():
                    self.last_error = line.strip()
