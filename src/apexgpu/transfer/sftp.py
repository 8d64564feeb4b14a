"""The SFTP protocol, version 3, over two streams: many requests at a time, names as bytes.

Sources: draft-ietf-secsh-filexfer-02 (the packets), OpenSSH's PROTOCOL (the extensions, and that the arguments of
SYMLINK are the other way round in practice).
"""

import asyncio
import contextlib
import struct
from collections.abc import Mapping

from apexgpu.transfer.fileinfo import Entry, Kind

_INIT, _VERSION = 1, 2
_OPEN, _CLOSE, _READ, _WRITE, _LSTAT, _FSTAT, _SETSTAT, _FSETSTAT = 3, 4, 5, 6, 7, 8, 9, 10
_OPENDIR, _READDIR, _REMOVE, _MKDIR, _RMDIR, _REALPATH, _STAT, _READLINK, _SYMLINK = (
    11,
    12,
    13,
    14,
    15,
    16,
    17,
    19,
    20,
)
_EXTENDED = 200
_STATUS, _HANDLE, _DATA, _NAME, _ATTRS, _EXTENDED_REPLY = 101, 102, 103, 104, 105, 201
OK, END, NO_SUCH_FILE, DENIED, FAILURE, UNSUPPORTED = 0, 1, 2, 3, 4, 8
READ, WRITE, CREATE, TRUNCATE = 0x01, 0x02, 0x08, 0x10
_SIZE, _OWNER, _MODE, _TIMES, _MORE = 0x1, 0x2, 0x4, 0x8, 0x80000000
_CHUNK, _MOST = 1 << 15, 1 << 17  # bytes of a read or write: what every server takes, and what pays
_LONGEST = 1 << 22  # a packet that claims more is no packet
_PATIENCE = 120.0  # seconds without any answer: ssh finds a dead network itself, this one finds a disk that hangs
_KINDS: Mapping[int, Kind] = {0o100000: "file", 0o040000: "directory", 0o120000: "link"}


