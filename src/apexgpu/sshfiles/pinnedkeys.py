"""The public halves of keys that only an agent has, in files that the block in the ssh config names.

With `IdentityFile NAME.pub` and `IdentitiesOnly yes`, ssh asks the agent for this key and no other.
"""

import shutil
from pathlib import Path

from apexgpu.files import replace_atomically
from apexgpu.iam.publickeys import fingerprint
from apexgpu.models import PublicKey

_DIRECTORY = "keys"


def write_public_half(state_dir: Path, key: PublicKey) -> Path:
    """Write the public key to its file in `state_dir`, unless it is there, and return the file's path."""
    # The name depends on the key alone, so that the block stays the same from login to login.
    mark = fingerprint(key).removeprefix("SHA256:").replace("/", "_").replace("+", "-")
    path = state_dir / _DIRECTORY / f"{key.kind.partition('@')[0]}-{mark[:16]}.pub"
    data = f"{key.kind} {key.blob} {key.comment}".strip().encode() + b"\n"
    if not path.is_file() or path.read_bytes() != data:
        replace_atomically(path, data, mode=0o600)
    return path


def forget(state_dir: Path) -> None:
    """Delete the files that `write_public_half` made."""
    shutil.rmtree(state_dir / _DIRECTORY, ignore_errors=True)
