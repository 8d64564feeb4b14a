"""The system's table of mounts, as each system prints it: text -> values. Which of them are a container's."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from apexgpu.models import Host

_ESCAPED = re.compile(r"\\([0-7]{3})")
# How each FUSE calls a file system of sshfs; `nfs` is that of FUSE-T and of rclone, known by more than its kind.
_KINDS = {"fuse.sshfs", "fuse", "macfuse", "osxfuse", "fusefs", "osxfusefs", "nfs", "sshfs"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table. `owner` is the user id of whoever mounted it, `number` the kernel's name for it; None and
    empty where the system does not tell."""

    directory: str
    source: str
    kind: str
    read_only: bool = False
    owner: int | None = None
    number: str = ""


@dataclass(frozen=True, slots=True)
class Sshfs:
    """A running sshfs. `started` is a Unix time; `address`, `port` and `config` (ssh's) are what it was told, if so."""

    pid: int
    directory: str
    started: float | None = None
    address: str = ""
    port: int | None = None
    source: str = ""
    config: str = ""


def linux(text: str) -> list[Entry]:
    """/proc/self/mountinfo (proc(5)): 36 35 0:39 ROOT DIRECTORY OPTIONS … - KIND SOURCE SUPER-OPTIONS."""
    found = []
    for line in text.split("\n"):
        before, dash, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if not dash or len(fields) < 6 or len(rest) < 3:
            continue
        options = {*fields[5].split(","), *rest[2].split(",")}
        owner = next((int(one[8:]) for one in options if re.fullmatch(r"user_id=\d+", one)), None)
        number = fields[2].rpartition(":")[2]
        found.append(
            Entry(_plain(fields[4]), _plain(rest[1]), rest[0], "ro" in options, owner, number)
        )
    return found


def _plain(field: str) -> str:
    """Blank, tab, newline and backslash stand there as three octal digits; other bytes as they are."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), field)


def darwin(text: str) -> list[Entry]:
    """What mount(8) prints on macOS: SOURCE on DIRECTORY (KIND, OPTION, …)."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"(.*?) on (/.*) \(([^(),]+)(?:, ([^()]*))?\)", line)
        if match:
            options = (match[4] or "").split(", ")
            found.append(Entry(match[2], match[1], match[3], "read-only" in options))
    return found


def windows(processes: str, net_use: str) -> list[Entry]:
    """From `Get-CimInstance Win32_Process … | ConvertTo-Json`, and `net use` for drives that Explorer has mapped."""
    found = [Entry(one.directory, one.source, "sshfs") for one in windows_sshfs(processes)]
    known = {entry.directory.lower() for entry in found}
    for drive, user_host in re.findall(r"\s([A-Z]:)\s+\\\\sshfs[.\w]*\\(\S+)", net_use):
        if drive.lower() not in known:
            where, _, path = user_host.partition("\\")
            found.append(
                Entry(drive, f"{where.partition('!')[0]}:{path.replace(chr(92), '/')}", "sshfs")
            )
    return found


def windows_sshfs(processes: str) -> list[Sshfs]:
    """The running sshfs.exe, from their command lines; one process is an object, several are a list of them."""
    try:
        rows = json.loads(processes or "[]")
    except ValueError:
        return []
    found = []
    for row in rows if isinstance(rows, list) else [rows]:
        words = [
            quoted or plain
            for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', row.get("CommandLine") or "")
        ]
        one = sshfs_of(words, int(row.get("ProcessId") or 0))
        if one:
            found.append(one)
    return found


def sshfs_of(words: Sequence[str], pid: int, started: float | None = None) -> Sshfs | None:
    """What a command line of sshfs says; None when it is not one. Its options may stand anywhere."""
    if not words or not re.search(r"(?:^|[/\\])sshfs(?:\.exe)?$", words[0], re.IGNORECASE):
        return None
    plain: list[str] = []
    options: dict[str, str] = {}
    waiting = iter(words[1:])
    for word in waiting:
        if word in {"-F", "-p"}:
            options["port" if word == "-p" else "-F"] = next(waiting, "")
        elif word.startswith("-o"):
            text = word[2:] or next(waiting, "")
            options |= {
                key.lower(): value
                for key, _, value in (part.partition("=") for part in text.split(","))
            }
        elif not word.startswith("-"):
            plain.append(word)
    if len(plain) < 2:
        return None
    port = options.get("port", "")
    number = int(port) if port.isdigit() else None
    return Sshfs(
        pid, plain[1], started, options.get("hostname", ""), number, plain[0], options.get("-F", "")
    )


def remote_of(
    entry: Entry, hosts: Iterable[Host], sshfs: Sshfs | None = None
) -> tuple[Host, str] | None:
    """The host whose container is mounted there, and the path; None when it is no mount of these hosts.

    A name alone could be another lab's: where the sshfs is known and says where it goes, that must be the host's.
    """
    if entry.kind not in _KINDS:
        return None
    where, path = _split(entry.source)
    for host in hosts:
        if entry.source in {
            f"fuse-t:/{host.name}",
            host.name,
        }:  # FUSE-T shows the volume's name, as we give it
            return host, ""
        if entry.kind == "nfs" or where not in {host.name, host.address}:
            continue  # a real NFS export has the same form of source
        if (
            sshfs
            and sshfs.address
            and (sshfs.address, sshfs.port or host.port) != (host.address, host.port)
        ):
            continue
        return host, path
    return None


def name_in(source: str) -> str:
    """The name or address that ssh is called with, in `user@name:path`; empty when it is no such source."""
    return _split(source)[0]


def may_be_ours(entry: Entry) -> bool:
    """Whether it is of a kind that our programs make."""
    return entry.kind in _KINDS


def _split(source: str) -> tuple[str, str]:
    """`user@host:path` -> host and path; an IPv6 address stands in brackets."""
    match = re.fullmatch(r"(?:[^:/]*@)?(?:\[([^\]]+)\]|([^:/@]+)):(.*)", source, re.DOTALL)
    return (match[1] or match[2], match[3]) if match else ("", "")


def at(entries: Sequence[Entry], directory: str) -> Entry | None:
    """The mount that is seen at `directory`: of several on top of each other, the last."""
    return next((one for one in reversed(entries) if one.directory == directory), None)
