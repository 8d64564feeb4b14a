"""Finds the mounts of this laptop in the system's own table, and whether they answer.

Nothing in this process touches a mounted directory: whoever touches a dead one hangs. A child
process does it, and is abandoned when it hangs.
"""

import errno
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from apexgpu import readers
from apexgpu.errors import RefusedError
from apexgpu.models import Host
from apexgpu.platforms import owner
from apexgpu.platforms.system import is_windows
from apexgpu.process import Completed, TimedCommand, run_all
from apexgpu.sshfs import mountprocesses, mountrecords, mounttable
from apexgpu.sshfs.mountrecords import MountRecord
from apexgpu.sshfs.mounttable import MountEntry
from apexgpu.sshfs.sshfscommand import SshfsProcess

PROBE_LIMIT = 2.0  # seconds for a mount to answer
# Looks for a name that exists nowhere: no cache has it, so the server has to be asked.
_PROBE_PROGRAM = """import os, sys
try: os.lstat(sys.argv[1])
except OSError as error: print(error.errno, error.strerror)"""
_SERVER_ANSWERED = {errno.ENOENT, errno.EACCES}
_INSPECT_PROGRAM = """import json, os, sys
path = os.path.realpath(sys.argv[1])
content = "missing"
if os.path.lexists(path):
    content = "file"
    if os.path.isdir(path):
        try: content = "full" if os.listdir(path) else "empty"
        except OSError: content = "unreadable"
print(json.dumps([path, content]))"""


class MountState(StrEnum):
    """What `mounts` reports. UNKNOWN: not checked yet."""

    ALIVE = "alive"
    STALE = "stale"
    UNMOUNTED = "unmounted"
    UNKNOWN = ""


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of a container that is mounted on this laptop.

    `since` is a Unix time, None if unknown; `reason` says why it is stale; `device` is the kernel's
    number for it.
    """

    host: str
    directory: str
    remote: str
    read_only: bool = False
    since: float | None = None
    pid: int | None = None
    state: MountState = MountState.UNKNOWN
    reason: str = ""
    device: str = ""

    @property
    def is_stale(self) -> bool:
        """Whether it was checked and did not answer."""
        return self.state is MountState.STALE

    def describe_source(self) -> str:
        """What is mounted, for people: `gpu7:/SSD/alice (read-only)`."""
        suffix = " (read-only)" if self.read_only else ""
        return f"{self.host}:{self.remote}{suffix}"


class LocalContent(StrEnum):
    """What is at a local path.

    FULL: a directory that is not empty; UNREADABLE: one that we have no permission for.
    """

    MISSING = "missing"
    EMPTY = "empty"
    FULL = "full"
    FILE = "file"
    UNREADABLE = "unreadable"


def read_table() -> list[MountEntry]:
    """The system's table of mounts."""
    if is_windows():
        net_use = run_all([TimedCommand(("net", "use"), 4)])[0]
        return mounttable.parse_windows(mountprocesses.windows_processes(), net_use.text)
    mountinfo = Path("/proc/self/mountinfo")
    if mountinfo.exists():
        return mounttable.parse_linux(os.fsdecode(mountinfo.read_bytes()))
    return mounttable.parse_darwin(run_all([TimedCommand(("mount",), 2)])[0].text)


def find_mounts(state_dir: Path, hosts: Sequence[Host]) -> list[Mount]:
    """The mounts of this user that lead to containers of `hosts`, or that apexgpu made.

    Their state is not checked.
    """
    uid = owner.user_id()
    visible: dict[str, MountEntry] = {}
    for entry in read_table():
        if entry.owner in {None, uid}:
            visible[entry.directory] = entry  # the last of several on top of each other
    processes = mountprocesses.find_sshfs(visible) if visible else {}
    records = mountrecords.load(state_dir)
    mounts = []
    for entry in visible.values():
        process = processes.get(entry.directory)
        record = records.get(entry.directory)
        container = _find_container(entry, hosts, process, record)
        if container is None:
            continue
        host, remote = container
        since = process.started if process else None
        if since is None and record is not None:
            since = record.since
        mounts.append(
            Mount(
                host=host,
                directory=entry.directory,
                remote=remote,
                read_only=entry.read_only,
                since=since,
                pid=process.pid if process else None,
                device=entry.device,
            )
        )
    return sorted(mounts, key=lambda mount: (mount.host, mount.directory))


