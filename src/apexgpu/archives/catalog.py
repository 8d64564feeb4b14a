"""Archives as data: their names, their manifests, and what a check of one found. Pure.

An archive's name says whose it is and never changes: `USER-HOST-TIME[-LABEL]`. Its path does: the
server writes every snapshot to one file per user, which is renamed before the next one overwrites
it.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from apexgpu import readers
from apexgpu.errors import UnexpectedError, UsageError
from apexgpu.models import PublicKey
from apexgpu.text import local_time, size

UNKNOWN_HOST = "unknown"
SUFFIX = ".tar.gz"
_LONGEST_DAMAGE = 300  # characters
MANIFEST_SUFFIX = ".json"
"""Added to an archive's path: `alice.tar.gz.json`."""

# The labels of the archives that apexgpu makes itself before it replaces a container. Where a name
# was taken, a number is added to it.
_UNDO_LABEL = re.compile(r"before-(?:recover|rebuild)(?:-\d+)?")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DU_SIZE = re.compile(r"([0-9.,]{1,30})([KMGTP]?)")
_DU_UNITS = {unit: 1 << (10 * power) for power, unit in enumerate(("", "K", "M", "G", "T", "P"))}


class FileStamp(NamedTuple):
    """A file's size in bytes and its time in epoch seconds: the same file as long as neither
    changes.
    """

    size: int
    mtime: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is written beside an archive when it was checked.

    Valid while size and time are the file's.

    `created` and `verified` are seconds since the epoch, `size` is in bytes. `verified` is None for
    an archive that is bad, and `damage` is why; `sha256` is then that of the good archive, or empty.
    """

    host: str
    label: str
    created: int
    size: int
    sha256: str
    verified: int | None
    damage: str | None = None

    def to_line(self, user: str) -> str:
        """The manifest as one line of JSON."""
        values = {
            "schema": 1,
            "user": user,
            "host": self.host,
            "label": self.label,
            "created": iso(self.created),
            "bytes": self.size,
            "sha256": self.sha256,
            # Earlier versions do not accept a manifest without it, which is right for a bad archive.
            "verified": None if self.verified is None else iso(self.verified),
        }
        if self.damage is not None:
            values["damage"] = self.damage[:_LONGEST_DAMAGE]
        return json.dumps(values)


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive in a listing.

    `size` is in bytes, `created` and `verified` in epoch seconds, `mode` permission bits.

    `host` is UNKNOWN_HOST where neither name nor manifest tell; `verified` is None without a valid
    manifest. `damage` is why it is known to be bad. `changed` is that it is not the file that was
    verified under this name: it was damaged or overwritten since. `sha256` is that of the verified
    file. `of_server` is that it belongs to nobody in the container, but to the server.
    """

    name: str
    host: str
    label: str
    path: str
    size: int
    created: int
    mode: int
    sha256: str | None = None
    verified: int | None = None
    damage: str | None = None
    changed: bool = False
    of_server: bool = False

    @property
    def stamp(self) -> FileStamp:
        """Size and time of the file."""
        return FileStamp(self.size, self.created)

    @property
    def others_can_read(self) -> bool:
        """Whether everybody in the lab can read it, and so recover from it."""
        return bool(self.mode & 0o004)

    @property
    def made_for_undo(self) -> bool:
        """Whether it was saved before a recover or rebuild, to undo that, and not because a user
        asked for it.
        """
        return bool(_UNDO_LABEL.fullmatch(self.label))

    def describe(self) -> str:
        """The archive in one line, for people."""
        host = "host unknown" if self.host == UNKNOWN_HOST else self.host
        if self.damage is not None:
            check = f"damaged: {self.damage}"
        elif self.changed:
            check = "changed since it was verified"
        elif self.verified:
            check = f"verified {shown_time(self.verified)}"
        else:
            check = "never verified"
        return f"{self.name} ({host}, {shown_time(self.created)}, {size(self.size)}, {check})"

    def to_json(self) -> dict[str, object]:
        """The archive as JSON documents show it."""
        return {
            "name": self.name,
            "host": None if self.host == UNKNOWN_HOST else self.host,
            "path": self.path,
            "bytes": self.size,
            "created": iso(self.created),
            "verified": None if self.verified is None else iso(self.verified),
            "sha256": self.sha256 if self.verified else None,
            "damage": self.damage,
            "changed": self.changed,
            "for_undo": self.made_for_undo,
        }


