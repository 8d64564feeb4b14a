"""known_hosts files as OpenSSH reads them, and the two changes made to them: a new entry, a replaced one.

The files are the user's own. What is not understood stays byte for byte; `@cert-authority` lines are never
taken for a host's key.
"""

import base64
import binascii
import fnmatch
import hmac
import json
import re
import secrets
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from apexgpu.errors import ApexError, ConfigError
from apexgpu.files import replace_atomically
from apexgpu.iam.publickeys import parse_key
from apexgpu.models import PublicKey

Verdict = Literal["known", "unknown", "changed", "revoked"]

_NOTES = "known_hosts.json"
_BACKUPS_KEPT = 10
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One line with a key: `marker` ("" or "@revoked" or "@cert-authority"), the names' field, the key."""

    marker: str
    names: str
    key: PublicKey

    def covers(self, name: str) -> bool:
        """Whether the line speaks of `name`, as OpenSSH decides it."""
        if self.names.startswith("|"):
            return _hash_matches(self.names, name)
        return _pattern_list_matches(self.names, name)


def lookup_name(address: str, port: int) -> str:
    """The name under which known_hosts keeps a server: the address, or `[address]:port` off port 22."""
    return address.lower() if port == 22 else f"[{address.lower()}]:{port}"


def parse_entry(line: str) -> Entry | None:
    """The entry of one line, or None for a blank line, a comment, or what is no entry."""
    words = re.split(r"[ \t]+", line.strip(" \t\r\n"), maxsplit=1)
    marker = words[0] if words[0] in {"@revoked", "@cert-authority"} else ""
    if marker:
        words = re.split(r"[ \t]+", words[1], maxsplit=1) if len(words) > 1 else [""]
    if len(words) < 2 or words[0].startswith(("#", "@")):
        return None
    key = parse_key(words[1])
    return Entry(marker, words[0], key) if key else None


class KnownHosts:
    """What several known_hosts files say together; they are read once, at the first question."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._entries: list[Entry] | None = None

    def keys(self, name: str) -> list[PublicKey]:
        """The keys known for `name` (a `lookup_name`), in the order of the files."""
        found = [entry.key for entry in self._about(name) if not entry.marker]
        return list({key.blob: key for key in reversed(found)}.values())[::-1]

    def check(self, name: str, kind: str, blob: str) -> Verdict:
        """What to think of a server that shows this key.

        Stricter than OpenSSH: where any key is known and none is this one, that is "changed", whatever the
        types; so negotiate only the `types` that are known.
        """
        about = self._about(name)
        if any(entry.marker == "@revoked" and entry.key.blob == blob for entry in about):
            return "revoked"
        known = {(entry.key.kind, entry.key.blob) for entry in about if not entry.marker}
        if not known:
            return "unknown"
        return "known" if (kind, blob) in known else "changed"

    def types(self, name: str) -> list[str]:
        """The key types known for `name`, for the negotiation to prefer; each once."""
        return list(dict.fromkeys(key.kind for key in self.keys(name)))

    def _about(self, name: str) -> list[Entry]:
        if self._entries is None:
            self._entries = [entry for path in self.files for entry in _read_entries(path)]
        return [entry for entry in self._entries if entry.covers(name.lower())]


def add(path: Path, entries: Sequence[tuple[str, PublicKey]], *, hashed: bool) -> bool:
    """Append what `path` does not know yet, a line a name; False when there was nothing to add.

    ConfigError where the file cannot be written.
    """

    def changed(old: bytes) -> bytes:
        known = _entries_of(old)
        new = [
            _line(name, key, hashed=hashed)
            for name, key in dict.fromkeys(entries)
            if not _knows(known, name, key)
        ]
        return _appended(old, new)

    return _rewrite(path, changed, backup_dir=None)


def replace(path: Path, name: str, new: PublicKey, backup_dir: Path) -> list[PublicKey]:
    """Make `new` the only key of `name` in `path`; the other keys that it had are returned.

    Other names of a line keep it; a pattern that covers the name gets it as an exception. Marked lines stay.
    The bytes from before go to `backup_dir`. ConfigError where a file cannot be written.
    """
    old_keys: list[PublicKey] = []

    def changed(old: bytes) -> bytes:
        old_keys.clear()
        kept, hashed = [], False
        for line in re.findall(rb"[^\n]*\n|[^\n]+", old):
            entry = _entry(line)
            if (
                entry is None
                or entry.marker
                or entry.key.blob == new.blob
                or not entry.covers(name.lower())
            ):
                kept.append(line)
                continue
            old_keys.append(entry.key)
            hashed = hashed or entry.names.startswith("|")
            kept.append(_without(line, entry, name.lower()))
        data = b"".join(kept)
        return (
            data
            if _knows(_entries_of(data), name, new)
            else _appended(data, [_line(name, new, hashed=hashed)])
        )

    _rewrite(path, changed, backup_dir=backup_dir)
    return list(dict.fromkeys(old_keys))


def note(state_dir: Path, path: Path, names: Sequence[str]) -> None:
    """Keep in mind that the entries of `names` in `path` are apexgpu's, so that `uninstall` can take them away."""
    noted = _noted(state_dir)
    lines = noted.setdefault(str(path), [])
    lines += [name.lower() for name in names if name.lower() not in lines]
    replace_atomically(state_dir / _NOTES, json.dumps(noted, indent=1).encode())


def noted(state_dir: Path) -> dict[Path, list[str]]:
    """The files with entries that apexgpu made, and the names of those that are there still."""
    found = {}
    for file, names in _noted(state_dir).items():
        about = [entry for entry in _read_entries(Path(file)) if not entry.marker]
        there = [name for name in names if any(entry.covers(name) for entry in about)]
        if there:
            found[Path(file)] = there
    return found


