"""Write a copy of a private key in OpenSSH's own format, which every ssh can read.

    python -m apexgpu.sshfiles.convertkey OLD NEW

For key files in another format (ed25519 in PKCS#8, as `openssl genpkey` writes it) that the
installed ssh cannot read. The message about such a file contains this command.
"""

import sys
from pathlib import Path

from apexgpu.errors import ApexError, ConfigError
from apexgpu.platforms import hints
from apexgpu.sshfiles.keyfiles import read_text
from apexgpu.sshfiles.privatekeys import convert, save_pair


def convert_file(old: Path, new: Path, passphrase: str | None) -> Path:
    """Write the key of the file `old` to `new` and `new`.pub; return the path of the private file.

    `passphrase` is that of `old`, None if it has none; the copy has the same. Nothing is
    overwritten: if `new` exists, a free name beside it is used.

    Raises:
        ConfigError: `old` is not a readable private key, or the copy cannot be written.
    """
    data = read_text(old).encode("utf-8", "surrogateescape")
    converted = convert(data, passphrase)
    if converted is None:
        raise ConfigError(f"{old} cannot be read as a private key", hint=hints.look_at(old))
    private, public = converted
    return save_pair(new, private, f"{public} {old.name}\n".encode())


def main() -> int:
    """Convert the file that the command line names."""
    if len(sys.argv) != 3:
        sys.stderr.write("usage: python -m apexgpu.sshfiles.convertkey OLD NEW\n")
        return 2
    old, new = (Path(argument).absolute() for argument in sys.argv[1:])
    try:
        passphrase = None
        if "ENCRYPTED" in read_text(old)[:200]:
            from getpass import getpass

            passphrase = getpass(f"Passphrase for {old}: ")
        written = convert_file(old, new, passphrase)
    except ApexError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    sys.stdout.write(f"{written}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
