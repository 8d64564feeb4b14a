"""A lock for each host against a second apexgpu: a manage shell has no lock of its own."""

from contextlib import AbstractContextManager
from pathlib import Path

from apexgpu.files import BusyError, locked
from apexgpu.models import Host


def only_one(state_dir: Path, host: Host) -> AbstractContextManager[None]:
    """Hold the host's lock: only one changing command at a time. BusyError after 5 s."""
    return locked(_lock_file(state_dir, host), what=host.name, timeout=5)


def in_use(state_dir: Path, host: Host) -> bool:
    """Whether another apexgpu is changing something on the host at this moment."""
    try:
        with locked(_lock_file(state_dir, host), what=host.name, timeout=0):
            return False
    except BusyError:
        return True


def _lock_file(state_dir: Path, host: Host) -> Path:
    return state_dir / "locks" / f"{host.name}.lock"
