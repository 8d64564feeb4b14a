"""The tunnels of this laptop: a small file each, which tells the other commands what its process does.

One process carries each tunnel; there is no daemon that all would hang on. Its file is held under a lock of the
operating system, so a process that was killed is known to be dead, whatever number its successor has.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from apexgpu import files, ports, supervisor
from apexgpu.errors import ApexError, RefusedError
from apexgpu.supervisor import Limits, State, Supervisor

DEAD = "dead"
_WRITE_EVERY = 5.0


@dataclass(frozen=True, slots=True)
class Carried:
    """One forward of a tunnel: the port on this laptop, and what it leads to as seen from the container."""

    local: int
    remote: str


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What a tunnel's file says. Times are Unix times, sizes bytes; `pid` is its process.

    `reason` tells why it is not up, or what the container lately said to a connection that it did not take.
    """

    id: str
    host: str
    forwards: tuple[Carried, ...]
    pid: int
    started: float
    background: bool
    state: str
    since: float
    reconnects: int = 0
    carried: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a tunnel is to do: `where` leads to the container of `host`, `remotes` are its ends there.

    `wanted` are the ports here, None where the best free one will do; with `strict` it is those or none.
    """

    host: str
    where: tuple[str, ...]
    remotes: tuple[ports.Remote, ...]
    wanted: tuple[int | None, ...]
    strict: bool = False
    background: bool = False
    once: bool = False


def listed(state_dir: Path) -> list[Tunnel]:
    """Every tunnel that has a file, by host and port; those whose process is gone have the state `dead`."""
    found = []
    for path in sorted(directory(state_dir).glob("*.json")):
        one = _read(path)
        if one is not None:
            found.append(one if _held(path) else dataclasses.replace(one, state=DEAD, reason="its process is gone"))
    return sorted(found, key=lambda one: (one.host, one.forwards[0].local if one.forwards else 0))


def clean(state_dir: Path, tunnels: Sequence[Tunnel]) -> None:
    """Forget the dead ones among `tunnels`, and what they left behind."""
    living = {one.pid for one in tunnels if one.state != DEAD}
    for one in tunnels:
        path = _path(state_dir, one.id)
        if one.state == DEAD:
            with contextlib.suppress(ApexError), _lock(path, timeout=0):  # busy: there is a new one by now
                if one.pid not in living:  # the number of a dead one may be another's by now
                    supervisor.clear(one.pid)
                _forget(path)


def close(state_dir: Path, tunnel: Tunnel, *, limit: float = 10) -> None:
    """End the tunnel's process and wait until it has let go of its ports; nothing when it is dead already."""
    path = _path(state_dir, tunnel.id)
    end = time.monotonic() + limit
    asked = signal.SIGTERM
    while _held(path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(tunnel.pid, asked)
        if time.monotonic() > end:
            if asked == signal.SIGTERM and sys.platform != "win32":
                asked, end = signal.SIGKILL, time.monotonic() + 2
                continue
            message = f"tunnel {tunnel.id} (process {tunnel.pid}) does not end"
            raise ApexError(message, hint=f"kill -9 {tunnel.pid}")
        time.sleep(0.05)
    clean(state_dir, [dataclasses.replace(tunnel, state=DEAD)])


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
    return asyncio.run(_Process(state_dir, plan, holders, changed, each_second, limits or Limits()).run())


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
        self._forwards = tuple(Carried(holder.getsockname()[1], str(remote))
                               for holder, remote in zip(holders, plan.remotes, strict=True))  # fmt: skip
        self._id = f"{plan.host}-{self._forwards[0].local}"
        self._started = time.time()
        self._written: Tunnel | None = None

    async def run(self) -> tuple[bool, State, bool | None]:
        path = _path(self._state_dir, self._id)
        with _lock(path, timeout=10):
            self._supervisor = Supervisor(self._plan.where, self._holders, self._plan.remotes, limits=self._limits,
                                          once=self._plan.once, changed=self._on_change)  # fmt: skip
            ended_by = _on_end(self._supervisor.stop)
            watching = asyncio.create_task(self._watch())
            self._write()
            try:
                was_up = await self._supervisor.run()
            finally:
                watching.cancel()
                _forget(path)
        return was_up, self._supervisor.state, _by_whom(ended_by)

    async def _watch(self) -> None:
        beat = 1.0 if self._each_second else _WRITE_EVERY
        last = 0.0
        while True:
            if time.monotonic() - last >= _WRITE_EVERY:
                last = time.monotonic()
                self._write()
            if self._each_second:
                self._each_second(self._now())
            await asyncio.sleep(beat)

    def _on_change(self) -> None:
        self._write()
        self._changed(self._now())

    def _write(self) -> None:
        now = self._now()
        if now != self._written:
            with contextlib.suppress(OSError):  # a full disk is no reason to end a tunnel
                files.replace_atomically(_path(self._state_dir, self._id), json.dumps(dataclasses.asdict(now)).encode())
                self._written = now

    def _now(self) -> Tunnel:
        state = self._supervisor.state
        return Tunnel(self._id, self._plan.host, self._forwards, os.getpid(), self._started, self._plan.background,
                      state.state, state.since, state.reconnects, self._supervisor.moved,
                      state.reason or self._supervisor.refused)  # fmt: skip


class PortsTakenError(RefusedError):
    """Ports here that were asked for by number, and that other programs have."""

    def __init__(self, taken: Sequence[int]) -> None:
        super().__init__(f"port {taken[0]} here is taken", code="port_taken")
        self.taken = list(taken)


def take(plan: Plan) -> list[socket.socket]:
    """A listening socket for each end of `plan`. PortsTakenError."""
    found = [_one_of(plan, number, remote) for number, remote in zip(plan.wanted, plan.remotes, strict=True)]
    holders = [one for one in found if isinstance(one, socket.socket)]
    if len(holders) < len(found):
        for holder in holders:
            holder.close()
        raise PortsTakenError([one for one in found if isinstance(one, int)])
    return holders


def _one_of(plan: Plan, wanted: int | None, remote: ports.Remote) -> socket.socket | int:
    """A socket on the wanted port, else on the best that is free; the number of one that cannot be had."""
    first = [] if wanted is None else [wanted]
    for port in first if plan.strict else chain(first, ports.candidates(remote.port)):
        if (holder := ports.take(port)) is not None:
            return holder
    return wanted or remote.port


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


def directory(state_dir: Path) -> Path:
    return state_dir / "tunnels"


def _path(state_dir: Path, name: str) -> Path:
    return directory(state_dir) / f"{name}.json"


def _lock(path: Path, *, timeout: float) -> AbstractContextManager[None]:
    """Held by the process that carries the tunnel whose file is `path`."""
    return files.locked(path.with_suffix(".lock"), what=f"tunnel {path.stem}", timeout=timeout)


def _forget(path: Path) -> None:
    """Take the tunnel's file and its lock away; by whoever holds that, so that it is nobody else's."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # Windows keeps a file that is open
        path.with_suffix(".lock").unlink(missing_ok=True)


def _held(path: Path) -> bool:
    try:
        with _lock(path, timeout=0):
            return False
    except ApexError:
        return True


def _read(path: Path) -> Tunnel | None:
    try:
        return tunnel(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def tunnel(value: dict[str, object]) -> Tunnel:
    fields = {**value, "forwards": tuple(Carried(**one) for one in value["forwards"])}  # type: ignore[attr-defined] # JSON
    return Tunnel(**fields)  # type: ignore[arg-type] # a wrong file is a TypeError, and then no tunnel
