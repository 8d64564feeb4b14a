"""What the table of mounts cannot tell of a mount that we made: what was wished for, and which directories were made.

A note is never the proof of a mount; only what the system's table has is there.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from apexgpu.files import locked, replace_atomically
from apexgpu.models import Host

FILE = "mounts.json"


@dataclass(frozen=True, slots=True)
class Note:
    """One mount of ours. `asked` is the remote path as the user gave it, `made` what mkdir had to make."""

    directory: str
    host: Host
    remote: str
    asked: str = ""
    read_only: bool = False
    options: tuple[str, ...] = ()
    since: float = 0.0
    made: tuple[str, ...] = ()
    ciphers: str = ""


def load(state_dir: Path) -> dict[str, Note]:
    """The notes by directory; none where the file is missing or spoilt, for the mounts themselves are not in it."""
    try:
        rows = json.loads((state_dir / FILE).read_bytes())
        notes = [_note(row) for row in rows]
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return {note.directory: note for note in notes}


def _note(row: dict[str, Any]) -> Note:
    row |= {
        "host": Host(**row["host"]),
        "options": tuple(row["options"]),
        "made": tuple(row["made"]),
    }
    return Note(**row)


def add(state_dir: Path, note: Note) -> None:
    """Keep a note, in the place of an older one for that directory."""
    _change(state_dir, lambda notes: {**notes, note.directory: note})


def drop(state_dir: Path, directory: str, left: Sequence[str] = ()) -> None:
    """Forget a directory. What we made and could not remove (`left`) is left to another mount that lies in it."""

    def without(notes: dict[str, Note]) -> dict[str, Note]:
        kept = {key: note for key, note in notes.items() if key != directory}
        for made in left:
            heir = next(
                (note for key, note in kept.items() if Path(made) in Path(key).parents), None
            )
            if heir is not None and made not in heir.made:
                kept[heir.directory] = replace(heir, made=(made, *heir.made))
        return kept

    _change(state_dir, without)


def _change(state_dir: Path, change: Callable[[dict[str, Note]], dict[str, Note]]) -> None:
    with locked(state_dir / "locks" / "mounts.lock", what="the list of mounts"):
        before = load(state_dir)
        after = change(before)
        if after != before:
            rows = [asdict(note) for note in after.values()]
            replace_atomically(
                state_dir / FILE, json.dumps(rows, indent=1, ensure_ascii=False).encode()
            )