@dataclass(frozen=True, slots=True)
class Listing:
    """What a container sees in the archives' directory, oldest archive first.

    `free` in bytes, None if unknown.
    """

    archives: tuple[Archive, ...]
    free: int | None
    writable: bool

    def find(self, path: str) -> Archive | None:
        """The archive at a path, None when it is not listed."""
        for archive in self.archives:
            if archive.path == path:
                return archive
        return None


@dataclass(frozen=True, slots=True)
class ArchiveCheck:
    """What reading an archive from end to end found.

    `stamp` is the one after the reading, `changed` whether it changed meanwhile. `gzip_status` and
    `tar_status` are exit statuses, `members` counts the files below rootfs/, and `has_system` is
    whether a Linux system is among them. `error_output` is the first thing that gzip and tar
    reported and that is not known to be harmless. `hostname` and `host_keys` are those of the
    container that is saved in the archive. `mode` are its permission bits, `disk_usage` the bytes
    that it takes on the disk.
    """

    stamp: FileStamp
    changed: bool
    gzip_status: int
    tar_status: int
    members: int
    has_rootfs: bool
    sha256: str
    has_system: bool = True
    hostname: str = ""
    host_keys: tuple[PublicKey, ...] = ()
    error_output: str = ""
    mode: int = 0o644
    disk_usage: int = 0

    @property
    def problem(self) -> str | None:
        """Why the archive cannot be trusted, None when it can."""
        if self.changed:
            return "it was being written while it was read"
        if self.gzip_status:
            return f"gzip -t fails: {self.error_output or f'exit status {self.gzip_status}'}"
        if self.tar_status:
            return f"tar cannot list it: {self.error_output or f'exit status {self.tar_status}'}"
        if not self.has_rootfs or not self.members:
            return "it contains no root file system (no rootfs/)"
        if not self.has_system:
            return "it contains no system: there is no rootfs/etc/passwd, or no rootfs/bin"
        if self.error_output:
            return f"there is a doubt: {self.error_output}"
        return None


def iso(seconds: int) -> str:
    """Epoch seconds as ISO 8601 with zone."""
    seconds = min(seconds, readers.LAST_SECOND)
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def shown_time(seconds: int) -> str:
    """Epoch seconds for people: the local time, with its zone."""
    return local_time(min(seconds, readers.LAST_SECOND))


def epoch_seconds(text: str) -> int:
    """ISO 8601 text, as `iso` writes it, as epoch seconds; ValueError, or OverflowError."""
    seconds = int(datetime.fromisoformat(text).timestamp())
    if seconds < 0:
        message = f"{text} is before 1970"
        raise ValueError(message)
    return seconds


def archive_name(user: str, host: str, created: int, label: str = "") -> str:
    """The name that an archive keeps wherever it is moved: `alice-gpu2-20231114T221320Z-label`."""
    return "-".join(part for part in (user, host, name_time(created), label) if part)


def name_time(created: int) -> str:
    """The time of an archive as its name shows it."""
    seconds = min(created, readers.LAST_SECOND)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%SZ")


def file_name(path: str) -> str:
    """The last part of an archive's path, without `.tar.gz`."""
    return path.rpartition("/")[2].removesuffix(SUFFIX)


def checked_label(label: str) -> str:
    """Return a --name that can be part of a file's name; UsageError for any other."""
    if label and not _LABEL.fullmatch(label):
        message = f"{label!r} cannot be a snapshot's name: use only A-Z a-z 0-9 . _ -, at most 40"
        raise UsageError(message, hint="apexgpu snapshot --help")
    if _UNDO_LABEL.fullmatch(label):
        message = f"{label} is the name of what a recover or rebuild saves itself; use another one"
        raise UsageError(message, hint="apexgpu snapshot --help")
    return label


