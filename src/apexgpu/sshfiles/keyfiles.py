"""Single key files: whether ssh would use one, what is in it, and why it cannot be used."""

import codecs
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from apexgpu.errors import ConfigError, MissingProgramError, UnreachableError
from apexgpu.iam.publickeys import parse_all
from apexgpu.models import PublicKey
from apexgpu.platforms import hints, owner
from apexgpu.platforms.shellwords import quoted
from apexgpu.process import Completed, Runner
from apexgpu.sshfiles.privatekeys import (
    PrivateKey,
    has_line_ends_for_ssh,
    parse_private_key,
    public_path,
)

_LARGEST = 64 * 1024
_KEYGEN_LIMIT = 10.0  # seconds
_WRONG_PASSPHRASE = b"incorrect passphrase"


def read_text(path: Path) -> str:
    """Return the text of a key file, bytes that are not UTF-8 as surrogates.

    Raises:
        ConfigError: there is no such file, it cannot be read, or it is too large for a key.
    """
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file", hint=hints.list_ssh_directory())
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"{path}: too large for a key", hint=hints.list_ssh_directory())
        data = path.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            # PowerShell 5.1 writes UTF-16 where its user types `>`.
            return data.decode("utf-16", "replace")
        return data.decode("utf-8", "surrogateescape")
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", hint=hints.look_at(path)
        ) from error


def is_private_text(text: str) -> bool:
    """Return whether `text` may be a private key file. ssh accepts other text before a PEM key."""
    return re.search(r"^-----BEGIN [A-Z ]*PRIVATE KEY-----", text, re.MULTILINE) is not None


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


def read_public_half(path: Path) -> PublicKey | None:
    """Return the public key that ssh finds for the IdentityFile `path`: in that file, or in its .pub."""
    public = _read_public_file(path) or _read_public_beside(path)
    if public is None and _is_own_file(path):
        with suppress(ConfigError):
            data = read_text(path).encode("utf-8", "surrogateescape")
            private = parse_private_key(data)
            public = private.public if private else None
    return public


def read_usable_private(path: Path, runner: Runner) -> tuple[PublicKey, bool] | None:
    """Return the public part of the private key at `path`, and whether it is encrypted.

    Return None if the installed ssh cannot use the file, or if its `.pub` file belongs to another
    key.
    """
    key = _read_private(path, runner)
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


def public_part(path: Path, text: str, runner: Runner) -> PublicKey:
    """Return the public part of the private key file `path`, whose text is `text`.

    Raises:
        ConfigError: it cannot be derived, or the `.pub` file belongs to another key.
    """
    write_pub_hint = hints.write_public_half(path)
    data = text.encode("utf-8", "surrogateescape")
    # A key that this ssh cannot load may be in the agent: its public part is enough then.
    key = _ask_ssh_keygen(path, data, runner) or parse_private_key(data)
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
            f"{path}: an SSH2 public key", hint=hints.convert_public(path, f"{path.stem}.pub")
        )
    if public_keys:
        reason = f"{len(public_keys)} keys, but exactly one is needed"
    else:
        reason = "not an ssh key"
    raise ConfigError(f"{path}: {reason}", hint=hints.list_ssh_directory())


def no_private_key_error(path: Path, private: Path, runner: Runner) -> ConfigError:
    """Return the error for a key `path` whose private file `private` cannot be used."""
    return why_not_usable(private, runner) or ConfigError(
        f"{path}: its private key is neither in {private} nor in ssh-agent", hint="ssh-add -l"
    )


