"""The packets of SFTP version 3 as bytes: numbers, strings, attributes. Pure.

Source: draft-ietf-secsh-filexfer-02.
"""

import struct
from enum import IntEnum, IntFlag

from apexgpu.transfer.fileinfo import FileInfo, FileKind


class PacketType(IntEnum):
    """The first byte of a packet (section 3)."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    READLINK = 19
    SYMLINK = 20
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Status(IntEnum):
    """The codes of a STATUS reply (section 7)."""

    OK = 0
    END_OF_FILE = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    UNSUPPORTED = 8


class OpenFlag(IntFlag):
    """How to open a file (section 6.3)."""

    READ = 0x01
    WRITE = 0x02
    CREATE = 0x08


# Which attributes follow (section 5). Plain numbers: an IntFlag would make reading large listings
# slower.
_HAS_SIZE, _HAS_OWNER, _HAS_MODE, _HAS_TIMES, _HAS_EXTENDED = 0x1, 0x2, 0x4, 0x8, 0x80000000

_KINDS = {0o100000: FileKind.FILE, 0o040000: FileKind.DIRECTORY, 0o120000: FileKind.LINK}


_LONGEST_NAME = 1024  # bytes; Linux allows 255


class SftpError(Exception):
    """A request that the server refused: a status (see Status; it may be another number) and its words."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text or f"status {status}")
        self.status = status


class NotSftpError(Exception):
    """The other side does not speak SFTP; `start` is how its output begins."""

    def __init__(self, start: bytes) -> None:
        super().__init__("not SFTP")
        self.start = start


class PacketReader:
    """Reads the fields of one packet, one after the other."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._position = 0

    @property
    def has_more(self) -> bool:
        """Whether any bytes are left."""
        return self._position < len(self._body)

    def uint32(self) -> int:
        """The next four bytes as a number."""
        return int.from_bytes(self._take(4), "big")

    def uint64(self) -> int:
        """The next eight bytes as a number."""
        high = self.uint32()
        return high << 32 | self.uint32()

    def string(self) -> bytes:
        """The next string: its length, then its bytes."""
        return self._take(self.uint32())

    def _take(self, count: int) -> bytes:
        start = self._position
        # Without this check, a count of 2**32 would be a loop that nothing interrupts.
        if count > len(self._body) - start:
            raise SftpError(Status.FAILURE, "a packet of the server ends too early")
        self._position += count
        return self._body[start : self._position]

    def attributes(self, name: bytes) -> FileInfo:
        """The next attributes, as those of `name`."""
        flags = self.uint32()
        size = mode = mtime = 0
        if flags & _HAS_SIZE:
            size = self.uint64()
        if flags & _HAS_OWNER:
            self.uint64()  # user and group
        if flags & _HAS_MODE:
            mode = self.uint32()
        if flags & _HAS_TIMES:
            self.uint32()  # time of the last access
            mtime = self.uint32()
        if flags & _HAS_EXTENDED:
            for _ in range(self.uint32()):
                self.string()
                self.string()
        kind = _KINDS.get(mode & 0o170000, FileKind.SPECIAL)
        return FileInfo(name, kind, size, mtime, mode & 0o7777)

    def names(self) -> list[FileInfo]:
        """The files of a NAME reply.

        Raises SftpError for a name that would lead out of its directory.
        """
        files = []
        for _ in range(self.uint32()):
            name = self.string()
            if not name or b"/" in name or b"\0" in name or len(name) > _LONGEST_NAME:
                raise SftpError(Status.FAILURE, f"invalid file name: {name[:80]!r}")
            self.string()  # the line that `ls -l` would print
            files.append(self.attributes(name))
        return files


def pack_string(value: bytes) -> bytes:
    """A string with its length in front."""
    return len(value).to_bytes(4, "big") + value


def pack_attributes(mode: int | None, mtime: int) -> bytes:
    """Attributes to set: the mode unless it is None, and one time for access and modification.

    A time that 32 bits cannot hold becomes the nearest one that they can.
    """
    seconds = min(max(mtime, 0), 0xFFFFFFFF)
    times = struct.pack(">II", seconds, seconds)
    if mode is None:
        return struct.pack(">I", _HAS_TIMES) + times
    return struct.pack(">II", _HAS_MODE | _HAS_TIMES, mode) + times


def pack_mode(mode: int) -> bytes:
    """Attributes that hold a mode only."""
    return struct.pack(">II", _HAS_MODE, mode)


def pack_size(size: int) -> bytes:
    """Attributes that hold a size only."""
    return struct.pack(">IQ", _HAS_SIZE, size)