def take_out(path: Path, names: Sequence[str]) -> None:
    """Take the entries of `names` out of `path`; a file that holds nothing else goes too. ConfigError if it cannot."""

    def changed(old: bytes) -> bytes:
        lines = re.findall(rb"[^\n]*\n|[^\n]+", old)
        for name in names:
            lines = [
                _without(line, entry, name)
                if (entry := _entry(line)) and not entry.marker and entry.covers(name)
                else line
                for line in lines
            ]
        return b"".join(lines)

    if (
        _rewrite(path, changed, backup_dir=None)
        and not path.is_symlink()
        and not path.stat().st_size
    ):
        path.unlink()


def _noted(state_dir: Path) -> dict[str, list[str]]:
    try:
        return dict(json.loads((state_dir / _NOTES).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _rewrite(path: Path, changed: Callable[[bytes], bytes], *, backup_dir: Path | None) -> bool:
    """Put `changed(old bytes)` in the file's place; start over when ssh itself wrote to it meanwhile."""
    try:
        for _attempt in range(_ATTEMPTS):
            old, mode = _bytes_and_mode(path)
            new = changed(old)
            if new == old:
                return False
            if backup_dir is not None and old:
                _back_up(path, old, backup_dir)
            if _bytes_and_mode(path)[0] == old:
                replace_atomically(path, new, mode=mode)
                return True
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"cannot write {path}: {reason}", hint=f"ls -l {path}") from error
    hint = "run the same line again when no other ssh is starting"
    raise ApexError(f"{path} changes all the time", hint=hint, code="busy")


def _bytes_and_mode(path: Path) -> tuple[bytes, int]:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(
            mode
        ):  # a FIFO would hang; and where root may write, /dev/null would be replaced
            raise OSError(0, "it is no regular file")
        return path.read_bytes(), stat.S_IMODE(mode)
    except FileNotFoundError:
        return b"", 0o600


def _back_up(path: Path, data: bytes, directory: Path) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    replace_atomically(directory / f"{path.name}.{stamp}", data)
    copies = sorted(directory.glob(f"{path.name}.[0-9]*T*Z"))
    for copy in copies[:-_BACKUPS_KEPT]:
        copy.unlink(missing_ok=True)


def _appended(old: bytes, lines: Sequence[str]) -> bytes:
    if not lines:
        return old
    end = b"\r\n" if old.count(b"\r\n") * 2 > old.count(b"\n") else b"\n"
    start = old if not old or old.endswith(b"\n") else old + end
    return start + b"".join(line.encode("utf-8") + end for line in lines)


def _line(name: str, key: PublicKey, *, hashed: bool) -> str:
    name = name.lower()
    if not name or re.search(r"[\s,*?!|#@]", name) or parse_key(f"{key.kind} {key.blob}") is None:
        raise ConfigError(f"{name!r} with this key cannot stand in a known_hosts file")
    return f"{_hashed(name) if hashed else name} {key.kind} {key.blob}"


def _without(line: bytes, entry: Entry, name: str) -> bytes:
    """The line for the other names of `entry`, or nothing when it had no other."""
    kept = (
        []
        if entry.names.startswith("|")
        else [pattern for pattern in entry.names.split(",") if pattern.lower() != name]
    )
    if not any(pattern and not pattern.startswith("!") for pattern in kept):
        return b""
    names = ",".join(kept)
    if _pattern_list_matches(names, name):
        names = f"{names},!{name}"
    before = entry.names.encode("utf-8", "surrogateescape")
    return line.replace(before, names.encode("utf-8", "surrogateescape"), 1)


def _knows(entries: Sequence[Entry], name: str, key: PublicKey) -> bool:
    return any(
        not entry.marker and entry.key.blob == key.blob and entry.covers(name.lower())
        for entry in entries
    )


def _read_entries(path: Path) -> list[Entry]:
    # A file that is not there, or not ours to read, knows nothing: ssh does the same.
    try:
        return _entries_of(path.read_bytes()) if path.is_file() else []
    except OSError:
        return []


def _entries_of(data: bytes) -> list[Entry]:
    return [entry for line in data.split(b"\n") if (entry := _entry(line)) is not None]


def _entry(line: bytes) -> Entry | None:
    return parse_entry(line.decode("utf-8", "surrogateescape"))


def _pattern_list_matches(patterns: str, name: str) -> bool:
    """OpenSSH's pattern list: one `!` that matches decides against the whole list."""
    found = False
    for pattern in patterns.lower().split(","):
        if _glob(pattern.removeprefix("!"), name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _glob(pattern: str, name: str) -> bool:
    if not ("*" in pattern or "?" in pattern):
        return pattern == name
    # Brackets are letters here (`[10.0.0.1]:22001`), unlike in a shell's glob.
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _hashed(name: str) -> str:
    salt = secrets.token_bytes(20)
    digest = hmac.digest(salt, name.encode("utf-8"), "sha1")
    return f"|1|{base64.b64encode(salt).decode('ascii')}|{base64.b64encode(digest).decode('ascii')}"


def _hash_matches(field: str, name: str) -> bool:
    parts = field.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in parts[2:])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(
        hmac.digest(salt, name.encode("utf-8", "surrogateescape"), "sha1"), digest
    )


def is_hashed(path: Path) -> bool:
    """Whether the file already keeps names hashed, so that new ones should be too."""
    return any(entry.names.startswith("|") for entry in _read_entries(path))