class SftpError(Exception):
    """A request that the server refused: its status code and words."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text or f"status {code}")
        self.code = code


class NotSftpError(Exception):
    """What came is not the protocol; `seen` is how it begins."""

    def __init__(self, seen: bytes) -> None:
        super().__init__("not SFTP")
        self.seen = seen


class Client:
    """One session. Calls may be made side by side; ConnectionError when the connection ends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self._number = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = False
        self.extensions: dict[bytes, bytes] = {}
        self.heard = 0
        self.chunk = _CHUNK

    async def start(self) -> None:
        """Greet; NotSftpError when something else answers."""
        self._writer.write(struct.pack(">IBI", 5, _INIT, 3))
        await self._writer.drain()
        kind, body = await self._packet()
        if kind != _VERSION:
            raise NotSftpError(bytes([kind]) + body[:100])
        fields = _Fields(body[4:])
        while fields.more:
            name = fields.string()
            self.extensions[name] = fields.string()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._watch())]
        if b"limits@openssh.com" in self.extensions:
            _, body = await self._extended(b"limits@openssh.com", b"")
            _, read, write = struct.unpack(">QQQ", body[:24])
            self.chunk = min(
                [_MOST, *(limit for limit in (read, write) if limit)]
            )  # 0: it has none

    async def close(self) -> None:
        """Stop listening; the streams are their owner's."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _packet(self) -> tuple[int, bytes]:
        try:
            head = await self._reader.readexactly(5)
            length, kind = struct.unpack(">IB", head)
            if not 1 <= length <= _LONGEST:
                raise NotSftpError(head + await self._reader.read(200))
            return kind, await self._reader.readexactly(length - 1)
        except asyncio.IncompleteReadError as exc:
            raise ConnectionResetError(exc.partial[:200].decode("utf-8", "replace")) from None

    async def _read(self) -> None:
        try:
            while True:
                kind, body = await self._packet()
                self.heard += 1
                waiting = self._waiting.pop(int.from_bytes(body[:4], "big"), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result((kind, body[4:]))
        except (OSError, NotSftpError) as exc:
            self._end(str(exc))

    async def _watch(self) -> None:
        before = -1
        while self.heard != before or not self._waiting:
            before = self.heard
            await asyncio.sleep(_PATIENCE)
        self._end("no answer in time")

    def _end(self, why: str) -> None:
        self._ended = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionResetError(why))
        self._waiting.clear()

    async def _ask(
        self, kind: int, body: bytes, data: bytes | memoryview = b""
    ) -> tuple[int, bytes]:
        """Send one request, wait for its answer; SftpError where that is a refusal. OK is an answer of its own."""
        if self._ended:
            raise ConnectionResetError
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._writer.write(struct.pack(">IBI", 5 + len(body) + len(data), kind, number) + body)
            if data:
                self._writer.write(data)
            await self._writer.drain()
        except BaseException:
            self._waiting.pop(number, None)
            if not answer.cancel():  # nobody will look at its answer
                answer.exception()
            raise
        what, said = await answer
        if what == _STATUS:
            fields = _Fields(said)
            code = fields.number()
            if code != OK:
                raise SftpError(
                    code, fields.string().decode("utf-8", "replace") if fields.more else ""
                )
        return what, said

    async def find(self, path: bytes, *, follow: bool = False) -> Entry | None:
        """What lies at a path, None when nothing does. The target of a link is not looked up."""
        try:
            _, body = await self._ask(_STAT if follow else _LSTAT, _string(path))
        except SftpError as exc:
            if exc.code == NO_SUCH_FILE:
                return None
            raise
        return _Fields(body).entry(path.rpartition(b"/")[2])

    async def listing(self, path: bytes) -> list[Entry]:
        """What lies in a directory, links with their targets."""
        handle = await self._handle(_OPENDIR, _string(path))
        found: list[Entry] = []
        try:
            while True:
                _, body = await self._ask(_READDIR, _string(handle))
                found += _entries(body)
        except SftpError as exc:
            if exc.code != END:
                raise
        finally:
            await self.shut(handle)
        whole = [one for one in found if one.name not in {b".", b".."}]
        targets = await asyncio.gather(
            *(self.target(path + b"/" + one.name) for one in whole if one.kind == "link")
        )
        rest = iter(targets)
        return [
            Entry(one.name, "link", one.size, one.mtime, one.mode, next(rest))
            if one.kind == "link"
            else one
            for one in whole
        ]

    async def target(self, path: bytes) -> bytes:
        """Where a link leads."""
        return await self._name(_READLINK, path)

    async def real(self, path: bytes) -> bytes:
        """An absolute path without links."""
        return await self._name(_REALPATH, path)

    async def open(self, path: bytes, flags: int, mode: int = 0o600) -> bytes:
        """A handle of a file."""
        return await self._handle(_OPEN, _string(path) + struct.pack(">III", flags, _MODE, mode))

    async def read(self, handle: bytes, offset: int, size: int) -> bytes:
        """Up to `size` bytes; nothing at the end."""
        try:
            _, body = await self._ask(_READ, _string(handle) + struct.pack(">QI", offset, size))
        except SftpError as exc:
            if exc.code == END:
                return b""
            raise
        return body[4:]

    async def write(self, handle: bytes, offset: int, data: bytes | memoryview) -> None:
        """Write at a place."""
        await self._ask(_WRITE, _string(handle) + struct.pack(">QI", offset, len(data)), data)

    async def dress(self, path: bytes, *, mode: int | None, mtime: int) -> None:
        """Set permission bits and time."""
        await self._ask(_SETSTAT, _string(path) + _attributes(mode, mtime))

    async def dress_open(self, handle: bytes, *, mode: int | None, mtime: int) -> None:
        """The same of an open file."""
        await self._ask(_FSETSTAT, _string(handle) + _attributes(mode, mtime))

    async def cut(self, handle: bytes, size: int) -> None:
        """End an open file after `size` bytes."""
        await self._ask(_FSETSTAT, _string(handle) + struct.pack(">IQ", _SIZE, size))

    async def shut(self, handle: bytes) -> None:
        """Close a handle; an error on the way to the disk may come only here."""
        await self._ask(_CLOSE, _string(handle))

    async def mkdir(self, path: bytes, mode: int = 0o700) -> None:
        """Make a directory."""
        await self._ask(_MKDIR, _string(path) + struct.pack(">II", _MODE, mode))

    async def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        await self._ask(_RMDIR, _string(path))

    async def remove(self, path: bytes) -> None:
        """Remove what is no directory."""
        await self._ask(_REMOVE, _string(path))

    async def link(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link at `path`."""
        await self._ask(_SYMLINK, _string(target) + _string(path))

    async def rename(self, old: bytes, new: bytes) -> None:
        """Move, over what is there, at one stroke (posix-rename@openssh.com)."""
        await self._extended(b"posix-rename@openssh.com", _string(old) + _string(new))

    async def free(self, path: bytes) -> int | None:
        """Bytes that a user may still write there, None where the server does not tell."""
        if b"statvfs@openssh.com" not in self.extensions:
            return None
        _, body = await self._extended(b"statvfs@openssh.com", _string(path))
        _, fragment, _, _, available = struct.unpack(">QQQQQ", body[:40])
        return int(fragment * available)

    async def _extended(self, name: bytes, body: bytes) -> tuple[int, bytes]:
        return await self._ask(_EXTENDED, _string(name) + body)

    async def _handle(self, kind: int, body: bytes) -> bytes:
        _, said = await self._ask(kind, body)
        return _Fields(said).string()

    async def _name(self, kind: int, path: bytes) -> bytes:
        _, body = await self._ask(kind, _string(path))
        return _Fields(body[4:]).string()


class _Fields:
    """The parts of a packet, one after the other."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._body)

    def number(self) -> int:
        self._at += 4
        return int.from_bytes(self._body[self._at - 4 : self._at], "big")

    def long(self) -> int:
        return self.number() << 32 | self.number()

    def string(self) -> bytes:
        size = self.number()
        self._at += size
        return self._body[self._at - size : self._at]

    def entry(self, name: bytes) -> Entry:
        flags = self.number()
        size = self.long() if flags & _SIZE else 0
        if flags & _OWNER:
            self.long()
        mode = self.number() if flags & _MODE else 0
        mtime = self.long() & 0xFFFFFFFF if flags & _TIMES else 0
        if flags & _MORE:
            for _ in range(self.number()):
                self.string()
                self.string()
        return Entry(name, _KINDS.get(mode & 0o170000, "other"), size, mtime, mode & 0o7777)


def _entries(body: bytes) -> list[Entry]:
    fields = _Fields(body)
    found = []
    for _ in range(fields.number()):
        name = fields.string()
        if (
            not name or b"/" in name or b"\0" in name
        ):  # would lead out of the directory where it is put
            raise SftpError(FAILURE, f"a name that is none: {name[:80]!r}")
        fields.string()  # a line as `ls -l` writes it
        found.append(fields.entry(name))
    return found


def _string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def _attributes(mode: int | None, mtime: int) -> bytes:
    when = min(max(mtime, 0), 0xFFFFFFFF)
    flags = _TIMES | (0 if mode is None else _MODE)
    bits = b"" if mode is None else struct.pack(">I", mode)
    return struct.pack(">I", flags) + bits + struct.pack(">II", when, when)
