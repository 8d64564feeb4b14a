"""The text of authorized_keys: parse a line, add a key, remove a key, fingerprints. Pure.

A line that is not understood still belongs to the user: it is kept byte for byte.
"""

import base64
import binascii
import hashlib
import re

from apexgpu.errors import UsageError
from apexgpu.models import PublicKey

_BLANKS = " \t"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# How many length-prefixed strings the blob of a key type consists of. For a type that is not listed,
# only the first string (the type's name) is checked.
_STRING_COUNTS = {
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
    "ssh-dss": 5,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}
_ED25519_BYTES = 32


def parse_line(line: str) -> PublicKey | None:
    """Return the key of one authorized_keys line, or None for a blank line, a comment, or garbage.

    The line is read as sshd reads it: first as `type blob comment`, then as options followed by that.
    The options end at the first blank outside quotes.
    """
    text = line.strip(" \t\r\n")
    if not text or text.startswith("#") or "\n" in text:
        return None
    key = parse_key(text)
    if key is not None:
        return key
    end = _end_of_options(text)
    if end == 0:
        return None
    key = parse_key(text[end:].lstrip(_BLANKS))
    if key is None:
        return None
    return PublicKey(key.kind, key.blob, key.comment, _printable(text[:end]))


def parse_key(text: str) -> PublicKey | None:
    """Return the key of `type blob [comment]`, or None. The blob must contain the same type."""
    fields = re.split(r"[ \t]+", text.strip(" \t\r\n"), maxsplit=2)
    if len(fields) < 2:
        return None
    kind, blob = fields[0], fields[1]
    if not _is_blob_of(kind, blob):
        return None
    comment = _printable(fields[2]) if len(fields) > 2 else ""
    return PublicKey(kind, blob, comment)


def parse_all(text: str) -> list[PublicKey]:
    """Return the keys of a whole authorized_keys text, in its order."""
    keys = []
    for line in text.split("\n"):
        key = parse_line(line)
        if key is not None:
            keys.append(key)
    return keys


def key_set(text: str) -> frozenset[tuple[str, str]]:
    """Return the type and blob of each key, to compare two texts without their comments."""
    return frozenset((key.kind, key.blob) for key in parse_all(text))


def add_key(stored: str, new: PublicKey) -> str:
    """Return `stored` with `new` at its end; every line stays, and each gets an LF at its end.

    Returns `stored` itself if it contains the key already. Raises UsageError if sshd could not read
    `new`.
    """
    # The line that is sent is read back, as sshd would read it.
    added = parse_line(new.line)
    is_same = added is not None and (added.kind, added.blob) == (new.kind, new.blob)
    if added is None or not is_same:
        message = f"sshd could not read this public key: {_printable(new.kind)[:40]}"
        raise UsageError(message, hint="apexgpu keys add --help")
    for key in parse_all(stored):
        if key.blob == new.blob and not _is_authority(key):
            return stored
    return _join_lines([*_split_lines(stored), added.line])


def remove_key(stored: str, unwanted: str) -> str:
    """Return `stored` without the keys that have the fingerprint `unwanted` (`SHA256:` is optional).

    Returns `stored` itself if there is no such key.
    """
    wanted_out = "SHA256:" + unwanted.strip().removeprefix("SHA256:").rstrip("=")
    lines = _split_lines(stored)
    kept = []
    for line in lines:
        key = parse_line(line)
        if key is None or fingerprint(key) != wanted_out:
            kept.append(line)
    if len(kept) == len(lines):
        return stored
    return _join_lines(kept)


def fingerprint(key: PublicKey) -> str:
    """Return the fingerprint as `ssh-keygen -l` prints it: `SHA256:` and unpadded base64."""
    digest = hashlib.sha256(base64.b64decode(key.blob)).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def rsa_bits(key: PublicKey) -> int:
    """Return the size of an RSA key's modulus in bits, or 0 for any other type."""
    if key.kind != "ssh-rsa":
        return 0
    strings = wire_strings(base64.b64decode(key.blob))
    if not strings:
        return 0
    modulus = strings[2]  # after the type and the exponent
    return int.from_bytes(modulus, "big").bit_length()


def wire_strings(blob: bytes) -> list[bytes] | None:
    """Return the strings (RFC 4251: 4 bytes of length, then the bytes) that make up `blob`.

    Returns None if `blob` does not divide into such strings.
    """
    strings = []
    position = 0
    while position < len(blob):
        start = position + 4
        end = start + int.from_bytes(blob[position:start], "big")
        if start > len(blob) or end > len(blob):
            return None
        strings.append(blob[start:end])
        position = end
    return strings


def _is_blob_of(kind: str, text: str) -> bool:
    """Return whether the base64 `text` is the blob of a key of type `kind`."""
    try:
        blob = base64.b64decode(text, validate=True)
        name = kind.encode("ascii")
    except (binascii.Error, ValueError):
        return False
    if not name or not blob.startswith(len(name).to_bytes(4, "big") + name):
        return False
    if kind not in _STRING_COUNTS:
        return True  # a type newer than this program
    strings = wire_strings(blob)
    if strings is None or len(strings) != _STRING_COUNTS[kind]:
        return False
    return kind != "ssh-ed25519" or len(strings[1]) == _ED25519_BYTES


def _end_of_options(text: str) -> int:
    """Return the position of the first blank outside quotes, or 0 if the quotes are not closed."""
    in_quotes = False
    previous = ""
    for position, char in enumerate(text):
        if char == '"' and previous != "\\":
            in_quotes = not in_quotes
        elif char in _BLANKS and not in_quotes:
            return position
        previous = char
    return 0


def _is_authority(key: PublicKey) -> bool:
    # A `cert-authority` line admits the keys that this key has signed, not the key itself.
    options = re.sub(r'"(\\"|[^"])*"', "", key.options).lower()
    return "cert-authority" in options.split(",")


def _split_lines(text: str) -> list[str]:
    # Only LF ends a line for sshd. str.splitlines would also split at a form feed in a comment.
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if lines[-1] == "":
        lines.pop()
    return lines


def _join_lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _printable(text: str) -> str:
    """Return server text for display: one line, no control characters, no invalid UTF-8."""
    valid = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _CONTROL.sub(" ", valid).strip()
