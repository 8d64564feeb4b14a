"""The end of a copy: renames move the staged files into place, each of them atomically."""

from collections.abc import Sequence

from apexgpu.transfer import foldednames
from apexgpu.transfer.concurrency import for_each, run_both, run_together
from apexgpu.transfer.fileinfo import FileKind, Tree, is_directory, join, parents
from apexgpu.transfer.filesystem import Attributes, FileSystem
from apexgpu.transfer.treewalk import conflict_error, make_writable, read_tree

_AT_ONCE = 32
_FEW = 1000  # names that are looked up instead of read with their directory


async def move_into_place(
    files: FileSystem,
    stage: bytes,
    final: bytes,
    *,
    file: bytes,
    merge: bool,
    content: Tree | None = None,
    resumed: bool = True,
    attributes: Sequence[Attributes] = (),
) -> int:
    """Move the content of `stage` to `final` and remove `stage`; the number of names that changed.

    `file` is the name in `stage` of a single file, empty for a directory. With `merge`, `final` is
    a directory that is kept and added to. `content` is what is in `stage`, None if it has to be read.
    `resumed`: an earlier run may have given `stage` a mode of its own. `attributes` are those of the
    directories in `stage`.
    """
    staged = content
    if staged is None:
        staged = await read_tree(files, stage)
    # A rename must not become visible before the bytes are on the disk: after a crash the file
    # would be empty.
    to_sync = [join(stage, path) for path, info in staged.items() if info.kind is FileKind.FILE]

    async def finish() -> None:
        # The attributes need not be on the disk before, so nobody waits for them first.
        await run_both(files.set_attributes_of_all(attributes), files.sync(stage, to_sync))

    if file:
        if file not in staged:
            await remove_stage(files, stage)
            return 0
        await finish()
        await _rename_all(files, stage, [(join(stage, file), final)], [stage])
        return 1
    if not merge:
        await finish()
        await files.rename(stage, final)
        return max(1, sum(not info.is_directory for info in staged.values()))
    existing, _ = await run_both(_existing(files, final, staged), finish())
    return await _merge(files, stage, final, staged, existing, resumed=resumed)


async def _rename_all(
    files: FileSystem,
    stage: bytes,
    renames: Sequence[tuple[bytes, bytes]],
    emptied: Sequence[bytes],
) -> None:
    """Move everything out of `stage` and remove it."""
    if not await files.rename_all(renames, emptied):
        await remove_stage(files, stage)


async def _merge(
    files: FileSystem,
    stage: bytes,
    final: bytes,
    staged: Tree,
    existing: Tree,
    *,
    resumed: bool,
) -> int:
    """Move what is in `stage` into the directory `final`, which has `existing`; return how many paths have changed.

    A directory that `final` does not have is moved as a whole. All others exist on both sides, and what is in
    them is moved piece by piece; in the stage they are then empty.
    """
    if await _has_other_forms(files, final, staged, existing):
        existing = foldednames.respelled(existing, staged)
    moves, moved_directories = _plan_moves(files, final, staged, existing)

    to_make_writable = []  # a directory cannot be moved, nor anything out of it, if its mode forbids that
    emptied = []
    for path in staged:
        moves_with_parent = moved_directories.intersection(parents(path))
        if moves_with_parent or not is_directory(staged, path):
            continue
        to_make_writable.append(path)
        if path not in moved_directories:
            emptied.append(path)
    if resumed:
        await files.set_attributes(stage, 0o700, 0)
    await make_writable(files, stage, to_make_writable, staged)

    emptied.sort(reverse=True)  # innermost first
    renames = [(join(stage, path), join(final, path)) for path in moves]
    await _rename_all(files, stage, renames, [*(join(stage, path) for path in emptied), stage])
    for path in moves:
        info = staged[path]
        if files.has_modes and info.is_directory and not info.owner_can_change:
            # make_writable() changed its mode.
            await files.set_attributes(join(final, path), info.mode, info.mtime)
    changed = len(moves)
    for path in staged:
        moved_with_parent = moved_directories.intersection(parents(path))
        if moved_with_parent and not is_directory(staged, path):
            changed += 1
    return changed


async def _existing(files: FileSystem, final: bytes, staged: Tree) -> Tree:
    """What is in `final` now where something is staged."""
    if len(staged) <= _FEW and not any(info.is_directory for info in staged.values()):
        # The directory may be much larger than what is copied into it.
        infos = await run_together(files.info(join(final, path)) for path in staged)
        found = {}
        for path, info in zip(staged, infos, strict=True):
            if info is not None:
                found[path] = info
        return found
    return await read_tree(files, final, only=foldednames.directories(staged))


async def _has_other_forms(files: FileSystem, final: bytes, staged: Tree, existing: Tree) -> bool:
    """Whether the disk finds a name of `existing` also under its other Unicode form, which `staged` has."""
    for pair in foldednames.twins_between(staged, existing):
        # No name in the directory is spelled so. If the disk finds one, it takes the two for one.
        if pair.differ_in_form_only and await files.info(join(final, pair.first)) is not None:
            return True
    return False


def _plan_moves(
    files: FileSystem, final: bytes, staged: Tree, existing: Tree
) -> tuple[list[bytes], set[bytes]]:
    """The paths to rename, and those of them that are directories and bring their content along.

    Raises RefusedError for a conflict that has arisen since the copy began; nothing has been moved
    then.
    """
    moves: list[bytes] = []
    moved_directories: set[bytes] = set()
    for path, info in staged.items():
        if moved_directories.intersection(parents(path)):
            continue  # moves with its directory
        old = existing.get(path)
        if old is not None and old.is_directory != info.is_directory:
            raise conflict_error(files, final, path)
        if info.is_directory:
            if old is not None:
                continue
            moved_directories.add(path)
        moves.append(path)
    return moves, moved_directories


async def remove_stage(files: FileSystem, stage: bytes) -> None:
    """Remove a staging directory with everything in it; nothing happens if there is none."""
    if await files.info(stage) is None:
        return
    tree = await read_tree(files, stage)
    await make_writable(files, stage, tree, tree)

    async def remove(path: bytes) -> None:
        await files.remove(join(stage, path))

    directories = []
    not_directories = []
    for path, info in tree.items():
        if info.is_directory:
            directories.append(path)
        else:
            not_directories.append(path)
    await for_each(not_directories, remove, at_once=_AT_ONCE)
    for path in sorted(directories, reverse=True):  # innermost first
        await files.rmdir(join(stage, path))
    await files.rmdir(stage)
