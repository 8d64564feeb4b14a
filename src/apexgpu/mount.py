"""Mounts: the files of a container in a directory of this laptop.

    from apexgpu import mount
    from apexgpu.session import Session

    session = Session()
    result = mount.mount(session, "gpu7", remote="/SSD/alice")
    print(result.mount.directory)
    mount.unmount(session, ["gpu7"])

The system's own table is the list of mounts, so those made by hand with sshfs are among them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from apexgpu import containers, shells
from apexgpu.errors import (
    ApexError,
    ConnectionClosedError,
    HostKeyError,
    NoRouteError,
    PortRefusedError,
    UnknownHostError,
    UsageError,
)
from apexgpu.models import Host, Target
from apexgpu.process import Completed, TimedCommand, run_all
from apexgpu.results import JsonObject, Result, common_exit_code, error_json
from apexgpu.session import Session
from apexgpu.ssh.failures import HostKeyNotTrustedError
from apexgpu.sshfiles import keyfiles
from apexgpu.sshfs import (
    mountcheck,
    mounting,
    mountprograms,
    mountrecords,
    mounts,
    mounttable,
    unmounting,
)
from apexgpu.sshfs.existingmounts import find_existing
from apexgpu.sshfs.mountcommands import MountRequest
from apexgpu.sshfs.mountprograms import MountProgram, ProgramKind
from apexgpu.sshfs.mounts import Mount, MountState
from apexgpu.timelimit import run_with_limit, start

__all__ = [
    "Mount",
    "MountChange",
    "MountChanges",
    "MountList",
    "MountState",
    "Mounted",
    "list_mounts",
    "mount",
    "repair",
    "unmount",
]

IAM_LIMIT = 1.0
"""Seconds for IAM to list the hosts, where none are remembered."""

REPAIR_CHECK_LIMIT = 3.0
"""Seconds for a host to show that it could be mounted again."""

# Problems of a mount for which `containers.ensure_running` has a remedy (it asks
# about a new host key, or starts a stopped container) or a better explanation.
_WORTH_A_SECOND_LOOK = (
    HostKeyNotTrustedError,
    mountcheck.PromptNeededError,
    HostKeyError,
    PortRefusedError,
    ConnectionClosedError,
    NoRouteError,
)


@dataclass(frozen=True)
class Mounted(Result):
    """What `mount` returns; `changed` is False if the same was mounted there already."""

    mount: Mount
    changed: bool

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "changed": self.changed, "mounts": [_mount_json(self.mount)]}


@dataclass(frozen=True)
class MountList(Result):
    """What `list_mounts` returns."""

    mounts: tuple[Mount, ...]

    def to_json(self) -> JsonObject:
        """See Result."""
        return {"ok": True, "mounts": [_mount_json(mount) for mount in self.mounts]}


@dataclass(frozen=True)
class MountChange:
    """A mount after `repair` or `unmount`, and the error if that failed."""

    mount: Mount
    error: ApexError | None = None

    def to_json(self) -> JsonObject:
        """The mount's row."""
        outcome = {"ok": self.error is None, "error": error_json(self.error)}
        return {**_mount_json(self.mount), **outcome}


@dataclass(frozen=True)
class MountChanges(Result):
    """What `repair` and `unmount` return: the mounts that they worked on."""

    changes: tuple[MountChange, ...]

    @property
    def exit_code(self) -> int:
        """0 if all succeeded, 3 if some did, else the code that the errors have in common."""
        return common_exit_code([change.error for change in self.changes])

    def to_json(self) -> JsonObject:
        """See Result. `changed` says whether any of them succeeded."""
        return {
            "ok": self.ok,
            "changed": any(change.error is None for change in self.changes),
            "mounts": [change.to_json() for change in self.changes],
        }


def _mount_json(mount: Mount) -> JsonObject:
    since = None
    if mount.since:
        since = datetime.fromtimestamp(mount.since).astimezone().isoformat(timespec="seconds")
    return {
        "host": mount.host,
        "directory": mount.directory,
        "remote": mount.remote,
        "read_only": mount.read_only,
        "since": since,
        "pid": mount.pid,
        "state": mount.state,
        "reason": mount.reason,
    }


