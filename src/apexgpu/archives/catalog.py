"""What is known of saved archives: names, manifests, sizes, and the verdict on a test. Pure.

An archive's name says whose it is and never changes: `USER-HOST-TIME[-LABEL]`. Its path does: the server writes
every snapshot to one file per user, which is renamed before the next one overwrites it.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from apexgpu.errors import NoSnapshotError, RefusedError, UsageError
from apexgpu.models import PublicKey

UNKNOWN = "unknown"
SUFFIX = ".tar.gz"
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_DU = re.compile(r"([0-9.]+)([KMGTP]?)")
_UNITS = {unit: 1 << (10 * power) for power, unit in enumerate(("", "K", "M", "G", "T", "P"))}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is written beside an archive when it was tested; it counts only while size and time are the file's.

    `created` and `verified` are seconds since the epoch, `size` is bytes.
    """

    host: str
    label: str
    created: int
    size: int
    sha256: str
    verified: int

    def text(self, user: str) -> str:
        """The manifest as one line of JSON."""
        values = {
            "schema": 1,
            "user": user,
            "host": self.host,
            "label": self.label,
            "created": iso(self.created),
            "bytes": self.size,
            "sha256": self.sha256,
            "verified": iso(self.verified),
        }
        return json.dumps(values)


@dataclass(frozen=True, slots=True)
class Saved:
    """An archive that was seen: where, how big (bytes), from when (epoch seconds), and how private (mode bits)."""

    name: str
    host: str
    label: str
    path: str
    size: int
    created: int
    mode: int
    sha256: str | None = None
    verified: int | None = None

    @property
    def stamp(self) -> tuple[int, int]:
        """Size and time: the same file as long as neither changes."""
        return self.size, self.created

    @property
    def others_can_read(self) -> bool:
        """Whether the mode lets everybody read, and so recover from, it."""
        return bool(self.mode & 0o004)

    def value(self) -> dict[str, Any]:
        """The archive as JSON tells it."""
        return {
            "name": self.name,
            "host": None if self.host == UNKNOWN else self.host,
            "path": self.path,
            "bytes": self.size,
            "created": iso(self.created),
            "verified": None if self.verified is None else iso(self.verified),
            "sha256": self.sha256,
        }


@dataclass(frozen=True, slots=True)
class Sight:
    """What a container sees of the archives' directory; `free` in bytes."""

    archives: tuple[Saved, ...]
    free: int | None
    writable: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading an archive from end to end came to.

    `size` and `time` are those after the reading, `moved` is whether they changed meanwhile. `keys` are the
    public host keys that the archive holds, `hostname` the name of the container that was saved in it. `mode` are its
    permission bits, `blocks` the bytes that it takes on the disk.
    """

    size: int
    time: int
    moved: bool
    gzip: int
    listing: int
    members: int
    rooted: bool
    sha256: str
    hostname: str = ""
    keys: tuple[PublicKey, ...] = ()
    said: str = ""
    mode: int = 0o644
    blocks: int = 0

    @property
    def stamp(self) -> tuple[int, int]:
        """Size and time: the same file as long as neither changes."""
        return self.size, self.time

    @property
    def trouble(self) -> str | None:
        """Why the archive cannot be trusted, None when it can."""
        if self.moved:
            return "it was being written while it was read"
        if self.gzip:
            return f"gzip -t refuses it: {self.said or f'status {self.gzip}'}"
        if self.listing:
            return f"tar cannot list it: {self.said or f'status {self.listing}'}"
        if not self.rooted or not self.members:
            return "it holds no root file system (no rootfs/)"
        return None


def iso(seconds: int) -> str:
    """Epoch seconds as ISO 8601 with zone."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def seconds(text: str) -> int:
    """What `iso` wrote, back to epoch seconds; ValueError."""
    return int(datetime.fromisoformat(text).timestamp())


def name_of(user: str, host: str, created: int, label: str = "") -> str:
    """The name that an archive keeps wherever it is moved."""
    stamp = datetime.fromtimestamp(created, UTC).strftime("%Y%m%dT%H%M%SZ")
    return "-".join(part for part in (user, host, stamp, label) if part)


def checked_label(label: str) -> str:
    """A --name that can be part of a file's name; UsageError."""
    if label and not _LABEL.fullmatch(label):
        message = f"{label!r} cannot be a snapshot's name: letters, digits, dot, dash and underscore, at most 40"
        raise UsageError(message, hint="apexgpu snapshot HOST --name before-upgrade")
    return label


