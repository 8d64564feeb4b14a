"""The process that carries a tunnel: its file, its signals, its end."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from apexgpu.forwarding import records
from apexgpu.forwarding.records import Forward, Tunnel
from apexgpu.forwarding.request import TunnelRequest
from apexgpu.forwarding.supervisor import Supervisor, Timing, TunnelStatus
from apexgpu.platforms import processcontrol

_WRITE_INTERVAL = 5.0
_OPEN_FILES = 4096
_LOCK_LIMIT = 10.0


class EndedBy(Enum):
    """Who ended a tunnel."""

    ITSELF = "itself"
    CTRL_C = "Ctrl-C"
    SIGNAL = "another signal"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a tunnel ended: whether it was ever up, its last status, and who ended it."""

    was_up: bool
    status: TunnelStatus
    ended_by: EndedBy


def carry(
    state_dir: Path,
    request: TunnelRequest,
    sockets: Sequence[socket.socket],
    *,
    on_change: Callable[[Tunnel], None] = lambda _: None,
    each_second: Callable[[Tunnel], None] | None = None,
    timing: Timing | None = None,
) -> Ending:
    """Carry the tunnel in this process, until a signal comes or it ends by itself.

    `sockets` listen on its local ports, one for each destination. `on_change` is called with the
    tunnel after every change of its state, `each_second` once a second.
    """
    processcontrol.allow_open_files(_OPEN_FILES)
    process = _TunnelProcess(state_dir, request, sockets, on_change, each_second, timing)
    return asyncio.run(process.run())


class _TunnelProcess:
    def __init__(
        self,
        state_dir: Path,
        request: TunnelRequest,
        sockets: Sequence[socket.socket],
        on_change: Callable[[Tunnel], None],
        each_second: Callable[[Tunnel], None] | None,
        timing: Timing | None,
    ) -> None:
        self._state_dir = state_dir
        self._request = request
        self._on_change = on_change
        self._each_second = each_second
        self._forwards = tuple(
            Forward(listening.getsockname()[1], str(destination))
            for listening, destination in zip(sockets, request.destinations, strict=True)
        )
        self._id = f"{request.host}-{self._forwards[0].local_port}"
        self._started = time.time()
        self._written: Tunnel | None = None
        self._supervisor = Supervisor(
            request.ssh_arguments,
            sockets,
            request.destinations,
            timing=timing,
            once=request.once,
            agent_socket=request.agent_socket,
            on_change=self._state_changed,
        )

    async def run(self) -> Ending:
        path = records.file(self._state_dir, self._id)
        # The lock tells other commands that this process is alive.
        with records.lock(path, timeout=_LOCK_LIMIT):
            asyncio.get_running_loop().set_exception_handler(_ignore_resets)
            signals = _stop_on_signals(self._supervisor.stop)
            watching = asyncio.create_task(self._watch())
            self._write()
            try:
                was_up = await self._supervisor.run()
            finally:
                watching.cancel()
                records.remove(path)
        return Ending(was_up, self._supervisor.status, _ended_by(signals))

    async def _watch(self) -> None:
        """Keep the file up to date, and show the tunnel to a terminal every second."""
        pause = 1.0 if self._each_second else _WRITE_INTERVAL
        last_write = 0.0
        while True:
            if time.monotonic() - last_write >= _WRITE_INTERVAL:
                last_write = time.monotonic()
                self._supervisor.keep_sockets()
                if not self._has_directory():
                    self._supervisor.stop()
                self._write()
            if self._each_second:
                self._each_second(self._tunnel())
            await asyncio.sleep(pause)

    def _has_directory(self) -> bool:
        """False once the state directory is deleted (`lab down`): nobody could close the tunnel."""
        return records.directory(self._state_dir).is_dir()

    def _state_changed(self) -> None:
        self._write()
        self._on_change(self._tunnel())

    def _write(self) -> None:
        tunnel = self._tunnel()
        if tunnel == self._written or not self._has_directory():
            return
        with contextlib.suppress(OSError):  # a full disk must not end a tunnel
            records.write(self._state_dir, tunnel)
            self._written = tunnel

    def _tunnel(self) -> Tunnel:
        status = self._supervisor.status
        return Tunnel(
            id=self._id,
            host=self._request.host,
            forwards=self._forwards,
            pid=os.getpid(),
            started=self._started,
            background=self._request.background,
            state=status.state,
            since=status.since,
            reconnects=status.reconnects,
            bytes_carried=self._supervisor.bytes_carried,
            reason=status.reason or self._supervisor.refusal,
        )


def _ignore_resets(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Windows' event loop reports a browser that hangs up as an exception in a callback of its own."""
    if not isinstance(context.get("exception"), ConnectionResetError):
        loop.default_exception_handler(context)


def _stop_on_signals(stop: Callable[[], None]) -> list[int]:
    """Call `stop` on Ctrl-C, SIGTERM and a closed terminal; the list returned collects the signals."""
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def handle(number: int) -> None:
        received.append(number)
        stop()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is None:
            continue  # Windows has no SIGHUP
        try:
            loop.add_signal_handler(number, handle, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda got, _: loop.call_soon_threadsafe(handle, got))
    return received


def _ended_by(signals: Sequence[int]) -> EndedBy:
    if not signals:
        return EndedBy.ITSELF
    if signals[0] == signal.SIGINT:
        return EndedBy.CTRL_C
    return EndedBy.SIGNAL
