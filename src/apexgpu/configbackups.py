"""Earlier states of the ssh config, kept in the state directory; and which configs apexgpu itself made.

Never in ~/.ssh, where an `Include ~/.ssh/config.*` of the user's would read them.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from apexgpu import files

KEPT = 10
"""How many backups are kept."""

_NAME = re.compile(r"ssh_config\.(\d{8}T\d{6}Z)\.(\d{6,})")


@dataclass(frozen=True, slots=True)
class Backup:
    """An earlier state of the ssh config: its number (1 is the newest), file, time and size in bytes."""

    n: int
    path: Path
    taken: datetime
    bytes: int


def backups(state_dir: Path) -> list[Backup]:
    """The kept earlier states, newest first, numbered from 1."""
    found = [
        (int(match[2]), match[1], path)
        for path in (state_dir / "backups").glob("ssh_config.*")
        if (match := _NAME.fullmatch(path.name))
    ]
    found.sort(reverse=True)
    return [Backup(n, path, _time(stamp), path.stat().st_size) for n, (_, stamp, path) in enumerate(found, 1)]


def _time(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp)


def keep(old: bytes | None, target: Path, state_dir: Path) -> None:
    """Keep the bytes `old` of `target`; or note that there was no such file."""
    if old is None:
        noted = "".join(f"{name}\n" for name in sorted({*created(state_dir), str(target)}))
        files.replace_atomically(_created_file(state_dir), noted.encode("utf-8", "surrogateescape"))
        return
    kept = backups(state_dir)
    # The counter orders backups of one second, and those after a clock was set back.
    counter = int(kept[0].path.name.rpartition(".")[2]) + 1 if kept else 1
    name = f"ssh_config.{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{counter:06d}"
    files.replace_atomically(state_dir / "backups" / name, old)
    half_written = (state_dir / "backups").glob(".ssh_config.*.tmp")  # of a run that was killed
    for path in (*half_written, *(backup.path for backup in kept[KEPT - 1 :])):
        path.unlink(missing_ok=True)


def created(state_dir: Path) -> set[str]:
    """The config files that were not there before apexgpu: removing the block removes them."""
    with suppress(FileNotFoundError):
        return set(_created_file(state_dir).read_bytes().decode("utf-8", "surrogateescape").splitlines())
    return set()


def _created_file(state_dir: Path) -> Path:
    return state_dir / "ssh_config.created"