# mount


def mount(
    session: Session,
    host: str,
    directory: str | None = None,
    *,
    remote: str = "",
    read_only: bool = False,
    options: Sequence[str] = (),
) -> Mounted:
    """Mount the files of the container on `host` in a local directory, by default `~/apexgpu/HOST`.

    `remote` is a path in the container, relative to the home; `options` are handed to sshfs. A
    stopped container is started if the user agrees. Nothing is changed if the same is mounted there
    already.

    Raises MissingProgramError without a program that mounts, UsageError for a directory that cannot
    be used, RefusedError if something else is mounted there or the remote path does not exist, and
    the errors of a login. Whatever ends it, no half-made mount stays behind.

    Example: mount(session, "gpu7", "~/data", remote="/SSD/alice", read_only=True)
    """
    chosen = containers.one_host(session, host)
    requested = mountcheck.parse_remote_path(remote)
    mountcheck.quote_for_sftp(requested)  # refuses a path that cannot be checked
    target = Target(chosen, "container")
    # Each of these starts programs, and none depends on the others.
    finding_program = start(lambda: mountprograms.find_program(session.runner), name="sshfs")
    finding_options = start(lambda: _ssh_options(session, target), name="ssh options")
    request = MountRequest(
        target=target,
        remote=requested,
        directory=mounts.absolute_path(directory or f"~/apexgpu/{chosen.name}"),
        config=session.settings.ssh_config,
        read_only=read_only,
        options=tuple(options),
    )
    # The table is read before the directory is touched: whoever touches a stale mount hangs.
    existing = find_existing(session.state_dir, session.known_hosts, request)
    if existing is None:
        real_path, _ = mounts.inspect_directory(request.directory)
        request = replace(request, directory=real_path)
        existing = find_existing(session.state_dir, session.known_hosts, request)
    if existing is not None:
        return Mounted(existing, changed=False)

    program = finding_program.result()
    problem = mountprograms.known_problem(program)
    if problem:
        session.reporter.warn(problem)
    agent_options, ciphers = finding_options.result()
    request = replace(request, agent_options=agent_options, ciphers=ciphers)
    request = _with_key_file(session, program, request)
    with session.reporter.working(f"mounting {chosen.name}"):
        mounted = _mount_running(session, program, request)
    return Mounted(mounted, changed=True)


def _ssh_options(session: Session, target: Target) -> tuple[tuple[str, ...], str]:
    """The options that leave out an agent that does not answer, and the ciphers to use."""
    return shells.agent_options(session, target), _faster_ciphers(session, target)


def _with_key_file(session: Session, program: MountProgram, request: MountRequest) -> MountRequest:
    """Name a key file for SSHFS-Win, whose own ssh cannot talk to Windows' agent.

    Raises PromptNeededError if there is no key file without a passphrase: the check with Windows' sftp would succeed
    with the agent's key, and the mount would fail afterwards.
    """
    if program.kind is not ProgramKind.SSHFS_WIN:
        return request
    route = session.transport.route(request.target)
    registered = session.account.identity_file
    candidates = [Path(registered)] if registered else []
    for path in [*candidates, *route.identity_files]:
        key = keyfiles.read_usable_private(path, session.runner)
        if key is not None and not key[1]:
            return replace(request, identity_file=str(path))
    message = (
        "SSHFS-Win has an ssh of its own, which cannot use the ssh-agent of Windows: a mount needs a key file"
        " without a passphrase (make one, then: apexgpu login --key FILE)"
    )
    raise mountcheck.PromptNeededError(message, hint="ssh-keygen -t ed25519")


def _mount_running(session: Session, program: MountProgram, request: MountRequest) -> Mount:
    """Mount. A new host key or a stopped container is dealt with first, as for every command."""
    if request.target.port:
        try:
            return _mount_and_check(session, program, request)
        except _WORTH_A_SECOND_LOOK as exc:
            session.transport.ssh_failed(request.target, exc)
    containers.ensure_running(session, request.target.host)
    return _mount_and_check(session, program, request)


