"""Trees of files: packed, unpacked, measured and deleted. Cheap to import."""

import contextlib
import gzip
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def tree_size(path: Path) -> int:
    """Bytes that du would count under `path`: whole blocks, directories too."""
    if not path.is_dir():
        return _blocks(path.lstat().st_size)
    total = 4096
    with (
        contextlib.suppress(OSError),
        os.scandir(path) as entries,
    ):  # what cannot be read is not counted
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += tree_size(Path(entry.path))
            else:
                total += _blocks(entry.stat(follow_symlinks=False).st_size)
    return total


def sockets(rootfs: Path) -> list[str]:
    """Unix sockets in a tree, as tar names them."""
    return [
        f"rootfs/{path.relative_to(rootfs).as_posix()}"
        for path in _walk(rootfs)
        if stat.S_ISSOCK(path.lstat().st_mode)
    ]


def pack(rootfs: Path, archive: Path) -> None:
    """Write a tree to a gzipped tar under the name `rootfs/`; files that cannot be read are left out."""
    with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
        tar.add(rootfs, "rootfs", recursive=False)
        for path in _walk(rootfs):
            with contextlib.suppress(OSError):
                tar.add(path, f"rootfs/{path.relative_to(rootfs).as_posix()}", recursive=False)


# Python 3.11.2, which Debian 12 came with, has no extraction filters.
_SAFELY: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}


def unpack(archive: Path, rootfs: Path, stop: Callable[[], bool] = lambda: False) -> str | None:
    """Put an archive's tree in place of `rootfs`, which is deleted first.

    None when all is well, else what was wrong: "directory", "garbage", "cut" (unpacked as far as it went).
    `stop` is asked between members: true cuts the work short.
    """
    remove_tree(rootfs)
    if archive.is_dir():
        return "directory"
    with archive.open("rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            return "garbage"
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                if stop():
                    return "cut"
                if (
                    not Path(rootfs.parent, member.name)
                    .resolve()
                    .is_relative_to(rootfs.parent.resolve())
                ):
                    return "cut"
                tar.extract(member, rootfs.parent, **_SAFELY)
    except (tarfile.TarError, EOFError, zlib.error, OSError):
        return "cut"
    return None if rootfs.is_dir() and _whole(archive) else "cut"


def _whole(archive: Path) -> bool:
    """Whether gzip reads it to its end: tarfile says nothing of a cut between two members."""
    try:
        with gzip.open(archive) as stream:
            while stream.read(1 << 20):
                pass
    except (EOFError, zlib.error, OSError):
        return False
    return True


def cut_short(archive: Path) -> None:
    """Leave only the first half of a file, as a full disk or a killed tar does."""
    os.truncate(archive, archive.stat().st_size // 2)


def remove_tree(path: Path) -> None:
    """Delete a tree, with directories that its owner made read-only; nothing there is no error."""
    for directory, names, _ in os.walk(path):
        for name in names:
            inner = Path(directory, name)
            if not inner.is_symlink():
                with contextlib.suppress(OSError):
                    inner.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)


def _walk(rootfs: Path) -> Iterator[Path]:
    for entry in sorted(rootfs.iterdir()):
        yield entry
        if entry.is_dir() and not entry.is_symlink():
            with contextlib.suppress(PermissionError):
                yield from _walk(entry)


def _blocks(size: int) -> int:
    return -(-size // 4096) * 4096
