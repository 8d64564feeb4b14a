"""Changes of known_hosts files: add entries, replace a host's key, remove what apexgpu added.

The files are the user's own. Lines that are not understood or not concerned stay byte for byte.
"""

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from apexgpu import files, readers
from apexgpu.errors import ApexError, ConfigError, UnexpectedError
from apexgpu.files import replace_atomically
from apexgpu.iam.publickeys import parse_key
from apexgpu.models import PublicKey
from apexgpu.platforms import hints, replacing
from apexgpu.platforms.system import is_windows
from apexgpu.sshfiles.knownhosts import (
    KnownHostsEntry,
    hash_name,
    matches_pattern_list,
    parse_entries,
    parse_entry,
    read_entries,
)

_RECORD = "known_hosts.json"
_BACKUPS_KEPT = 10
_MAX_TRIES = 5
_LINES = re.compile(rb"[^\n]*\n|[^\n]+")


def add(path: Path, entries: Sequence[tuple[str, PublicKey]], *, hashed: bool) -> bool:
    """Append the (name, key) pairs that `path` does not contain yet, each on its own line.

    Return whether anything was added.

    Raises:
        ConfigError: the file cannot be written.
    """

    def addition(old: bytes) -> bytes:
        known = parse_entries(old)
        lines = []
        for name, key in dict.fromkeys(entries):
            if not _contains(known, name, key):
                lines.append(_format_line(name, key, hashed=hashed))
        return _append(old, lines)[len(old) :]

    with _errors_naming(path):
        _read_bytes_and_mode(path)  # raises for what is not a regular file
        return files.append(path, addition)


def replace(path: Path, name: str, new: PublicKey, backup_dir: Path) -> list[PublicKey]:
    """Make `new` the only key of `name` in `path`; return the other keys that the name had.

    Other names on the same line keep their key; a pattern that matches the name gets the name as an
    exception. Lines with a marker stay. The old bytes are kept in `backup_dir`.

    Raises:
        ConfigError: a file cannot be written.
    """
    old_keys: list[PublicKey] = []

    def change(old: bytes) -> bytes:
        old_keys.clear()  # this is called again if the file changed meanwhile
        kept = []
        hashed = False
        for line in _LINES.findall(old):
            entry = parse_entry(line)
            if entry is not None and _is_about(entry, name) and entry.key.blob != new.blob:
                old_keys.append(entry.key)
                hashed = hashed or entry.hashed
                kept.append(_line_without(line, entry, name.lower()))
            else:
                kept.append(line)
        data = b"".join(kept)
        if _contains(parse_entries(data), name, new):
            return data
        return _append(data, [_format_line(name, new, hashed=hashed)])

    _rewrite(path, change, backup_dir=backup_dir)
    return list(dict.fromkeys(old_keys))


def remove(path: Path, names: Sequence[str]) -> None:
    """Remove the entries of `names` from `path`, and the file itself if nothing is left in it.

    Raises:
        ConfigError: the file cannot be written.
    """

    def change(old: bytes) -> bytes:
        lines = _LINES.findall(old)
        for name in names:
            for index, line in enumerate(lines):
                entry = parse_entry(line)
                if entry is not None and _is_about(entry, name):
                    lines[index] = _line_without(line, entry, name)
        return b"".join(lines)

    changed = _rewrite(path, change, backup_dir=None)
    if changed and not path.is_symlink() and path.stat().st_size == 0:
        with _late_lines(path, b""):
            path.unlink()


def record_added(state_dir: Path, path: Path, names: Sequence[str]) -> None:
    """Record that apexgpu added the entries of `names` to `path`, for `uninstall` to remove."""
    lock = state_dir / "locks" / "known_hosts.lock"
    with files.locked(lock, what="the list of added host keys"):
        record = _load_record(state_dir)
        recorded = record.setdefault(str(path), [])
        for name in names:
            if name.lower() not in recorded:
                recorded.append(name.lower())
        replace_atomically(state_dir / _RECORD, json.dumps(record, indent=1).encode())


def list_added(state_dir: Path) -> dict[Path, list[str]]:
    """Return the files that apexgpu added entries to, each with the names that are still in it."""
    added = {}
    for file, names in _load_record(state_dir).items():
        path = Path(file)
        entries = read_entries(path)
        present = [name for name in names if any(_is_about(entry, name) for entry in entries)]
        if present:
            added[path] = present
    return added


def _load_record(state_dir: Path) -> dict[str, list[str]]:
    try:
        record = readers.json_object((state_dir / _RECORD).read_bytes(), _RECORD)
        return {name: list(record.texts(name)) for name in record.names}
    except (OSError, UnexpectedError):
        return {}


