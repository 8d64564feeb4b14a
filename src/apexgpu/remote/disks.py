"""The disks that a container shares with other users, read from the output of `programs/disks.sh`. Pure."""

import re
from dataclasses import dataclass, replace

from apexgpu import readers

ROOTS = ("/SSD", "/newNAS", "/NAS")
"""Where the lab's shared disks are mounted; the arguments of disks.sh."""

_MARK = "@disk "
# A line of `df -P`: device, blocks of 1024 bytes, used, available, capacity, mount point. The device and the mount
# point may contain blanks; a value may be `-`; behind a reserve for root, `available` is negative.
# The search begins at the numbers, so that it is quick for a long line of blanks.
_NUMBERS = re.compile(
    r"(?<=\S) +([0-9]{1,18}) +([0-9]{1,18}|-) +(-?[0-9]{1,18}|-) +([0-9]{1,18}%|-) +(/.*)$"
)


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system at or below one of ROOTS: its path and device, its size and what is free, both in bytes."""

    path: str
    device: str
    size: int
    free: int

    def to_json(self) -> dict[str, str | int]:
        """The disk in a JSON document."""
        return {"path": self.path, "device": self.device, "bytes": self.size, "free": self.free}


def parse_disks(text: str) -> tuple[Disk, ...]:
    """The disks in the output of disks.sh, or of a plain `df`: every mount at or below a root, in the order of ROOTS.

    A root that is a plain directory, with no mount at or below it, counts with the file system that contains it.
    """
    mounted: dict[str, Disk] = {}
    containing: dict[str, Disk] = {}
    root = ""  # the root whose own df follows; empty in the list of all mounts
    for line in text.splitlines():
        if line.startswith(_MARK):
            root = line.removeprefix(_MARK).strip()
            continue
        disk = _parse_line(line)
        if disk is None:
            continue
        if root:
            containing.setdefault(root, replace(disk, path=root))
        elif _root_of(disk.path):
            mounted[disk.path] = disk

    for name, disk in containing.items():
        if not any(_root_of(path) == name for path in mounted):
            mounted[name] = disk
    return tuple(sorted(mounted.values(), key=_position))


def _parse_line(line: str) -> Disk | None:
    text = line.rstrip()
    match = _NUMBERS.search(text)
    if match is None:
        return None
    blocks, _, available, _, path = match.groups()
    device = text[: match.start()]
    free_blocks = readers.number(available) or 0
    return Disk(path, device, (readers.number(blocks) or 0) * 1024, free_blocks * 1024)


def _position(disk: Disk) -> tuple[int, str]:
    return ROOTS.index(_root_of(disk.path)), disk.path


def _root_of(path: str) -> str:
    """The root that a path is at or below; empty if none."""
    for root in ROOTS:
        if path == root or path.startswith(root + "/"):
            return root
    return ""
