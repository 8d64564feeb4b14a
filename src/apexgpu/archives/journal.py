"""The work under way on each host, kept in the state directory so that the next command can finish
or undo it.

There is at most one entry per host. An entry whose host is not locked by a running apexgpu was
interrupted: Ctrl-C, a closed laptop, a lost network.

On disk an entry is a JSON object: `version` (2), `what`, and the fields of the entry. Entries of
version 1, which have no `version` and keep most fields in `details`, are still read: an interrupted
recover may be older than an update.
"""

import json
import shlex
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from apexgpu.archives.catalog import FileStamp, iso
from apexgpu.errors import ConfigError
from apexgpu.files import replace_atomically
from apexgpu.models import PublicKey

VERSION = 2

E = TypeVar("E", bound="JournalEntry")


class Work(StrEnum):
    """What a command does with a container's files."""

    SNAPSHOT = "snapshot"
    RECOVER = "recover"
    REBUILD = "rebuild"


class Stage(StrEnum):
    """How far the work is: the step that was about to begin when the entry was written."""

    STOP = "stop"
    TAR = "tar"
    TEST = "test"
    UNPACK = "unpack"
    START = "start"


INTERRUPTED_AT = {
    Stage.STOP: "at most the container was stopped; no files were changed",
    Stage.TAR: "while the server was writing the archive; its tar may still be running",
    Stage.TEST: "after the archive was written, before it was checked",
    Stage.UNPACK: "while the container's files were being replaced; it cannot start before they are complete",
    Stage.START: "after the files were replaced, before a login was tried",
}
"""What an interruption at each stage left behind, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One piece of work: what finishing or undoing it needs.

    `began` is in epoch seconds. `path` is the archive that is written or recovered from, and
    `directory` the one that all archives are in. `was_running` is whether the container ran before,
    and `port_maps` are its mapped ports.
    """

    host: str
    what: Work
    stage: Stage = Stage.STOP
    began: float
    directory: str
    path: str
    was_running: bool
    port_maps: tuple[int, ...] = ()

    @property
    def archives_needed(self) -> set[str]:
        """The paths of the archives that finishing or undoing the work needs."""
        return {self.path}

    def to_json(self) -> dict[str, object]:
        """The entry as JSON documents show it."""
        return {"what": self.what, "stage": self.stage, "began": iso(int(self.began))}

    @property
    def resume_command(self) -> str:
        """The command that goes on with the work."""
        return f"apexgpu {self.what} {self.host}"

    def describe(self) -> str:
        """What was interrupted, and where."""
        return f"a {self.what} on {self.host} was interrupted {INTERRUPTED_AT[self.stage]}"


@dataclass(frozen=True, slots=True)
class Grant:
    """A private archive that was made readable for a recover, and the mode that it had before."""

    path: str
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacementEntry(JournalEntry):
    """A recover or rebuild under way: the container's files are replaced by those of an archive.

    `checked` and `mode` are the archive's stamp and permission bits when it was checked (None with
    --unverified). `server_path` is the path that every snapshot overwrites. An archive that was
    there is moved away for the time of the recover; `moved_from` is its old path then. `host_keys`
    are those in the archive, `authorized_keys` the lines that were in the container. `grants` are
    the archives that were made readable and must be made private again. `wanted` is what the user
    named with --from: the same words may mean another archive by the time they are repeated.
    """

    archive_name: str
    server_path: str
    checked: FileStamp | None
    mode: int | None
    host_keys: tuple[PublicKey, ...] = ()
    authorized_keys: tuple[str, ...] = ()
    grants: tuple[Grant, ...] = ()
    moved_from: str | None = None
    wanted: str | None = None

    @property
    def archives_needed(self) -> set[str]:
        """See JournalEntry."""
        return {path for path in (self.path, self.moved_from) if path}

    @property
    def resume_command(self) -> str:
        """See JournalEntry."""
        command = f"apexgpu {self.what} {self.host}"
        if self.wanted is not None:
            command += f" --from {shlex.quote(self.wanted)}"
        return command

    def describe(self) -> str:
        """What was interrupted, and where."""
        source = "the template" if self.what is Work.REBUILD else self.archive_name
        return (
            f"a {self.what} on {self.host} from {source} was interrupted "
            f"{INTERRUPTED_AT[self.stage]}"
        )

    def is_resumed_by(self, what: Work, wanted: str | None) -> bool:
        """Whether a command goes on with this recover: the same words, or none that name an archive.

        A rebuild is never resumed but begun anew: the template is always the one of today.
        """
        return self.what is what is Work.RECOVER and wanted in {None, self.wanted}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotEntry(JournalEntry):
    """A snapshot under way.

    `previous` is the stamp of the archive that was there before, and `moved_to` the path that it
    was moved to (None where it was not moved). `rootfs_size` is the size of the container's files
    as `du -h` shows it. `tar_began` is when the server was told to write, in epoch seconds. `then`
    is the recover or rebuild for which the container is saved, as it was planned.
    """

    restart: bool
    label: str
    previous: FileStamp | None
    moved_to: str | None = None
    rootfs_size: str | None = None
    tar_began: int | None = None
    then: ReplacementEntry | None = None

    @property
    def archives_needed(self) -> set[str]:
        """See JournalEntry."""
        needed = {path for path in (self.path, self.moved_to) if path}
        if self.then is not None:
            needed |= self.then.archives_needed
        return needed

    @property
    def resume_command(self) -> str:
        """See JournalEntry."""
        if self.then is not None:
            return self.then.resume_command
        return f"apexgpu {self.what} {self.host}"


