"""Remembers what the table of mounts cannot tell: the request, and the directories we made.

A record never proves that something is mounted; only the system's table does.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from apexgpu import readers
from apexgpu.errors import UnexpectedError
from apexgpu.files import locked, replace_atomically
from apexgpu.models import Host

FILE = "mounts.json"


@dataclass(frozen=True, slots=True)
class MountRecord:
    """A mount that apexgpu made.

    `remote` is the full path in the container, `requested` that path as the user gave it. `created`
    are the local directories that we had to make, outermost first; `ciphers` and `options` are as
    in MountRequest.
    """

    directory: str
    host: Host
    remote: str
    requested: str = ""
    read_only: bool = False
    options: tuple[str, ...] = ()
    since: float = 0.0
    created: tuple[str, ...] = ()
    ciphers: str = ""

    def to_json(self) -> dict[str, object]:
        """The record as it is stored."""
        return {
            "directory": self.directory,
            "host": asdict(self.host),
            "remote": self.remote,
            "asked": self.requested,
            "read_only": self.read_only,
            "options": list(self.options),
            "since": self.since,
            "made": list(self.created),
            "ciphers": self.ciphers,
        }


def _from_json(row: readers.Fields) -> MountRecord:
    return MountRecord(
        directory=row.text("directory"),
        host=readers.host(row.fields("host")),
        remote=row.text("remote"),
        requested=row.text("asked", ""),
        read_only=row.flag("read_only", False),
        options=row.texts("options"),
        since=row.time("since", 0.0),
        created=row.texts("made"),
        ciphers=row.text("ciphers", ""),
    )


def load(state_dir: Path) -> dict[str, MountRecord]:
    """All records by directory.

    None if the file is missing or damaged, because no mount is lost with it.
    """
    try:
        rows = readers.json_objects((state_dir / FILE).read_bytes(), FILE)
        records = [_from_json(row) for row in rows]
    except (OSError, UnexpectedError):
        return {}
    return {record.directory: record for record in records}


def add(state_dir: Path, record: MountRecord) -> None:
    """Store a record; it replaces an older one for the same directory."""

    def with_record(records: dict[str, MountRecord]) -> dict[str, MountRecord]:
        return {**records, record.directory: record}

    _change(state_dir, with_record)


def forget(state_dir: Path, directory: str, not_removed: Sequence[str] = ()) -> None:
    """Drop the record of a directory.

    `not_removed` are directories that we made and could not remove, because another mount is inside
    them: its record takes them over.
    """

    def without(records: dict[str, MountRecord]) -> dict[str, MountRecord]:
        remaining = dict(records)
        remaining.pop(directory, None)
        for created in not_removed:
            heir = _record_inside(created, remaining)
            if heir is not None and created not in heir.created:
                directories = (created, *heir.created)
                remaining[heir.directory] = replace(heir, created=directories)
        return remaining

    _change(state_dir, without)


def _record_inside(directory: str, records: dict[str, MountRecord]) -> MountRecord | None:
    for record in records.values():
        if Path(directory) in Path(record.directory).parents:
            return record
    return None


def _change(
    state_dir: Path, change: Callable[[dict[str, MountRecord]], dict[str, MountRecord]]
) -> None:
    with locked(state_dir / "locks" / "mounts.lock", what="the list of mounts"):
        before = load(state_dir)
        after = change(before)
        if after != before:
            rows = [record.to_json() for record in after.values()]
            text = json.dumps(rows, indent=1, ensure_ascii=False)
            replace_atomically(state_dir / FILE, text.encode())
