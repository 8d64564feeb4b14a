"""The files of a container, as a FileSystem over SFTP."""

import contextlib
import errno
import shlex
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from apexgpu.errors import ApexError
from apexgpu.transfer.copyconnection import CopyConnection
from apexgpu.transfer.fileinfo import FileInfo
from apexgpu.transfer.filesystem import FileMissingError, OpenFile, display, io_error
from apexgpu.transfer.sftppackets import OpenFlag, SftpError, Status

_FULL = 1 << 17  # a disk with fewer free bytes counts as full


class RemoteFiles:
    """The container on a host; `home` is the directory where its SFTP session begins.

    Other bits than those of `mode_mask` are left out of the modes of its files. See FileSystem.
    """

    has_modes = True

    def __init__(self, connection: CopyConnection, home: bytes, *, mode_mask: int = 0o7777) -> None:
        self.connection = connection
        self.where = connection.host
        self.home = home
        self.chunk = connection.client.chunk
        self.client = connection.client
        self._mode_mask = mode_mask

    def accepts_name(self, name: bytes) -> bool:
        """See FileSystem."""
        return True

    def shell_hint(self, command: str) -> str:
        """See FileSystem."""
        return f"apexgpu ssh {self.where} -- {command}"

    def no_space_hint(self, directory: bytes) -> str:
        """See FileSystem."""
        return f"apexgpu status {self.where}"

    async def info(self, path: bytes, *, follow: bool = False) -> FileInfo | None:
        """See FileSystem."""
        with self.translated_errors(path):
            info = await self.client.info(path, follow=follow)
        return None if info is None else self._masked(info)

    async def list_directory(self, path: bytes) -> list[FileInfo]:
        """See FileSystem."""
        with self.translated_errors(path):
            listing = await self.client.list_directory(path)
        return [self._masked(info) for info in listing]

    def _masked(self, info: FileInfo) -> FileInfo:
        mode = info.mode & self._mode_mask
        return info if mode == info.mode else replace(info, mode=mode)

    async def real_path(self, path: bytes) -> bytes:
        """See FileSystem."""
        with self.translated_errors(path):
            return await self.client.real_path(path)

    async def spelling(self, path: bytes) -> bytes:
        """See FileSystem."""
        return path

    async def mkdir(self, path: bytes, *, private: bool = True) -> None:
        """See FileSystem."""
        with self.translated_errors(path):
            await self.client.mkdir(path, 0o700 if private else 0o777)

    async def rmdir(self, path: bytes) -> None:
        """See FileSystem."""
        with self.translated_errors(path):
            await self.client.rmdir(path)

    async def remove(self, path: bytes) -> None:
        """See FileSystem."""
        with self.translated_errors(path):
            await self.client.remove(path)

    async def symlink(self, target: bytes, path: bytes) -> None:
        """See FileSystem."""
        with self.translated_errors(path):
            await self.client.symlink(target, path)

    async def rename(self, old: bytes, new: bytes) -> None:
        """See FileSystem."""
        with self.translated_errors(new):
            await self.client.rename(old, new)

    async def set_attributes(self, path: bytes, mode: int | None, mtime: int) -> None:
        """See FileSystem."""
        with self.translated_errors(path):
            await self.client.set_attributes(path, mode=mode, mtime=mtime)

    @asynccontextmanager
    async def open(self, path: bytes, *, write: bool = False) -> AsyncIterator[OpenFile]:
        """See FileSystem."""
        flags = OpenFlag.WRITE | OpenFlag.CREATE if write else OpenFlag.READ
        with self.translated_errors(path):
            handle = await self.client.open(path, flags)
        try:
            yield _RemoteFile(self, handle, path)
        except BaseException:
            with contextlib.suppress(OSError, SftpError):
                await self.client.close_handle(handle)
            raise
        with self.translated_errors(path):
            await self.client.close_handle(handle)

    async def hash_start(self, path: bytes, size: int) -> bytes | None:
        """See FileSystem. Computed in the container, so that the bytes need not be sent."""
        try:
            name = path.decode()
        except UnicodeDecodeError:
            return None  # ssh's command line would not carry these bytes unchanged
        completed = await self.connection.run(f"head -c {size} -- {shlex.quote(name)} | sha256sum")
        words = completed.text.split()
        if completed.code != 0 or not words or len(words[0]) != 64:
            return None
        return bytes.fromhex(words[0])

    async def sync(self, directory: bytes, files: Sequence[bytes]) -> None:
        """See FileSystem.

        Syncs the whole file system at once; old versions of `sync` have no -f.
        """
        if files:
            name = shlex.quote(display(directory))
            await self.connection.run(f"sync -f -- {name} 2>/dev/null || sync")

    async def free_space(self, directory: bytes) -> int | None:
        """See FileSystem."""
        with self.translated_errors(directory):
            return await self.client.free_space(directory)

    @contextlib.contextmanager
    def translated_errors(self, path: bytes) -> Iterator[None]:
        """Raise the errors of the SFTP client as ours."""
        try:
            yield
        except SftpError as exc:
            raise self.refusal(path, exc) from None
        except OSError:
            raise self.connection.lost_error() from None

    def refusal(self, path: bytes, exc: SftpError) -> ApexError:
        """The error for a request that the server refused.

        SFTP version 3 has no status for a full disk: OpenSSH sends FAILURE, and some servers
        explain it in words.
        """
        if exc.status == Status.NO_SUCH_FILE:
            return FileMissingError(f"there is no {display(path)} on {self.where}")
        text = str(exc)
        number = 0
        if exc.status == Status.PERMISSION_DENIED:
            number = errno.EACCES
        if "no space left" in text.lower():
            number = errno.ENOSPC
        if "quota" in text.lower():
            number = errno.EDQUOT
        return io_error(self, path, number, text)

    async def write_refusal(self, path: bytes, exc: SftpError) -> ApexError:
        """The error for a write that the server refused.

        A bare FAILURE may mean that the disk is full.
        """
        if exc.status == Status.FAILURE and await self._disk_is_full(path):
            return io_error(self, path, errno.ENOSPC, "")
        return self.refusal(path, exc)

    async def _disk_is_full(self, path: bytes) -> bool:
        try:
            free = await self.free_space(path)
        except ApexError:
            return False
        return free is not None and free < _FULL


class _RemoteFile:
    """An open file of the container."""

    def __init__(self, files: RemoteFiles, handle: bytes, path: bytes) -> None:
        self._files = files
        self._client = files.client
        self._handle = handle
        self._path = path

    async def read(self, offset: int, size: int) -> bytes:
        content = b""
        with self._files.translated_errors(self._path):
            # A server may return less than it was asked for; only an empty answer is the end.
            while len(content) < size:
                data = await self._client.read(
                    self._handle, offset + len(content), size - len(content)
                )
                if not data:
                    break
                content = content + data if content else data
        return content

    async def write(self, offset: int, data: bytes) -> None:
        try:
            await self._client.write(self._handle, offset, data)
        except SftpError as exc:
            raise await self._files.write_refusal(self._path, exc) from None
        except OSError:
            raise self._files.connection.lost_error() from None

    async def truncate(self, size: int) -> None:
        with self._files.translated_errors(self._path):
            await self._client.truncate(self._handle, size)

    async def set_attributes(self, mode: int | None, mtime: int) -> None:
        with self._files.translated_errors(self._path):
            await self._client.set_handle_attributes(self._handle, mode=mode, mtime=mtime)
