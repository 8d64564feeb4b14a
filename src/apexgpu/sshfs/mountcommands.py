"""The command lines that mount and unmount, and what the programs mean when they fail.

The argument lists are pure.

Sources: sshfs(1) 2.5 and 3.7; FUSE's options mount.fuse3(8); fusermount3(1); SSHFS-Win's README and
sshfs-win.c; rclone's pages on nfsmount and sftp; umount(8) and diskutil(8) of macOS.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from apexgpu.errors import ApexError, RefusedError, UsageError
from apexgpu.models import Target
from apexgpu.platforms.system import current
from apexgpu.process import TimedCommand, run_all, which
from apexgpu.ssh import sshoptions
from apexgpu.ssh.route import config_arguments
from apexgpu.sshfs.mountprocesses import MARK
from apexgpu.sshfs.mountprograms import MountProgram, ProgramKind
from apexgpu.text import last_line

# A dead server is noticed within INTERVAL * (COUNT + 1) = 16 seconds; programs get an error then.
_ALIVE_INTERVAL, _ALIVE_COUNT = 4, 3
_CONNECT_LIMIT = 5  # seconds


@dataclass(frozen=True, slots=True)
class MountRequest:
    """What to mount where.

    `remote` is the path in the container, `config` the ssh config file, `options` the user's own
    `-o`, `ciphers` the value of ssh's Ciphers (empty: ssh's choice), `agent_options` those of ssh
    that leave out an agent that does not answer. `identity_file` is for SSHFS-Win's own ssh.
    """

    target: Target
    remote: str
    directory: str
    config: Path
    read_only: bool = False
    options: tuple[str, ...] = ()
    ciphers: str = ""
    agent_options: tuple[str, ...] = ()
    identity_file: str = ""


def mount_argv(
    program: MountProgram, request: MountRequest, *, platform: str | None = None
) -> list[str]:
    """The command line that mounts.

    It ends when the mount is there, except that of SSHFS-Win, which keeps running.
    """
    platform = platform or current()
    if program.kind is ProgramKind.RCLONE:
        return _rclone_argv(program, request)
    target = request.target
    ssh = "ssh"
    config = config_arguments(request.config)
    if program.kind is ProgramKind.SSHFS_WIN:
        # It needs its own ssh, because Windows' does not work over Cygwin's sockets; sshfs-win.c
        # sets PATH=/bin.
        ssh = "/bin/ssh"
        config = ["-F", cygwin_path(str(request.config))]

    # Options that sshfs does not hand to ssh by itself. It splits this at blanks, and none of the
    # words has one.
    ssh_command = f"ssh_command={ssh} -T -o RemoteCommand=none -o RequestTTY=no -o Tunnel=no"
    # The user's own options have to win: of ssh's the first one counts, of all others the last one.
    own_options: list[str] = []
    for option in request.options:
        own_options += re.split(r"(?<!\\),", option)
    options = [sshoptions.KNOWN_HOST_KEY]
    options += [option for option in own_options if _belongs_to_ssh(option)]
    options += [*_ssh_options(target), *request.agent_options]
    if request.identity_file:
        options.append(f"IdentityFile={cygwin_path(request.identity_file)}")
    if request.ciphers:
        options.append(f"Ciphers={request.ciphers}")
    options += _sshfs_options(program, target.alias, platform)
    options.append(ssh_command)
    if request.read_only:
        options.append("ro")
    options += [option for option in own_options if not _belongs_to_ssh(option)]

    source = f"{target.user}@{target.alias}:{request.remote}"
    argv = [program.path, source, request.directory, *config]
    for option in options:
        argv += ["-o", option]
    if program.kind is ProgramKind.SSHFS_WIN:
        argv.append("-f")
    return argv


def _belongs_to_ssh(option: str) -> bool:
    """Whether it is an option of ssh.

    Those begin with a capital, unlike those of sshfs and FUSE.
    """
    return option[:1].isupper()


def _ssh_options(target: Target) -> list[str]:
    """A connection of its own that never asks and notices within seconds that it is dead."""
    return [
        f"HostName={target.host.address}",
        f"Port={target.port}",
        sshoptions.NO_PROMPT,
        "PermitLocalCommand=no",
        "ControlPath=none",
        sshoptions.connect_timeout(_CONNECT_LIMIT),
        "ConnectionAttempts=1",
        *sshoptions.keep_alive(_ALIVE_INTERVAL, _ALIVE_COUNT),
    ]


def _sshfs_options(program: MountProgram, name: str, platform: str) -> list[str]:
    # auto_cache: what was read stays in memory until the file has another time or size when it is
    # opened. ac_attr_timeout=0: sshfs checks that at each open instead of once a second.
    # attr_timeout=0.1: the kernel believes a size for a tenth of a second instead of one
    # (mount.fuse3(8)); 0 would make listings three times slower.
    options = ["idmap=user", "reconnect", "auto_cache", "ac_attr_timeout=0", "attr_timeout=0.1"]
    if program.kind is ProgramKind.SSHFS_WIN:
        # As in sshfs-win.c: the Windows user becomes the owner, and links become relative.
        options += ["uid=-1", "gid=-1", "rellinks", "fstypename=SSHFS", f"volname={name}"]
    elif platform == "darwin":
        options.append(f"volname={name}")
        if program.fuse.lower() == "macfuse":
            options.append("noappledouble")  # no ._ files and .DS_Store in the container
    return options


def _rclone_argv(program: MountProgram, request: MountRequest) -> list[str]:
    """The command line of rclone, which uses OpenSSH too.

    See https://rclone.org/commands/rclone_nfsmount/ and https://rclone.org/sftp/#sftp-ssh.
    """
    target = request.target
    ssh_options = [
        sshoptions.KNOWN_HOST_KEY,
        *(option for option in request.options if _belongs_to_ssh(option)),
        *_ssh_options(target),
        *request.agent_options,
        f"User={target.user}",
        "RemoteCommand=none",
        "ClearAllForwardings=yes",
    ]
    ssh = ["ssh", *config_arguments(request.config), "-T", "-a", "-x"]
    ssh += [*sshoptions.arguments(ssh_options), target.alias]
    argv = [
        program.path,
        "nfsmount",
        f":sftp:{request.remote}",
        request.directory,
        "--sftp-ssh",
        " ".join(_rclone_word(word) for word in ssh),
        "--daemon",
        "--volname",
        target.alias,
        "--dir-cache-time",
        "20s",
    ]
    argv += ["--read-only"] if request.read_only else ["--vfs-cache-mode", "writes"]
    for option in request.options:
        if not _belongs_to_ssh(option):
            argv += ["-o", option]
    return argv


def _rclone_word(word: str) -> str:
    """rclone reads a SpaceSepList as CSV: a word that contains a blank is put in double quotes."""
    return f'"{word}"' if " " in word else word


def cygwin_path(path: str) -> str:
    r"""A Windows path as Cygwin's programs write it: `C:\Users\a` is `/cygdrive/c/Users/a`."""
    drive = re.match(r"([A-Za-z]):[\\/]", path)
    path = path.replace("\\", "/")
    if drive is None:
        return path
    return f"/cygdrive/{drive[1].lower()}/{path[3:]}"


