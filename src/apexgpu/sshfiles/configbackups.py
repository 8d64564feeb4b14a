"""Copies of earlier ssh configs, and a list of the configs that apexgpu itself created.

Both are in the state directory, never in ~/.ssh, where an `Include ~/.ssh/config.*` of the user's
would read them.
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
_UNDO_COUNTER = 0


@dataclass(frozen=True, slots=True)
class Backup:
    """An earlier state of an ssh config: its number, file, time and size in bytes.

    Number 1 is the newest. Number 0 is what the last restore replaced; it has a number of its own
    so that a restore renumbers nothing, and the same restore can be run twice.
    """

    number: int
    path: Path
    taken: datetime
    bytes: int


@dataclass(frozen=True, slots=True, order=True)
class _Copy:
    """A backup file as it is on disk; `counter` and `stamp` are parts of its name."""

    counter: int
    stamp: str
    path: Path


def list_backups(state_dir: Path, target: Path) -> list[Backup]:
    """Return the earlier states of `target`: number 0 if there is one, then 1 (the newest) and on."""
    backups = []
    number = 0
    copies = _list_copies(state_dir, target)
    undo = [copy for copy in copies if copy.counter == _UNDO_COUNTER]
    for copy in undo:
        backups.append(_backup(0, copy))
    for copy in copies:
        if copy.counter != _UNDO_COUNTER:
            number += 1
            backups.append(_backup(number, copy))
    return backups


def keep(old: bytes | None, target: Path, state_dir: Path, *, undo: bool = False) -> None:
    """Keep `old`, the bytes of `target`, as the newest backup; with `undo` as number 0.

    If there was no such file (`old` is None), record instead that apexgpu created `target`.
    """
    if old is None:
        _record_created(state_dir, target)
        return
    copies = _list_copies(state_dir, target)
    # A counter, because backups may be made within one second, or after a clock was set back.
    if undo:
        counter = _UNDO_COUNTER
    elif copies:
        counter = copies[0].counter + 1
    else:
        counter = 1
    directory = _directory(state_dir, target)
    new = directory / f"ssh_config.{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{counter:06d}"
    files.replace_atomically(new, old)
    numbered = [copy.path for copy in copies if copy.counter != _UNDO_COUNTER]
    if undo:
        earlier_undo = [copy.path for copy in copies if copy.counter == _UNDO_COUNTER]
        superfluous = [*numbered[KEPT:], *(path for path in earlier_undo if path != new)]
    else:
        superfluous = numbered[KEPT - 1 :]
    half_written = list(directory.glob(".ssh_config.*.tmp"))  # by a run that was killed
    for path in (*half_written, *superfluous):
        path.unlink(missing_ok=True)


def created_configs(state_dir: Path) -> set[str]:
    """Return the config files that apexgpu created. If nothing else is in one, it is deleted."""
    with suppress(FileNotFoundError):
        text = _created_file(state_dir).read_bytes().decode("utf-8", "surrogateescape")
        return set(text.splitlines())
    return set()


def _record_created(state_dir: Path, target: Path) -> None:
    names = {*created_configs(state_dir), str(target)}
    text = "".join(f"{name}\n" for name in sorted(names))
    files.replace_atomically(_created_file(state_dir), text.encode("utf-8", "surrogateescape"))


def _created_file(state_dir: Path) -> Path:
    return state_dir / "ssh_config.created"


def _backup(number: int, copy: _Copy) -> Backup:
    taken = datetime.fromisoformat(copy.stamp)
    return Backup(number, copy.path, taken, copy.path.stat().st_size)


def _list_copies(state_dir: Path, target: Path) -> list[_Copy]:
    """Every copy of `target`, the highest counter first."""
    copies = []
    for path in _directory(state_dir, target).glob("ssh_config.*"):
        match = _NAME.fullmatch(path.name)
        if match:
            copies.append(_Copy(int(match[2]), match[1], path))
    return sorted(copies, reverse=True)


def _directory(state_dir: Path, target: Path) -> Path:
    """The directory for copies of `target` alone: no copy may be restored over another file."""
    real_path = os.fsencode(os.path.realpath(target))
    return state_dir / "backups" / hashlib.sha256(real_path).hexdigest()[:16]