def archive(
    user: str, hosts: Collection[str], path: str, seen: tuple[int, int, int], note: str | None
) -> Saved | None:
    """The archive behind a file name, or None when it is not this user's.

    `seen` is size, time and mode; `note` the manifest's text, which counts only when it speaks of these.
    A user's name may begin with another's, so the host in the name must be one of `hosts`.
    """
    size, time, mode = seen
    stem = path.rpartition("/")[2].removesuffix(SUFFIX)
    match = re.fullmatch(rf"{re.escape(user)}-(.+)-(\d{{8}}T\d{{6}}Z)(?:-(.+))?", stem)
    if stem != user and (match is None or match[1] not in {*hosts, UNKNOWN}):
        return None
    found = Saved(stem, UNKNOWN, "", path, size, time, mode)
    if match:
        found = replace(found, host=match[1], label=match[3] or "")
    manifest = read_manifest(note, user) if note else None
    if manifest is None or (manifest.size, manifest.created) != (size, time):
        return found
    name = stem if match else name_of(user, manifest.host, time, manifest.label)
    return replace(
        found,
        name=name,
        host=manifest.host,
        label=manifest.label,
        sha256=manifest.sha256,
        verified=manifest.verified,
    )


def read_manifest(text: str, user: str) -> Manifest | None:
    """A manifest of this user's, None for anything else: the file lies where others may write."""
    try:
        found = json.loads(text)
        if (
            found["schema"] != 1
            or found["user"] != user
            or not re.fullmatch(r"[0-9a-f]{64}", found["sha256"])
        ):
            return None
        if not (_LABEL.fullmatch(found["label"]) or found["label"] == "") or not _LABEL.fullmatch(
            found["host"]
        ):
            return None
        return Manifest(
            found["host"],
            found["label"],
            seconds(found["created"]),
            int(found["bytes"]),
            found["sha256"],
            seconds(found["verified"]),
        )
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


def choose(archives: Sequence[Saved], wanted: str, host: str) -> Saved:
    """The archive that a name, label, file name or path means; RefusedError when it is none, or several."""
    exact = [
        one
        for one in archives
        if wanted in {one.name, one.path, one.path.rpartition("/")[2], _stem(one)}
    ]
    found = exact or [one for one in archives if one.label == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        message = f"{wanted} names {len(found)} snapshots: {', '.join(one.name for one in found)}"
        raise RefusedError(
            message, hint=f"apexgpu recover {host} --from {found[0].name}", code="several_snapshots"
        )
    message = f"there is no snapshot {wanted}"
    raise NoSnapshotError(message, hint="apexgpu snapshots")


def _stem(one: Saved) -> str:
    return one.path.rpartition("/")[2].removesuffix(SUFFIX)


def default(archives: Sequence[Saved], host: str, server_path: str) -> Saved:
    """What `recover HOST` takes: the server's own archive when it is this host's, else the host's newest."""
    own = next((one for one in archives if one.path == server_path), None)
    of_host = sorted((one for one in archives if one.host == host), key=lambda one: one.created)
    if own is not None and own.host in {host, UNKNOWN}:
        return own
    if of_host:
        return of_host[-1]
    if own is not None:
        message = (
            f"no snapshot of {host} can be seen; the newest archive is {own.host}'s ({own.name})"
        )
        raise NoSnapshotError(message, hint=f"apexgpu recover {host} --from {own.name}")
    raise NoSnapshotError("no snapshot can be seen", hint=f"apexgpu snapshot {host}")


def to_rotate(archives: Sequence[Saved], keep: int) -> list[Saved]:
    """What a rotation removes: all but the newest `keep` of each host, and never a host's last verified one."""
    if keep < 1:
        raise UsageError("at least one snapshot has to be kept", hint="apexgpu snapshots keep 3")
    gone: list[Saved] = []
    for host in dict.fromkeys(one.host for one in archives):
        newest_first = sorted(
            (one for one in archives if one.host == host), key=lambda one: -one.created
        )
        kept, rest = newest_first[:keep], newest_first[keep:]
        if not any(one.verified for one in kept):
            spared = next((one for one in rest if one.verified), None)
            rest = [one for one in rest if one is not spared]
        gone += rest
    return gone


def in_bytes(shown: str) -> int | None:
    """What `du -h` shows, as bytes; None when it is no size."""
    match = _DU.fullmatch(shown)
    return round(float(match[1]) * _UNITS[match[2]]) if match else None


def sizes_agree(shown: str, found: Reading) -> bool:
    """Whether the archive that was read can be the one of which the server's `du -h` shows this size.

    It must not be smaller: then a part is missing. It may be bigger, for a NAS that has not yet laid out, or that
    compresses, what was written shows less. Whether the end is there, gzip and tar have told.
    """
    told = in_bytes(shown)
    biggest = max(found.size, found.blocks)
    return told is not None and told <= biggest + max(0.15 * biggest, 128 << 10)


def owner(tested: Reading, user: str, hosts: Collection[str]) -> str | None:
    """The host whose container the archive holds, None when its host name tells nothing."""
    name = tested.hostname.removesuffix(f"-{user}")
    return name if name in hosts else None