def _rewrite(path: Path, change: Callable[[bytes], bytes], *, backup_dir: Path | None) -> bool:
    """Replace the file's bytes by `change(bytes)`; start over if ssh wrote to it meanwhile."""
    with _errors_naming(path):
        target = Path(os.path.realpath(path))
        for _attempt in range(_MAX_TRIES):
            old, mode = _read_bytes_and_mode(target)
            new = change(old)
            if new == old:
                return False
            if backup_dir is not None and old:
                _back_up(path, old, backup_dir)
            if _replace(target, old, new, mode):
                return True
    raise ApexError(
        f"another program keeps changing {path}; run the command again",
        hint="pgrep -a ssh",
        code="busy",
    )


def _replace(target: Path, old: bytes, new: bytes, mode: int) -> bool:
    """Replace `old` by `new`; return False, with nothing done, if the file has changed."""
    if target.exists() and target.stat().st_nlink > 1:
        raise ConfigError(
            f"{target} has a second name (a hard link), which would keep the old content;"
            " replace the hard link by a symbolic link",
            hint=hints.list_names_of(target),
        )
    # A slow disk may need seconds for the new bytes. Lines that ssh appends meanwhile must stay.
    with files.written_beside(target, new, mode=mode) as temporary:
        present, _mode = _read_bytes_and_mode(target)
        if present != old:
            return False
        with _late_lines(target, old):
            replacing.replace(temporary, target)
    files.sync_directory(target.parent)
    return True


@contextmanager
def _late_lines(path: Path, old: bytes) -> Iterator[None]:
    """Append to `path` what a program writes into the file that the block replaces or deletes.

    Such a program had opened the file before. `old` is what the file had then. Windows does not
    replace a file that is open.
    """
    if is_windows() or not path.exists():
        yield
        return
    with path.open("rb") as replaced:
        yield
        late = replaced.read()[len(old) :]
    if late:
        files.append(path, lambda _present: late)


@contextmanager
def _errors_naming(path: Path) -> Iterator[None]:
    """Turn an OSError into a ConfigError that names the file that it is about."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        place = error.filename or path
        message = f"cannot write {path}: {reason}"
        if Path(os.fsdecode(place)).parent not in (
            path.parent,
            Path(os.path.realpath(path)).parent,
        ):
            message = f"cannot write {path}: {place}: {reason}"
        raise ConfigError(message, hint=hints.look_at(path)) from error


def _read_bytes_and_mode(path: Path) -> tuple[bytes, int]:
    try:
        mode = path.stat().st_mode
        # Reading a FIFO would wait forever, and root would replace /dev/null by a file.
        if not stat.S_ISREG(mode):
            raise OSError(0, "it is not a regular file")
        return path.read_bytes(), stat.S_IMODE(mode)
    except FileNotFoundError:
        return b"", 0o600


def _back_up(path: Path, data: bytes, directory: Path) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    backup = directory / f"{path.name}.{stamp}"
    replace_atomically(backup, data)
    # Their names sort by time.
    backups = sorted(directory.glob(f"{path.name}.[0-9]*T*Z"))
    for old_backup in backups[:-_BACKUPS_KEPT]:
        old_backup.unlink(missing_ok=True)


def _append(old: bytes, lines: Sequence[str]) -> bytes:
    if not lines:
        return old
    has_windows_ends = old.count(b"\r\n") * 2 > old.count(b"\n")
    newline = b"\r\n" if has_windows_ends else b"\n"
    if old and not old.endswith(b"\n"):
        old += newline
    return old + b"".join(line.encode("utf-8") + newline for line in lines)


def _format_line(name: str, key: PublicKey, *, hashed: bool) -> str:
    name = name.lower()
    has_special_letters = re.search(r"[\s,*?!|#@]", name)
    is_key = parse_key(f"{key.kind} {key.blob}") is not None
    if not name or has_special_letters or not is_key:
        raise ConfigError(f"{name!r} with this key cannot be written to a known_hosts file")
    if hashed:
        name = hash_name(name)
    return f"{name} {key.kind} {key.blob}"


def _line_without(line: bytes, entry: KnownHostsEntry, name: str) -> bytes:
    """The line for the other names of `entry`, b"" if it has no others."""
    patterns = []
    if not entry.hashed:  # a hashed line has one name only
        patterns = [pattern for pattern in entry.names.split(",") if pattern.lower() != name]
    if not any(pattern and not pattern.startswith("!") for pattern in patterns):
        return b""
    names = ",".join(patterns)
    if matches_pattern_list(names, name):
        names = f"{names},!{name}"
    old_field = entry.names.encode("utf-8", "surrogateescape")
    return line.replace(old_field, names.encode("utf-8", "surrogateescape"), 1)


def _contains(entries: Sequence[KnownHostsEntry], name: str, key: PublicKey) -> bool:
    return any(_is_about(entry, name) and entry.key.blob == key.blob for entry in entries)


def _is_about(entry: KnownHostsEntry, name: str) -> bool:
    """Whether the entry is an ordinary one (no marker) for the host `name`."""
    return not entry.marker and entry.covers(name.lower())
