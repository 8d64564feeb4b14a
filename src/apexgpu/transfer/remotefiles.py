"""The files of a container, as a FileSystem over SFTP."""

import contextlib
import errno
import shlex
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from apexgpu.errors import ApexError
from apexgpu.transfer.copyconnection import CopyConnection, PreparedCommand
from apexgpu.transfer.fileinfo import FileInfo
from apexgpu.transfer.filesystem import Attributes, FileMissingError, OpenFile, display, io_error
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
        self.most_files = connection.client.most_handles
        self.client = connection.client
        self._mode_mask = mode_mask
        self._prepared_sync: tuple[bytes, PreparedCommand] | None = None

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
        opened = _RemoteFile(self, handle, path)
        try:
            yield opened
        except BaseException:
            with contextlib.suppress(OSError, SftpError):
                await self.client.close_handle(handle)
            raise
        if write:
            await opened.close()
        else:
            with self.translated_errors(path):
                self.client.release_handle(handle)

    async def read_small(self, path: bytes, size: int) -> bytes:
        """See FileSystem."""
        if size == 0:
            return b""
        with self.translated_errors(path):
            data = await self.client.read_small(path, size)
        if len(data) == size:
            return data
        # A server may send less than it was asked for; only an empty answer is the end.
        async with self.open(path) as stream:
            return await stream.read(0, size)

    async def write_small(self, path: bytes, data: bytes, mode: int | None, mtime: int) -> None:
        """See FileSystem."""
        try:
            await self.client.write_small(path, data, mode=mode, mtime=mtime)
        except SftpError as exc:
            raise await self.write_refusal(path, exc) from None
        except OSError:
            raise self.connection.lost_error() from None

    async def mkdir_all(self, paths: Sequence[bytes]) -> None:
        """See FileSystem."""
        with self.translated_errors(paths[0] if paths else b""):
            await self.client.mkdir_all(paths)

    async def set_attributes_of_all(self, attributes: Sequence[Attributes]) -> None:
        """See FileSystem."""
        with self.translated_errors(attributes[0][0] if attributes else b""):
            await self.client.set_attributes_of_all(attributes)

    async def rename_all(
        self, renames: Sequence[tuple[bytes, bytes]], emptied: Sequence[bytes]
    ) -> bool:
        """See FileSystem."""
        with self.translated_errors(renames[0][1] if renames else b""):
            return await self.client.rename_all(renames, emptied)

    async def prepare_sync(self, directory: bytes) -> None:
        """See FileSystem. The command is started now, and waits in the container."""
        command = f"read -r _ && {{ {_sync_command(directory)}; }}"
        self._prepared_sync = (directory, await self.connection.prepare(command))

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
        if not files:
            return
        prepared = self._prepared_sync
        self._prepared_sync = None
        if prepared is not None and prepared[0] == directory:
            await prepared[1].run()
        else:
            await self.connection.run(_sync_command(directory))

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


def _sync_command(directory: bytes) -> str:
    name = shlex.quote(display(directory))
    return f"sync -f -- {name} 2>/dev/null || sync"


class _RemoteFile:
    """An open file of the container."""

    def __init__(self, files: RemoteFiles, handle: bytes, path: bytes) -> None:
        self._files = files
        self._client = files.client
        self._handle = handle
        self._path = path
        self._attributes: tuple[int | None, int] | None = None

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
        self._attributes = (mode, mtime)

    async def close(self) -> None:
        """Set the attributes, if there are any to set, and close the file, in one go."""
        with self._files.translated_errors(self._path):
            if self._attributes is None:
                await self._client.close_handle(self._handle)
            else:
                mode, mtime = self._attributes
                await self._client.finish(self._handle, mode=mode, mtime=mtime)
