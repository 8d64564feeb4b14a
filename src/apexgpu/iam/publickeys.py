"""authorized_keys as text: one line to a key, merging, dropping, fingerprints. Pure: no file, no program.

A line that is not understood is the user's all the same: it is carried along byte for byte.
"""

import base64
import binascii
import hashlib
import re
from itertools import pairwise

from apexgpu.errors import UsageError
from apexgpu.models import PublicKey

_BLANKS = " \t"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# How many length-prefixed strings a whole blob of this type has; of other types only the first is known.
_STRINGS = {
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
    "ssh-dss": 5,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}


def parse_line(line: str) -> PublicKey | None:
    """The key of one authorized_keys line, or None for a blank line, a comment, or garbage.

    The line is read as sshd reads it: first as `type blob comment`, then with options before that, which end
    at the first blank outside quotes.
    """
    text = line.strip(" \t\r\n")
    if not text or text.startswith("#") or "\n" in text:
        return None
    key = parse_key(text)
    if key is not None:
        return key
    end = _options_end(text)
    key = parse_key(text[end:].lstrip(_BLANKS)) if end else None
    if key is None:
        return None
    return PublicKey(key.kind, key.blob, key.comment, _printable(text[:end]))


def parse_key(text: str) -> PublicKey | None:
    """The key of `type blob [comment]`, or None. The blob must name the same type that stands before it."""
    words = re.split(r"[ \t]+", text.strip(" \t\r\n"), maxsplit=2)
    if len(words) < 2 or not _blob_is(words[0], words[1]):
        return None
    return PublicKey(words[0], words[1], _printable(words[2]) if len(words) > 2 else "")


def parse_all(text: str) -> list[PublicKey]:
    """The keys of a whole authorized_keys text, in its order."""
    return [key for line in text.split("\n") if (key := parse_line(line)) is not None]


def identities(text: str) -> frozenset[tuple[str, str]]:
    """What two texts are compared by: type and blob of each key, whatever the comments say."""
    return frozenset((key.kind, key.blob) for key in parse_all(text))


def merge(stored: str, new: PublicKey) -> str:
    """`stored` with `new` at its end; every line stays, CRLF becomes LF, and the last line is ended.

    `stored` itself when it already lets this key in. UsageError when `new` is no key that sshd would read.
    """
    wanted = parse_line(new.line)
    if wanted is None or (wanted.kind, wanted.blob) != (new.kind, new.blob):
        message = f"this is no public key that sshd would read: {_printable(new.kind)[:40]}"
        raise UsageError(message, hint="ssh-keygen -y -f PRIVATE_KEY prints the public part")
    if any(key.blob == new.blob and not _is_authority(key) for key in parse_all(stored)):
        return stored
    return _joined([*_lines(stored), wanted.line])


def drop(stored: str, unwanted: str) -> str:
    """`stored` without the keys whose fingerprint is `unwanted`; `stored` itself when there is none.

    The `SHA256:` in front may be left out.
    """
    mark = "SHA256:" + unwanted.strip().removeprefix("SHA256:").rstrip("=")
    lines = _lines(stored)
    kept = [line for line in lines if (key := parse_line(line)) is None or fingerprint(key) != mark]
    return stored if len(kept) == len(lines) else _joined(kept)


def fingerprint(key: PublicKey) -> str:
    """What `ssh-keygen -l` calls the key: `SHA256:` and unpadded base64."""
    digest = hashlib.sha256(base64.b64decode(key.blob)).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def fields(blob: bytes) -> list[bytes] | None:
    """The length-prefixed strings that `blob` consists of, or None when it does not divide into them."""
    found, at = [], 0
    while at < len(blob):
        length = int.from_bytes(blob[at : at + 4], "big")
        if at + 4 + length > len(blob) or at + 4 > len(blob):
            return None
        found.append(blob[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def rsa_bits(key: PublicKey) -> int:
    """The size of an RSA key's modulus; 0 for any other type."""
    parts = fields(base64.b64decode(key.blob)) if key.kind == "ssh-rsa" else None
    return int.from_bytes(parts[2], "big").bit_length() if parts else 0


def _blob_is(kind: str, text: str) -> bool:
    try:
        blob = base64.b64decode(text, validate=True)
        name = kind.encode("ascii")
    except (binascii.Error, ValueError):
        return False
    if not name or not blob.startswith(len(name).to_bytes(4, "big") + name):
        return False
    parts = fields(blob) if kind in _STRINGS else None
    if parts is None or len(parts) != _STRINGS[kind]:
        return kind not in _STRINGS
    return kind != "ssh-ed25519" or len(parts[1]) == 32


def _options_end(text: str) -> int:
    """Where the options end: the first blank outside quotes, 0 when the quotes never close."""
    quoted = False
    for before, char, at in ((a, b, i) for i, (a, b) in enumerate(pairwise(" " + text))):
        if char == '"' and before != "\\":
            quoted = not quoted
        elif char in _BLANKS and not quoted:
            return at
    return 0


def _is_authority(key: PublicKey) -> bool:
    # `cert-authority` lets in what this key has signed, not the key itself.
    return "cert-authority" in re.sub(r'"(\\"|[^"])*"', "", key.options).lower().split(",")


def _lines(text: str) -> list[str]:
    # Only LF ends a line for sshd; str.splitlines would also cut at a form feed inside a comment.
    lines = [line.rstrip("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _printable(text: str) -> str:
    """Server text for display: one line, no control characters, no halves of a character."""
    return _CONTROL.sub(
        " ", text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    ).strip()
