"""A container's files, over an SFTP session and the ssh connection that carries it."""

import contextlib
import errno
import shlex
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

from apexgpu.errors import ApexError, RefusedError
from apexgpu.transfer import sftp
from apexgpu.transfer.fileinfo import Entry
from apexgpu.transfer.sftp import Client, SftpError
from apexgpu.transfer.sides import Handle, shown, trouble
from apexgpu.transfer.sshpipe import Connection

_ROOM = 1 << 17  # less than this is no room


class Remote:
    """The container on a host."""

    modes = True

    def __init__(self, connection: Connection, home: bytes) -> None:
        self.where = connection.host
        self.home = home
        self.connection = connection
        self._client = connection.client
        self.chunk = connection.client.chunk

    def accepts(self, name: bytes) -> bool:
        """See Side."""
        return True

    async def find(self, path: bytes, *, follow: bool = False) -> Entry | None:
        """See Side."""
        with self._translated(path):
            return await self._client.find(path, follow=follow)

    async def listing(self, path: bytes) -> list[Entry]:
        """See Side."""
        with self._translated(path):
            return await self._client.listing(path)

    async def real(self, path: bytes) -> bytes:
        """See Side."""
        with self._translated(path):
            return await self._client.real(path)

    async def mkdir(self, path: bytes) -> None:
        """See Side."""
        with self._translated(path):
            await self._client.mkdir(path)

    async def rmdir(self, path: bytes) -> None:
        """See Side."""
        with self._translated(path):
            await self._client.rmdir(path)

    async def remove(self, path: bytes) -> None:
        """See Side."""
        with self._translated(path):
            await self._client.remove(path)

    async def link(self, target: bytes, path: bytes) -> None:
        """See Side."""
        with self._translated(path):
            await self._client.link(target, path)

    async def rename(self, old: bytes, new: bytes) -> None:
        """See Side."""
        with self._translated(new):
            await self._client.rename(old, new)

    async def dress(self, path: bytes, mode: int | None, mtime: int) -> None:
        """See Side."""
        with self._translated(path):
            await self._client.dress(path, mode=mode, mtime=mtime)

    @asynccontextmanager
    async def opened(self, path: bytes, *, write: bool = False) -> AsyncIterator[Handle]:
        """See Side."""
        with self._translated(path):
            handle = await self._client.open(path, sftp.WRITE | sftp.CREATE if write else sftp.READ)
        try:
            yield _RemoteHandle(self, self._client, handle, path)
        except BaseException:
            with contextlib.suppress(OSError, SftpError):
                await self._client.shut(handle)
            raise
        with self._translated(path):
            await self._client.shut(handle)

    async def digest(self, path: bytes, size: int) -> bytes | None:
        """See Side. Read there, so that it need not travel; None for a name that no command line can hold."""
        try:
            name = path.decode()
        except UnicodeDecodeError:
            return None
        done = await self.connection.command(f"head -c {size} -- {shlex.quote(name)} | sha256sum")
        said = done.text.split()
        return bytes.fromhex(said[0]) if done.code == 0 and said and len(said[0]) == 64 else None

    async def settle(self, directory: bytes, files: Sequence[bytes]) -> None:
        """See Side. One file system, at one stroke; an old `sync` knows no -f."""
        if files:
            name = directory.decode("utf-8", "replace")
            await self.connection.command(f"sync -f -- {shlex.quote(name)} 2>/dev/null || sync")

    async def free(self, directory: bytes) -> int | None:
        """See Side."""
        with self._translated(directory):
            return await self._client.free(directory)

    @contextlib.contextmanager
    def _translated(self, path: bytes) -> Iterator[None]:
        try:
            yield
        except SftpError as exc:
            raise self.refused(path, exc) from None
        except OSError:
            raise self.connection.lost() from None

    def refused(self, path: bytes, exc: SftpError) -> ApexError:
        """Our error for what the server answered. Version 3 has no number for a full disk: OpenSSH says `Failure`."""
        if exc.code == sftp.NO_SUCH_FILE:
            return RefusedError(f"there is no {shown(path)} on {self.where}", code="no_source")
        number = errno.EACCES if exc.code == sftp.DENIED else 0
        for words, meant in (("no space left", errno.ENOSPC), ("quota", errno.EDQUOT)):
            number = meant if words in str(exc).lower() else number
        return trouble(path, self.where, number, str(exc))

    async def full(self, path: bytes) -> ApexError | None:
        """The error for a disk without room, None where there is some: what a mere `Failure` of a write may mean."""
        with contextlib.suppress(ApexError):
            free = await self.free(path)
            if free is not None and free < _ROOM:
                return trouble(path, self.where, errno.ENOSPC, "")
        return None


class _RemoteHandle:
    def __init__(self, side: Remote, client: Client, handle: bytes, path: bytes) -> None:
        self._side = side
        self._client = client
        self._handle = handle
        self._path = path

    async def read(self, offset: int, size: int) -> bytes:
        found = b""
        with self._side._translated(self._path):
            while size > len(found):
                data = await self._client.read(self._handle, offset + len(found), size - len(found))
                if not data:
                    break
                found = found + data if found else data
        return found

    async def write(self, offset: int, data: bytes) -> None:
        try:
            await self._client.write(self._handle, offset, data)
        except SftpError as exc:
            full = await self._side.full(self._path) if exc.code == sftp.FAILURE else None
            raise full or self._side.refused(self._path, exc) from None
        except OSError:
            raise self._side.connection.lost() from None

    async def cut(self, size: int) -> None:
        with self._side._translated(self._path):
            await self._client.cut(self._handle, size)

    async def dress(self, mode: int | None, mtime: int) -> None:
        with self._side._translated(self._path):
            await self._client.dress_open(self._handle, mode=mode, mtime=mtime)
