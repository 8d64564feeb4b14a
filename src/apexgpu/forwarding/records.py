"""The tunnels of this laptop: a small file for each, written by the process that carries it.

One process carries each tunnel; there is no daemon that all tunnels depend on. The process holds
an operating system lock on its file, so a killed process is known to be dead even when another
program has been given its process number.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from apexgpu import files, readers
from apexgpu.errors import ApexError, UnexpectedError
from apexgpu.forwarding.ports import Destination
from apexgpu.platforms import hints
from apexgpu.platforms.processcontrol import kill_signal
from apexgpu.platforms.system import is_windows
from apexgpu.ssh import controlmaster, muxclient
from apexgpu.text import duration, size

CONTROL_SOCKET = "m"
"""Name of the ssh control socket in the directory of a tunnel's sockets."""

_POLL = 0.05
_KILL_LIMIT = 2.0
_LARGEST_PID = (1 << 31) - 1


class TunnelState(StrEnum):
    """What a tunnel is doing."""

    CONNECTING = "connecting"
    UP = "up"
    WAITING = "waiting"  # before it connects again
    DEAD = "dead"  # its process is gone


@dataclass(frozen=True, slots=True)
class Forward:
    """One forwarded port: the port on this laptop, and where it leads (`6006` or `db:5432`)."""

    local_port: int
    destination: str


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What a tunnel's process reports. Times are Unix times; `pid` is that process.

    `since` is when `state` began. `bytes_carried` counts both directions. `reason` is why the
    tunnel is not up, or how the container refused a recent connection.
    """

    id: str
    host: str
    forwards: tuple[Forward, ...]
    pid: int
    started: float
    background: bool
    state: TunnelState
    since: float
    reconnects: int = 0
    bytes_carried: int = 0
    reason: str = ""

    def describe(self) -> str:
        """Return one line for a person: where the tunnel leads, its state, what it has carried."""
        urls = [f"http://127.0.0.1:{forward.local_port}" for forward in self.forwards]
        parts = [
            f"{' '.join(urls)} → {self.host}",
            f"{self.state} {duration(time.time() - self.since)}",
            size(self.bytes_carried),
        ]
        if self.reconnects == 1:
            parts.append("1 reconnect")
        elif self.reconnects:
            parts.append(f"{self.reconnects} reconnects")
        if self.reason and self.state is TunnelState.UP:
            parts.append(f"the container answered: {self.reason}")
        return " · ".join(parts)

    def to_json(self) -> dict[str, object]:
        """Return the content of the tunnel's file."""
        return {
            "id": self.id,
            "host": self.host,
            "forwards": [
                {"local": forward.local_port, "remote": forward.destination}
                for forward in self.forwards
            ],
            "pid": self.pid,
            "started": self.started,
            "background": self.background,
            "state": self.state.value,
            "since": self.since,
            "reconnects": self.reconnects,
            "carried": self.bytes_carried,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, fields: readers.Fields) -> "Tunnel":
        """Read what `to_json` wrote; UnexpectedError if it is anything else."""
        forwards = tuple(
            Forward(forward.port("local"), forward.text("remote"))
            for forward in fields.objects("forwards")
        )
        state = fields.text("state")
        pid = fields.number("pid", most=_LARGEST_PID)
        # A signal to process 0 would reach our own process group.
        if not forwards or not pid or state not in set(TunnelState):
            raise UnexpectedError("this is not the record of a tunnel")
        return cls(
            id=fields.text("id"),
            host=fields.text("host"),
            forwards=forwards,
            pid=pid,
            started=fields.decimal("started"),
            background=fields.flag("background"),
            state=TunnelState(state),
            since=fields.time("since"),
            reconnects=fields.number("reconnects"),
            bytes_carried=fields.number("carried"),
            reason=fields.text("reason"),
        )


def list_tunnels(state_dir: Path) -> list[Tunnel]:
    """Return every tunnel that has a file, by host and local port.

    A tunnel whose process is gone has the state DEAD. A file that cannot be read is skipped.
    """
    tunnels = []
    for path in directory(state_dir).glob("*.json"):
        tunnel = _read(path)
        if tunnel is None:
            continue
        if not _is_locked(path):
            tunnel = dataclasses.replace(
                tunnel, state=TunnelState.DEAD, reason="its process is gone"
            )
        tunnels.append(tunnel)
    return sorted(tunnels, key=lambda tunnel: (tunnel.host, tunnel.forwards[0].local_port))


def list_open(state_dir: Path) -> list[Tunnel]:
    """Return the tunnels whose process is alive, by host and local port."""
    return [tunnel for tunnel in list_tunnels(state_dir) if tunnel.state is not TunnelState.DEAD]


