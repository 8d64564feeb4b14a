"""The files of this laptop, as a FileSystem.

The functions of `os` are used instead of pathlib throughout: paths are bytes here, and pathlib has
none.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import IO

from apexgpu.errors import ApexError, RefusedError
from apexgpu.platforms import hints
from apexgpu.platforms.system import is_macos, is_windows
from apexgpu.transfer import copypaths, foldednames
from apexgpu.transfer.fileinfo import FileInfo, FileKind, join
from apexgpu.transfer.filesystem import (
    Attributes,
    FileMissingError,
    LinksNotAllowedError,
    OpenFile,
    display,
    io_error,
)

_CHUNK = 1 << 20
_MANY_FILES = 64  # from here on, one sync of everything is faster than one fsync per file
# Seconds between two attempts to replace a file on Windows; each is twice the one before, 2.5 s in all.
_FIRST_PAUSE, _LAST_PAUSE = 0.01, 1.28
_PRIVILEGE_NOT_HELD = 1314  # ERROR_PRIVILEGE_NOT_HELD: Windows that is not in developer mode
_KINDS = {
    stat.S_IFREG: FileKind.FILE,
    stat.S_IFDIR: FileKind.DIRECTORY,
    stat.S_IFLNK: FileKind.LINK,
}


class LocalFiles:
    """This laptop. The methods are described in FileSystem."""

    where = "this laptop"
    has_modes = not is_windows()
    chunk = _CHUNK
    most_files = 1 << 20  # none stays open while another one is waited for

    def accepts_name(self, name: bytes) -> bool:
        """See FileSystem."""
        if is_windows():
            return copypaths.is_windows_name(name)
        return True

    def shell_hint(self, command: str) -> str:
        """See FileSystem."""
        return hints.in_this_shell(command)

    def no_space_hint(self, directory: bytes) -> str:
        """See FileSystem."""
        return hints.show_free_space(display(directory))

    async def info(self, path: bytes, *, follow: bool = False) -> FileInfo | None:
        """See FileSystem."""
        try:
            with self.translated_errors(path):
                status = os.stat(path) if follow else os.lstat(path)  # noqa: PTH116
                return self._file_info(path, os.path.basename(path), status)  # noqa: PTH119
        except FileMissingError:
            return None

    async def list_directory(self, path: bytes) -> list[FileInfo]:
        """See FileSystem."""
        with self.translated_errors(path), os.scandir(path) as entries:
            return [
                self._file_info(entry.path, entry.name, entry.stat(follow_symlinks=False))
                for entry in entries
            ]

    def _file_info(self, path: bytes, name: bytes, status: os.stat_result) -> FileInfo:
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), FileKind.SPECIAL)
        mode = stat.S_IMODE(status.st_mode)
        if not self.has_modes:
            # What a new file or directory gets on Linux.
            mode = 0o644
            if kind is FileKind.DIRECTORY:
                mode = 0o755
        target = b""
        if kind is FileKind.LINK:
            target = os.readlink(path)  # noqa: PTH115
            if is_windows():
                target = copypaths.slashes(target)
        return FileInfo(name, kind, status.st_size, int(status.st_mtime // 1), mode, target)

    async def real_path(self, path: bytes) -> bytes:
        """See FileSystem."""
        real = os.path.realpath(path)
        return copypaths.slashes(real) if is_windows() else real

    async def spelling(self, path: bytes) -> bytes:
        """See FileSystem."""
        directory, name = copypaths.parent(path), copypaths.base_name(path)
        if name in {b"", b".", b".."}:
            return path
        with self.translated_errors(directory), os.scandir(directory) as entries:
            names = {entry.name for entry in entries}
        if name in names:
            return path
        for other in names:
            if foldednames.fold(other) == foldednames.fold(name):
                return join(directory, other)
        return path

    async def mkdir(self, path: bytes, *, private: bool = True) -> None:
        """See FileSystem."""
        with self.translated_errors(path):
            os.mkdir(path, 0o700 if private else 0o777)  # noqa: PTH102

    async def rmdir(self, path: bytes) -> None:
        """See FileSystem."""
        with self.translated_errors(path):
            os.rmdir(path)  # noqa: PTH106

    async def remove(self, path: bytes) -> None:
        """See FileSystem."""
        with self.translated_errors(path):
            os.unlink(path)  # noqa: PTH108

    async def symlink(self, target: bytes, path: bytes) -> None:
        """See FileSystem."""
        with self.translated_errors(path):
            try:
                os.symlink(target, path)  # noqa: PTH211
            except OSError as exc:
                if getattr(exc, "winerror", 0) != _PRIVILEGE_NOT_HELD:
                    raise
                message = f"Windows does not let you make links: {display(path)}"
                raise LinksNotAllowedError(message) from None

    async def rename(self, old: bytes, new: bytes) -> None:
        """See FileSystem."""
        with self.translated_errors(new):
            pause = _FIRST_PAUSE
            while True:
                try:
                    os.replace(old, new)  # noqa: PTH105
                except PermissionError:
                    # Windows refuses while another program has the file open: a virus scanner or an
                    # editor, mostly for some milliseconds.
                    if not is_windows() or pause > _LAST_PAUSE:
                        raise
                    await asyncio.sleep(pause)
                    pause *= 2
                else:
                    return

    async def set_attributes(self, path: bytes, mode: int | None, mtime: int) -> None:
        """See FileSystem."""
        with self.translated_errors(path):
            if mode is not None and self.has_modes:
                os.chmod(path, mode)  # noqa: PTH101
            os.utime(path, (mtime, mtime))

    @asynccontextmanager
    async def open(self, path: bytes, *, write: bool = False) -> AsyncIterator[OpenFile]:
        """See FileSystem."""
        if write:
            flags, mode = os.O_RDWR | os.O_CREAT, "r+b"
        else:
            flags, mode = os.O_RDONLY, "rb"
        flags |= getattr(os, "O_BINARY", 0)  # Windows
        with self.translated_errors(path):
            # A new file is its owner's alone until it is complete and gets the source's mode.
            descriptor = os.open(path, flags, 0o600)
        with os.fdopen(descriptor, mode, buffering=0) as stream:
            yield _LocalFile(self, stream, path)

    async def read_small(self, path: bytes, size: int) -> bytes:
        """See FileSystem."""
        async with self.open(path) as stream:
            return await stream.read(0, size)

    async def write_small(self, path: bytes, data: bytes, mode: int | None, mtime: int) -> None:
        """See FileSystem."""
        async with self.open(path, write=True) as stream:
            await stream.write(0, data)
            await stream.set_attributes(mode, mtime)

    async def mkdir_all(self, paths: Sequence[bytes]) -> None:
        """See FileSystem."""
        for path in paths:
            await self.mkdir(path)

    async def set_attributes_of_all(self, attributes: Sequence[Attributes]) -> None:
        """See FileSystem."""
        for path, mode, mtime in attributes:
            await self.set_attributes(path, mode, mtime)

    async def rename_all(
        self, renames: Sequence[tuple[bytes, bytes]], emptied: Sequence[bytes]
    ) -> bool:
        """See FileSystem."""
        for old, new in renames:
            await self.rename(old, new)
        try:
            for path in emptied:
                await self.rmdir(path)
        except ApexError:
            return False
        return True

    async def prepare_sync(self, directory: bytes) -> None:
        """See FileSystem. There is nothing to prepare."""

    async def hash_start(self, path: bytes, size: int) -> bytes | None:
        """See FileSystem."""
        sha256 = hashlib.sha256()
        remaining = size
        with self.translated_errors(path), open(path, "rb") as stream:  # noqa: PTH123
            while remaining > 0:
                data = stream.read(min(remaining, _CHUNK))
                if not data:
                    return None  # the file is shorter than `size`
                remaining -= len(data)
                sha256.update(data)
                await asyncio.sleep(0)  # let the other side work meanwhile
        return sha256.digest()

    async def sync(self, directory: bytes, files: Sequence[bytes]) -> None:
        """See FileSystem."""
        sync_everything = getattr(os, "sync", None)  # Windows has none
        if sync_everything is not None and len(files) > _MANY_FILES:
            await asyncio.to_thread(sync_everything)
            return
        # Windows can flush only a file that is open for writing.
        flags = os.O_RDWR if is_windows() else os.O_RDONLY
        for path in files:
            with self.translated_errors(path):
                descriptor = os.open(path, flags)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    async def free_space(self, directory: bytes) -> int | None:
        """See FileSystem."""
        with self.translated_errors(directory):
            return shutil.disk_usage(os.fsdecode(directory)).free

    @contextlib.contextmanager
    def translated_errors(self, path: bytes) -> Iterator[None]:
        """Raise the system's errors as ours."""
        try:
            yield
        except FileNotFoundError:
            message = f"there is no {display(path)} on {self.where}"
            raise FileMissingError(message) from None
        except OSError as exc:
            if exc.errno == errno.EPERM and is_macos():
                raise _privacy_error(path) from None
            raise io_error(self, path, exc.errno or 0, exc.strerror or str(exc)) from None


