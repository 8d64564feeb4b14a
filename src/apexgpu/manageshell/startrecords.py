"""Remembers the starts that are under way, because an interrupted one leaves a container that nobody can reach.

The server forwards the container's SSH port at the end of a start. If the connection drops before that (Ctrl-C, a
closed laptop), the container runs without its port, and only a stop and a start help. Only starts of stopped containers
are recorded: nothing that a user wants to keep can be running in such a container.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from apexgpu import readers
from apexgpu.errors import UnexpectedError
from apexgpu.files import replace_atomically
from apexgpu.models import Host

DIRECTORY = "starts"

_TRUSTED_FOR = 3600.0  # seconds; later, the container may have been started again by other means


@dataclass(frozen=True, slots=True)
class StartRecord:
    """A start of a stopped container that has not ended well. `began` is in epoch seconds."""

    host: str
    began: float

    @property
    def is_recent(self) -> bool:
        """Whether the container that runs now is certainly the one that this start left."""
        return 0 <= time.time() - self.began <= _TRUSTED_FOR


def record(state_dir: Path, host: Host) -> None:
    """Remember a start. Call it before the start is sent."""
    document = json.dumps({"began": time.time()})
    replace_atomically(_path(state_dir, host), document.encode())


def end(state_dir: Path, host: Host) -> None:
    """Forget a start: the container is reachable, or was not started."""
    _path(state_dir, host).unlink(missing_ok=True)


def find(state_dir: Path, host: Host) -> StartRecord | None:
    """The start of a host that was interrupted, or is under way."""
    path = _path(state_dir, host)
    try:
        fields = readers.json_object(path.read_bytes(), path.name)
        return StartRecord(host.name, fields.time("began"))
    except (OSError, UnexpectedError):
        return None


def _path(state_dir: Path, host: Host) -> Path:
    return state_dir / DIRECTORY / f"{host.name}.json"