def find(
    tunnels: Sequence[Tunnel],
    host: str,
    destinations: Sequence[Destination],
    local_port: int | None,
) -> Tunnel | None:
    """Return the tunnel among `tunnels` that leads to these destinations; None if there is none.

    If `local_port` is given, the tunnel must use it for the first destination.
    """
    wanted = [str(destination) for destination in destinations]
    for tunnel in tunnels:
        if tunnel.host != host:
            continue
        if [forward.destination for forward in tunnel.forwards] != wanted:
            continue
        if local_port in (None, tunnel.forwards[0].local_port):
            return tunnel
    return None


def remove_dead(state_dir: Path, tunnels: Sequence[Tunnel]) -> None:
    """Remove the files of the dead ones among `tunnels`, and the sockets that they left behind."""
    living_pids = {tunnel.pid for tunnel in tunnels if tunnel.state is not TunnelState.DEAD}
    for tunnel in tunnels:
        if tunnel.state is not TunnelState.DEAD:
            continue
        path = file(state_dir, tunnel.id)
        # If the lock is busy, a new tunnel has taken this ID.
        with contextlib.suppress(ApexError), lock(path, timeout=0):
            # The system may have given the dead process's number to another tunnel of ours.
            if tunnel.pid not in living_pids:
                _remove_sockets(tunnel.pid)
            remove(path)


def close(state_dir: Path, tunnel: Tunnel, *, limit: float = 10) -> None:
    """End the tunnel's process and wait until its ports are free. Nothing happens if it is dead.

    The process is killed if it does not end within `limit` seconds. Raises ApexError if that fails.
    """
    path = file(state_dir, tunnel.id)
    number: int = signal.SIGTERM
    deadline = time.monotonic() + limit
    while _is_locked(path):
        # The process may end at this moment, which every system reports in its own way.
        with contextlib.suppress(OSError):
            os.kill(tunnel.pid, number)
        if time.monotonic() > deadline:
            if number != signal.SIGTERM or is_windows():
                message = f"tunnel {tunnel.id} (process {tunnel.pid}) does not end"
                raise ApexError(message, hint=hints.kill(tunnel.pid))
            number = kill_signal()
            deadline = time.monotonic() + _KILL_LIMIT
            continue
        time.sleep(_POLL)
    remove_dead(state_dir, [dataclasses.replace(tunnel, state=TunnelState.DEAD)])


def directory(state_dir: Path) -> Path:
    """Return the directory of the tunnels' files."""
    return state_dir / "tunnels"


def file(state_dir: Path, tunnel_id: str) -> Path:
    """Return the path of a tunnel's file."""
    return directory(state_dir) / f"{tunnel_id}.json"


def lock(path: Path, *, timeout: float) -> AbstractContextManager[None]:
    """Lock the tunnel file `path`, as the process that carries the tunnel does; BusyError if it does."""
    return files.locked(path.with_suffix(".lock"), what=f"tunnel {path.stem}", timeout=timeout)


def write(state_dir: Path, tunnel: Tunnel) -> None:
    """Write the tunnel's file. OSError if the disk is full."""
    files.replace_atomically(file(state_dir, tunnel.id), json.dumps(tunnel.to_json()).encode())


def remove(path: Path) -> None:
    """Remove a tunnel's file and its lock file. For callers that hold the lock."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # Windows keeps a file that is open
        path.with_suffix(".lock").unlink(missing_ok=True)


def sockets_prefix(pid: int) -> str:
    """Return how the name of the directory with the sockets of process `pid` begins."""
    return f"t-{pid}-"


def _remove_sockets(pid: int) -> None:
    """Remove the sockets that the killed process `pid` left behind."""
    runtime_directory = controlmaster.runtime_directory()
    if (
        runtime_directory is None
    ):  # as on Windows, where they are in the directory for temporary files
        runtime_directory = Path(tempfile.gettempdir())
    for path in runtime_directory.glob(f"{sockets_prefix(pid)}*"):
        # Connections that were open may have kept ssh alive.
        if not is_windows():
            muxclient.terminate(path / CONTROL_SOCKET)
        shutil.rmtree(path, ignore_errors=True)


def _is_locked(path: Path) -> bool:
    try:
        with lock(path, timeout=0):
            return False
    except files.BusyError:
        return True


def _read(path: Path) -> Tunnel | None:
    try:
        return Tunnel.from_json(readers.json_object(path.read_bytes(), path.name))
    except (OSError, UnexpectedError):
        return None
