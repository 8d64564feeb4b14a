"""One ssh connection that carries forwards: its command line, its birth, its pulse, its end.

ssh runs `cat` in the container instead of `-N`. What is written to it comes back through the whole way (laptop,
network, sshd, container), which is the health check; and when whoever started ssh is killed, its input ends,
`cat` ends, and with it ssh: no corpse is left that holds a port.
"""

import asyncio
import contextlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from apexgpu.forwarding import relay
from apexgpu.process import child
from apexgpu.ssh import sshoptions

_READY = b"apexgpu-pulse"
_REFUSED = re.compile(r"open failed: (?:connect failed: )?(.+)$")
_FORBIDDEN = "administratively prohibited"
_PULSES = 4096  # bytes that pulses and keep-alives alone may move while nothing gets through
_RECENT = (
    60.0  # seconds for which a refusal is news: whoever wants the port, tries again in that time
)


def argv(
    where: Sequence[str],
    forwards: Sequence[tuple[str, str]],
    *,
    connect: float,
    keepalive: float,
    control: Path | None = None,
    platform: str = sys.platform,
) -> list[str]:
    """The ssh command line. `where` is its config, address and alias; `forwards` are (here, there) pairs.

    `connect` and `keepalive` are seconds; `control` is a socket over which ssh can be told more. Nothing is asked,
    no connection is shared (a master of the user's would keep the forwards when we are gone), and what the user's
    own config forwards is not fatal when it is taken; on Windows, where ours are ports that could be taken, it is.
    """
    *way, alias = where
    words = ["ssh", *way, "-T", "-a", "-x"]
    words += sshoptions.words(
        [
            *sshoptions.UNATTENDED,
            *sshoptions.PLAIN,
            *sshoptions.controlled(control),
            *sshoptions.alive(keepalive, 3),
            sshoptions.connect_limit(connect),
            "ConnectionAttempts=1",
            "TCPKeepAlive=yes",
            "ClearAllForwardings=no",
            "StreamLocalBindUnlink=yes",
            f"ExitOnForwardFailure={'yes' if platform == 'win32' else 'no'}",
            "LogLevel=INFO",
        ]
    )
    for here, there in forwards:
        words += ["-L", f"{here}:{there}"]
    return [*words, alias, "exec cat"]


def moved(pid: int) -> int:
    """Bytes that process `pid` has read and written, halved: each byte it carries comes in and goes out (proc(5)).

    OSError where the system does not tell.
    """
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return (int(fields["rchar"]) + int(fields["wchar"])) // 2