def _mount_and_check(session: Session, program: MountProgram, request: MountRequest) -> Mount:
    limit = session.settings.timeout
    command = _sftp_command(request, limit)
    return mounting.mount(
        session.state_dir,
        program,
        request,
        requested=request.remote,
        limit=limit + 10,
        check=mountcheck.PathCheck(command, request.target, request.remote),
    )


def _sftp_command(request: MountRequest, limit: float) -> TimedCommand:
    return mountcheck.sftp_command(
        request.target,
        request.remote,
        config=request.config,
        limit=limit,
        agent_options=request.agent_options,
    )


def _faster_ciphers(session: Session, target: Target) -> str:
    """The ciphers to use for a mount; empty for those of the user's ssh config."""
    configured = session.transport.route(target).option("ciphers")
    return mountprograms.faster_ciphers(session.runner, configured)


# list


def list_mounts(session: Session) -> MountList:
    """Every mount of a container on this laptop, and whether it answers.

    Takes about two seconds at most.
    """
    all_mounts = mounts.find_mounts(session.state_dir, _hosts_without_waiting(session))
    return MountList(tuple(mounts.check_states(all_mounts)))


def _hosts_without_waiting(session: Session) -> Sequence[Host]:
    """The remembered hosts: mounts have to be listed without a network too.

    If there are none, and somebody has mounted something by hand, IAM is asked, but not waited for.
    """
    hosts = session.account.hosts
    if hosts or not mounts.has_foreign_sshfs(session.state_dir):
        return hosts
    try:
        return run_with_limit(lambda: session.known_hosts, IAM_LIMIT, name="hosts from IAM")
    except (ApexError, TimeoutError):
        return ()


# repair


def repair(session: Session) -> MountChanges:
    """Mount again what has become stale, with the options that it had.

    Returns the mounts that were stale.

    Nothing is unmounted before its host is found to answer. A host that does not answer keeps its
    mount, which works again by itself when the host is back. The failure of one does not stop the
    others.
    """
    all_mounts = mounts.find_mounts(session.state_dir, _hosts_without_waiting(session))
    requests = {}
    for mount in all_mounts:
        request = _request_again(session, mount)
        if request is not None:
            requests[mount.directory] = request
    probe_commands = [mounts.probe_command(mount.directory) for mount in all_mounts]
    check_commands = [_sftp_command(request, REPAIR_CHECK_LIMIT) for request in requests.values()]
    with session.reporter.working("checking the mounts"):
        # All at the same time: whether the mounts answer, and whether their hosts do.
        results = run_all([*probe_commands, *check_commands])
    probes = results[: len(all_mounts)]
    checks = dict(zip(requests, results[len(all_mounts) :], strict=True))
    changes = []
    for mount, probe in zip(all_mounts, probes, strict=True):
        checked = mounts.with_state(mount, probe)
        if checked.is_stale:
            request = requests.get(mount.directory)
            check = checks.get(mount.directory)
            changes.append(_repair_one(session, checked, request, check))
    if not all_mounts:
        session.reporter.success("nothing is mounted")
    elif not changes:
        session.reporter.success("nothing to repair")
    return MountChanges(tuple(changes))


def _request_again(session: Session, mount: Mount) -> MountRequest | None:
    """The request that makes a mount again; None if its host is no longer known."""
    record = mountrecords.load(session.state_dir).get(mount.directory)
    host = record.host if record else None
    for known in session.hosts_known_so_far:
        if known.name == mount.host:
            host = known
    if host is None or not host.port:
        return None
    target = Target(host, "container")
    return MountRequest(
        target=target,
        remote="" if mount.remote == "~" else mount.remote,
        directory=mount.directory,
        config=session.settings.ssh_config,
        read_only=record.read_only if record else mount.read_only,
        options=record.options if record else (),
        agent_options=shells.agent_options(session, target),
    )


def _repair_one(
    session: Session, mount: Mount, request: MountRequest | None, check: Completed | None
) -> MountChange:
    try:
        mounted = _mount_again(session, mount, request, check)
    except ApexError as error:
        session.reporter.error(error, host=mount.host)
        return MountChange(mount, error)
    session.reporter.success(f"{mounted.directory} shows {mounted.host}:{mounted.remote} again")
    return MountChange(mounted)