class Journal:
    """The entries under one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "journal"

    def record(self, entry: E) -> E:
        """Write an entry in place of its host's last one, and return it.

        Call it before the stage begins.
        """
        document = {"version": VERSION, **asdict(entry)}
        replace_atomically(self._path(entry.host), json.dumps(document, indent=1).encode())
        return entry

    def end(self, entry: JournalEntry) -> None:
        """Delete an entry: the work is done, or undone."""
        self._path(entry.host).unlink(missing_ok=True)

    def hosts(self) -> list[str]:
        """The hosts on which work is under way, or was interrupted."""
        return sorted(path.stem for path in self._directory.glob("*.json"))

    def archives_needed(self) -> set[str]:
        """The paths of the archives that finishing or undoing any work needs."""
        needed: set[str] = set()
        for host in self.hosts():
            entry = self.find(host)
            if entry is not None:
                needed |= entry.archives_needed
        return needed

    def find(self, host: str) -> SnapshotEntry | ReplacementEntry | None:
        """The work under way on a host; ConfigError when there is an entry that cannot be read."""
        path = self._path(host)
        try:
            document = json.loads(path.read_bytes())
            return _parse(document)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            message = (
                f"{path} cannot be read; it records work that was interrupted on {host}. If the "
                "container works, delete the file"
            )
            raise ConfigError(message, hint=f"apexgpu status {host}", code="journal") from None

    def _path(self, host: str) -> Path:
        return self._directory / f"{host}.json"


def _parse(document: dict[str, Any]) -> SnapshotEntry | ReplacementEntry:
    """An entry from its JSON object; KeyError, TypeError or ValueError when it is not one."""
    version = document.get("version", 1)
    if version == 1:
        document = _from_version_1(document)
    elif version != VERSION:
        message = f"entry of version {version}"
        raise ValueError(message)
    what = Work(document["what"])
    common: dict[str, Any] = {
        "host": document["host"],
        "what": what,
        "stage": Stage(document["stage"]),
        "began": float(document["began"]),
        "directory": document["directory"],
        "path": document["path"],
        "was_running": bool(document["was_running"]),
        "port_maps": tuple(document["port_maps"]),
    }
    if what is Work.SNAPSHOT:
        then = document.get("then")
        then_entry = None if then is None else _parse({**then, "version": VERSION})
        if isinstance(then_entry, SnapshotEntry):
            message = "a snapshot before a snapshot"
            raise ValueError(message)
        return SnapshotEntry(
            **common,
            then=then_entry,
            restart=bool(document["restart"]),
            label=document["label"],
            previous=_parse_stamp(document["previous"]),
            moved_to=document["moved_to"],
            rootfs_size=document["rootfs_size"],
            tar_began=document["tar_began"],
        )
    return ReplacementEntry(
        **common,
        archive_name=document["archive_name"],
        server_path=document["server_path"],
        checked=_parse_stamp(document["checked"]),
        mode=document["mode"],
        host_keys=tuple(PublicKey(**key) for key in document["host_keys"]),
        authorized_keys=tuple(document["authorized_keys"]),
        grants=tuple(Grant(**grant) for grant in document["grants"]),
        moved_from=document["moved_from"],
        # Not in the entries of earlier versions.
        wanted=document.get("wanted"),
    )


def _parse_stamp(value: list[int] | None) -> FileStamp | None:
    if value is None:
        return None
    size, mtime = value
    return FileStamp(size, mtime)


def _from_version_1(document: dict[str, Any]) -> dict[str, Any]:
    """An entry of version 1 in the form of version 2."""
    details = document["details"]
    common = {
        "host": document["host"],
        "what": document["what"],
        "stage": document["stage"],
        "began": document["began"],
        "directory": details["directory"],
        "path": details["path"],
        "was_running": details["ran"],
        "port_maps": details["maps"],
    }
    if document["what"] == Work.SNAPSHOT:
        return {
            **common,
            "restart": details["restart"],
            "label": details["label"],
            "previous": details["before"],
            "moved_to": details.get("aside"),
            "rootfs_size": details.get("rootfs"),
            "tar_began": details.get("sent"),
        }
    return {
        **common,
        "archive_name": details["name"],
        "server_path": details["server_path"],
        "checked": details["seen"],
        "mode": details["mode"],
        "host_keys": details["keys"],
        "authorized_keys": details["authorized"],
        "grants": [{"path": path, "mode": mode} for path, mode in details["lent"]],
        "moved_from": details.get("home"),
    }


def now() -> int:
    """This machine's clock, in epoch seconds."""
    return int(time.time())
