"""Checks what is mounted already where a new mount is wanted."""

from collections.abc import Sequence
from pathlib import Path

from apexgpu.errors import RefusedError
from apexgpu.models import Host
from apexgpu.platforms.paths import is_below, same_name_form
from apexgpu.platforms.system import current
from apexgpu.sshfs import mountrecords, mounttable
from apexgpu.sshfs.mountcommands import MountRequest
from apexgpu.sshfs.mounts import Mount, check_states, find_mounts, read_table


def find_existing(state_dir: Path, hosts: Sequence[Host], request: MountRequest) -> Mount | None:
    """The mount that is wanted, if it is there already.

    Raises RefusedError if something else is mounted in its place or around it.
    """
    mounts = find_mounts(state_dir, hosts)
    for mount in mounts:
        form = same_name_form(current(), mount.directory)
        if form == same_name_form(current(), request.directory):
            return _accept(state_dir, mount, request)
    host = request.target.host.name
    for mount in mounts:
        if is_below(current(), request.directory, mount.directory):
            message = (
                f"{request.directory} is inside {mount.directory}, "
                f"which is mounted from {mount.host}"
            )
            raise RefusedError(message, hint=f"apexgpu mount {host}", code="nested")
    if mounttable.entry_at(read_table(), request.directory) is not None:
        message = f"something else is mounted on {request.directory}"
        raise RefusedError(message, hint=f"apexgpu mount {host} ~/apexgpu/{host}-2", code="mounted")
    return None


def _accept(state_dir: Path, mount: Mount, request: MountRequest) -> Mount:
    """The mount with its state. Raises RefusedError if it is stale or not the one that is wanted."""
    (mount,) = check_states([mount])
    if mount.is_stale:
        message = (
            f"{mount.directory} is mounted from {mount.host} already, "
            f"and it is stale: {mount.reason}"
        )
        raise RefusedError(message, hint="apexgpu mounts repair", code="stale")
    same_host = mount.host == request.target.host.name
    same_path = request.remote in _spellings(state_dir, mount)
    same_mode = mount.read_only == request.read_only
    if not (same_host and same_path and same_mode):
        message = f"{mount.describe_source()} is mounted on {mount.directory} already"
        raise RefusedError(message, hint=f"apexgpu unmount {mount.directory}", code="mounted")
    return mount


def _spellings(state_dir: Path, mount: Mount) -> set[str]:
    """The ways to write the remote path: in full, as the user wrote it, and empty for the home."""
    spellings = {mount.remote}
    if mount.remote == "~":
        spellings.add("")
    record = mountrecords.load(state_dir).get(mount.directory)
    if record is not None:
        spellings.add(record.requested)
    return spellings
