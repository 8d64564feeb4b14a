"""The process that carries a tunnel: its file, its signals, its end."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from apexgpu import files
from apexgpu.forwarding import records
from apexgpu.forwarding.records import Carried, Plan, Tunnel
from apexgpu.forwarding.supervisor import Limits, State, Supervisor

_WRITE_EVERY = 5.0
_DESCRIPTORS = 4096


def carry(
    state_dir: Path,
    plan: Plan,
    holders: Sequence[socket.socket],
    *,
    changed: Callable[[Tunnel], None] = lambda _: None,
    each_second: Callable[[Tunnel], None] | None = None,
    limits: Limits | None = None,
) -> tuple[bool, State, bool | None]:
    """Carry until a signal, or as long as `plan` says.

    Whether it was ever up, its last state, and who ended it: True for Ctrl-C, None for another signal.

    `changed` hears of every new state; `each_second` is for a living line.
    """
    _allow_descriptors(_DESCRIPTORS)
    return asyncio.run(
        _Process(state_dir, plan, holders, changed, each_second, limits or Limits()).run()
    )


class _Process:
    """The tunnel inside the process that carries it."""

    def __init__(
        self,
        state_dir: Path,
        plan: Plan,
        holders: Sequence[socket.socket],
        changed: Callable[[Tunnel], None],
        each_second: Callable[[Tunnel], None] | None,
        limits: Limits,
    ) -> None:
        self._state_dir, self._plan, self._holders = state_dir, plan, holders
        self._changed, self._each_second, self._limits = changed, each_second, limits
        self._forwards = tuple(
            Carried(holder.getsockname()[1], str(remote))
            for holder, remote in zip(holders, plan.remotes, strict=True)
        )
        self._id = f"{plan.host}-{self._forwards[0].local}"
        self._started = time.time()
        self._written: Tunnel | None = None

    async def run(self) -> tuple[bool, State, bool | None]:
        path = records.file(self._state_dir, self._id)
        with records.lock(path, timeout=10):
            self._supervisor = Supervisor(
                self._plan.where,
                self._holders,
                self._plan.remotes,
                limits=self._limits,
                once=self._plan.once,
                changed=self._on_change,
            )
            ended_by = _on_end(self._supervisor.stop)
            watching = asyncio.create_task(self._watch())
            self._write()
            try:
                was_up = await self._supervisor.run()
            finally:
                watching.cancel()
                records.forget(path)
        return was_up, self._supervisor.state, _by_whom(ended_by)

    async def _watch(self) -> None:
        beat = 1.0 if self._each_second else _WRITE_EVERY
        last = 0.0
        while True:
            if time.monotonic() - last >= _WRITE_EVERY:
                last = time.monotonic()
                if not self._known():
                    self._supervisor.stop()
                self._write()
            if self._each_second:
                self._each_second(self._now())
            await asyncio.sleep(beat)

    def _known(self) -> bool:
        """False when the state directory was deleted (`lab down`): nobody could list the tunnel or close it."""
        return records.directory(self._state_dir).is_dir()

    def _on_change(self) -> None:
        self._write()
        self._changed(self._now())

    def _write(self) -> None:
        now = self._now()
        if now != self._written and self._known():
            with contextlib.suppress(OSError):  # a full disk is no reason to end a tunnel
                text = json.dumps(dataclasses.asdict(now))
                files.replace_atomically(records.file(self._state_dir, self._id), text.encode())
                self._written = now

    def _now(self) -> Tunnel:
        state = self._supervisor.state
        return Tunnel(
            self._id,
            self._plan.host,
            self._forwards,
            os.getpid(),
            self._started,
            self._plan.background,
            state.state,
            state.since,
            state.reconnects,
            self._supervisor.moved,
            state.reason or self._supervisor.refused,
        )


def _allow_descriptors(wanted: int) -> None:
    """Let us, and ssh, have more open files than a shell gives: 256 on macOS, and a connection may take two."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft not in (resource.RLIM_INFINITY, most) and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _on_end(stop: Callable[[], None]) -> list[int]:
    """Ctrl-C, a closed terminal and a polite kill end the tunnel in good order; which came, in the list."""
    loop = asyncio.get_running_loop()
    came: list[int] = []

    def end(number: int) -> None:
        came.append(number)
        stop()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, end, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda got, _: loop.call_soon_threadsafe(end, got))
    return came


def _by_whom(came: Sequence[int]) -> bool | None:
    return False if not came else True if came[0] == signal.SIGINT else None
