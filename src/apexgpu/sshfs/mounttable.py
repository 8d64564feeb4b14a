"""The system's table of mounts, and which of its entries are mounts of containers. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from apexgpu.models import Host
from apexgpu.platforms.paths import same_name_form
from apexgpu.platforms.system import current
from apexgpu.sshfs.sshfscommand import SshfsProcess, parse_windows_processes

_OCTAL_ESCAPE = re.compile(r"\\([0-7]{3})")
# What each FUSE calls the file systems of sshfs. FUSE-T and rclone mount with `nfs` or `smbfs`, which need a
# closer look.
_SSHFS_KINDS = {
    "fuse.sshfs",
    "fuse",
    "macfuse",
    "osxfuse",
    "fusefs",
    "osxfusefs",
    "nfs",
    "smbfs",
    "fskit",
    "sshfs",
}
# What an ordinary server's file system is called, too.
_SHARED_KINDS = {"nfs", "smbfs"}


@dataclass(frozen=True, slots=True)
class MountEntry:
    """An entry of the table.

    `kind` is the file system, `owner` the id of the user who mounted it and `device` the kernel's
    number for it; None and empty where the system does not tell.
    """

    directory: str
    source: str
    kind: str
    read_only: bool = False
    owner: int | None = None
    device: str = ""


def parse_linux(text: str) -> list[MountEntry]:
    """Read /proc/self/mountinfo (proc(5)).

    Its lines: 36 35 0:39 ROOT DIRECTORY OPTIONS … - KIND SOURCE SUPER-OPTIONS.
    """
    entries = []
    for line in text.split("\n"):
        before, dash, after = line.partition(" - ")
        mount_fields, file_system_fields = before.split(" "), after.split(" ")
        if not dash or len(mount_fields) < 6 or len(file_system_fields) < 3:
            continue
        options = {*mount_fields[5].split(","), *file_system_fields[2].split(",")}
        entries.append(
            MountEntry(
                directory=_unescape(mount_fields[4]),
                source=_unescape(file_system_fields[1]),
                kind=file_system_fields[0],
                read_only="ro" in options,
                owner=_owner(options),
                device=mount_fields[2].rpartition(":")[2],
            )
        )
    return entries


def _owner(options: Iterable[str]) -> int | None:
    for option in options:
        if re.fullmatch(r"user_id=\d+", option):
            return int(option.removeprefix("user_id="))
    return None


def _unescape(field: str) -> str:
    """The kernel writes blank, tab, newline and backslash as three octal digits."""

    def letter(match: re.Match[str]) -> str:
        return chr(int(match[1], 8))

    return _OCTAL_ESCAPE.sub(letter, field)


def parse_darwin(text: str) -> list[MountEntry]:
    """Read the output of mount(8) on macOS: SOURCE on DIRECTORY (KIND, OPTION, …)."""
    entries = []
    for line in text.splitlines():
        match = re.fullmatch(r"(.*?) on (/.*) \(([^(),]+)(?:, ([^()]*))?\)", line)
        if match:
            source, directory, kind, options = match.groups()
            read_only = "read-only" in (options or "").split(", ")
            entries.append(MountEntry(directory, source, kind, read_only))
    return entries


def parse_windows(processes: str, net_use: str) -> list[MountEntry]:
    """Read the running sshfs.exe and, for drives mapped in Explorer, `net use`."""
    entries = []
    for process in parse_windows_processes(processes):
        entries.append(MountEntry(process.directory, process.source, "sshfs"))
    known = {entry.directory.lower() for entry in entries}
    for drive, share in re.findall(r"\s([A-Z]:)\s+\\\\sshfs[.\w]*\\(\S+)", net_use):
        if drive.lower() in known:
            continue
        # The share is user@host!port\path; the port is optional.
        user_and_host, _, path = share.partition("\\")
        host = user_and_host.partition("!")[0]
        source = f"{host}:" + path.replace("\\", "/")
        entries.append(MountEntry(drive, source, "sshfs"))
    return entries


def find_container(
    entry: MountEntry, hosts: Iterable[Host], process: SshfsProcess | None = None
) -> tuple[Host, str] | None:
    """The host whose container is mounted, and the path in it.

    None if the entry is not a mount of these hosts.

    Another lab may use the same name. If the sshfs behind the mount is known, its address has to be
    the host's.
    """
    if entry.kind not in _SSHFS_KINDS:
        return None
    name, path = _split_source(entry.source)
    for host in hosts:
        # FUSE-T shows the name of the volume, which we set to the host's.
        if entry.source in {f"fuse-t:/{host.name}", host.name}:
            return host, ""
        # A real NFS export has a source of the same form.
        if (
            entry.kind not in _SHARED_KINDS
            and name in {host.name, host.address}
            and _leads_to(process, host)
        ):
            return host, path
    return None


def _leads_to(process: SshfsProcess | None, host: Host) -> bool:
    """Whether a sshfs is connected to this host, as far as its command line tells."""
    if process is None or not process.address:
        return True
    return (process.address, process.port or host.port) == (host.address, host.port)


def ssh_name(source: str) -> str:
    """The name or address in `user@name:path`; empty if it is not such a source."""
    return _split_source(source)[0]


def may_be_ours(entry: MountEntry) -> bool:
    """Whether it is a kind of file system that our programs mount."""
    return entry.kind in _SSHFS_KINDS


def is_nfs(entry: MountEntry) -> bool:
    """Whether it looks like an NFS mount, which may be one of FUSE-T or rclone."""
    return entry.kind in _SHARED_KINDS


def _split_source(source: str) -> tuple[str, str]:
    """The host and the path of `user@host:path`; an IPv6 address is in brackets."""
    match = re.fullmatch(r"(?:[^:/]*@)?(?:\[([^\]]+)\]|([^:/@]+)):(.*)", source, re.DOTALL)
    if match is None:
        return "", ""
    return match[1] or match[2], match[3]


def entry_at(entries: Sequence[MountEntry], directory: str) -> MountEntry | None:
    """The entry that is visible at `directory`: of several on top of each other, the last."""
    wanted = same_name_form(current(), directory)
    for entry in reversed(entries):
        if same_name_form(current(), entry.directory) == wanted:
            return entry
    return None
