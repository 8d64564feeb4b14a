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
from dataclasses import dataclass
from pathlib import Path

from apexgpu import files, ports, supervisor
from apexgpu.errors import ApexError
from apexgpu.process import Runner
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
    """What a tunnel's file says. Times are Unix times, sizes bytes; `pid` is its process."""

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
    """What a tunnel is to do: `where` leads to the container of `host`, `remotes` are its ends there."""

    host: str
    where: tuple[str, ...]
    remotes: tuple[ports.Remote, ...]
    background: bool = False
    once: bool = False


def listed(state_dir: Path) -> list[Tunnel]:
    """Every tunnel that has a file, by host and port; those whose process is gone have the state `dead`."""
    found = []
    for path in sorted(_directory(state_dir).glob("*.json")):
        one = _read(path)
        if one is not None:
            found.append(one if _held(path) else dataclasses.replace(one, state=DEAD, reason="its process is gone"))
    return sorted(found, key=lambda one: (one.host, one.forwards[0].local if one.forwards else 0))


def clean(state_dir: Path, tunnels: Sequence[Tunnel]) -> None:
    """Forget the dead ones among `tunnels`."""
    for one in tunnels:
        if one.state == DEAD:
            supervisor.clear(one.pid)
            _path(state_dir, one.id).unlink(missing_ok=True)
            _path(state_dir, one.id).with_suffix(".lock").unlink(missing_ok=True)


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
    each_second: Callable[[Tunnel, str], None] | None = None,
    limits: Limits | None = None,
) -> tuple[bool, State, bool | None]:
    """Carry until a signal, or as long as `plan` says.

    Whether it was ever up, its last state, and who ended it: True for Ctrl-C, None for another signal.

    `changed` hears of every new state; `each_second` is for a living line and hears why the container last
    refused a connection, too.
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
        each_second: Callable[[Tunnel, str], None] | None,
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
        with files.locked(path.with_suffix(".lock"), what=f"tunnel {self._id}"):
            self._supervisor = Supervisor(self._plan.where, self._holders, self._plan.remotes, limits=self._limits,
                                          once=self._plan.once, changed=self._on_change)  # fmt: skip
            ended_by = _on_end(self._supervisor.stop)
            watching = asyncio.create_task(self._watch())
            self._write()
            try:
                was_up = await self._supervisor.run()
            finally:
                watching.cancel()
                path.unlink(missing_ok=True)
        path.with_suffix(".lock").unlink(missing_ok=True)
        return was_up, self._supervisor.state, _by_whom(ended_by)

    async def _watch(self) -> None:
        beat = 1.0 if self._each_second else _WRITE_EVERY
        last = 0.0
        while True:
            if time.monotonic() - last >= _WRITE_EVERY:
                last = time.monotonic()
                self._write()
            if self._each_second:
                self._each_second(self._now(), self._supervisor.refused)
            await asyncio.sleep(beat)

    def _on_change(self) -> None:
        self._write()
        self._changed(self._now())

    def _write(self) -> None:
        now = self._now()
        if now != self._written:
            files.replace_atomically(_path(self._state_dir, self._id), json.dumps(dataclasses.asdict(now)).encode())
            self._written = now

    def _now(self) -> Tunnel:
        state = self._supervisor.state
        return Tunnel(self._id, self._plan.host, self._forwards, os.getpid(), self._started, self._plan.background,
                      state.state, state.since, state.reconnects, self._supervisor.moved,
                      state.reason)  # fmt: skip


def start(state_dir: Path, plan: Plan, wanted: Sequence[int | None], runner: Runner, *, limit: float = 30) -> Tunnel:
    """Start a process that carries `plan` in the background, and wait until it is up; the tunnel then.

    `wanted` are local ports, None where the best free one will do. ApexError with its reason when it fails.
    """
    import secrets

    name = secrets.token_hex(6)
    directory = files.private_directory(_directory(state_dir))
    order, answer = directory / f"{name}.order", directory / f"{name}.answer"
    value = {"plan": dataclasses.asdict(plan), "wanted": list(wanted), "answer": str(answer)}
    files.replace_atomically(order, json.dumps(value).encode())
    runner.spawn([sys.executable, "-m", "apexgpu.tunnels", str(order)])
    end = time.monotonic() + limit
    try:
        while time.monotonic() < end:
            if answer.exists():
                return _answered(json.loads(answer.read_bytes()))
            time.sleep(0.02)
    finally:
        order.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)
    message = f"the tunnel to {plan.host} did not come up within {limit:g} s"
    raise ApexError(message, hint=f"apexgpu doctor {plan.host}", code="timeout")


def _answered(value: dict[str, object]) -> Tunnel:
    if "error" in value:
        raise ApexError(str(value["error"]), code="tunnel_failed")
    return _tunnel(value)


def take(wanted: Sequence[int | None], remotes: Sequence[ports.Remote]) -> list[socket.socket | int]:
    """A listening socket for each end; where a port that was asked for by number is taken, that number."""
    found: list[socket.socket | int] = []
    for number, remote in zip(wanted, remotes, strict=True):
        if number is not None:
            found.append(ports.take(number) or number)
            continue
        tries = (ports.take(port) for port in ports.candidates(remote.port))
        found.append(next((holder for holder in tries if holder is not None), remote.port))
    return found


def _background(order: Path) -> None:
    """What the process in the background does: take the ports, say how it went, carry on."""
    value = json.loads(order.read_bytes())
    order.unlink(missing_ok=True)
    raw, answer = value["plan"], Path(value["answer"])
    plan = Plan(raw["host"], tuple(raw["where"]), tuple(ports.Remote(**one) for one in raw["remotes"]),
                background=True, once=raw["once"])  # fmt: skip
    holders = [one for one in take(value["wanted"], plan.remotes) if isinstance(one, socket.socket)]

    def say(what: dict[str, object]) -> None:
        if not said:
            said.append(True)
            files.replace_atomically(answer, json.dumps(what).encode())

    said: list[bool] = []
    if len(holders) < len(plan.remotes):
        return say({"error": "a port was taken by another program in this moment"})
    was_up, state, _ = carry(order.parent.parent, plan, holders,
                          changed=lambda one: say(dataclasses.asdict(one)) if one.state == "up" else None)  # fmt: skip
    if not was_up:
        say({"error": state.reason})
    return None


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


def _directory(state_dir: Path) -> Path:
    return state_dir / "tunnels"


def _path(state_dir: Path, name: str) -> Path:
    return _directory(state_dir) / f"{name}.json"


def _held(path: Path) -> bool:
    try:
        with files.locked(path.with_suffix(".lock"), what="tunnel", timeout=0):
            return False
    except ApexError:
        return True


def _read(path: Path) -> Tunnel | None:
    try:
        return _tunnel(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _tunnel(value: dict[str, object]) -> Tunnel:
    fields = {**value, "forwards": tuple(Carried(**one) for one in value["forwards"])}  # type: ignore[attr-defined] # JSON
    return Tunnel(**fields)  # type: ignore[arg-type] # a wrong file is a TypeError, and then no tunnel


if __name__ == "__main__":
    _background(Path(sys.argv[1]))
