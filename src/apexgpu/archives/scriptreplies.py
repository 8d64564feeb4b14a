"""Parses what the commands of `scripts` print. Pure.

Each prints lines of a word and a value, and `end` last: an output without `end` was cut, and is not
used.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from apexgpu import readers
from apexgpu.archives.catalog import (
    Archive,
    ArchiveCheck,
    FileStamp,
    Listing,
    identify,
    without_stale_names,
)
from apexgpu.errors import ApexError, NoSnapshotError, RefusedError, UnexpectedError
from apexgpu.iam.publickeys import parse_key
from apexgpu.models import Reply
from apexgpu.text import last_line, size


class NameTakenError(RefusedError):
    """An archive cannot be moved to a path: another one is there."""

    code = "busy"


class CannotMoveError(RefusedError):
    """An archive can be neither renamed nor copied."""

    code = "not_writable"


class NoRoomError(CannotMoveError):
    """An archive cannot be renamed, and there is not enough room for a copy."""

    code = "no_room"


_FILE_LINE = re.compile(r"([0-9]{1,18}) ([0-9]{1,12}) ([0-7]{1,5}) (server|own) (.+)")
"""The value of a `file` line: size, time, mode (octal), whose it is, and name."""
_MODE = re.compile(r"[0-7]{1,5}")
# What tar prints about an archive that it can read completely.
_HARMLESS = re.compile(
    r"^tar: .*(unknown extended header|Removing leading|Record size|time ?stamp|in the future)"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of output: the word that says what it is, and the value after it."""

    word: str
    value: str


def parse_lines(reply: Reply, host: str) -> list[Line]:
    """The lines before `end`; ApexError when the output was cut."""
    lines = reply.out.replace("\r", "").split("\n")
    if "end" not in lines:
        output = last_line(reply.out + reply.err, "nothing")
        message = (
            f"the container on {host} could not read the archives; its last output: {output[:200]}"
        )
        raise ApexError(message, hint=f"apexgpu ssh {host} -- df -h /NAS", code="eye")
    parsed = []
    for line in lines[: lines.index("end")]:
        word, _, value = line.partition(" ")
        parsed.append(Line(word, value))
    return parsed


def _by_word(lines: list[Line]) -> dict[str, str]:
    """The value of each word; the first line counts where a word comes twice."""
    return {line.word: line.value for line in reversed(lines)}


def parse_listing(
    reply: Reply, host: str, *, directory: str, user: str, hosts: Collection[str]
) -> Listing:
    """The output of `list_archives`; RefusedError when the container does not see the directory."""
    lines = parse_lines(reply, host)
    values = _by_word(lines)
    if "nodir" in values:
        raise RefusedError(
            f"the container on {host} does not see {directory}",
            hint=f"apexgpu status {host}",
            code="no_nas",
        )
    archives = []
    for index, line in enumerate(lines):
        # An archive's manifest, if there is one, is on the line after it.
        manifest = None
        if index + 1 < len(lines) and lines[index + 1].word == "note":
            manifest = lines[index + 1].value
        archive = _parse_archive(line, directory, user, hosts, manifest)
        if archive is not None:
            archives.append(archive)
    archives = without_stale_names(archives, user)
    free = readers.number(values.get("free", ""))
    return Listing(
        archives=tuple(sorted(archives, key=lambda archive: archive.created)),
        free=None if free is None else free * 1024,
        writable="writable" in values,
    )


def _parse_archive(
    line: Line, directory: str, user: str, hosts: Collection[str], manifest: str | None
) -> Archive | None:
    """The archive of a `file` line; None for another line, or another user's file."""
    if line.word != "file":
        return None
    match = _FILE_LINE.fullmatch(line.value)
    if match is None:
        return None
    byte_count, mtime, mode, owner, name = match.groups()
    return identify(
        user,
        hosts,
        f"{directory}/{name}",
        FileStamp(int(byte_count), int(mtime)),
        mode=int(mode, 8),
        manifest_text=manifest,
        of_server=owner == "server",
    )


def parse_check(reply: Reply, host: str, path: str) -> ArchiveCheck:
    """The output of `check`; NoSnapshotError where there is nothing that can be read."""
    lines = parse_lines(reply, host)
    values = _by_word(lines)
    if "missing" in values:
        message = f"the container on {host} sees no archive {path} that it can read"
        raise NoSnapshotError(message, hint="apexgpu snapshots")
    # What the archive's own files hold: the host name of the saved container, and its public host
    # keys.
    own = [line.value for line in lines if line.word == "own" and line.value.strip()]
    host_keys = []
    hostname = ""
    for text in own:
        key = parse_key(text)
        if key is not None:
            host_keys.append(key)
        elif not hostname:
            hostname = text.strip()
    reported = [line.value for line in lines if line.word == "said"]
    try:
        tar_status, members, has_rootfs, has_system = _numbers(values["list"], 4)
        blocks, block_size = _numbers(values["blocks"], 2)
        (gzip_status,) = _numbers(values["gzip"], 1)
        return ArchiveCheck(
            stamp=_stamp(values["after"]),
            changed=values["before"] != values["after"],
            gzip_status=gzip_status,
            tar_status=tar_status,
            members=members,
            has_rootfs=bool(has_rootfs),
            has_system=bool(has_system),
            sha256=values["sum"][:64],
            hostname=hostname,
            host_keys=tuple(host_keys),
            error_output=_first_doubt(reported),
            mode=_mode(values["mode"]),
            disk_usage=blocks * block_size,
        )
    except (KeyError, ValueError):
        raise ApexError(
            f"the check of {path} on {host} gave no result",
            hint=f"apexgpu snapshots verify {path}",
            code="eye",
        ) from None