def _find_container(
    entry: MountEntry,
    hosts: Sequence[Host],
    process: SshfsProcess | None,
    record: MountRecord | None,
) -> tuple[str, str] | None:
    """The name of the host and the path that are mounted.

    None if it is neither ours nor one of `hosts`.
    """
    if record is not None and mounttable.may_be_ours(entry):
        return record.host.name, record.remote
    container = mounttable.find_container(entry, hosts, process)
    if container is not None and record is None and process is not None:
        # Mounted by hand: the name alone may lead to another lab's host.
        container = mounttable.find_container(entry, hosts, mountprocesses.with_address(process))
    if container is None:
        return None
    host, remote = container
    return host.name, remote or "~"


def find_own_mounts(state_dir: Path) -> list[Mount]:
    """The mounts that apexgpu made. Those that the user made by hand belong to the user."""
    records = mountrecords.load(state_dir)
    if not records:
        return []
    return [mount for mount in find_mounts(state_dir, ()) if mount.directory in records]


def has_foreign_sshfs(state_dir: Path) -> bool:
    """Whether there is a mount of sshfs that apexgpu did not make."""
    records = mountrecords.load(state_dir)
    for entry in read_table():
        if mounttable.is_nfs(entry):
            continue
        if mounttable.may_be_ours(entry) and entry.directory not in records:
            return True
    return False


def probe_command(directory: str) -> TimedCommand:
    """The child process that finds out whether a mount answers."""
    name = f".apexgpu-{os.urandom(8).hex()}"
    path = str(Path(directory) / name)
    return TimedCommand((sys.executable, "-I", "-S", "-c", _PROBE_PROGRAM, path), PROBE_LIMIT)


def with_state(mount: Mount, probe: Completed) -> Mount:
    """The mount with its state, from the result of its `probe_command`."""
    if probe.timed_out:
        reason = f"it does not answer within {PROBE_LIMIT:g} s"
        return replace(mount, state=MountState.STALE, reason=reason)
    # The probe prints the number and the text of the error that it met, if any.
    number, _, text = probe.text.strip().partition(" ")
    met_no_error = number == ""
    server_answered = readers.number(number) in _SERVER_ANSWERED
    if probe.code == 0 and (met_no_error or server_answered):
        return replace(mount, state=MountState.ALIVE)
    reason = text or probe.last_error_line
    return replace(mount, state=MountState.STALE, reason=reason)


def check_states(mounts: Sequence[Mount]) -> list[Mount]:
    """The mounts with their states.

    All are probed at the same time: this takes PROBE_LIMIT seconds at most.
    """
    commands = [probe_command(mount.directory) for mount in mounts]
    probes = run_all(commands)
    checked = []
    for mount, probe in zip(mounts, probes, strict=True):
        checked.append(with_state(mount, probe))
    return checked


def inspect_directory(word: str) -> tuple[str, LocalContent]:
    """The path of a local directory with its links resolved, and what is there.

    Raises RefusedError if it does not answer. A drive letter of Windows is itself.
    """
    if is_windows() and re.fullmatch("[A-Za-z]:", word):
        return word.upper(), LocalContent.MISSING
    path = str(Path(word).expanduser().absolute())
    argv = (sys.executable, "-I", "-S", "-c", _INSPECT_PROGRAM, path)
    completed = run_all([TimedCommand(argv, PROBE_LIMIT)])[0]
    if completed.timed_out or completed.code != 0:
        message = f"{path} does not answer: it is inside a stale mount"
        raise RefusedError(message, hint="apexgpu mounts repair", code="stale")
    real_path, content = json.loads(completed.text)
    return real_path, LocalContent(content)


def is_listed(directory: str) -> bool:
    """Whether the files of a directory, or of a drive of Windows, can be listed. It is not touched by this process."""
    path = f"{directory}\\" if directory.endswith(":") else directory
    argv = (sys.executable, "-I", "-S", "-c", "import os, sys; os.listdir(sys.argv[1])", path)
    completed = run_all([TimedCommand(argv, PROBE_LIMIT)])[0]
    return completed.code == 0 and not completed.timed_out


def absolute_path(word: str) -> str:
    """A local path in full, without touching it.

    It may be in a stale mount, and the working directory too.
    """
    is_drive = word[1:] == ":"
    if is_drive:
        return word
    try:
        return os.path.abspath(Path(word).expanduser())  # noqa: PTH100 - resolve() would touch it
    except OSError:
        return word
