"""The disks that a container shares with everyone: what `df` says there, as values. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

ROOTS = ("/SSD", "/newNAS", "/NAS")
_MARK = "@disk "  # printed by programs/disks.sh
_LINE = re.compile(r"^(.+?) +(\d+) +(\d+|-) +(-?\d+|-) +(\d+%|-) +(/.*)$")


@dataclass(frozen=True, slots=True)
class Disk:
    """One file system at or below a root: where it is seen, what it is, its bytes, and those that are free."""

    path: str
    device: str
    size: int
    free: int


def disks(text: str) -> tuple[Disk, ...]:
    """The disks in the output of programs/disks.sh, or of a plain `df`: every mount at or below a root, in their order.

    A root with no mount of its own, nor below it, stands for the file system that it lies on.
    """
    mounted: dict[str, Disk] = {}
    under: dict[str, Disk] = {}
    root = ""
    for line in text.splitlines():
        if line.startswith(_MARK):
            root = line[len(_MARK) :].strip()
            continue
        found = _LINE.match(line.rstrip())
        if found is None:
            continue
        free = int(found[4]) if found[4].isdigit() else 0  # what is beyond a reserve is negative
        disk = Disk(found[6], found[1], int(found[2]) * 1024, free * 1024)
        if root:
            under.setdefault(root, Disk(root, disk.device, disk.size, disk.free))
        elif _root_of(disk.path):
            mounted[disk.path] = disk
    for name, disk in under.items():
        if not any(_root_of(path) == name for path in mounted):
            mounted[name] = disk
    return tuple(
        sorted(mounted.values(), key=lambda disk: (ROOTS.index(_root_of(disk.path)), disk.path))
    )


def _root_of(path: str) -> str:
    return next((root for root in ROOTS if path == root or path.startswith(root + "/")), "")


def rows(found: Sequence[Disk]) -> list[dict[str, str | int]]:
    """As JSON documents show them."""
    return [
        {"path": one.path, "device": one.device, "bytes": one.size, "free": one.free}
        for one in found
    ]