def _privacy_error(path: bytes) -> RefusedError:
    """The error for what macOS keeps from a terminal: Desktop, Documents, Downloads, iCloud, external disks."""
    message = (
        f"macOS does not let this terminal use {display(path)}: allow it in System Settings, "
        "Privacy & Security, Files and Folders or Full Disk Access"
    )
    hint = "open 'x-apple.systempreferences:com.apple.preference.security?Privacy_AllFiles'"
    return RefusedError(message, hint=hint, code="permission")


class _LocalFile:
    """An open file of this laptop."""

    def __init__(self, files: LocalFiles, stream: IO[bytes], path: bytes) -> None:
        self._files = files
        self._stream = stream
        self._path = path

    async def read(self, offset: int, size: int) -> bytes:
        with self._files.translated_errors(self._path):
            self._stream.seek(offset)
            return self._stream.read(size)

    async def write(self, offset: int, data: bytes) -> None:
        with self._files.translated_errors(self._path):
            self._stream.seek(offset)
            remaining = memoryview(data)
            while remaining:
                written = self._stream.write(remaining)
                remaining = remaining[written:]

    async def truncate(self, size: int) -> None:
        with self._files.translated_errors(self._path):
            self._stream.truncate(size)

    async def set_attributes(self, mode: int | None, mtime: int) -> None:
        await self._files.set_attributes(self._path, mode, mtime)
