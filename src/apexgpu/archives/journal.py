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

from apexgpu import readers
from apexgpu.archives.catalog import FileStamp, iso
from apexgpu.errors import ConfigError, UnexpectedError
from apexgpu.files import replace_atomically
from apexgpu.models import PublicKey
from apexgpu.readers import Fields

VERSION = 2
_LARGEST_ENTRY = 1 << 20  # bytes; a longer file is cut, and then not JSON

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
    was moved to (None where it was not moved). `previous_stayed` is False if it was certainly
    renamed, and so cannot be what is at the old path now. `rootfs_size` is the size of the container's files
    as `du -h` shows it. `tar_began` is when the server was told to write, in epoch seconds.

    `disturbance` is why the container may have run meanwhile. It is known (`observed`) once tar has
    ended, and before we start the container again. `then` is the recover or rebuild for which the
    container is saved, as it was planned.
    """

    restart: bool
    label: str
    previous: FileStamp | None
    moved_to: str | None = None
    previous_stayed: bool = True
    rootfs_size: str | None = None
    tar_began: int | None = None
    observed: bool = False
    disturbance: str | None = None
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
            with path.open("rb") as stream:
                text = stream.read(_LARGEST_ENTRY)
            return _parse(readers.json_value(text, str(path)), str(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, UnexpectedError):
            message = (
                f"{path} cannot be read; it records work that was interrupted on {host}. If the "
                "container works, delete the file"
            )
            raise ConfigError(message, hint=f"apexgpu status {host}", code="journal") from None

    def _path(self, host: str) -> Path:
        return self._directory / f"{host}.json"


def _parse(document: object, what: str) -> SnapshotEntry | ReplacementEntry:
    """An entry from its JSON document; UnexpectedError, or what a wrong type raises, when it is not
    one.
    """
    fields = Fields(document, what)
    version = fields.number("version", 1)
    if version == 1:
        fields = Fields(_from_version_1(document), what)
    elif version != VERSION:
        message = f"entry of version {version}"
        raise ValueError(message)
    if Work(fields.text("what")) is Work.SNAPSHOT:
        return _parse_snapshot(fields)
    return _parse_replacement(fields)


def _common(fields: Fields) -> dict[str, Any]:
    return {
        "host": fields.text("host"),
        "what": Work(fields.text("what")),
        "stage": Stage(fields.text("stage")),
        "began": fields.time("began"),
        "directory": fields.text("directory"),
        "path": fields.text("path"),
        "was_running": fields.flag("was_running"),
        "port_maps": fields.numbers("port_maps"),
    }


def _parse_snapshot(fields: Fields) -> SnapshotEntry:
    then = None
    if "then" in fields:
        then = _parse_replacement(fields.fields("then"))
    return SnapshotEntry(
        **_common(fields),
        restart=fields.flag("restart"),
        label=fields.text("label"),
        previous=_parse_stamp(fields, "previous"),
        moved_to=fields.optional_text("moved_to"),
        rootfs_size=fields.optional_text("rootfs_size"),
        tar_began=fields.optional_number("tar_began"),
        # Not in the entries of earlier versions.
        previous_stayed=fields.flag("previous_stayed", default=True),
        observed=fields.flag("observed", default=False),
        disturbance=fields.optional_text("disturbance"),
        then=then,
    )


def _parse_replacement(fields: Fields) -> ReplacementEntry:
    common = _common(fields)
    if common["what"] is Work.SNAPSHOT:
        message = "a snapshot where a recover is expected"
        raise ValueError(message)
    return ReplacementEntry(
        **common,
        archive_name=fields.text("archive_name"),
        server_path=fields.text("server_path"),
        checked=_parse_stamp(fields, "checked"),
        mode=fields.optional_number("mode"),
        host_keys=tuple(_parse_key(key) for key in fields.objects("host_keys")),
        authorized_keys=fields.texts("authorized_keys"),
        grants=tuple(
            Grant(grant.text("path"), grant.number("mode", most=0o7777))
            for grant in fields.objects("grants")
        ),
        moved_from=fields.optional_text("moved_from"),
        # Not in the entries of earlier versions.
        wanted=fields.optional_text("wanted"),
    )


def _parse_key(fields: Fields) -> PublicKey:
    return PublicKey(
        kind=fields.text("kind"),
        blob=fields.text("blob"),
        comment=fields.text("comment", ""),
        options=fields.text("options", ""),
    )


def _parse_stamp(fields: Fields, name: str) -> FileStamp | None:
    if name not in fields:
        return None
    size, mtime = fields.numbers(name)
    return FileStamp(size, mtime)


def _from_version_1(document: Any) -> dict[str, Any]:
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
