"""The contents of private key files: read the public part, decrypt a key, make a new one.

This module is the owner of `cryptography`. OpenSSH's own format contains the public part in clear
text, so that no passphrase is needed to know which key a file holds.
"""

import base64
import binascii
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apexgpu.errors import ConfigError
from apexgpu.files import replace_atomically, written_beside
from apexgpu.iam.publickeys import parse_key
from apexgpu.models import PublicKey
from apexgpu.platforms import hints

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

SPARE_NAME = "id_ed25519_apexgpu"
_MAX_SPARES = 99
_MAGIC = b"openssh-key-v1\0"
_BEGIN = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_END = b"-----END OPENSSH PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """What is known of a private key without its passphrase; `public` is None if hidden."""

    public: PublicKey | None
    encrypted: bool


def parse_private_key(data: bytes) -> PrivateKey | None:
    """Return what the key file `data` contains, or None if it is not a readable private key."""
    if data.lstrip().startswith(_BEGIN):
        return _parse_openssh(data)
    start = data[:200]
    if b"-----BEGIN " not in start or b"PRIVATE KEY-----" not in start:
        return None
    if b"ENCRYPTED" in start:
        return PrivateKey(None, encrypted=True)
    return _parse_pem(data)


@dataclass(frozen=True, slots=True)
class OpenSshHeader:
    """What a key file in OpenSSH's format contains in clear text: cipher, type, and the public key's blob."""

    cipher: str
    kind: str
    public: bytes


def openssh_header(data: bytes) -> OpenSshHeader | None:
    """Read OpenSSH's format: magic, cipher, kdf, its options, key count, public key (PROTOCOL.key).

    None if `data` is not such a file.
    """
    _before, _begin, rest = data.partition(_BEGIN)
    body, end, _after = rest.partition(_END)
    if not end:
        return None
    try:
        decoded = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        return None
    if not decoded.startswith(_MAGIC):
        return None
    cipher, unread = _read_string(decoded[len(_MAGIC) :])
    _kdf, unread = _read_string(unread)
    _kdf_options, unread = _read_string(unread)
    unread = unread[4:]  # the number of keys, always 1
    public, _unread = _read_string(unread)
    kind, _fields = _read_string(public)
    return OpenSshHeader(cipher.decode("ascii", "replace"), kind.decode("ascii", "replace"), public)


def has_line_ends_for_ssh(data: bytes) -> bool:
    """Return whether the line ends of the key file `data` are such that ssh can load it.

    OpenSSH compares the first and the last line of its own format including the newline (sshkey.c).
    Windows line ends, or a missing final newline, give `error in libcrypto`; other programs are
    less strict.
    """
    if _BEGIN not in data:
        return True
    return data.startswith(_BEGIN + b"\n") and b"\n" + _END + b"\n" in data


def decrypt(data: bytes, passphrase: str) -> bytes | None:
    """Return the key file `data` in OpenSSH's format without encryption.

    Return None if the passphrase is wrong or the key's type cannot be decrypted here.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    password = passphrase.encode()
    key: PrivateKeyTypes
    try:
        if _BEGIN in data[:200]:
            key = serialization.load_ssh_private_key(data, password)
        else:
            key = serialization.load_pem_private_key(data, password)
        return key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def convert(data: bytes, passphrase: str | None) -> tuple[bytes, str] | None:
    """Return the key file `data` in OpenSSH's format with the same passphrase, and its public line.

    Return None if the passphrase is wrong or the file cannot be read.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    password = passphrase.encode() if passphrase else None
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    try:
        key = serialization.load_pem_private_key(data, password)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, encryption
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm):
        return None
    return private, public.decode("ascii")


def generate_ed25519(comment: str, passphrase: str | None) -> tuple[bytes, str]:
    """Make a new key; return the bytes of its private file and its public line.

    The private file is encrypted if there is a passphrase.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, encryption
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return private, f"{public.decode('ascii')} {comment}".strip()


def save_pair(path: Path, private: bytes, public: bytes) -> Path:
    """Write a key pair without overwriting anything; return the private file's path.

    That is `path`, or a spare name beside it if `path` or `path`.pub exists. If the program is
    killed here, the private key is there completely or not at all: half a key would make every
    later ssh complain.

    Raises:
        ConfigError: the files cannot be written; nothing is left behind.
    """
    made: Path | None = None
    try:
        with written_beside(path, private, mode=0o600) as temporary:
            made = path = _move_to_free_name(temporary, path)
        replace_atomically(public_path(path), public, mode=0o644)
    except OSError as error:
        if made is not None:
            made.unlink()  # half a pair would be taken for the user's key by the next run
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", hint=hints.look_at(path.parent)
        ) from error
    return path


def public_path(path: Path) -> Path:
    """Return the path of the public file that belongs to the private file `path`."""
    return path.with_name(path.name + ".pub")


def _move_to_free_name(temporary: Path, path: Path) -> Path:
    """Move the file to a name that is free together with its .pub; overwrite nothing."""
    for candidate in _candidates(path):
        if os.path.lexists(candidate) or os.path.lexists(public_path(candidate)):
            continue
        try:
            os.link(temporary, candidate)  # unlike a rename, it fails if another run was faster
        except FileExistsError:
            continue
        except OSError:  # a file system without hard links
            temporary.rename(candidate)
        return candidate
    raise ConfigError(
        f"no free name for a new key beside {path}", hint=hints.list_directory(path.parent)
    )


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    yield path.with_name(SPARE_NAME)
    for number in range(2, _MAX_SPARES + 1):
        yield path.with_name(f"{SPARE_NAME}_{number}")


def _parse_openssh(data: bytes) -> PrivateKey | None:
    header = openssh_header(data)
    if header is None:
        return None
    line = f"{header.kind} {base64.b64encode(header.public).decode('ascii')}"
    key = parse_key(line)
    if key is None:
        return None
    return PrivateKey(key, encrypted=header.cipher != "none")


def _read_string(data: bytes) -> tuple[bytes, bytes]:
    """The length-prefixed string at the start of `data`, and the rest; both empty past the end."""
    end = 4 + int.from_bytes(data[:4], "big")
    return data[4:end], data[end:]


def _parse_pem(data: bytes) -> PrivateKey | None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        private = serialization.load_pem_private_key(data, None)
        line = private.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm):
        return None
    key = parse_key(line.decode("ascii"))
    if key is None:
        return None
    return PrivateKey(key, encrypted=False)
