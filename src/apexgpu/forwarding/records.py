"""The tunnels of this laptop: a small file each, which tells the other commands what its process does.

One process carries each tunnel; there is no daemon that all would hang on. Its file is held under a lock of the
operating system, so a process that was killed is known to be dead, whatever number its successor has.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from apexgpu import files
from apexgpu.errors import ApexError, RefusedError
from apexgpu.forwarding import ports
from apexgpu.ssh import mux

CONNECTING, UP, WAITING, DEAD = "connecting", "up", "waiting", "dead"
CONTROL = "m"  # the control socket among those of a tunnel


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
            found.append(
                one
                if _held(path)
                else dataclasses.replace(one, state=DEAD, reason="its process is gone")
            )
    return sorted(found, key=lambda one: (one.host, one.forwards[0].local if one.forwards else 0))


def clean(state_dir: Path, tunnels: Sequence[Tunnel]) -> None:
    """Forget the dead ones among `tunnels`, and what they left behind."""
    living = {one.pid for one in tunnels if one.state != DEAD}
    for one in tunnels:
        path = file(state_dir, one.id)
        if one.state == DEAD:
            with (
                contextlib.suppress(ApexError),
                lock(path, timeout=0),
            ):  # busy: there is a new one by now
                if one.pid not in living:  # the number of a dead one may be another's by now
                    _clear(one.pid)
                forget(path)


def close(state_dir: Path, tunnel: Tunnel, *, limit: float = 10) -> None:
    """End the tunnel's process and wait until it has let go of its ports; nothing when it is dead already."""
    path = file(state_dir, tunnel.id)
    end = time.monotonic() + limit
    asked = signal.SIGTERM
    while _held(path):
        with contextlib.suppress(
            OSError
        ):  # it may end meanwhile, which each system words in its own way
            os.kill(tunnel.pid, asked)
        if time.monotonic() > end:
            if asked == signal.SIGTERM and sys.platform != "win32":
                asked, end = signal.SIGKILL, time.monotonic() + 2
                continue
            message = f"tunnel {tunnel.id} (process {tunnel.pid}) does not end"
            raise ApexError(message, hint=f"kill -9 {tunnel.pid}")
        time.sleep(0.05)
    clean(state_dir, [dataclasses.replace(tunnel, state=DEAD)])


class PortsTakenError(RefusedError):
    """Ports here that were asked for by number, and that other programs have."""

    def __init__(self, taken: Sequence[int]) -> None:
        super().__init__(f"port {taken[0]} here is taken", code="port_taken")
        self.taken = list(taken)


def take(plan: Plan) -> list[socket.socket]:
    """A listening socket for each end of `plan`. PortsTakenError."""
    found = [
        _one_of(plan, number, remote)
        for number, remote in zip(plan.wanted, plan.remotes, strict=True)
    ]
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


def sockets_prefix(pid: int) -> str:
    """How the directory of sockets begins that belongs to the tunnel of process `pid`."""
    return f"t-{pid}-"


def _clear(pid: int) -> None:
    """Take away the sockets that a killed process left behind."""
    room = mux.runtime_directory()
    for path in room.glob(f"{sockets_prefix(pid)}*") if room is not None else ():
        mux.terminate(path / CONTROL)  # connections that were open may have kept ssh
        shutil.rmtree(path, ignore_errors=True)


def directory(state_dir: Path) -> Path:
    """Where the files are."""
    return state_dir / "tunnels"


def file(state_dir: Path, name: str) -> Path:
    """What tells of the tunnel `name`."""
    return directory(state_dir) / f"{name}.json"


def lock(path: Path, *, timeout: float) -> AbstractContextManager[None]:
    """Held by the process that carries the tunnel whose file is `path`."""
    return files.locked(path.with_suffix(".lock"), what=f"tunnel {path.stem}", timeout=timeout)


def forget(path: Path) -> None:
    """Take the tunnel's file and its lock away; by whoever holds that, so that it is nobody else's."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # Windows keeps a file that is open
        path.with_suffix(".lock").unlink(missing_ok=True)


def _held(path: Path) -> bool:
    try:
        with lock(path, timeout=0):
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
