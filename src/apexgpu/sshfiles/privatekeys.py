"""What a private key file says: its public part, whether it is encrypted; and making a new one.

The owner of `cryptography`. OpenSSH's own format tells the public part in clear, so no passphrase is needed
to know which key a file holds.
"""

import base64
import binascii
import os
from dataclasses import dataclass
from pathlib import Path

from apexgpu.errors import ConfigError
from apexgpu.files import replace_atomically, written_beside
from apexgpu.iam.publickeys import parse_key
from apexgpu.models import PublicKey

SPARE_NAME = "id_ed25519_apexgpu"
_MAGIC = b"openssh-key-v1\0"
_BEGIN = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_END = b"-----END OPENSSH PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """What is known of a private key without its passphrase; `public` None where the format hides it."""

    public: PublicKey | None
    encrypted: bool


def derive(data: bytes) -> PrivateKey | None:
    """What the file `data` holds, or None when it is no private key that can be read."""
    if data.lstrip().startswith(_BEGIN):
        return _openssh(data)
    if b"-----BEGIN " not in data[:200] or b"PRIVATE KEY-----" not in data[:200]:
        return None
    if b"ENCRYPTED" in data[:200]:
        return PrivateKey(None, encrypted=True)
    return _pem(data)


def ssh_reads(data: bytes) -> bool:
    """Whether ssh could load the file `data` as far as its line ends go; other programs are less strict.

    OpenSSH compares the first and the last line of its own format with a newline at their end (sshkey.c): Windows'
    line ends, or none after the last line, are an `error in libcrypto`.
    """
    return _BEGIN not in data or (data.startswith(_BEGIN + b"\n") and b"\n" + _END + b"\n" in data)


def decrypted(data: bytes, passphrase: str) -> bytes | None:
    """The same key in OpenSSH's format without encryption; None when passphrase or type does not allow it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as forms

    load = forms.load_ssh_private_key if _BEGIN in data[:200] else forms.load_pem_private_key
    try:
        key = load(data, passphrase.encode())
        return key.private_bytes(
            forms.Encoding.PEM, forms.PrivateFormat.OpenSSH, forms.NoEncryption()
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def new_ed25519(comment: str, passphrase: str | None) -> tuple[bytes, str]:
    """A new private key file's bytes, encrypted when there is a passphrase, and its public line."""
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    cipher = (
        forms.BestAvailableEncryption(passphrase.encode()) if passphrase else forms.NoEncryption()
    )
    private = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.OpenSSH, cipher)
    public = key.public_key().public_bytes(forms.Encoding.OpenSSH, forms.PublicFormat.OpenSSH)
    return private, f"{public.decode('ascii')} {comment}".strip()


def save_new(path: Path, private: bytes, public: bytes) -> Path:
    """Write a pair where neither file was, and return where: `path`, or a spare name beside it.

    ConfigError where it cannot be written; nothing is left behind then. Whoever is killed here leaves a whole
    private key or none: half a one would make every later ssh complain.
    """
    try:
        with written_beside(path, private, mode=0o600) as temporary:
            path = _moved_to_free_name(temporary, path)
        replace_atomically(_pub(path), public, mode=0o644)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", hint=f"ls -ld {path.parent}"
        ) from error
    return path


def _moved_to_free_name(temporary: Path, path: Path) -> Path:
    """Give the file a name that was free together with its .pub, overwriting nothing."""
    spares = (path.with_name(f"{SPARE_NAME}_{number}") for number in range(2, 100))
    for candidate in (path, path.with_name(SPARE_NAME), *spares):
        if os.path.lexists(candidate) or os.path.lexists(_pub(candidate)):
            continue
        try:
            os.link(temporary, candidate)  # unlike a rename, it fails where another run was quicker
        except FileExistsError:
            continue
        except OSError:  # a file system without hard links
            temporary.rename(candidate)
        return candidate
    raise ConfigError(f"no free name for a new key beside {path}", hint=f"ls {path.parent}")


def _pub(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


def _openssh(data: bytes) -> PrivateKey | None:
    body, end, _after = data.partition(_BEGIN)[2].partition(_END)
    if not end:
        return None
    try:
        blob = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        return None
    if not blob.startswith(_MAGIC):
        return None
    cipher, rest = _string(blob[len(_MAGIC) :])
    _kdf, rest = _string(rest)
    _options, rest = _string(rest)
    public, _rest = _string(rest[4:])
    kind, _fields = _string(public)
    line = f"{kind.decode('ascii', 'replace')} {base64.b64encode(public).decode('ascii')}"
    key = parse_key(line)
    return PrivateKey(key, encrypted=cipher != b"none") if key else None


def _string(data: bytes) -> tuple[bytes, bytes]:
    """The length-prefixed string at the start of `data`, and what follows; both empty past the end."""
    end = 4 + int.from_bytes(data[:4], "big")
    return data[4:end], data[end:]


def _pem(data: bytes) -> PrivateKey | None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as forms

    try:
        public = forms.load_pem_private_key(data, None).public_key()
        line = public.public_bytes(forms.Encoding.OpenSSH, forms.PublicFormat.OpenSSH)
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm):
        return None
    key = parse_key(line.decode("ascii"))
    return PrivateKey(key, encrypted=False) if key else None