def why_not_usable(private: Path, runner: Runner) -> ConfigError | None:
    """Return the error that says why ssh cannot use the private key file; None if there is none."""
    is_own = _is_own_file(private)
    if is_own and _is_readable_by_others(private):
        return _too_open_error(private)
    if os.path.exists(private) and not is_own:  # noqa: PTH110  # no error for a closed directory
        return ConfigError(
            f"{private}: the file belongs to another user", hint=hints.look_at(private)
        )
    if is_own and not has_line_ends_for_ssh(private.read_bytes()):
        # Remove carriage returns and add a final newline; the new file is private from the start.
        return ConfigError(
            f"{private}: the file has Windows line endings or no final newline; ssh cannot read it",
            hint=hints.remove_carriage_returns(private),
        )
    if not is_own or not is_private_text(read_text(private)):
        return None
    reason = _ssh_keygen_error(private, runner)
    if not reason:
        return None
    if reason == "bad permissions":  # on Windows, only ssh knows who may read a file
        return _too_open_error(private)
    name = quoted(str(private))
    if _is_unread_ed25519(private):
        # OpenSSH before 9.6 reads ed25519 keys in its own format only.
        program = quoted(sys.executable)
        return ConfigError(
            f"{private}: an ed25519 key in PKCS#8 format, which the ssh on this machine cannot"
            " read (OpenSSH 9.6 and newer can); the command below writes a copy that it can read",
            hint=f"{program} -m apexgpu.sshfiles.convertkey {name} {name}_openssh",
        )
    return ConfigError(
        f"ssh cannot read the private key {private}: {reason}", hint=f"ssh-keygen -y -f {name}"
    )


def _too_open_error(private: Path) -> ConfigError:
    return ConfigError(
        f"{private}: others may read it, so ssh will not use it",
        hint=hints.make_private(private),
    )


def same_key(first: PublicKey, second: PublicKey) -> bool:
    """Return whether both are the same key, whatever their comments and options."""
    return (first.kind, first.blob) == (second.kind, second.blob)


def _read_private(path: Path, runner: Runner) -> PrivateKey | None:
    """The private key at `path`, or None if ssh could not use the file."""
    if not _is_own_file(path):
        return None
    with suppress(ConfigError):
        text = read_text(path)
        if is_private_text(text):
            return _ask_ssh_keygen(path, text.encode("utf-8", "surrogateescape"), runner)
    return None


def _ask_ssh_keygen(path: Path, data: bytes, runner: Runner) -> PrivateKey | None:
    """What the installed ssh reads from the private key file `path`; None if it cannot use it.

    No library decides: which formats, ciphers and key types work depends on the installed ssh.
    """
    try:
        completed = _load_without_passphrase(path, runner)
    except MissingProgramError:
        # Without OpenSSH on this machine, our own reader is the best there is.
        return parse_private_key(data) if has_line_ends_for_ssh(data) else None
    except UnreachableError:
        return None
    if completed.code == 0:
        keys = parse_all(completed.text)
        return PrivateKey(keys[0], encrypted=False) if keys else None
    if _WRONG_PASSPHRASE not in completed.err:
        return None
    embedded = None
    if b"-----BEGIN OPENSSH PRIVATE KEY-----" in data:
        embedded = parse_private_key(data)
    return PrivateKey(embedded.public if embedded else None, encrypted=True)


def _load_without_passphrase(path: Path, runner: Runner) -> Completed:
    argv = ["ssh-keygen", "-y", "-P", "", "-f", str(path)]
    return runner.run(argv, timeout=_KEYGEN_LIMIT)


def _ssh_keygen_error(path: Path, runner: Runner) -> str:
    """ssh-keygen's reason for not loading the key file; "" if it can, or asks for a passphrase."""
    try:
        completed = _load_without_passphrase(path, runner)
    except (MissingProgramError, UnreachableError):
        return ""
    if completed.code == 0 or _WRONG_PASSPHRASE in completed.err:
        return ""
    # The line is: Load key "PATH": REASON
    return completed.last_error_line.rpartition('": ')[2]


def _is_unread_ed25519(path: Path) -> bool:
    """Whether the key file, which ssh cannot read, is a sound ed25519 key in PKCS#8 format."""
    data = path.read_bytes()
    if b"-----BEGIN PRIVATE KEY-----" not in data:
        return False
    key = parse_private_key(data)
    return key is not None and key.public is not None and key.public.kind == "ssh-ed25519"


def _read_public_beside(path: Path) -> PublicKey | None:
    """The key of the `.pub` file that belongs to `path`, if that file is this user's."""
    return _read_public_file(public_path(path))


def _read_public_file(pub: Path) -> PublicKey | None:
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
    # root may have put a key there for the user; anybody else could log in with it.
    is_own = owner.is_users_own(status)
    return stat.S_ISREG(status.st_mode) and is_own and status.st_size <= _LARGEST


def _is_readable_by_others(path: Path) -> bool:
    # ssh ignores such a key if it is the user's own (sshkey_perm_ok in authfile.c).
    status = path.stat()
    return owner.is_users_own(status, or_roots=False) and owner.others_may_read(status)