def _mount_again(
    session: Session, mount: Mount, request: MountRequest | None, check: Completed | None
) -> Mount:
    """Replace a stale mount. `check` is the result of sftp with the new connection."""
    if request is None or check is None:
        message = f"{mount.directory}: the host {mount.host} is not known any more"
        raise UsageError(message, hint=f"apexgpu unmount {mount.directory} --force")
    full_path = mountcheck.full_remote_path(check, request.target, request.remote)
    program = mountprograms.find_program(session.runner)
    record = mountrecords.load(session.state_dir).get(mount.directory)
    unmounting.unmount(session.state_dir, mount, force=True, keep=True)
    ciphers = record.ciphers if record else _faster_ciphers(session, request.target)
    return mounting.mount(
        session.state_dir,
        program,
        _with_key_file(session, program, replace(request, remote=full_path, ciphers=ciphers)),
        requested=record.requested if record else request.remote,
        limit=session.settings.timeout,
    )


# unmount


def unmount(
    session: Session, names: Sequence[str] = (), *, everything: bool = False, force: bool = False
) -> MountChanges:
    """Unmount what is mounted from hosts or on directories, or `everything`.

    `names` are host names, globs of them, and directories. With `force`, a mount disappears at once
    although programs use it (a lazy unmount), and a stale one is ended. The failure of one does not
    stop the others: it is in the result.

    Raises UsageError for a name that means nothing. A directory that is not mounted is not an
    error.

    Example: unmount(session, ["gpu7", "~/data"])
    """
    if not names and not everything:
        raise UsageError("no mount was named", hint="apexgpu unmount --all")
    all_mounts = mounts.find_mounts(session.state_dir, _hosts_without_waiting(session))
    chosen = all_mounts if everything else _choose(session, all_mounts, names)
    if force:
        chosen = mounts.check_states(chosen)
    changes = tuple(_unmount_one(session, mount, force=force) for mount in chosen)
    unmounting.forget_unmounted(session.state_dir, None if everything else names)
    if not changes:
        session.reporter.success("nothing to unmount")
    return MountChanges(changes)


def _unmount_one(session: Session, mount: Mount, *, force: bool) -> MountChange:
    try:
        unmounting.unmount(session.state_dir, mount, force=force)
    except ApexError as error:
        session.reporter.error(error, host=mount.host)
        return MountChange(mount, error)
    session.reporter.success(f"unmounted {mount.directory} ({mount.host}:{mount.remote})")
    return MountChange(replace(mount, state=MountState.UNMOUNTED))


def _choose(session: Session, all_mounts: Sequence[Mount], names: Sequence[str]) -> list[Mount]:
    """The mounts that `names` stand for, each once."""
    directories: list[str] = []
    for name in names:
        directories += _directories_of(session, all_mounts, name)
    by_directory = {mount.directory: mount for mount in all_mounts}
    chosen = []
    for directory in dict.fromkeys(directories):
        if directory in by_directory:
            chosen.append(by_directory[directory])
    return chosen


def _directories_of(session: Session, all_mounts: Sequence[Mount], name: str) -> list[str]:
    """The mounted directories that a host name, a glob or a directory stands for.

    No directory is touched here except by a child process, because it may be a stale mount.
    """
    mounted = [mount.directory for mount in all_mounts]
    from_host = [mount.directory for mount in all_mounts if mount.host == name]
    path = mounts.absolute_path(name)
    if from_host or path in mounted:
        return from_host or [path]
    is_path = os.sep in name or name[:1] in {"~", "."} or name[1:] == ":"
    if not is_path:
        try:
            hosts = {host.name for host in session.hosts([name])}
        except UnknownHostError:
            pass  # it may be a directory without a slash in its name
        else:
            return [mount.directory for mount in all_mounts if mount.host in hosts]
    real_path, _ = mounts.inspect_directory(path)
    if real_path in mounted:
        return [real_path]
    if not is_path:
        session.hosts([name])  # neither a host nor a mount: raises the error for an unknown host
    if mounttable.entry_at(mounts.read_table(), real_path) is not None:
        message = f"{real_path} is not a mount of a container of yours"
        raise UsageError(message, hint="apexgpu mounts")
    return []