def identify(
    user: str,
    hosts: Collection[str],
    path: str,
    stamp: FileStamp,
    *,
    mode: int,
    manifest_text: str | None,
    of_server: bool = False,
) -> Archive | None:
    """The archive that a file is, or None when it is not this user's.

    One user's name may begin with another's, so the host in the file's name must be one of `hosts`.
    """
    name = file_name(path)
    match = re.fullmatch(rf"{re.escape(user)}-(.+)-(\d{{8}}T\d{{6}}Z)(?:-(.+))?", name)
    if match is not None and match[1] in {*hosts, UNKNOWN_HOST}:
        host, label = match[1], match[3] or ""
    elif name == user:
        host, label = UNKNOWN_HOST, ""
    else:
        return None
    archive = Archive(
        name=name,
        host=host,
        label=label,
        path=path,
        size=stamp.size,
        created=stamp.mtime,
        mode=mode,
        of_server=of_server,
    )
    manifest = parse_manifest(manifest_text, user) if manifest_text else None
    if manifest is None:
        return archive
    is_same = (manifest.size, manifest.created) == stamp
    if name == user:
        # The time in the name is that of the file that was verified.
        name = archive_name(user, manifest.host, manifest.created, manifest.label)
    return replace(
        archive,
        name=name,
        host=manifest.host,
        label=manifest.label,
        sha256=manifest.sha256 or None,
        verified=manifest.verified if is_same else None,
        damage=manifest.damage if is_same else None,
        changed=not is_same,
    )


def without_stale_names(archives: Sequence[Archive], user: str) -> list[Archive]:
    """The archives, where one that is no longer what its manifest says has another one's name.

    A manifest is left over when the archive was copied away, and the server has overwritten it.
    """
    listed = []
    for archive in archives:
        same_name = [other for other in archives if other.name == archive.name]
        if archive.changed and len(same_name) > 1 and file_name(archive.path) == user:
            archive = replace(
                archive, name=user, host=UNKNOWN_HOST, label="", sha256=None, changed=False
            )
        listed.append(archive)
    return listed


def parse_manifest(text: str, user: str) -> Manifest | None:
    """A manifest of this user's; None for anything else, since others may write in the directory."""
    try:
        fields = readers.json_object(text, "the manifest")
        if fields.number("schema") != 1 or fields.text("user") != user:
            return None
        manifest = Manifest(
            host=fields.text("host"),
            label=fields.text("label"),
            created=epoch_seconds(fields.text("created")),
            size=fields.number("bytes"),
            sha256=fields.text("sha256"),
            verified=epoch_seconds(fields.text("verified")) if "verified" in fields else None,
            damage=fields.optional_text("damage"),
        )
    except (ValueError, OverflowError, UnexpectedError):
        return None
    if not _LABEL.fullmatch(manifest.host):
        return None
    if manifest.label and not _LABEL.fullmatch(manifest.label):
        return None
    # Only a bad archive may be without a time of its check and without a hash.
    is_bad = manifest.damage is not None
    if is_bad != (manifest.verified is None):
        return None
    if _SHA256.fullmatch(manifest.sha256) or (is_bad and not manifest.sha256):
        return manifest
    return None


def parse_du_size(shown: str) -> int | None:
    """The bytes of a size that `du -h` shows, such as `1.2G`; None when it is not a size."""
    match = _DU_SIZE.fullmatch(shown)
    if match is None:
        return None
    # The server's `du` may print a decimal comma: it uses the language of the user's laptop.
    count = readers.decimal(match[1].replace(",", "."))
    if count is None:
        return None
    return round(count * _DU_UNITS[match[2]])


def sizes_agree(shown: str, check: ArchiveCheck) -> bool:
    """Whether an archive can be the one for which the server's `du -h` shows the size `shown`.

    It must not be smaller: then a part of it is missing. It may be larger, because a NAS that
    compresses, or that has not written everything to its disks yet, shows less. Whether the end is
    there, gzip and tar have checked.
    """
    shown_bytes = parse_du_size(shown)
    if shown_bytes is None:
        return False
    largest = max(check.stamp.size, check.disk_usage)
    # `du -h` rounds up to two digits, and counts whole blocks.
    tolerance = max(0.15 * largest, 128 << 10)
    return shown_bytes <= largest + tolerance


def saved_host(check: ArchiveCheck, user: str, hosts: Collection[str]) -> str | None:
    """The host whose container an archive contains, None when the host name in it is not one of
    `hosts`.
    """
    name = check.hostname.removesuffix(f"-{user}")
    return name if name in hosts else None
