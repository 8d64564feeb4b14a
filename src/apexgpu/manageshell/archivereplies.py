"""What the manage shell says of snapshots and recovers -> values. Pure; see `replies` for the rules.

Here the exit status and even the words lie: `Saved to:` and `Done` count only when stderr has no trouble.
"""

import re
from dataclasses import dataclass

from apexgpu.errors import ApexError, BadSnapshotError, NoRootfsError, NoSnapshotError
from apexgpu.manageshell.replies import clean, ended, lines, opened, unexpected
from apexgpu.models import Reply

_CONFIRM = re.compile(r"^Confirm (snapshot|recover): ssh \S+ \1 ([0-9a-f]{8})(?: (\S+))?$")
_DU = re.compile(r"^([0-9.]+[KMGTP]?)\t(\S.*)$")
# What stderr holds when an archive was not written, or files were not read whole.
_NOT_WRITTEN = re.compile(
    r"^tar(?: \(child\))?: .*(Cannot \w|File shrank|not recoverable|Exiting with failure|Unexpected EOF|Wrote only|"
    r"Child returned status|[Ee]rror)|^gzip:|du: cannot access|No space left|quota exceeded|Stale|Input/output|Killed"
)
# A recover that went well says nothing of these programs at all.
_NOT_UNPACKED = re.compile(
    r"^(tar|tar \(child\)|gzip|lxc-\w+|useradd|tee):|chown: (invalid|cannot)|"
    r"(chmod|mkdir|touch|cp|mv): (cannot|missing)|du: cannot access|"
    r"No space left|quota exceeded|Stale|Input/output|Killed"
)
# Words of tar's about files that are all there: sockets, clocks that differ, headers of a newer tar.
_HARMLESS = re.compile(
    r"^tar: .*(socket ignored|door ignored|file changed as we read it|time ?stamp|unknown extended header|"
    r"Removing leading|Record size)"
)


@dataclass(frozen=True, slots=True)
class Offer:
    """A token, good for minutes at most, with the path that a recover would use."""

    token: str
    path: str | None = None
    size: str | None = None


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive the server says it wrote or unpacked; `size` as `du -h` prints it."""

    path: str
    size: str


def snapshot_offer(reply: Reply, host: str) -> Offer:
    """The token and size that `snapshot` prints."""
    said, _ = opened(reply, host)
    if any("du: cannot access" in line for line in lines(reply.err)):
        message = f"the container on {host} has no root file system to take a snapshot of"
        raise NoRootfsError(message, hint=f"apexgpu recover {host}   (or: apexgpu rebuild {host})")
    size = next((match[1] for match in map(_DU.match, clean(reply.out).split("\n")) if match), None)
    return _offer(said, reply, host, "snapshot", size)


def recover_offer(reply: Reply, host: str) -> Offer:
    """The token and path that `recover` and `rebuild` print."""
    said, _ = opened(reply, host)
    return _offer(said, reply, host, "recover", None)


def _offer(said: list[str], reply: Reply, host: str, verb: str, size: str | None) -> Offer:
    ended(said, reply, host)
    for line in said:
        match = _CONFIRM.match(line)
        if match and match[1] == verb:
            return Offer(match[2], match[3], size)
    raise unexpected(reply, host)


def snapshot(reply: Reply, host: str) -> Archive:
    """The answer of `snapshot TOKEN`: `Saved to:` counts only when stderr has no word of trouble."""
    said, _ = opened(reply, host)
    trouble = _trouble(reply, _NOT_WRITTEN)
    saved = next(
        (line[len("Saved to: ") :] for line in said if line.startswith("Saved to: ")), None
    )
    size = next((match[1] for match in map(_DU.match, clean(reply.out).split("\n")) if match), None)
    if trouble or (saved is not None and size is None):
        message = f"the snapshot on {host} is bad, although the server says it is saved: {trouble or 'it has no size'}"
        raise BadSnapshotError(message, hint=f"apexgpu snapshots {host}")
    ended(said, reply, host)
    if saved is None or size is None:
        raise unexpected(reply, host)
    return Archive(saved, size)


def recover(reply: Reply, host: str) -> Archive:
    """The answer of `recover TOKEN PATH`: `Done` counts only when stderr has no word of trouble."""
    said, _ = opened(reply, host)
    if any(line.startswith("Snapshot does not exist") for line in said):
        message = f"{host} finds no snapshot at this path; nothing was changed"
        raise NoSnapshotError(message, hint=f"apexgpu snapshots {host}")
    trouble = _trouble(reply, _NOT_UNPACKED)
    if trouble:
        message = f"the recover on {host} failed, although the server says it is done: {trouble}"
        raise ApexError(
            message,
            hint=f"apexgpu recover {host}   (or: apexgpu rebuild {host})",
            code="recover_bad",
        )
    ended(said, reply, host)
    sizes = [match for match in map(_DU.match, clean(reply.out).split("\n")) if match]
    if "Done" not in said or not sizes:
        raise unexpected(reply, host)
    return Archive(sizes[-1][2], sizes[-1][1])


def _trouble(reply: Reply, kind: re.Pattern[str]) -> str | None:
    return next(
        (line for line in lines(reply.err) if kind.search(line) and not _HARMLESS.search(line)),
        None,
    )
