"""Unmounts, and removes the directories that apexgpu made for a mount."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from apexgpu.errors import ApexError, RefusedError
from apexgpu.forwarding import portowners
from apexgpu.platforms import system
from apexgpu.platforms.paths import is_below
from apexgpu.platforms.system import is_windows
from apexgpu.process import Completed, TimedCommand, run_all
from apexgpu.sshfs import mountcommands, mountprocesses, mountrecords, mounttable
from apexgpu.sshfs.mounting import UNMOUNT_LIMIT, remove_directories
from apexgpu.sshfs.mounts import Mount, check_states, find_own_mounts, read_table


def unmount(state_dir: Path, mount: Mount, *, force: bool = False, keep: bool = False) -> None:
    """Unmount. Raises RefusedError, naming the programs that use it, if it is busy.

    With `force` it disappears at once: a stale one is ended, so that programs that wait for it get
    an error; one that is alive serves its open files until they are closed. With `keep`, its
    directory and its record stay, because it is going to be mounted again.
    """
    _leave_directory(mount.directory)
    processes = mountprocesses.find_behind(mount.directory)
    end_now = force and mount.is_stale
    if end_now:
        mountprocesses.abort_connection(mount.device)
    _run_programs(mount, force=force)
    if end_now:
        mountprocesses.end_behind(processes, grace=0)
    elif not force:
        mountprocesses.end_behind(processes, grace=1)
    if not keep:
        _forget(state_dir, mount.directory)


def unmount_own(state_dir: Path) -> list[Mount]:
    """Unmount everything that apexgpu mounted, stale mounts by force; the mounts that there were.

    Raises RefusedError at the first one that is in use.
    """
    mounts = check_states(find_own_mounts(state_dir))
    for mount in mounts:
        unmount(state_dir, mount, force=mount.is_stale)
    forget_unmounted(state_dir)
    return mounts


def forget_unmounted(state_dir: Path, names: Sequence[str] | None = None) -> None:
    """Drop the records of mounts that are gone, and remove the directories that were made for them.

    They were unmounted by hand, or the machine was restarted. `names` are hosts and directories,
    None means all.
    """
    mounted = {entry.directory for entry in read_table()}
    records = mountrecords.load(state_dir)
    for record in records.values():
        if record.directory in mounted:
            continue
        if names is None or record.directory in names or record.host.name in names:
            _forget(state_dir, record.directory)


def _forget(state_dir: Path, directory: str) -> None:
    record = mountrecords.load(state_dir).get(directory)
    if record is not None:
        not_removed = remove_directories(record.created)
        mountrecords.forget(state_dir, directory, not_removed)


def _leave_directory(directory: str) -> None:
    """Leave the directory if we were started in it: we would keep it busy ourselves."""
    try:
        current = os.getcwd()  # noqa: PTH109 - Path.cwd() is the same
    except OSError:
        current = directory
    if is_below(system.current(), current, directory):
        os.chdir(Path(directory).anchor)


def _run_programs(mount: Mount, *, force: bool) -> None:
    """Try the programs that unmount.

    Raises the error for a mount that is still there afterwards.
    """
    completed = None
    for argv in mountcommands.unmount_argvs(mount.directory, force=force):
        completed = run_all([TimedCommand(tuple(argv), UNMOUNT_LIMIT)])[0]
        if completed.code == 0 and not completed.timed_out:
            return
    if is_windows() and mount.pid is not None:
        os.kill(mount.pid, signal.SIGTERM)
        return
    entry = mounttable.entry_at(read_table(), mount.directory)
    was_replaced = entry is not None and mount.device and entry.device != mount.device
    if entry is None or was_replaced:
        return  # somebody else has unmounted it meanwhile
    raise _still_mounted(mount, completed)


def _still_mounted(mount: Mount, completed: Completed | None) -> ApexError:
    """The error for a mount that could not be unmounted; `completed` is the last program that tried."""
    hint = f"apexgpu unmount {mount.host} --force"
    reason = "the program that unmounts does not end"
    if completed is not None and not completed.timed_out:
        reason = completed.last_error_line
    users = portowners.users_of(mount.directory)
    if not users and "busy" not in reason.lower():
        message = f"{mount.directory} cannot be unmounted: {reason}"
        return ApexError(message, hint=hint, code="unmount_failed")
    # A program that waits for the first answer of the file system has nothing open yet.
    users = users or portowners.waiting_for_fuse()
    names = ", ".join(str(user) for user in users) or "a program that cannot be seen"
    message = f"{mount.directory} is in use by {names}: close it, or unmount by force"
    return RefusedError(message, hint=hint, code="busy")
