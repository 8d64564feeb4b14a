"""An SFTP client over two streams: many requests at a time, names as bytes.

Sources: draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL for the extensions and for the
arguments of SYMLINK, which are the other way round in practice.
"""

import asyncio
import contextlib
import struct
from dataclasses import replace

from apexgpu.transfer.fileinfo import FileInfo, FileKind
from apexgpu.transfer.sftppackets import (
    NotSftpError,
    PacketReader,
    PacketType,
    SftpError,
    Status,
    pack_attributes,
    pack_mode,
    pack_size,
    pack_string,
)

_SAFE_CHUNK = 1 << 15  # bytes of one read or write that every server accepts
_LARGEST_CHUNK = 1 << 17  # larger ones are not faster
_SMALLEST_CHUNK = 1 << 10
_MOST_FILES = 1_000_000  # in one directory
_MOST_BYTES = 1 << 28  # in the listing of one directory
_LARGEST_PACKET = 1 << 22  # a longer one is not SFTP
# Seconds without any reply. ssh notices a dead network itself; this notices a disk that hangs.
_SILENCE_LIMIT = 120.0

_Reply = tuple[
    int, bytes
]  # packet type (a PacketType, or another number), body after the request number


class SftpClient:
    """One SFTP session.

    Its methods may run at the same time; they raise SftpError, or OSError when it has ended.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[_Reply]] = {}
        self._last_number = 0
        self._replies = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = False
        self.extensions: dict[bytes, bytes] = {}
        self.chunk = _SAFE_CHUNK

    async def start(self) -> None:
        """Exchange versions and limits. Raises NotSftpError when something else answers."""
        self._writer.write(struct.pack(">IBI", 5, PacketType.INIT, 3))
        await self._writer.drain()
        kind, body = await self._read_packet()
        if kind != PacketType.VERSION:
            raise NotSftpError(bytes([kind]) + body[:100])
        reader = PacketReader(body[4:])
        while reader.has_more:
            name = reader.string()
            self.extensions[name] = reader.string()
        self._tasks = [
            asyncio.create_task(self._read_replies()),
            asyncio.create_task(self._watch_for_silence()),
        ]
        if b"limits@openssh.com" in self.extensions:
            await self._ask_for_limits()

    async def _ask_for_limits(self) -> None:
        body = await self._extended(b"limits@openssh.com", b"")
        reader = PacketReader(body)
        reader.uint64()  # the longest packet
        limits = (reader.uint64(), reader.uint64())  # of a read, of a write
        self.chunk = _LARGEST_CHUNK
        for limit in limits:
            if limit:  # 0 means that there is none
                self.chunk = max(_SMALLEST_CHUNK, min(self.chunk, limit))

    async def close(self) -> None:
        """Stop reading replies. The streams belong to the caller and stay open."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _read_packet(self) -> tuple[int, bytes]:
        try:
            head = await self._reader.readexactly(5)
            length, kind = struct.unpack(">IB", head)
            if not 1 <= length <= _LARGEST_PACKET:
                raise NotSftpError(head + await self._reader.read(200))
            return kind, await self._reader.readexactly(length - 1)
        except asyncio.IncompleteReadError as exc:
            raise ConnectionResetError(exc.partial[:200].decode("utf-8", "replace")) from None

    async def _read_replies(self) -> None:
        """Hand each reply to the request with its number."""
        try:
            while True:
                kind, body = await self._read_packet()
                self._replies += 1
                number = int.from_bytes(body[:4], "big")
                waiting = self._waiting.pop(number, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result((kind, body[4:]))
        except (OSError, NotSftpError) as exc:
            self._fail_all(str(exc))

    async def _watch_for_silence(self) -> None:
        """End the session when requests wait and nothing has come for _SILENCE_LIMIT seconds."""
        while True:
            before = self._replies
            await asyncio.sleep(_SILENCE_LIMIT)
            if self._waiting and self._replies == before:
                self._fail_all("no answer in time")
                return

    def _fail_all(self, reason: str) -> None:
        self._ended = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionResetError(reason))
        self._waiting.clear()

    async def _request(
        self, kind: PacketType, body: bytes, data: bytes | memoryview = b""
    ) -> bytes:
        """Send one request and return the body of its reply.

        `data` follows `body` without being copied.

        Raises SftpError when the server refuses it.
        """
        if self._ended:
            raise ConnectionResetError
        self._last_number = number = (self._last_number + 1) & 0xFFFFFFFF
        reply: asyncio.Future[_Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            length = 5 + len(body) + len(data)
            self._writer.write(struct.pack(">IBI", length, kind, number) + body)
            if data:
                self._writer.write(data)
            await self._writer.drain()
        except BaseException:
            self._waiting.pop(number, None)
            if not reply.cancel():
                reply.exception()  # mark it as seen: asyncio warns about errors nobody looked at
            raise
        reply_kind, reply_body = await reply
        if reply_kind == PacketType.STATUS:
            _raise_unless_ok(reply_body)
        return reply_body

    async def _extended(self, name: bytes, body: bytes) -> bytes:
        return await self._request(PacketType.EXTENDED, pack_string(name) + body)

    async def info(self, path: bytes, *, follow: bool = False) -> FileInfo | None:
        """What is at a path, None if nothing is. The target of a link is not read."""
        kind = PacketType.STAT if follow else PacketType.LSTAT
        try:
            body = await self._request(kind, pack_string(path))
        except SftpError as exc:
            if exc.status == Status.NO_SUCH_FILE:
                return None
            raise
        name = path.rpartition(b"/")[2]
        return PacketReader(body).attributes(name)

    async def list_directory(self, path: bytes) -> list[FileInfo]:
        """The files in a directory, links with their targets."""
        files = {}
        for file in await self._read_directory(path):
            if file.name not in {b".", b".."}:
                files[file.name] = file
        links = [file for file in files.values() if file.kind is FileKind.LINK]
        # All at the same time: the answers of a distant server are awaited once, not one by one.
        reads = [self.read_link(path + b"/" + link.name) for link in links]
        targets = await asyncio.gather(*reads, return_exceptions=True)
        for link, target in zip(links, targets, strict=True):
            if isinstance(target, SftpError):
                # It is gone, or its target is none that a link can have. The others are fine.
                files[link.name] = replace(link, kind=FileKind.SPECIAL)
            elif isinstance(target, BaseException):
                raise target
            else:
                files[link.name] = replace(link, link_target=target)
        return list(files.values())

    async def _read_directory(self, path: bytes) -> list[FileInfo]:
        files: list[FileInfo] = []
        length = 0
        handle = await self._open_handle(PacketType.OPENDIR, pack_string(path))
        try:
            while True:
                body = await self._request(PacketType.READDIR, pack_string(handle))
                names = PacketReader(body).names()
                files += names
                length += len(body)
                _check_that_it_ends(names, len(files), length)
        except SftpError as exc:
            if exc.status != Status.END_OF_FILE:
                raise
        finally:
            await self.close_handle(handle)
        return files

    async def read_link(self, path: bytes) -> bytes:
        """Where a link points."""
        return await self._path_reply(PacketType.READLINK, path)

    async def real_path(self, path: bytes) -> bytes:
        """The absolute path with all links resolved."""
        return await self._path_reply(PacketType.REALPATH, path)

    async def _path_reply(self, kind: PacketType, path: bytes) -> bytes:
        body = await self._request(kind, pack_string(path))
        found = PacketReader(body[4:]).string()  # after the number of names, which is 1
        if not found or b"\0" in found:
            raise SftpError(Status.FAILURE, f"invalid path: {found[:80]!r}")
        return found

    async def open(self, path: bytes, flags: int, mode: int = 0o600) -> bytes:
        """Open a file; the handle. `flags` are those of OpenFlag, `mode` is that of a new file."""
        body = pack_string(path) + struct.pack(">I", flags) + pack_mode(mode)
        return await self._open_handle(PacketType.OPEN, body)

    async def _open_handle(self, kind: PacketType, body: bytes) -> bytes:
        reply = await self._request(kind, body)
        return PacketReader(reply).string()

    async def read(self, handle: bytes, offset: int, size: int) -> bytes:
        """Read up to `size` bytes; none at the end of the file."""
        body = pack_string(handle) + struct.pack(">QI", offset, size)
        try:
            reply = await self._request(PacketType.READ, body)
        except SftpError as exc:
            if exc.status == Status.END_OF_FILE:
                return b""
            raise
        data = reply[4:]  # after the length
        if len(data) > size:
            raise SftpError(Status.FAILURE, "the server sent more than was asked for")
        return data

    async def write(self, handle: bytes, offset: int, data: bytes | memoryview) -> None:
        """Write `data` at `offset`."""
        body = pack_string(handle) + struct.pack(">QI", offset, len(data))
        await self._request(PacketType.WRITE, body, data)

    async def truncate(self, handle: bytes, size: int) -> None:
        """Cut an open file off after `size` bytes."""
        body = pack_string(handle) + pack_size(size)
        await self._request(PacketType.FSETSTAT, body)

    async def close_handle(self, handle: bytes) -> None:
        """Close a file or directory. An error of an earlier write may be reported only here."""
        await self._request(PacketType.CLOSE, pack_string(handle))

    async def set_attributes(self, path: bytes, *, mode: int | None, mtime: int) -> None:
        """Set permission bits (None: leave them) and the times."""
        body = pack_string(path) + pack_attributes(mode, mtime)
        await self._request(PacketType.SETSTAT, body)

    async def set_handle_attributes(self, handle: bytes, *, mode: int | None, mtime: int) -> None:
        """Set the same of an open file."""
        body = pack_string(handle) + pack_attributes(mode, mtime)
        await self._request(PacketType.FSETSTAT, body)

    async def mkdir(self, path: bytes, mode: int = 0o700) -> None:
        """Make a directory."""
        body = pack_string(path) + pack_mode(mode)
        await self._request(PacketType.MKDIR, body)

    async def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        await self._request(PacketType.RMDIR, pack_string(path))

    async def remove(self, path: bytes) -> None:
        """Remove a file or a link."""
        await self._request(PacketType.REMOVE, pack_string(path))

    async def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link at `path`."""
        body = pack_string(target) + pack_string(path)
        await self._request(PacketType.SYMLINK, body)

    async def rename(self, old: bytes, new: bytes) -> None:
        """Move, atomically replacing what is there (posix-rename@openssh.com)."""
        body = pack_string(old) + pack_string(new)
        await self._extended(b"posix-rename@openssh.com", body)

    async def free_space(self, path: bytes) -> int | None:
        """Bytes that a user can still write there, None if the server cannot tell."""
        if b"statvfs@openssh.com" not in self.extensions:
            return None
        body = await self._extended(b"statvfs@openssh.com", pack_string(path))
        reader = PacketReader(body)
        _, fragment_size, _, _, available = [reader.uint64() for _ in range(5)]
        return fragment_size * available


def _check_that_it_ends(names: list[FileInfo], count: int, length: int) -> None:
    """Raise SftpError for a listing that is longer than that of any directory, or whose next part is empty."""
    if not names or count > _MOST_FILES or length > _MOST_BYTES:
        raise SftpError(Status.FAILURE, "the listing of the directory does not end")


def _raise_unless_ok(body: bytes) -> None:
    """Raise SftpError for a STATUS reply that is not OK."""
    reader = PacketReader(body)
    status = reader.uint32()
    if status != Status.OK:
        text = reader.string() if reader.has_more else b""
        raise SftpError(status, text.decode("utf-8", "replace"))
