"""What lies in a tree of files, as values: names are bytes, times whole seconds. Nothing here touches a disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["file", "directory", "link", "other"]
STAGE_PREFIX, STAGE_SUFFIX = b".apexgpu-", b".part"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name: its kind, bytes, modification time (seconds since 1970), permission bits, and where a link leads."""

    name: bytes
    kind: Kind
    size: int = 0
    mtime: int = 0
    mode: int = 0
    target: bytes = b""

    @property
    def usable(self) -> bool:
        """Whether a directory's owner can make and remove names in it."""
        return self.mode & 0o300 == 0o300

    def same(self, other: "Entry | None") -> bool:
        """Whether the content can be taken to be the same: rsync's quick check, size and time."""
        if other is None or other.kind != self.kind:
            return False
        if self.kind == "link":
            return self.target == other.target
        return self.kind == "file" and (self.size, self.mtime) == (other.size, other.mtime)


Tree = Mapping[bytes, Entry]
"""Entries by their path below the top, parts divided by `/`; a directory before what is in it."""


@dataclass(slots=True)
class Plan:
    """What has to be done to make one tree hold what another does. Paths as in Tree.

    `directories` are to be made in the stage, `dressed` those of them that are new in the end and get the source's
    mode and time; `modes` are files whose content is right and whose mode is not. `whole` lie in the stage already;
    `junk` lies there too and must not be put in place: a half file of a name that the source has no more.
    """

    directories: list[bytes] = field(default_factory=list)
    dressed: list[bytes] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)
    links: list[bytes] = field(default_factory=list)
    modes: list[bytes] = field(default_factory=list)
    conflicts: list[bytes] = field(default_factory=list)
    left_out: list[bytes] = field(default_factory=list)
    whole: list[bytes] = field(default_factory=list)
    junk: list[bytes] = field(default_factory=list)


def plan(source: Tree, final: Tree, staged: Tree, *, modes: bool = True) -> Plan:
    """Compare. What lies in `final` and not in `source` stays; what is whole in `staged` is not sent again.

    Without `modes`, one of the two systems has none (Windows).
    """
    found = Plan()
    new: set[bytes] = set()
    for path, entry in source.items():
        there = final.get(path)
        if there is not None and (entry.kind == "directory") != (there.kind == "directory"):
            if entry.kind != "other":
                found.conflicts.append(path)
        elif entry.kind == "directory":
            if there is None:
                new.add(path)
        elif entry.kind == "other":
            found.left_out.append(path)
        elif entry.same(there):
            if modes and there is not None and entry.kind == "file" and entry.mode != there.mode:
                found.modes.append(path)
        elif entry.same(staged.get(path)):
            found.whole.append(path)
        else:
            (found.links if entry.kind == "link" else found.files).append(path)
    found.dressed = sorted(new, reverse=True)
    needed = new | {parent for path in (*found.files, *found.links) for parent in parents(path)}
    found.directories = [
        path for path in source if path in needed and not is_directory(staged, path)
    ]
    kept = {*found.files, *found.links, *found.whole}
    found.junk = [
        path
        for path, entry in staged.items()
        if not (is_directory(source, path) if entry.kind == "directory" else path in kept)
    ]
    return found


def is_directory(tree: Tree, path: bytes) -> bool:
    """Whether a path of a tree is a directory."""
    return path in tree and tree[path].kind == "directory"


def parents(path: bytes) -> list[bytes]:
    """The directories above a path, below the top."""
    parts = path.split(b"/")[:-1]
    return [b"/".join(parts[: count + 1]) for count in range(len(parts))]


def is_stage(name: bytes) -> bool:
    """Whether a name is that of a directory in which a copy is made ready: never copied itself."""
    return name.startswith(STAGE_PREFIX) and name.endswith(STAGE_SUFFIX)


def join(directory: bytes, name: bytes) -> bytes:
    """A path below an absolute directory; `/` divides on every system."""
    return directory.rstrip(b"/") + b"/" + name


def total(tree: Tree) -> tuple[int, int]:
    """Files and bytes of a tree; a link counts as a file as long as its target, as rsync counts."""
    sizes = [entry.size for entry in tree.values() if entry.kind in {"file", "link"}]
    return len(sizes), sum(sizes)
