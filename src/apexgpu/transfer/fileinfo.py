"""Files and trees of files as plain values. Pure: nothing here touches a disk.

Names are bytes, because a Linux name need not be UTF-8. Times are whole seconds, because SFTP has
no finer ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

STAGE_PREFIX, STAGE_SUFFIX = b".apexgpu-", b".part"

TRUSTED_MODE = 0o775
"""The bits of a mode that a container may set on the laptop.

A file of the laptop's user would run with that user's rights (setuid, setgid), or could be changed by
everybody there, because of what somebody has done in the container.
"""


class FileKind(Enum):
    """What a name in a directory stands for. SPECIAL: a socket, a pipe or a device."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    SPECIAL = "special"


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One name in a directory.

    `size` is in bytes, `mtime` in seconds since 1970, `mode` the permission bits, `link_target`
    where a link points.
    """

    name: bytes
    kind: FileKind
    size: int = 0
    mtime: int = 0
    mode: int = 0
    link_target: bytes = b""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory (a link to one is a link)."""
        return self.kind is FileKind.DIRECTORY

    @property
    def owner_can_change(self) -> bool:
        """Whether a directory's owner can make and remove names in it."""
        return self.mode & 0o300 == 0o300

    def same_content(self, other: "FileInfo | None") -> bool:
        """Whether the content counts as the same: rsync's quick check of size and time."""
        if other is None or other.kind is not self.kind:
            return False
        if self.kind is FileKind.LINK:
            return self.link_target == other.link_target
        if self.kind is FileKind.FILE:
            return (self.size, self.mtime) == (other.size, other.mtime)
        return False


Tree = Mapping[bytes, FileInfo]
"""What is below a directory, by relative path.

Parts are divided by `/`, and a directory precedes its contents.
"""


def is_directory(tree: Tree, path: bytes) -> bool:
    """Whether a path of a tree is a directory."""
    return path in tree and tree[path].is_directory


def parents(path: bytes) -> list[bytes]:
    """The directories above a relative path, the topmost first.

    >>> parents(b"a/b/c")
    [b'a', b'a/b']
    """
    *directories, _ = path.split(b"/")
    ancestors = []
    for count in range(1, len(directories) + 1):
        ancestors.append(b"/".join(directories[:count]))
    return ancestors


def is_stage(name: bytes) -> bool:
    """Whether a name is that of a staging directory of a copy.

    Those are never copied themselves.
    """
    return name.startswith(STAGE_PREFIX) and name.endswith(STAGE_SUFFIX)


def join(directory: bytes, name: bytes) -> bytes:
    """A path below an absolute directory; the empty name is the directory itself.

    `/` works on every system.
    """
    if not name:
        return directory
    return directory.rstrip(b"/") + b"/" + name


def count_files(tree: Tree) -> tuple[int, int]:
    """The number of files and their bytes.

    A link counts as a file as long as its target, as in rsync.
    """
    counted = {FileKind.FILE, FileKind.LINK}
    sizes = [info.size for info in tree.values() if info.kind in counted]
    return len(sizes), sum(sizes)
