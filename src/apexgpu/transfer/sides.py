"""The two ends of a copy behind one face: this laptop's disk, and a container's over SFTP. Owns no decision."""

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import IO, Protocol

from apexgpu.errors import ApexError, RefusedError
from apexgpu.transfer import copypaths
from apexgpu.transfer.fileinfo import Entry, Kind

NO_SPACE, NO_LINKS = "no_space", "no_links"
_NO_PRIVILEGE = 1314  # ERROR_PRIVILEGE_NOT_HELD: a Windows that is not in developer mode
_AT_ONCE = 1 << 20


class Handle(Protocol):
    """A file that is open on one side."""

    async def read(self, offset: int, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""
        ...

    async def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`."""
        ...

    async def cut(self, size: int) -> None:
        """End the file after `size` bytes."""
        ...

    async def dress(self, mode: int | None, mtime: int) -> None:
        """Set permission bits and time, as the last thing."""
        ...


class Side(Protocol):
    """Files at one end. Paths are absolute; errors are ApexErrors that name the path and the end."""

    where: str
    modes: bool  # whether files have permission bits there
    chunk: int  # bytes to read or write at a time

    def accepts(self, name: bytes) -> bool:
        """Whether a file can be called so there."""
        ...

    async def find(self, path: bytes, *, follow: bool = False) -> Entry | None:
        """What lies there, None when nothing does."""
        ...

    async def listing(self, path: bytes) -> list[Entry]:
        """What lies in a directory."""
        ...

    async def real(self, path: bytes) -> bytes:
        """The path without links."""
        ...

    async def mkdir(self, path: bytes) -> None:
        """Make a directory that only its owner can use yet."""
        ...

    async def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        ...

    async def remove(self, path: bytes) -> None:
        """Remove what is no directory."""
        ...

    async def link(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link."""
        ...

    async def rename(self, old: bytes, new: bytes) -> None:
        """Move, over a file that is there, at one stroke."""
        ...

    async def dress(self, path: bytes, mode: int | None, mtime: int) -> None:
        """Set permission bits and time."""
        ...

    def opened(
        self, path: bytes, *, write: bool = False
    ) -> contextlib.AbstractAsyncContextManager[Handle]:
        """A file, open to be read, or to be written without losing what it holds."""
        ...

    async def digest(self, path: bytes, size: int) -> bytes | None:
        """SHA-256 of the first `size` bytes; None where nobody can tell."""
        ...

    async def settle(self, directory: bytes, files: Sequence[bytes]) -> None:
        """Wait until what was written is on the disk; `files` are those in `directory`."""
        ...

    async def free(self, directory: bytes) -> int | None:
        """Bytes that can still be written there; None where nobody tells."""
        ...


class Local:
    """This laptop."""

    where = "this laptop"
    modes = sys.platform != "win32"
    chunk = _AT_ONCE

    def accepts(self, name: bytes) -> bool:
        """See Side."""
        return sys.platform != "win32" or copypaths.fits_windows(name)

    async def find(self, path: bytes, *, follow: bool = False) -> Entry | None:
        """See Side."""
        try:
            with _translated(path):
                found = os.stat(path) if follow else os.lstat(path)  # noqa: PTH116 - paths are bytes here
                return _entry(path, os.path.basename(path), found)  # noqa: PTH119 - the same
        except _MissingError:
            return None

    async def listing(self, path: bytes) -> list[Entry]:
        """See Side."""
        with _translated(path), os.scandir(path) as found:
            return [_entry(one.path, one.name, one.stat(follow_symlinks=False)) for one in found]

    async def real(self, path: bytes) -> bytes:
        """See Side."""
        return os.path.realpath(path)

    async def mkdir(self, path: bytes) -> None:
        """See Side."""
        with _translated(path):
            os.mkdir(path, 0o700)  # noqa: PTH102 - the same

    async def rmdir(self, path: bytes) -> None:
        """See Side."""
        with _translated(path):
            os.rmdir(path)  # noqa: PTH106 - the same

    async def remove(self, path: bytes) -> None:
        """See Side."""
        with _translated(path):
            os.unlink(path)  # noqa: PTH108 - the same

    async def link(self, target: bytes, path: bytes) -> None:
        """See Side."""
        with _translated(path):
            try:
                os.symlink(target, path)  # noqa: PTH211 - the same
            except OSError as exc:
                if getattr(exc, "winerror", 0) == _NO_PRIVILEGE:
                    message = f"Windows lets you make no links: {shown(path)}"
                    raise RefusedError(message, code=NO_LINKS) from None
                raise

    async def rename(self, old: bytes, new: bytes) -> None:
        """See Side."""
        with _translated(new):
            os.replace(old, new)  # noqa: PTH105 - the same

    async def dress(self, path: bytes, mode: int | None, mtime: int) -> None:
        """See Side."""
        with _translated(path):
            if mode is not None and self.modes:
                os.chmod(path, mode)  # noqa: PTH101 - the same
            os.utime(path, (mtime, mtime))

    @asynccontextmanager
    async def opened(self, path: bytes, *, write: bool = False) -> AsyncIterator[Handle]:
        """See Side."""
        with _translated(path):
            flags = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
            number = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o600)
        with open(number, "r+b" if write else "rb", buffering=0) as stream:  # noqa: PTH123 - a descriptor
            yield _LocalHandle(stream, path)

    async def digest(self, path: bytes, size: int) -> bytes | None:
        """See Side."""
        found = hashlib.sha256()
        with _translated(path), open(path, "rb") as stream:  # noqa: PTH123 - bytes
            while size > 0 and (data := stream.read(min(size, _AT_ONCE))):
                size -= len(data)
                found.update(data)
                await asyncio.sleep(0)
        return found.digest() if not size else None

    async def settle(self, directory: bytes, files: Sequence[bytes]) -> None:
        """See Side. One call for many files: each by itself costs a turn of the disk."""
        many = getattr(os, "sync", None)
        if many is not None and len(files) > 64:
            await asyncio.to_thread(many)
            return
        for path in files:
            with _translated(path):
                number = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
                try:
                    os.fsync(number)
                finally:
                    os.close(number)

    async def free(self, directory: bytes) -> int | None:
        """See Side."""
        with _translated(directory):
            return shutil.disk_usage(os.fsdecode(directory)).free


class _LocalHandle:
    def __init__(self, stream: IO[bytes], path: bytes) -> None:
        self._stream = stream
        self._path = path

    async def read(self, offset: int, size: int) -> bytes:
        with _translated(self._path):
            self._stream.seek(offset)
            return self._stream.read(size)

    async def write(self, offset: int, data: bytes) -> None:
        with _translated(self._path):
            self._stream.seek(offset)
            rest = memoryview(data)
            while rest:
                rest = rest[self._stream.write(rest) :]

    async def cut(self, size: int) -> None:
        with _translated(self._path):
            self._stream.truncate(size)

    async def dress(self, mode: int | None, mtime: int) -> None:
        with _translated(self._path):
            if mode is not None and Local.modes:
                os.chmod(self._path, mode)  # noqa: PTH101 - paths are bytes here
            os.utime(self._path, (mtime, mtime))


class _MissingError(RefusedError):
    """Nothing lies there."""

    code = "no_source"


def _entry(path: bytes, name: bytes, found: os.stat_result) -> Entry:
    kinds: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
    kind = kinds.get(stat.S_IFMT(found.st_mode), "other")
    mode = stat.S_IMODE(found.st_mode) if Local.modes else (0o755 if kind == "directory" else 0o644)
    target = os.readlink(path) if kind == "link" else b""  # noqa: PTH115 - the same
    return Entry(name, kind, found.st_size, int(found.st_mtime // 1), mode, target)


@contextlib.contextmanager
def _translated(path: bytes) -> Iterator[None]:
    """The system's errors on this laptop as ours."""
    try:
        yield
    except FileNotFoundError:
        message = f"there is no {shown(path)} on this laptop"
        raise _MissingError(message) from None
    except OSError as exc:
        raise trouble(path, "this laptop", exc.errno or 0, exc.strerror or str(exc)) from None


def trouble(path: bytes, where: str, number: int, words: str) -> ApexError:
    """The error for what a system says (an errno, and its words) of a path."""
    if number in {errno.ENOSPC, getattr(errno, "EDQUOT", -1)}:
        quota = "the disk" if number == errno.ENOSPC else "your quota"
        message = f"{quota} is full on {where}: {shown(path)} could not be written"
        hint = (
            "make room there, then run the same line again"
            if where == "this laptop"
            else f"apexgpu status {where}"
        )
        return ApexError(message, hint=hint, code=NO_SPACE)
    if number in {errno.EACCES, errno.EPERM}:
        return RefusedError(f"permission denied on {where}: {shown(path)}", code="permission")
    return ApexError(f"{shown(path)} on {where}: {words[:1].lower() + words[1:]}")


def shown(path: bytes) -> str:
    """A path for people."""
    return path.decode("utf-8", "replace")
