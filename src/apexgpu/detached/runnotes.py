"""On which host each run is, as this laptop remembers it: a shortcut that saves asking every host.

What is true is in the containers. A note that is missing or wrong costs time only.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from apexgpu.files import replace_atomically

_FILE = "runs.json"
_VERSION = 1
_MOST = 500


@dataclass(frozen=True, slots=True)
class RunNotes:
    """The host of each run by its name, the newest last."""

    hosts: tuple[tuple[str, str], ...] = ()

    def host_of(self, name: str) -> str | None:
        """The host on which this laptop started the run last; None if it knows of none."""
        for known, host in reversed(self.hosts):
            if known == name:
                return host
        return None

    def with_run(self, name: str, host: str) -> "RunNotes":
        """The notes with one more run; the oldest are forgotten."""
        others = tuple(entry for entry in self.hosts if entry != (name, host))
        return RunNotes((*others, (name, host))[-_MOST:])

    def to_json(self) -> dict[str, object]:
        """The content of the file."""
        return {"version": _VERSION, "runs": [list(entry) for entry in self.hosts]}


def load(state_dir: Path) -> RunNotes:
    """The notes; none where the file is missing or damaged."""
    try:
        document = json.loads((state_dir / _FILE).read_bytes())
        entries = document["runs"]
        return RunNotes(tuple((str(name), str(host)) for name, host in entries))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return RunNotes()


def remember(state_dir: Path, name: str, host: str) -> None:
    """Note on which host a run is."""
    notes = load(state_dir).with_run(name, host)
    data = json.dumps(notes.to_json(), ensure_ascii=False).encode()
    replace_atomically(state_dir / _FILE, data + b"\n")
