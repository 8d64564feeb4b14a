"""The command lines that a container runs to list, check, move and remove archives. Pure.

The scripts are the files `archive*.sh` in `remote/programs`: POSIX sh with GNU tar and coreutils,
which every container has. `scriptreplies` parses what they print.
"""

from apexgpu.archives.catalog import FileStamp
from apexgpu.remote.remotescript import sh_command


def list_archives(directory: str, user: str) -> str:
    """List the user's archives in the directory; see `scriptreplies.parse_listing`."""
    return sh_command("archives_list.sh", arguments=[directory, user])


def check(path: str) -> str:
    """Read an archive to its end with gzip, tar and sha256sum; see `scriptreplies.parse_check`."""
    return sh_command("archive_check.sh", arguments=[path])


def stat(path: str) -> str:
    """Print the size and time of one file; see `scriptreplies.parse_stamp`."""
    return sh_command("archive_stat.sh", arguments=[path])


def ages(path: str) -> str:
    """Print the ages of an archive and of the container; see `scriptreplies.parse_ages`."""
    return sh_command("archive_ages.sh", arguments=[path])


def move_away(source: str, target: str) -> str:
    """Rename, or else copy, an archive and its manifest, readable by their owner only."""
    return sh_command("archive_move_away.sh", arguments=[source, target])


def restore(source: str, target: str) -> str:
    """Rename an archive and its manifest over another one, readable by everybody."""
    return sh_command("archive_restore.sh", arguments=[source, target])


def write_manifest(path: str, text: str) -> str:
    """Write the manifest beside an archive."""
    return sh_command("archive_write_manifest.sh", arguments=[path, text])


def delete_manifest(path: str) -> str:
    """Delete the manifest beside an archive."""
    return sh_command("archive_delete_manifest.sh", arguments=[path])


def remove(path: str, shown: FileStamp) -> str:
    """Delete an archive and its manifest, if its size and time are still those that were `shown`."""
    return sh_command("archive_remove.sh", arguments=[path, f"{shown.size} {shown.mtime}"])


def set_mode(path: str, mode: int) -> str:
    """Change who can read an archive; `mode` are permission bits."""
    return sh_command("archive_set_mode.sh", arguments=[path, f"{mode:o}"])


def print_authorized_keys() -> str:
    """Print the container's authorized_keys."""
    return sh_command("authorized_keys_print.sh")


def add_authorized_keys(lines: list[str]) -> str:
    """Add lines to the container's authorized_keys."""
    return sh_command("authorized_keys_add.sh", arguments=lines)
