"""What is under way on a host, kept in the state directory so that the next command knows it. One entry a host.

An entry whose host is not locked by a living apexgpu was interrupted: Ctrl-C, a closed laptop, a lost network.
"""

import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from apexgpu.archives.catalog import iso
from apexgpu.errors import ConfigError
from apexgpu.files import replace_atomically

Work = Literal["snapshot", "recover", "rebuild"]

# What a cut at each stage left behind, in words for people.
STAGES = {
    "stop": "before anything was changed but the container's state",
    "tar": "while the server was writing the archive; it goes on without us",
    "test": "after the archive was written, before it was tested",
    "unpack": "while the container's files were being replaced; it cannot start until that is done again to its end",
    "start": "after the files were replaced, before a login proved it",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of work: which, how far it is, since when (epoch seconds), and what finishing or undoing it needs."""

    host: str
    what: Work
    stage: str
    began: float
    details: dict[str, Any] = field(default_factory=dict)

    def value(self) -> dict[str, Any]:
        """The entry as JSON tells it."""
        return {"what": self.what, "stage": self.stage, "began": iso(int(self.began))}

    def words(self) -> str:
        """What was interrupted, and where."""
        return f"a {self.what} on {self.host} was interrupted {STAGES.get(self.stage, self.stage)}"


class Journal:
    """The entries under one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "journal"

    def begin(self, host: str, what: Work, *, stage: str = "stop", **details: Any) -> Entry:
        """Note that work begins; at another stage than `stop` where it takes the place of work that was cut there."""
        return self._write(Entry(host, what, stage, time.time(), details))

    def reach(self, entry: Entry, stage: str, **details: Any) -> Entry:
        """Note a stage before it begins, with what has become known."""
        return self._write(replace(entry, stage=stage, details={**entry.details, **details}))

    def end(self, entry: Entry) -> None:
        """The work is done, or undone."""
        self._path(entry.host).unlink(missing_ok=True)

    def hosts(self) -> list[str]:
        """The hosts on which something is under way, or was interrupted."""
        return sorted(path.stem for path in self._directory.glob("*.json"))

    def needed(self) -> set[str]:
        """The paths of archives that finishing or undoing what was interrupted needs."""
        found = [entry.details for host in self.hosts() if (entry := self.find(host))]
        return {
            str(path)
            for details in found
            for key in ("path", "aside", "home")
            if (path := details.get(key))
        }

    def find(self, host: str) -> Entry | None:
        """What was under way on a host; ConfigError when it was written but cannot be read."""
        path = self._path(host)
        try:
            found = json.loads(path.read_bytes())
            return Entry(
                found["host"],
                found["what"],
                found["stage"],
                float(found["began"]),
                dict(found["details"]),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError):
            message = f"{path} cannot be read; it says what was under way on {host}"
            raise ConfigError(
                message,
                hint=f"apexgpu status {host}; when all is well there, delete the file",
                code="journal",
            ) from None

    def _path(self, host: str) -> Path:
        return self._directory / f"{host}.json"

    def _write(self, entry: Entry) -> Entry:
        replace_atomically(self._path(entry.host), json.dumps(asdict(entry), indent=1).encode())
        return entry
