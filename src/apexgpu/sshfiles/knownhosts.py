"""known_hosts files as OpenSSH reads them: the entries, and what is known of a server's key.

`knownhostsedit` changes them. `@cert-authority` lines are never taken for a host's own key.
"""

import base64
import binascii
import fnmatch
import functools
import hmac
import re
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from apexgpu.iam.publickeys import fingerprint, parse_key
from apexgpu.models import PublicKey

_MARKERS = {"@revoked", "@cert-authority"}
_LONGEST_PATTERN = 1023  # OpenSSH ignores a list of names with a longer one


class KeyStatus(StrEnum):
    """What known_hosts says about the key that a server shows."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KnownHostsEntry:
    """One line with a key: `marker` ("", "@revoked" or "@cert-authority"), names, key."""

    marker: str
    names: str
    key: PublicKey

    @property
    def hashed(self) -> bool:
        """Whether the line hides its name behind a hash."""
        return self.names.startswith("|")

    def covers(self, name: str) -> bool:
        """Return whether the line applies to the host `name` (lower case), as in OpenSSH."""
        if self.hashed:
            return _hash_matches(self.names, name)
        return matches_pattern_list(self.names, name)


def lookup_name(address: str, port: int) -> str:
    """Return a server's name in known_hosts: its address, or `[address]:port` if not port 22."""
    address = address.lower()
    if port == 22:
        return address
    return f"[{address}]:{port}"


def parse_entry(line: bytes) -> KnownHostsEntry | None:
    """Return the entry of one line, or None for blank lines, comments and anything else."""
    # For OpenSSH, which is written in C, a NUL ends the line.
    visible = line.partition(b"\0")[0]
    text = visible.decode("utf-8", "surrogateescape").strip(" \t\r\n")
    first, remaining = _split_first(text)
    marker = ""
    if first in _MARKERS:
        marker = first
        first, remaining = _split_first(remaining)
    if not remaining or first.startswith(("#", "@")):
        return None
    key = parse_key(remaining)
    if key is None:
        return None
    return KnownHostsEntry(marker, first, key)


def parse_entries(data: bytes) -> list[KnownHostsEntry]:
    """Return the entries in the bytes of a known_hosts file."""
    entries = []
    for line in data.split(b"\n"):
        entry = parse_entry(line)
        if entry is not None:
            entries.append(entry)
    return entries


def read_entries(path: Path) -> list[KnownHostsEntry]:
    """Return the entries of a file; [] if it cannot be read, because ssh does the same."""
    return list(_read(path).entries)


@dataclass(frozen=True, slots=True)
class _Contents:
    """What a known_hosts file contains. `odd`: a line has a marker, but is not one that we can read."""

    entries: tuple[KnownHostsEntry, ...] = ()
    odd: bool = False


def _read(path: Path) -> _Contents:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return _Contents()
        return _read_version(path, status.st_mtime_ns, status.st_size, status.st_ino)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return _Contents()


# Each connection reads the same files, and one may be large.
@functools.lru_cache(maxsize=16)
def _read_version(path: Path, _mtime: int, _size: int, _inode: int) -> _Contents:
    data = path.read_bytes()
    entries = []
    odd = False
    for line in data.split(b"\n"):
        entry = parse_entry(line)
        if entry is not None:
            entries.append(entry)
        elif line.lstrip(b" \t").startswith(b"@"):
            odd = True
    return _Contents(tuple(entries), odd)