def _first_doubt(reported: Sequence[str]) -> str:
    """The first line of gzip and tar that is not known to be harmless; empty where there is none."""
    for line in reported:
        if not _HARMLESS.search(line):
            return line
    return ""


def _numbers(text: str, count: int) -> list[int]:
    """So many numbers; ValueError for anything else."""
    numbers = [readers.number(word) for word in text.split()]
    known = [number for number in numbers if number is not None]
    if len(numbers) != count or len(known) != count:
        message = f"{count} numbers expected"
        raise ValueError(message)
    return known


def _mode(text: str) -> int:
    """Permission bits in octal; ValueError for anything else."""
    if _MODE.fullmatch(text) is None:
        message = "a mode expected"
        raise ValueError(message)
    return int(text, 8)


def _stamp(text: str) -> FileStamp:
    """Size and time; ValueError for anything else."""
    return FileStamp(*_numbers(text, 2))


def _not_understood(host: str, output: str) -> UnexpectedError:
    message = f"the container on {host} printed what is not understood: {readers.quote(output)}"
    return UnexpectedError(message, hint=f"apexgpu ssh {host} -- df -h /NAS")


def parse_stamp(reply: Reply, host: str) -> FileStamp | None:
    """The output of `stat`; None when there is no such file."""
    values = _by_word(parse_lines(reply, host))
    if "after" not in values:
        return None
    try:
        return _stamp(values["after"])
    except ValueError:
        raise _not_understood(host, values["after"]) from None


@dataclass(frozen=True, slots=True)
class Ages:
    """How long ago, in seconds, an archive was written for the last time, and a container started."""

    archive: int
    container: int


def parse_ages(reply: Reply, host: str) -> Ages | None:
    """The output of `ages`; None when one of them could not be found out."""
    archive: int | None = None
    container: int | None = None
    for line in parse_lines(reply, host):
        seconds = readers.number(line.value)
        if seconds is None:
            continue
        if line.word == "archive":
            archive = seconds
        elif line.word == "container":
            container = seconds if container is None else min(container, seconds)
    if archive is None or container is None:
        return None
    return Ages(archive, container)


def parse_move(reply: Reply, host: str) -> Literal["renamed", "copied"] | None:
    """The output of `move_away` and `restore`: what was done, None when there was nothing to move.

    NameTakenError, NoRoomError, CannotMoveError when it could not be moved.
    """
    for line in parse_lines(reply, host):
        if line.word == "renamed":
            return "renamed"
        if line.word == "copied":
            return "copied"
        if line.word == "taken":
            message = "there is already an archive of this name"
            raise NameTakenError(message, hint="apexgpu snapshots")
        if line.word == "noroom":
            free = size((readers.number(line.value) or 0) * 1024)
            message = (
                "the archive cannot be moved: it cannot be renamed, and there is no room for a "
                f"copy ({free} free); remove snapshots that you do not need"
            )
            raise NoRoomError(message, hint="apexgpu snapshots")
        if line.word == "failed":
            message = (
                f"the archive cannot be moved: {line.value}; ask the administrators for a directory "
                "that you can write to"
            )
            raise CannotMoveError(message)
    return None


def parse_done(reply: Reply, host: str) -> bool:
    """The output of `write_manifest` and `delete_manifest`: whether it was done."""
    return Line("done", "") in parse_lines(reply, host)


def parse_removal(reply: Reply, host: str, path: str) -> bool:
    """The output of `remove`: whether it was done; RefusedError when another archive is there now."""
    lines = parse_lines(reply, host)
    if Line("changed", "") in lines:
        message = f"{path} has changed since it was shown; it is not removed"
        raise RefusedError(message, hint="apexgpu snapshots", code="busy")
    return Line("done", "") in lines


def parse_mode(reply: Reply, host: str) -> int | None:
    """The output of `set_mode`: the file's permission bits now, None when there is no such file."""
    values = _by_word(parse_lines(reply, host))
    if "mode" not in values:
        return None
    try:
        return _mode(values["mode"])
    except ValueError:
        raise _not_understood(host, values["mode"]) from None


def parse_progress(line: str) -> int | None:
    """How many bytes a command reports to have read or written; None for any other line."""
    word, _, value = line.strip().partition(" ")
    return readers.number(value) if word == "at" else None
