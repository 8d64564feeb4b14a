"""What a container answers to the scripts of `archivescripts` -> values. Pure.

An answer that does not end with `end` is none.
"""

import re
from collections.abc import Collection

from apexgpu.archives.catalog import Reading, Saved, Sight, archive
from apexgpu.errors import ApexError, NoSnapshotError, RefusedError
from apexgpu.iam.publickeys import parse_key
from apexgpu.models import Reply
from apexgpu.text import last_line, size


def words(reply: Reply, host: str) -> list[tuple[str, str]]:
    """The lines of an answer as (first word, rest); ApexError when it was cut."""
    lines = reply.out.replace("\r", "").split("\n")
    if "end" not in lines:
        last = last_line(reply.out + reply.err, "nothing")
        message = f"the container on {host} could not look at the archives; it said: {last[:200]}"
        raise ApexError(message, hint=f"apexgpu ssh {host} -- df -h /NAS", code="eye")
    pairs = (line.partition(" ") for line in lines[: lines.index("end")])
    return [(word, rest) for word, _, rest in pairs]


def saw(reply: Reply, host: str, *, directory: str, user: str, hosts: Collection[str]) -> Sight:
    """The answer to `look`; RefusedError where the container does not see the directory."""
    said = words(reply, host)
    if ("nodir", "") in said:
        raise RefusedError(
            f"the container on {host} does not see {directory}",
            hint=f"apexgpu status {host}",
            code="no_nas",
        )
    first = dict(reversed(said))
    found: list[Saved | None] = []
    for index, (word, rest) in enumerate(said):
        match = re.fullmatch(r"(\d+) (\d+) ([0-7]+) (.+)", rest) if word == "file" else None
        if match:
            following = said[index + 1] if index + 1 < len(said) else ("", "")
            text = following[1] if following[0] == "note" else None
            seen = (int(match[1]), int(match[2]), int(match[3], 8))
            found.append(archive(user, hosts, f"{directory}/{match[4]}", seen, text))
    free = first.get("free", "")
    return Sight(
        tuple(sorted((one for one in found if one), key=lambda one: one.created)),
        int(free) << 10 if free.isdigit() else None,
        "writable" in first,
    )


def tested(reply: Reply, host: str, path: str) -> Reading:
    """The answer to `test`; RefusedError `no_snapshot` where there is nothing that can be read."""
    said = words(reply, host)
    if ("missing", "") in said:
        message = f"the container on {host} sees no archive {path} that it can read"
        raise NoSnapshotError(message, hint="apexgpu snapshots")
    first = dict(reversed(said))
    try:
        status, members, rooted = (int(number) for number in first["list"].split())
        before, (size, time) = first["before"], (int(number) for number in first["after"].split())
        code = int(first["gzip"])
        mode, (count, unit) = (
            int(first["mode"], 8),
            (int(number) for number in first["blocks"].split()),
        )
    except (KeyError, ValueError):
        raise ApexError(
            f"the test of {path} on {host} gave no result",
            code="eye",
            hint=f"apexgpu snapshots verify {path}",
        ) from None
    own = [rest for word, rest in said if word == "own" and rest.strip()]
    keys = tuple(key for line in own if (key := parse_key(line)) is not None)
    names = [line.strip() for line in own if parse_key(line) is None]
    return Reading(
        size,
        time,
        before != first["after"],
        code,
        status,
        members,
        bool(rooted),
        first.get("sum", "")[:64],
        names[0] if names else "",
        keys,
        first.get("said", ""),
        mode,
        count * unit,
    )


def standing(reply: Reply, host: str) -> tuple[int, int] | None:
    """The answer to `stat`: size and time, None when there is no such file."""
    after = dict(words(reply, host)).get("after")
    if after is None:
        return None
    size, time = after.split()
    return int(size), int(time)


def moved(reply: Reply, host: str) -> str | None:
    """The answer to `aside` or `back`: "renamed", "copied", or None when there was nothing; RefusedError when not."""
    said = words(reply, host)
    for word, rest in said:
        if word in {"renamed", "copied"}:
            return word
        if word == "taken":
            raise RefusedError(
                "an archive of this name is there already", code="busy", hint="apexgpu snapshots"
            )
        if word == "noroom":
            room = f"it cannot be renamed, and there is no room for a copy: {size(int(rest or 0) << 10)} free"
            raise RefusedError(
                f"the archive cannot be moved: {room}",
                code="no_room",
                hint="apexgpu snapshots remove NAME   (of what you need no more: apexgpu snapshots)",
            )
        if word == "failed":
            raise RefusedError(
                f"the archive cannot be moved: {rest}",
                code="not_writable",
                hint="ask the administrators for a directory there that you may write",
            )
    return None


def did(reply: Reply, host: str) -> bool:
    """The answer to `note` and `unnote`."""
    return ("done", "") in words(reply, host)


def removed(reply: Reply, host: str, path: str) -> bool:
    """The answer to `remove`; RefusedError where another archive is there by now."""
    said = words(reply, host)
    if ("changed", "") in said:
        message = f"{path} is another archive by now than the one that was shown; it is not removed"
        raise RefusedError(message, hint="apexgpu snapshots", code="busy")
    return ("done", "") in said


def bits(reply: Reply, host: str) -> int | None:
    """The answer to `mode`: the file's mode now, None when there is no such file."""
    now = dict(words(reply, host)).get("mode")
    return None if now is None else int(now, 8)


def position(line: str) -> int | None:
    """How many bytes a script says it has read or written, None for any other line."""
    match = re.fullmatch(r"at (\d+)", line.strip())
    return int(match[1]) if match else None
