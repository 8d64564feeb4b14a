"""Parses the replies about snapshots and recovers. Pure; see `replies` for the rules.

These replies are less reliable than the others: `Saved to:` and `Done` are printed even after tar
failed. They count only when stderr contains no error.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from apexgpu.errors import ApexError, BadSnapshotError, NoRootfsError, NoSnapshotError
from apexgpu.manageshell.replies import (
    clean,
    content_lines,
    parse_opening,
    require_end,
    unexpected,
)
from apexgpu.models import Reply

_CONFIRM = re.compile(r"^Confirm (snapshot|recover): ssh \S+ \1 ([0-9a-f]{8})(?: (\S+))?$")
# A decimal comma comes from the language of the user's laptop, which ssh may send along.
_DU = re.compile(r"^([0-9.,]{1,30}[KMGTP]?)\t(\S.*)$")
_SAVED_TO = "Saved to: "
# What stderr contains when an archive was not written, or files were not read completely. A line of
# tar that is not known to be harmless is a reason for doubt: `file changed as we read it` means that
# somebody used the container, and another language than English may mean anything.
_NOT_WRITTEN = re.compile(
    r"^tar(?: \(child\))?:|^gzip:|du: cannot access|No space left|quota exceeded|Stale|"
    r"Input/output|Killed"
)
# After a recover that went well, these programs print nothing at all.
_NOT_UNPACKED = re.compile(
    r"^(tar|tar \(child\)|gzip|lxc-\w+|useradd|tee):|chown: (invalid|cannot)|"
    r"(chmod|mkdir|touch|cp|mv): (cannot|missing)|du: cannot access|"
    r"No space left|quota exceeded|Stale|Input/output|Killed"
)
# What tar prints about files that are complete: sockets, clocks that differ, headers of a newer
# tar.
_HARMLESS = re.compile(
    r"^tar: .*(socket ignored|door ignored|time ?stamp|unknown extended header|Removing leading|"
    r"Record size)"
)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What the server asks for before a snapshot or recover: the command again, with a token.

    `token` is valid for some minutes. `path` is the archive that a recover would unpack; `size` is
    that of the container's files, as `du -h` prints it.
    """

    token: str
    path: str | None = None
    size: str | None = None


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """An archive that the server reports as written or unpacked; `size` as `du -h` prints it."""

    path: str
    size: str


def parse_snapshot_confirmation(reply: Reply, host: str) -> Confirmation:
    """Parse the reply to `snapshot`: a token, and the size of the container's files."""
    lines, _ = parse_opening(reply, host)
    if any("du: cannot access" in line for line in content_lines(reply.err)):
        message = (
            f"the container on {host} has no root file system to take a snapshot of; "
            f"recover a snapshot (or rebuild it from the template: apexgpu rebuild {host})"
        )
        raise NoRootfsError(message, hint=f"apexgpu recover {host}")
    token, path = _parse_confirmation(lines, reply, host, "snapshot")
    sizes = [size for size, _ in _sizes(reply)]
    return Confirmation(token, path, sizes[0] if sizes else None)


def parse_recover_confirmation(reply: Reply, host: str) -> Confirmation:
    """Parse the reply to `recover` and `rebuild`: a token, and the path of the archive."""
    lines, _ = parse_opening(reply, host)
    token, path = _parse_confirmation(lines, reply, host, "recover")
    return Confirmation(token, path)


def _parse_confirmation(
    lines: list[str], reply: Reply, host: str, command: str
) -> tuple[str, str | None]:
    require_end(lines, reply, host)
    for line in lines:
        match = _CONFIRM.match(line)
        if match is not None and match[1] == command:
            return match[2], match[3]
    raise unexpected(reply, host)


def parse_snapshot(reply: Reply, host: str) -> ArchiveReport:
    """Parse the reply to `snapshot TOKEN`.

    Raises BadSnapshotError when the archive is not reliable.
    """
    lines, _ = parse_opening(reply, host)
    path = None
    for line in lines:
        if path is None and line.startswith(_SAVED_TO):
            path = line.removeprefix(_SAVED_TO)
    sizes = [size for size, _ in _sizes(reply)]
    error = _find_error(reply, _NOT_WRITTEN)
    if error is None and path is not None and not sizes:
        error = "it has no size"
    if error is not None:
        message = f"the snapshot on {host} is bad, although the server reports it as saved: {error}"
        raise BadSnapshotError(message, hint=f"apexgpu snapshots {host}")
    require_end(lines, reply, host)
    if path is None or not sizes:
        raise unexpected(reply, host)
    return ArchiveReport(path, sizes[0])


def parse_recover(reply: Reply, host: str) -> ArchiveReport:
    """Parse the reply to `recover TOKEN PATH`."""
    lines, _ = parse_opening(reply, host)
    if any(line.startswith("Snapshot does not exist") for line in lines):
        message = f"{host} finds no snapshot at this path; nothing was changed"
        raise NoSnapshotError(message, hint=f"apexgpu snapshots {host}")
    error = _find_error(reply, _NOT_UNPACKED)
    if error is not None:
        message = (
            f"the recover on {host} failed, although the server reports it as done: {error}; "
            f"recover again (or rebuild it from the template: apexgpu rebuild {host})"
        )
        raise ApexError(message, hint=f"apexgpu recover {host}", code="recover_bad")
    require_end(lines, reply, host)
    sizes = list(_sizes(reply))
    if "Done" not in lines or not sizes:
        raise unexpected(reply, host)
    size, path = sizes[-1]
    return ArchiveReport(path, size)


def _sizes(reply: Reply) -> Iterator[tuple[str, str]]:
    """The lines of `du -h` in stdout: size and path."""
    for line in clean(reply.out).split("\n"):
        match = _DU.match(line)
        if match is not None:
            yield match[1], match[2]


def _find_error(reply: Reply, pattern: re.Pattern[str]) -> str | None:
    """The first line of stderr that matches `pattern` and is not harmless."""
    for line in content_lines(reply.err):
        if pattern.search(line) and not _HARMLESS.search(line):
            return line
    return None
