"""Earlier states of the ssh config, kept in the state directory; and which configs apexgpu itself made.

Never in ~/.ssh, where an `Include ~/.ssh/config.*` of the user's would read them.
"""

import hashlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from apexgpu import files

KEPT = 10
"""How many backups of a file are kept, not counting number 0."""

_NAME = re.compile(r"ssh_config\.(\d{8}T\d{6}Z)\.(\d{6,})")


@dataclass(frozen=True, slots=True)
class Backup:
    """An earlier state of an ssh config: its number, file, time and size in bytes.

    1 is the newest, and 0 what the last restore took away: a restore moves no other number, so that the same
    restore can be asked for twice.
    """

    n: int
    path: Path
    taken: datetime
    bytes: int


def backups(state_dir: Path, target: Path) -> list[Backup]:
    """The kept earlier states of `target`, newest first, numbered from 1; number 0, if there is one, before them."""
    found = _found(state_dir, target)
    undo = [one for one in found if one[0] == 0]
    numbered = [*((0, one) for one in undo), *enumerate((one for one in found if one[0] != 0), 1)]
    return [Backup(n, path, _time(stamp), path.stat().st_size) for n, (_, stamp, path) in numbered]


def _found(state_dir: Path, target: Path) -> list[tuple[int, str, Path]]:
    """Counter, time and file of every copy, the highest counter first."""
    return sorted(
        (
            (int(match[2]), match[1], path)
            for path in _directory(state_dir, target).glob("ssh_config.*")
            if (match := _NAME.fullmatch(path.name))
        ),
        reverse=True,
    )


def _directory(state_dir: Path, target: Path) -> Path:
    """One for each ssh config: a copy never comes back in the place of another file."""
    name = os.fsencode(os.path.realpath(target))
    return state_dir / "backups" / hashlib.sha256(name).hexdigest()[:16]


def _time(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp)


def keep(old: bytes | None, target: Path, state_dir: Path, *, undo: bool = False) -> None:
    """Keep the bytes `old` of `target`, with `undo` as number 0; or note that there was no such file."""
    if old is None:
        noted = "".join(f"{name}\n" for name in sorted({*created(state_dir), str(target)}))
        files.replace_atomically(_created_file(state_dir), noted.encode("utf-8", "surrogateescape"))
        return
    kept = _found(state_dir, target)
    # The counter orders backups of one second, and those after a clock was set back.
    counter = 0 if undo else kept[0][0] + 1 if kept else 1
    directory = _directory(state_dir, target)
    new = directory / f"ssh_config.{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{counter:06d}"
    files.replace_atomically(new, old)
    numbered = [path for number, _, path in kept if number != 0]
    replaced = [path for number, _, path in kept if undo and number == 0 and path != new]
    half_written = directory.glob(".ssh_config.*.tmp")  # of a run that was killed
    for path in (*half_written, *replaced, *numbered[KEPT if undo else KEPT - 1 :]):
        path.unlink(missing_ok=True)


def created(state_dir: Path) -> set[str]:
    """The config files that were not there before apexgpu: removing the block removes them."""
    with suppress(FileNotFoundError):
        return set(
            _created_file(state_dir).read_bytes().decode("utf-8", "surrogateescape").splitlines()
        )
    return set()


def _created_file(state_dir: Path) -> Path:
    return state_dir / "ssh_config.created"
