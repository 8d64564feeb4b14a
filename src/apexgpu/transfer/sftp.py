"""An SFTP client over two streams: many requests at a time, names as bytes.

Sources: draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL for the extensions and for the
arguments of SYMLINK, which are the other way round in practice.
"""

import asyncio
import contextlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from apexgpu.transfer.fileinfo import FileInfo, FileKind
from apexgpu.transfer.sftppackets import (
    NotSftpError,
    OpenFlag,
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
_SAFE_HANDLES = 256  # open files of one session that every server allows
_LARGEST_CHUNK = 1 << 17  # larger ones are not faster
_SMALLEST_CHUNK = 1 << 10
_MOST_FILES = 1_000_000  # in one directory
_MOST_BYTES = 1 << 28  # in the listing of one directory
_LARGEST_PACKET = 1 << 22  # a longer one is not SFTP
# Seconds without any reply. ssh notices a dead network itself; this notices a disk that hangs.
_SILENCE_LIMIT = 120.0

_FIRST_PARTS, _MOST_PARTS = 6, 32  # parts of a listing that are asked for at a time
_AT_ONCE = 256  # requests without data that are sent without waiting

Item = TypeVar("Item")
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
        self.most_handles = _SAFE_HANDLES
        self.home = b""  # the directory where the session began

    async def start(self) -> None:
        """Exchange versions and limits. Raises NotSftpError when something else answers.

        The first requests are sent with the version, without waiting for the server's: it answers
        them one after the other, and a server that does not know `limits` says so.
        """
        self._writer.write(struct.pack(">IBI", 5, PacketType.INIT, 3))
        limits = self._send(PacketType.EXTENDED, pack_string(b"limits@openssh.com"))
        home = self._send(PacketType.REALPATH, pack_string(b"."))
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
        self.home = _path_of(await self._answer(home))
        if b"limits@openssh.com" in self.extensions:
            self._read_limits(await self._answer(limits))

    def _read_limits(self, body: bytes) -> None:
        reader = PacketReader(body)
        reader.uint64()  # the longest packet
        limits = (reader.uint64(), reader.uint64())  # of a read, of a write
        if reader.has_more:
            self.most_handles = reader.uint64() or self.most_handles
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

    def _send(
        self, kind: PacketType, body: bytes, data: bytes | memoryview = b""
    ) -> asyncio.Future[_Reply]:
        """Send one request. The server works on requests in the order in which they are sent.

        `data` follows `body` without being copied. Raises ConnectionResetError when the session has
        ended.
        """
        if self._ended:
            raise ConnectionResetError
        self._last_number = number = (self._last_number + 1) & 0xFFFFFFFF
        reply: asyncio.Future[_Reply] = asyncio.get_running_loop().create_future()
        # asyncio warns about errors nobody looked at; of several requests, one error is enough.
        reply.add_done_callback(_mark_as_seen)
        self._waiting[number] = reply
        length = 5 + len(body) + len(data)
        self._writer.write(struct.pack(">IBI", length, kind, number) + body)
        if data:
            self._writer.write(data)
        return reply

    async def _answer(self, reply: asyncio.Future[_Reply]) -> bytes:
        """The body of a reply. Raises SftpError when the server refuses the request."""
        kind, body = await reply
        if kind == PacketType.STATUS:
            _raise_unless_ok(body)
        return body

    async def _answers(self, replies: Sequence[asyncio.Future[_Reply]]) -> list[bytes]:
        """The bodies of all replies. The first error is raised when all are there."""
        await self._writer.drain()
        bodies = []
        first_error: SftpError | None = None
        for reply in replies:
            try:
                bodies.append(await self._answer(reply))
            except SftpError as exc:
                first_error = first_error or exc
        if first_error is not None:
            raise first_error
        return bodies

    async def _request(
        self, kind: PacketType, body: bytes, data: bytes | memoryview = b""
    ) -> bytes:
        """Send one request and return the body of its reply."""
        reply = self._send(kind, body, data)
        await self._writer.drain()
        return await self._answer(reply)

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
        # Each part is about a hundred names, and one more request reports the end. Several are asked
        # for at a time, of a large directory many.
        at_once = _FIRST_PARTS
        is_complete = False
        try:
            while not is_complete:
                body = pack_string(handle)
                replies = [self._send(PacketType.READDIR, body) for _ in range(at_once)]
                await self._writer.drain()
                for reply in replies:
                    part = await self._directory_part(reply)
                    if part is None:
                        is_complete = True
                    elif not is_complete:
                        names = PacketReader(part).names()
                        files += names
                        length += len(part)
                        _check_that_it_ends(names, len(files), length)
                at_once = min(4 * at_once, _MOST_PARTS)
        finally:
            self.release_handle(handle)
        return files

    async def _directory_part(self, reply: asyncio.Future[_Reply]) -> bytes | None:
        """One part of a listing, None at its end."""
        try:
            return await self._answer(reply)
        except SftpError as exc:
            if exc.status != Status.END_OF_FILE:
                raise
            return None

    async def read_link(self, path: bytes) -> bytes:
        """Where a link points."""
        return await self._path_reply(PacketType.READLINK, path)

    async def real_path(self, path: bytes) -> bytes:
        """The absolute path with all links resolved."""
        return await self._path_reply(PacketType.REALPATH, path)

    async def _path_reply(self, kind: PacketType, path: bytes) -> bytes:
        return _path_of(await self._request(kind, pack_string(path)))

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

    def release_handle(self, handle: bytes) -> None:
        """Close a file or directory that was only read, without waiting: nothing can be lost."""
        if not self._ended:
            self._send(PacketType.CLOSE, pack_string(handle))

    async def finish(self, handle: bytes, *, mode: int | None, mtime: int) -> None:
        """Set permission bits (None: leave them) and times of an open file, and close it."""
        name = pack_string(handle)
        replies = [
            self._send(PacketType.FSETSTAT, name + pack_attributes(mode, mtime)),
            self._send(PacketType.CLOSE, name),
        ]
        await self._answers(replies)

    async def read_small(self, path: bytes, size: int) -> bytes:
        """Read the first `size` bytes of a file, at most `chunk` of them; fewer if the server sends fewer."""
        handle = await self.open(path, OpenFlag.READ)
        name = pack_string(handle)
        reading = self._send(PacketType.READ, name + struct.pack(">QI", 0, size))
        closing = self._send(PacketType.CLOSE, name)
        try:
            body, _ = await self._answers([reading, closing])
        except SftpError as exc:
            if exc.status == Status.END_OF_FILE:
                return b""
            raise
        return body[4 : 4 + size]

    async def write_small(self, path: bytes, data: bytes, *, mode: int | None, mtime: int) -> None:
        """Make a file with its content, at most `chunk` bytes, and its attributes.

        Its content is one request, so a file of the right size is never one with a hole, although
        nobody waits before the attributes are set.
        """
        handle = await self.open(path, OpenFlag.WRITE | OpenFlag.CREATE)
        name = pack_string(handle)
        replies = []
        if data:
            head = name + struct.pack(">QI", 0, len(data))
            replies.append(self._send(PacketType.WRITE, head, data))
        replies.append(self._send(PacketType.FSETSTAT, name + pack_attributes(mode, mtime)))
        replies.append(self._send(PacketType.CLOSE, name))
        await self._answers(replies)

    async def mkdir_all(self, paths: Sequence[bytes], mode: int = 0o700) -> None:
        """Make directories, in this order."""
        for some in _batches(paths):
            bodies = [pack_string(path) + pack_mode(mode) for path in some]
            await self._answers([self._send(PacketType.MKDIR, body) for body in bodies])

    async def set_attributes_of_all(
        self, attributes: Sequence[tuple[bytes, int | None, int]]
    ) -> None:
        """Set path, mode and time of each, in this order."""
        for some in _batches(attributes):
            replies = []
            for path, mode, mtime in some:
                body = pack_string(path) + pack_attributes(mode, mtime)
                replies.append(self._send(PacketType.SETSTAT, body))
            await self._answers(replies)

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

    async def rename_all(
        self, renames: Sequence[tuple[bytes, bytes]], emptied: Sequence[bytes]
    ) -> bool:
        """Move each first path to the second, then remove the directories `emptied`, in this order.

        Returns whether all of those were empty. A directory out of which something could not be moved
        is not empty, so nothing is lost although nobody waits in between.
        """
        head = pack_string(b"posix-rename@openssh.com")
        for some in _batches(renames[:-_AT_ONCE]):
            bodies = [head + pack_string(old) + pack_string(new) for old, new in some]
            await self._answers([self._send(PacketType.EXTENDED, body) for body in bodies])
        moving = []
        for old, new in renames[-_AT_ONCE:]:
            body = head + pack_string(old) + pack_string(new)
            moving.append(self._send(PacketType.EXTENDED, body))
        removing = [self._send(PacketType.RMDIR, pack_string(path)) for path in emptied]
        await self._answers(moving)
        try:
            await self._answers(removing)
        except SftpError:
            return False
        return True

    async def free_space(self, path: bytes) -> int | None:
        """Bytes that a user can still write there, None if the server cannot tell."""
        if b"statvfs@openssh.com" not in self.extensions:
            return None
        body = await self._extended(b"statvfs@openssh.com", pack_string(path))
        reader = PacketReader(body)
        _, fragment_size, _, _, available = [reader.uint64() for _ in range(5)]
        return fragment_size * available


def _mark_as_seen(reply: "asyncio.Future[_Reply]") -> None:
    if not reply.cancelled():
        reply.exception()


def _batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """The items, as many at a time as are sent without waiting."""
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]


def _path_of(body: bytes) -> bytes:
    """The path in a reply with one name."""
    found = PacketReader(body[4:]).string()  # after the number of names, which is 1
    if not found or b"\0" in found:
        raise SftpError(Status.FAILURE, f"invalid path: {found[:80]!r}")
    return found


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
