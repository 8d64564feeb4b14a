"""known_hosts files as OpenSSH reads them: the entries, and what is known of a server's key.

`knownhostsedit` changes them. `@cert-authority` lines are never taken for a host's own key.
"""

import base64
import binascii
import fnmatch
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from apexgpu.iam.publickeys import parse_key
from apexgpu.models import PublicKey

_MARKERS = {"@revoked", "@cert-authority"}


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
    text = line.decode("utf-8", "surrogateescape").strip(" \t\r\n")
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
    try:
        if not path.is_file():
            return []
        return parse_entries(path.read_bytes())
    except OSError:
        return []


class KnownHosts:
    """The entries of several known_hosts files together, read once, at the first question."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._entries: list[KnownHostsEntry] | None = None

    def keys(self, name: str) -> list[PublicKey]:
        """Return the keys known for `name` (see `lookup_name`), in the order of the files."""
        keys: dict[str, PublicKey] = {}
        for entry in self._entries_for(name):
            if not entry.marker:
                keys.setdefault(entry.key.blob, entry.key)
        return list(keys.values())

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

    def _entries_for(self, name: str) -> list[KnownHostsEntry]:
        if self._entries is None:
            self._entries = []
            for path in self.files:
                self._entries += read_entries(path)
        return [entry for entry in self._entries if entry.covers(name.lower())]


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
    for pattern in patterns.lower().split(","):
        if _matches_pattern(pattern.removeprefix("!"), name):
            if pattern.startswith("!"):
                return False
            matched = True
    return matched


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
    return hmac.compare_digest(expected, digest)
