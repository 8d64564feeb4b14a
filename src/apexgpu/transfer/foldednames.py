"""Names that some disks take for one: those that differ only in case, or only in their Unicode form.

NTFS and, by default, APFS do not tell `Model.py` from `model.py`. APFS does not tell `é` in one character
(NFC) from `é` in two (NFD); HFS+ even changes the one into the other. Linux tells all of them apart.
Candidates are found here by a generous rule; whether a disk takes them for one is asked of the disk.
"""

import os
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

from apexgpu.errors import RefusedError
from apexgpu.transfer.fileinfo import STAGE_PREFIX, STAGE_SUFFIX, FileInfo, Tree, is_directory, join
from apexgpu.transfer.filesystem import FileSystem, display

_NAMED = 3  # more pairs than these are counted
_TRIED = 50  # pairs whose names are tried on a disk


class TwinNamesError(RefusedError):
    """The target's disk takes two names of a copy for one."""

    code = "name"


@dataclass(frozen=True, slots=True)
class Twins:
    """Two paths of one directory whose names may be the same to a disk. `first` is the source's."""

    first: bytes
    second: bytes

    @property
    def differ_in_form_only(self) -> bool:
        """Whether only the Unicode form differs: to a person, both are the same name."""
        return _composed(self.first) == _composed(self.second)


def fold(path: bytes) -> bytes:
    """A path without case and Unicode form.

    >>> fold("É/Model.py".encode()) == fold("e\u0301/model.PY".encode())
    True
    """
    if path.isascii():
        return path.lower()
    text = unicodedata.normalize("NFD", os.fsdecode(path)).casefold()
    return os.fsencode(unicodedata.normalize("NFC", text))


def _composed(path: bytes) -> str:
    return unicodedata.normalize("NFC", os.fsdecode(path))


def twins_within(paths: Iterable[bytes]) -> list[Twins]:
    """The pairs among `paths`. What is below two directories that are a pair themselves is none."""
    found = []
    seen: dict[bytes, bytes] = {}
    for path in paths:
        directory, slash, name = path.rpartition(b"/")
        key = directory + slash + fold(name)
        if key in seen:
            found.append(Twins(seen[key], path))
        seen[key] = path
    return found


def twins_between(source: Tree, existing: Tree) -> list[Twins]:
    """The pairs of a name in `source` and another spelling of it in `existing`, which the source does not have."""
    by_key = {fold(path): path for path in source if path not in existing}
    found = []
    for path in existing:
        other = by_key.get(fold(path))
        if other is None or path in source:
            continue
        if other.rpartition(b"/")[2] != path.rpartition(b"/")[2]:
            found.append(Twins(other, path))
    return found


def respelled(tree: Tree, source: Tree) -> dict[bytes, FileInfo]:
    """`tree` with the source's spelling of each path whose Unicode form alone differs."""
    spellings = {_composed(path): path for path in source if not path.isascii()}
    result = {}
    for path, info in tree.items():
        known = path in source or path.isascii()
        spelling = path if known else spellings.get(_composed(path), path)
        result[spelling] = info
    return result


def directories(tree: Tree) -> Collection[bytes]:
    """The directories of a tree, folded: whether a directory of another tree is one of these, spelled in any way."""
    return {fold(path) for path in tree if is_directory(tree, path)}


async def taken_for_one(files: FileSystem, directory: bytes, twins: Sequence[Twins]) -> list[Twins]:
    """Those pairs that the disk of `directory` takes for one name. It is tried in a directory of its own there."""
    if not twins:
        return []
    name = STAGE_PREFIX + b"names-%d" % os.getpid() + STAGE_SUFFIX
    place = join(directory, name)
    await files.mkdir(place)
    try:
        found = []
        for pair in twins[:_TRIED]:
            if await _is_one(files, place, pair):
                found.append(pair)
    finally:
        await files.rmdir(place)
    return found


async def _is_one(files: FileSystem, place: bytes, pair: Twins) -> bool:
    first = join(place, pair.first.rpartition(b"/")[2])
    second = join(place, pair.second.rpartition(b"/")[2])
    await files.mkdir(first)
    try:
        return await files.info(second) is not None
    finally:
        await files.rmdir(first)


def refusal(
    source: FileSystem, target: FileSystem, origins: Mapping[bytes, bytes], twins: Sequence[Twins]
) -> TwinNamesError:
    """The error for pairs that the target takes for one. `origins` are the absolute paths of the first ones."""
    pairs = [f"{display(pair.first)} and {display(pair.second)}" for pair in twins[:_NAMED]]
    if len(twins) > _NAMED:
        pairs.append(f"{len(twins) - _NAMED} more pairs")
    kind = "in case"
    if all(pair.differ_in_form_only for pair in twins):
        kind = "in the form of their accents (Unicode NFC and NFD)"
    message = (
        f"the disk of {target.where} takes names for one that differ only {kind}: "
        f"{', '.join(pairs)}; nothing was copied"
    )
    origin = display(origins[twins[0].first])
    rename = f"mv -n -- {quote(origin)} {quote(origin + '.2')}"
    return TwinNamesError(message, hint=source.shell_hint(rename))