def unmount_argvs(
    directory: str,
    *,
    force: bool,
    platform: str | None = None,
    find: Callable[[str], str | None] = which,
) -> list[list[str]]:
    """The command lines that unmount, to be tried in this order.

    With `force`, also while programs use the directory.

    None on Windows unless it is a drive: the process is ended there.
    """
    platform = platform or current()
    if platform == "win32":
        if re.fullmatch("[A-Za-z]:", directory):
            return [["net", "use", directory, "/delete", "/y"]]
        return []
    if platform == "darwin":
        if force:
            return [["umount", "-f", directory], ["diskutil", "unmount", "force", directory]]
        return [["umount", directory]]
    for program in ("fusermount3", "fusermount"):
        if find(program):
            return [[program, "-uz" if force else "-u", directory]]
    return [["umount", "-l", directory] if force else ["umount", directory]]


class _KnownFailure(NamedTuple):
    """Part of the output (in lower case), what it means, and a command that helps."""

    part: str
    meaning: str
    hint: str


_UNKNOWN_OPTION = "unknown option"
_KNOWN_FAILURES = (
    _KnownFailure(
        "/dev/fuse: permission denied",
        "you have no permission to use /dev/fuse",
        "sudo chmod 666 /dev/fuse",
    ),
    _KnownFailure(
        "device not found",
        "the kernel has no FUSE: its module is not loaded",
        "sudo modprobe fuse",
    ),
    _KnownFailure(
        "user_allow_other",
        "the administrator has not enabled allow_other",
        "echo user_allow_other | sudo tee -a /etc/fuse.conf",
    ),
    _KnownFailure(
        "no write access to mountpoint",
        "the directory is not yours, so nothing can be mounted on it; choose another directory",
        "apexgpu mount {host} ~/apexgpu/{host}-2",
    ),
    _KnownFailure(
        "file system is not available",
        "macOS has not loaded macFUSE's system extension; allow it in the settings and restart",
        "open 'x-apple.systempreferences:com.apple.preference.security'",
    ),
    _KnownFailure(
        "remote host has disconnected",
        "the container's sshd closed the connection",
        "apexgpu doctor {host}",
    ),
    _KnownFailure(
        "connection reset by peer",
        "the connection ended before sshfs could begin",
        "apexgpu doctor {host}",
    ),
    _KnownFailure("mount_max", "there are too many FUSE mounts", "apexgpu mounts"),
)


def mount_failure(host: str, output: str) -> ApexError:
    """The error for a program that could not mount, from its output."""
    last = last_line(output, "it did not say why")
    if _UNKNOWN_OPTION in output.lower():
        return UsageError(f"sshfs does not know one of the options: {last}", hint="sshfs --help")
    for part, meaning, hint in _KNOWN_FAILURES:
        if part in output.lower():
            message = f"{host} could not be mounted: {meaning} ({last})"
            return RefusedError(message, hint=hint.format(host=host), code="mount_failed")
    message = f"{host} could not be mounted: {last}"
    return ApexError(message, hint=f"apexgpu doctor {host}", code="mount_failed")


def run_mount(program: MountProgram, request: MountRequest, *, limit: float) -> None:
    """Mount within `limit` seconds. The program is killed if it takes longer."""
    name = request.target.host.name
    argv = tuple(mount_argv(program, request))
    # The mark tells `mounts` which processes belong to which directory.
    command = TimedCommand(argv, limit, env={MARK: request.directory})
    completed = run_all([command])[0]
    if completed.timed_out:
        message = f"{program} did not mount {name} within {limit:g} s"
        raise RefusedError(message, hint=f"apexgpu doctor {name}", code="timeout")
    if completed.code != 0:
        messages = completed.err.decode("utf-8", "replace")
        raise mount_failure(name, messages + completed.text)
