"""Reads trees of files from either side, and makes read-only directories writable."""

from collections.abc import Callable, Collection, Iterable
from shlex import quote

from apexgpu.errors import RefusedError
from apexgpu.transfer.concurrency import for_each
from apexgpu.transfer.fileinfo import FileInfo, Tree, is_directory, is_stage, join
from apexgpu.transfer.filesystem import FileSystem, display
from apexgpu.transfer.foldednames import fold

_LISTINGS_AT_ONCE = 32
_MOST_FILES = 4_000_000  # each takes about 300 bytes of memory
_LONGEST_PATH = 4096  # bytes, as on Linux; below it, nothing could be opened


def _endless_error(files: FileSystem, top: bytes) -> RefusedError:
    name = display(top)
    message = f"{name} on {files.where} has too many files or too deep directories to be copied"
    hint = files.shell_hint(f"du -s --inodes {quote(name)}")
    return RefusedError(message, hint=hint, code="too_many_files")


async def read_tree(
    files: FileSystem,
    top: bytes,
    *,
    only: Collection[bytes] | None = None,
    is_left_out: Callable[[bytes, FileInfo], bool] = lambda _path, _info: False,
) -> dict[bytes, FileInfo]:
    """Everything below `top`, except staging directories and what `is_left_out`.

    With `only`, a directory is read only if it is one of those (`foldednames.directories`), spelled in
    any way: nobody needs the rest of a large target.
    """
    tree: dict[bytes, FileInfo] = {}
    level = [b""]  # the directories of one depth are read at the same time
    while level:
        listings: dict[bytes, list[FileInfo]] = {}

        async def read(path: bytes, listings: dict[bytes, list[FileInfo]] = listings) -> None:
            directory = join(top, path)
            listings[path] = await files.list_directory(directory)

        await for_each(level, read, at_once=_LISTINGS_AT_ONCE)
        next_level = []
        for directory in level:
            for info in listings[directory]:
                if is_stage(info.name):
                    continue
                path = directory + b"/" + info.name if directory else info.name
                if is_left_out(path, info):
                    continue
                tree[path] = info
                if len(tree) > _MOST_FILES or len(path) > _LONGEST_PATH:
                    raise _endless_error(files, top)
                if info.is_directory and (only is None or fold(path) in only):
                    next_level.append(path)
        level = next_level
    return tree


async def make_writable(files: FileSystem, top: bytes, paths: Iterable[bytes], tree: Tree) -> None:
    """Let the owner change the directories among `paths` of `tree`, which is below `top`.

    Without that, nothing could be moved into or out of them, nor could they be moved themselves.
    """
    if not files.has_modes:
        return
    for path in paths:
        if is_directory(tree, path) and not tree[path].owner_can_change:
            info = tree[path]
            await files.set_attributes(join(top, path), info.mode | 0o700, info.mtime)


def conflict_error(files: FileSystem, directory: bytes, path: bytes) -> RefusedError:
    """The error for a file where a directory has to go, or the other way round."""
    name = display(join(directory, path))
    message = (
        "cannot replace a directory with a file, or a file with a directory: "
        f"{name} on {files.where}"
    )
    return RefusedError(message, hint=files.shell_hint(f"ls -ld {quote(name)}"), code="in_the_way")
