"""One interface for the files on both sides of a copy, and the errors that both sides raise."""

import errno
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from apexgpu.errors import ApexError, RefusedError
from apexgpu.transfer.copypaths import parent
from apexgpu.transfer.fileinfo import FileInfo


class NoSpaceError(ApexError):
    """The disk, or the user's quota on it, is full."""

    code = "no_space"


class FileMissingError(RefusedError):
    """There is nothing at this path."""

    code = "no_source"


class LinksNotAllowedError(RefusedError):
    """This system does not let the user make symbolic links."""

    code = "no_links"


class OpenFile(Protocol):
    """A file that is open on one side."""

    async def read(self, offset: int, size: int) -> bytes:
        """Read `size` bytes; fewer only at the end of the file."""
        ...

    async def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`."""
        ...

    async def truncate(self, size: int) -> None:
        """Cut the file off after `size` bytes."""
        ...

    async def set_attributes(self, mode: int | None, mtime: int) -> None:
        """Set permission bits (None: leave them) and modification time.

        Call it last: a write changes the time.
        """
        ...


Attributes = tuple[bytes, int | None, int]
"""A path, its permission bits (None: leave them) and its modification time."""


class FileSystem(Protocol):
    """The files on one side.

    Paths are absolute; errors are ApexErrors that name the path and the side.
    """

    where: str  # for people: "this laptop" or the host
    has_modes: bool  # whether files have permission bits
    chunk: int  # bytes to read or write at a time
    most_files: int  # files that can be open at a time

    def accepts_name(self, name: bytes) -> bool:
        """Whether a file can have this name."""
        ...

    def shell_hint(self, command: str) -> str:
        """The line to paste on this laptop that runs a shell command on this side."""
        ...

    def no_space_hint(self, directory: bytes) -> str:
        """The line to paste that shows how full the disk of a directory is."""
        ...

    async def info(self, path: bytes, *, follow: bool = False) -> FileInfo | None:
        """What is at a path, None if nothing is; with `follow`, what a link points to."""
        ...

    async def list_directory(self, path: bytes) -> list[FileInfo]:
        """The names in a directory."""
        ...

    async def real_path(self, path: bytes) -> bytes:
        """The path with all links resolved."""
        ...

    async def spelling(self, path: bytes) -> bytes:
        """The path of a file that exists, its last name as the directory has it.

        A disk may have found it under another case or Unicode form. Only asked of the laptop: in a
        container it would take time, and Linux has no such disks.
        """
        ...

    async def mkdir(self, path: bytes, *, private: bool = True) -> None:
        """Make a directory that only its owner can use, or else one with the usual mode."""
        ...

    async def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        ...

    async def remove(self, path: bytes) -> None:
        """Remove a file or a link."""
        ...

    async def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link at `path`. Raises LinksNotAllowedError where the user may not."""
        ...

    async def rename(self, old: bytes, new: bytes) -> None:
        """Move, atomically replacing a file that is there."""
        ...

    async def set_attributes(self, path: bytes, mode: int | None, mtime: int) -> None:
        """Set permission bits (None: leave them) and modification time."""
        ...

    def open(self, path: bytes, *, write: bool = False) -> AbstractAsyncContextManager[OpenFile]:
        """Open a file for reading, or for writing; its content is kept."""
        ...

    async def read_small(self, path: bytes, size: int) -> bytes:
        """The first `size` bytes of a file, at most `chunk` of them; fewer only if it is shorter."""
        ...

    async def write_small(self, path: bytes, data: bytes, mode: int | None, mtime: int) -> None:
        """Make a file with its content, at most `chunk` bytes, and its attributes."""
        ...

    async def mkdir_all(self, paths: Sequence[bytes]) -> None:
        """Make directories that only their owner can use, in this order."""
        ...

    async def set_attributes_of_all(self, attributes: Sequence[Attributes]) -> None:
        """Set permission bits and modification times, in this order."""
        ...

    async def rename_all(
        self, renames: Sequence[tuple[bytes, bytes]], emptied: Sequence[bytes]
    ) -> bool:
        """Move each first path to the second, then remove the directories `emptied`, in this order.

        Returns whether all of those were empty. Raises the first error of a move.
        """
        ...

    async def prepare_sync(self, directory: bytes) -> None:
        """Let a `sync` of what is in `directory` take less time later."""
        ...

    async def hash_start(self, path: bytes, size: int) -> bytes | None:
        """SHA-256 of the first `size` bytes, None if it cannot be computed."""
        ...

    async def sync(self, directory: bytes, files: Sequence[bytes]) -> None:
        """Wait until `files`, all of them in `directory`, are on the disk."""
        ...

    async def free_space(self, directory: bytes) -> int | None:
        """Bytes that the user can still write there, None if unknown."""
        ...


def io_error(files: FileSystem, path: bytes, number: int, text: str) -> ApexError:
    """The error for what a system reported about a path: an errno (0 if none) and its text."""
    full = {errno.ENOSPC: "the disk"}
    if hasattr(errno, "EDQUOT"):  # Windows has none
        full[errno.EDQUOT] = "your quota"
    if number in full:
        message = f"{full[number]} is full on {files.where}: {display(path)} could not be written"
        hint = files.no_space_hint(parent(path))
        return NoSpaceError(message, hint=hint)
    if number in {errno.EACCES, errno.EPERM}:
        message = f"permission denied on {files.where}: {display(path)}"
        return RefusedError(message, hint="apexgpu explain permission", code="permission")
    # Messages begin in lower case; those of systems do not.
    reason = text[:1].lower() + text[1:]
    return ApexError(f"{display(path)} on {files.where}: {reason}")


def display(path: bytes) -> str:
    """A path for people."""
    return path.decode("utf-8", "replace")
