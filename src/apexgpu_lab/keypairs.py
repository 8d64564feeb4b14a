"""Key pairs of the lab: made, and read back to compare."""

import base64
import binascii
from itertools import pairwise

import asyncssh


def new_private_key() -> bytes:
    """A new ed25519 private key in OpenSSH's format."""
    return asyncssh.generate_private_key("ssh-ed25519").export_private_key()


def public_line(private: bytes, comment: str = "") -> str:
    """The public key of `private` as an authorized_keys line, with its newline."""
    line = asyncssh.import_private_key(private).export_public_key().decode().split()[:2]
    return " ".join([*line, comment]).rstrip() + "\n"


def public_key_blobs(authorized_keys: str) -> set[bytes]:
    """The public keys that an authorized_keys text lets in, whatever options or comments stand around them."""
    found = set()
    for line in authorized_keys.splitlines():
        words = line.split()
        for kind, text in pairwise(words):
            try:
                blob = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                continue
            if blob[4 : 4 + len(kind)] == kind.encode():
                found.add(blob)
    return found
