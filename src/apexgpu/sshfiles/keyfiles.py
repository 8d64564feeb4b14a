"""Single key files: whether ssh would use one, what is in it, and why it cannot be used."""

import os
import shlex
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from apexgpu.errors import ConfigError
from apexgpu.iam.publickeys import parse_all
from apexgpu.models import PublicKey
from apexgpu.sshfiles.privatekeys import (
    PrivateKey,
    has_line_ends_for_ssh,
    parse_private_key,
    public_path,
)

_LARGEST = 64 * 1024


def read_text(path: Path) -> str:
    """Return the text of a key file, bytes that are not UTF-8 as surrogates.

    Raises:
        ConfigError: there is no such file, it cannot be read, or it is too large for a key.
    """
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file", hint="ls ~/.ssh")
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"{path}: too large for a key", hint="ls -l ~/.ssh")
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint=f"ls -l {path}") from error


def is_private_text(text: str) -> bool:
    """Return whether `text` starts like a private key file."""
    return text.lstrip().startswith("-----BEGIN ") and "PRIVATE KEY-----" in text[:200]


def list_private_candidates(directory: Path) -> list[Path]:
    """Return the files in `directory` that belong to this user and may be private keys.

    Names that start with a dot are left out: these are temporary files, ours or an editor's.
    """
    candidates = []
    try:
        for path in sorted(directory.iterdir()):
            is_hidden = path.name.startswith(".")
            if path.suffix != ".pub" and not is_hidden and _is_own_file(path):
                candidates.append(path)
    except OSError:
        return []
    return candidates


def read_public_files(directory: Path) -> Iterator[PublicKey]:
    """Yield the key of each `.pub` file in `directory` that belongs to this user."""
    with suppress(OSError):
        for path in sorted(directory.glob("*.pub")):
            if _is_own_file(path):
                yield from parse_all(read_text(path))[:1]


def read_usable_private(path: Path) -> tuple[PublicKey, bool] | None:
    """Return the public part of the private key at `path`, and whether it is encrypted.

    Return None if ssh could not use the file, or if its `.pub` file belongs to another key.
    """
    key = _read_private(path)
    if key is None:
        return None
    published = _read_public_beside(path)
    if key.public is None:
        # The old PEM format hides the public part if it is encrypted: the .pub has to be trusted.
        if published is None:
            return None
        return published, key.encrypted
    if published is not None and not same_key(published, key.public):
        return None
    return published or key.public, key.encrypted


def public_part(path: Path, text: str) -> PublicKey:
    """Return the public part of the private key file `path`, whose text is `text`.

    Raises:
        ConfigError: it cannot be derived, or the `.pub` file belongs to another key.
    """
    write_pub_hint = f"ssh-keygen -y -f {path} > {path}.pub"
    key = parse_private_key(text.encode("utf-8", "surrogateescape"))
    published = _read_public_beside(path)
    if key is not None and key.public is None and published is not None:
        return published
    if key is None or key.public is None:
        raise ConfigError(
            f"cannot derive the public key from the private key {path}", hint=write_pub_hint
        )
    if published is not None and not same_key(published, key.public):
        raise ConfigError(f"{path}.pub belongs to another key than {path}", hint=write_pub_hint)
    return published or key.public


def only_public_key(path: Path, text: str) -> PublicKey:
    """Return the one public key in `text`, the text of the public file `path`.

    Raises:
        ConfigError: there is no key, more than one, or one in another program's format.
    """
    public_keys = parse_all(text)
    if len(public_keys) == 1:
        return replace(public_keys[0], options="")
    if text.startswith("PuTTY-User-Key-File"):
        raise ConfigError(
            f"{path}: a PuTTY key", hint=f"puttygen {path} -O private-openssh -o ~/.ssh/id_putty"
        )
    if text.startswith("---- BEGIN SSH2 PUBLIC KEY"):
        raise ConfigError(
            f"{path}: an SSH2 public key", hint=f"ssh-keygen -i -f {path} > {path.stem}.pub"
        )
    if public_keys:
        reason = f"{len(public_keys)} keys, but exactly one is needed"
    else:
        reason = "not an ssh key"
    raise ConfigError(f"{path}: {reason}", hint="ls ~/.ssh/*.pub")


def no_private_key_error(path: Path, private: Path) -> ConfigError:
    """Return the error for a public key `path` whose private file `private` cannot be used."""
    is_own = _is_own_file(private)
    if is_own and not _is_private_enough(private):
        return ConfigError(
            f"{private}: others may read it, so ssh will not use it", hint=f"chmod 600 {private}"
        )
    if private.exists() and not is_own:
        return ConfigError(f"{private}: the file belongs to another user", hint=f"ls -l {private}")
    if is_own and not has_line_ends_for_ssh(private.read_bytes()):
        # Remove carriage returns and add a final newline; the new file is private from the start.
        name = shlex.quote(str(private))
        new = f"{name}.new && chmod 600 {name}.new && mv {name}.new {name}"
        return ConfigError(
            f"{private}: the file has Windows line endings or no final newline; ssh cannot read it",
            hint=f"""printf '%s\\n' "$(tr -d '\\r' <{name})" >{new}""",
        )
    return ConfigError(
        f"{path}: its private key is neither in {private} nor in ssh-agent", hint="ssh-add -l"
    )


def same_key(first: PublicKey, second: PublicKey) -> bool:
    """Return whether both are the same key, whatever their comments and options."""
    return (first.kind, first.blob) == (second.kind, second.blob)


def _read_private(path: Path) -> PrivateKey | None:
    """The private key at `path`, or None if ssh could not use the file."""
    if not _is_own_file(path) or not _is_private_enough(path):
        return None
    with suppress(ConfigError):
        text = read_text(path)
        data = text.encode("utf-8", "surrogateescape")
        if is_private_text(text) and has_line_ends_for_ssh(data):
            return parse_private_key(data)
    return None


def _read_public_beside(path: Path) -> PublicKey | None:
    """The key of the `.pub` file that belongs to `path`, if that file is this user's."""
    pub = public_path(path)
    if not _is_own_file(pub):
        return None
    with suppress(ConfigError):
        public_keys = parse_all(read_text(pub))
        if public_keys:
            return public_keys[0]
    return None


def _is_own_file(path: Path) -> bool:
    # ~/.ssh also contains sockets of ControlMasters and FIFOs: to open one would wait forever.
    try:
        status = path.stat()
    except OSError:
        return False
    is_own = sys.platform == "win32" or status.st_uid == os.getuid()
    return stat.S_ISREG(status.st_mode) and is_own and status.st_size <= _LARGEST


def _is_private_enough(path: Path) -> bool:
    # ssh ignores a key that others may read: to offer it would end in 'permission denied'.
    return sys.platform == "win32" or not path.stat().st_mode & 0o077