class Carrier:
    """The running ssh. `start` returns when the whole way answers; `wait` when it no longer does."""

    def __init__(self, words: Sequence[str], *, progress: Callable[[], int]) -> None:
        """`progress` is a number that grows while bytes move: a full line is slow, not dead."""
        self._words = words
        self._progress = progress
        self._child: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._heard = asyncio.Event()
        self._last_heard = 0.0
        self._listening: list[asyncio.Future[None]] = []
        self.last_error = ""
        self._refusal, self._refused_at = "", 0.0
        self._counted_from: int | None = None
        self._pulses = self._cost = self._carried = 0

    @property
    def refused(self) -> str:
        """What the container last said to a connection that it did not take, when that was lately."""
        return self._refusal if time.monotonic() - self._refused_at < _RECENT else ""

    @property
    def pid(self) -> int | None:
        """The process number of ssh."""
        return self._child.pid if self._child else None

    async def start(self, limit: float) -> bool:
        """Whether the way is open, within `limit` seconds; `last_error` says why not."""
        self._child = await child(self._words)
        self._readers = [
            asyncio.create_task(self._read_pulse()),
            asyncio.create_task(self._read_errors()),
        ]
        if await self._answers(limit):
            return True
        if self._child.returncode is None:
            self.last_error = f"ssh did not get through within {limit:g} s"
        return False

    async def wait(self, beat: float, patience: float, nudge: asyncio.Event) -> None:
        """Return when ssh has ended, or when nothing has come through for `patience` seconds after a pulse.

        A pulse is sent every `beat` seconds, and at once when `nudge` is set: somebody wants to use the way.
        """
        assert self._child is not None  # noqa: S101 - start() was called
        ended = asyncio.create_task(self._child.wait())
        try:
            while not ended.done():
                nudge.clear()
                waiter = asyncio.create_task(nudge.wait())
                await asyncio.wait(
                    {ended, waiter}, timeout=beat, return_when=asyncio.FIRST_COMPLETED
                )
                waiter.cancel()
                if not ended.done() and not await self._alive(patience):
                    self.last_error = f"nothing came through for {patience:g} s"
                    return
        finally:
            ended.cancel()

    def fresh(self, seconds: float) -> bool:
        """Whether a pulse was heard within the last `seconds`."""
        return time.monotonic() - self._last_heard < seconds

    async def heard(self, limit: float) -> None:
        """Return at the next pulse, when the way has ended, or after `limit` seconds."""
        future = asyncio.get_running_loop().create_future()
        self._listening.append(future)
        await asyncio.wait({future}, timeout=limit)

    async def forbids(
        self, probe: "relay.Place", places: Sequence["relay.Place"], limit: float
    ) -> bool:
        """Whether sshd there forwards to none of `places`, on which ssh listens.

        `probe` leads to a port that nobody has, and is tried first: a program that serves a single connection
        (gdbserver, `nc -l`) is not to lose it to us.
        """
        for place in (probe, *places):
            self._refusal = ""
            await relay.tried(place, limit)
            await self._answers(limit)  # what ssh said about it has come before this
            if _FORBIDDEN not in self._refusal:
                self._refusal = ""
                return False
        self.last_error = f"{_FORBIDDEN}: its sshd forwards to no such port"
        return True

    async def count(self, limit: float) -> bool:
        """Begin to count what ssh carries; False where the system does not tell. Takes a pulse, to leave ours out."""
        assert self._child is not None  # noqa: S101 - start() was called
        try:
            before = moved(self._child.pid)
            await self._answers(limit)
            self._counted_from = moved(self._child.pid)
        except OSError:
            return False
        self._cost, self._pulses = self._counted_from - before, 0
        return True

    @property
    def carried(self) -> int:
        """Bytes carried since `count`, our own pulses left out; once ssh has ended, the last number seen."""
        if (
            self._counted_from is not None
            and self._child is not None
            and self._child.returncode is None
        ):
            with contextlib.suppress(OSError):
                now = moved(self._child.pid) - self._counted_from - self._pulses * self._cost
                self._carried = max(self._carried, now)
        return self._carried

    async def end(self) -> None:
        """End ssh, whatever state it is in; its ports are free then."""
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()
            await self._child.wait()

    async def last_words(self) -> None:
        """After `end`: read what ssh still had to say."""
        if self._readers:
            await asyncio.wait(self._readers, timeout=1)  # a child of ssh may hold the pipe
        for task in self._readers:
            task.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        self._tell()

    async def _alive(self, patience: float) -> bool:
        """Whether a pulse comes back, or ssh has ended by itself; a full line is given time while bytes move."""
        if self.fresh(min(1.0, patience)):
            return True
        before = -_PULSES
        while (now := self._progress()) - before >= _PULSES:
            before = now
            if await self._answers(patience):
                return True
        return self._child is None or self._child.returncode is not None

    async def _answers(self, limit: float) -> bool:
        """Whether a pulse comes back within `limit` seconds, from an ssh that runs on."""
        assert self._child is not None  # noqa: S101 - start() was called
        tasks = pulse, ended = (
            asyncio.create_task(self._pulse()),
            asyncio.create_task(self._child.wait()),
        )
        await asyncio.wait(tasks, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        came = pulse.done() and not ended.done()
        for task in tasks:
            task.cancel()
        return came

    async def _pulse(self) -> None:
        """Send one and wait until one is heard."""
        assert self._child is not None  # noqa: S101 - only called between start and stop
        assert self._child.stdin is not None  # noqa: S101 - it is a pipe
        self._heard.clear()
        self._pulses += 1
        with contextlib.suppress(ConnectionError):
            self._child.stdin.write(_READY + b"\n")
            await self._child.stdin.drain()
        await self._heard.wait()

    async def _read_pulse(self) -> None:
        assert self._child is not None  # noqa: S101 - as above
        assert self._child.stdout is not None  # noqa: S101 - it is a pipe
        last = b""
        while data := await self._child.stdout.read(4096):
            # A noisy .bashrc may speak before cat does; what has no pulse in it is let go.
            last = (last + data)[-4096:]
            if _READY in last:
                last = b""
                self._last_heard = time.monotonic()
                self._heard.set()
                self._tell()

    def _tell(self) -> None:
        for future in self._listening:
            if not future.done():
                future.set_result(None)
        self._listening.clear()

    async def _read_errors(self) -> None:
        assert self._child is not None  # noqa: S101 - as above
        assert self._child.stderr is not None  # noqa: S101 - it is a pipe
        while data := await self._child.stderr.read(4096):
            for line in data.decode("utf-8", "replace").splitlines():
                if found := _REFUSED.search(line):
                    self._refusal, self._refused_at = found[1].strip(), time.monotonic()
                elif line.strip():
                    self.last_error = line.strip()