class KnownHosts:
    """The entries of several known_hosts files together, read once, at the first question."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._contents: list[_Contents] | None = None

    def keys(self, name: str) -> list[PublicKey]:
        """Return the keys known for `name` (see `lookup_name`), in the order of the files."""
        keys: dict[str, PublicKey] = {}
        for entry in self._entries_for(name):
            if not entry.marker:
                keys.setdefault(entry.key.blob, entry.key)
        return list(keys.values())

    def has_markers(self, name: str) -> bool:
        """Return whether a line with a marker applies to `name`, or one that only OpenSSH can read.

        An authority may have signed the key of the server, or the key may be revoked: OpenSSH has to
        check it.
        """
        if any(contents.odd for contents in self._all_contents()):
            return True
        return any(entry.marker for entry in self._entries_for(name))

    def revoked_by(self, name: str, shown: str) -> tuple[Path, int] | None:
        """Return the file and the number of the line that revokes the key of `name` with the fingerprint `shown`."""
        for path in self.files:
            try:
                lines = path.read_bytes().split(b"\n") if path.is_file() else []
            except (OSError, ValueError):
                continue
            for number, line in enumerate(lines, start=1):
                entry = parse_entry(line)
                if entry is None or entry.marker != "@revoked" or not entry.covers(name.lower()):
                    continue
                if fingerprint(entry.key) == shown:
                    return path, number
        return None

    def check(self, name: str, kind: str, blob: str) -> KeyStatus:
        """Return the status of the key that the server `name` shows.

        This is stricter than OpenSSH: if other keys of the server are known, of whatever type, an
        unknown key is CHANGED. Therefore negotiate only the `types` that are known.
        """
        entries = self._entries_for(name)
        if any(entry.marker == "@revoked" and entry.key.blob == blob for entry in entries):
            return KeyStatus.REVOKED
        keys = {(entry.key.kind, entry.key.blob) for entry in entries if not entry.marker}
        if not keys:
            return KeyStatus.UNKNOWN
        if (kind, blob) in keys:
            return KeyStatus.KNOWN
        return KeyStatus.CHANGED

    def types(self, name: str) -> list[str]:
        """Return the key types known for `name`, each once, for the negotiation to prefer."""
        return list(dict.fromkeys(key.kind for key in self.keys(name)))

    def _all_contents(self) -> list[_Contents]:
        if self._contents is None:
            self._contents = [_read(path) for path in self.files]
        return self._contents

    def _entries_for(self, name: str) -> list[KnownHostsEntry]:
        found = []
        for contents in self._all_contents():
            found += [entry for entry in contents.entries if entry.covers(name.lower())]
        return found


def is_hashed(path: Path) -> bool:
    """Return whether the file contains hashed names, so that new ones should be hashed too."""
    return any(entry.hashed for entry in read_entries(path))


def hash_name(name: str) -> str:
    """Return `name` as ssh's HashKnownHosts writes it: a salted hash."""
    salt = secrets.token_bytes(20)
    digest = hmac.digest(salt, name.encode("utf-8"), "sha1")
    return f"|1|{base64.b64encode(salt).decode('ascii')}|{base64.b64encode(digest).decode('ascii')}"


def matches_pattern_list(patterns: str, name: str) -> bool:
    """Return whether OpenSSH's pattern list matches `name`: one matching `!pattern` excludes it."""
    matched = False
    for pattern in _ascii_lower(patterns).split(","):
        if len(pattern) >= _LONGEST_PATTERN:
            return False
        if _matches_pattern(pattern.removeprefix("!"), name):
            if pattern.startswith("!"):
                return False
            matched = True
    return matched


def _ascii_lower(text: str) -> str:
    # str.lower() also changes letters that C's tolower() leaves: the sign of Kelvin becomes a k.
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def _split_first(text: str) -> tuple[str, str]:
    """The first word and the rest, which is "" if there is only one word."""
    words = re.split(r"[ \t]+", text, maxsplit=1)
    return words[0], words[1] if len(words) > 1 else ""


def _matches_pattern(pattern: str, name: str) -> bool:
    if "*" not in pattern and "?" not in pattern:
        return pattern == name
    # Unlike in a shell pattern, brackets are letters here: `[10.0.0.1]:22001`.
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _hash_matches(field: str, name: str) -> bool:
    """Whether `|1|SALT|HASH` is the hash of `name`."""
    parts = field.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    try:
        salt = base64.b64decode(parts[2], validate=True)
        digest = base64.b64decode(parts[3], validate=True)
    except (binascii.Error, ValueError):
        return False
    expected = hmac.digest(salt, name.encode("utf-8", "surrogateescape"), "sha1")
    # OpenSSH compares the text, in which the same hash could also be written in another way.
    is_canonical = base64.b64encode(digest).decode("ascii") == parts[3]
    return is_canonical and hmac.compare_digest(expected, digest)
