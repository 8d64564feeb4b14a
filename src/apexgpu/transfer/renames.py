"""The end of a copy: what a stage holds is put in place by renames, each of which is all or nothing."""

from apexgpu.transfer.fileinfo import Tree, is_directory, join, parents
from apexgpu.transfer.sftpcopy import conflict, each, open_up, walk
from apexgpu.transfer.sides import Side

_AT_ONCE = 32


async def put(side: Side, stage: bytes, final: bytes, *, file: bytes, merge: bool) -> int:
    """Put what is in `stage` at `final`, and the stage away; how many names changed.

    `file` is the name in the stage of a single file, empty for a directory; `merge` says that `final` is a directory
    that stays.
    """
    staged = await walk(side, stage)
    files = [join(stage, path) for path, entry in staged.items() if entry.kind == "file"]
    if file:
        if file not in staged:
            await clear(side, stage)
            return 0
        await side.settle(stage, files)
        await side.rename(join(stage, file), final)
        await clear(side, stage)
        return 1
    if not merge:
        await side.settle(stage, files)
        await side.rename(stage, final)
        return max(1, sum(entry.kind != "directory" for entry in staged.values()))
    return await _merge(side, stage, final, staged, files)


async def _merge(side: Side, stage: bytes, final: bytes, staged: Tree, files: list[bytes]) -> int:
    there = await walk(side, final, only=staged)
    moves: list[bytes] = []
    whole: set[bytes] = set()
    for path, entry in staged.items():
        if whole.intersection(parents(path)):
            continue  # it goes with its directory
        old = there.get(path)
        if old is not None and (old.kind == "directory") != (entry.kind == "directory"):
            raise conflict(final, path, side.where)
        if entry.kind == "directory":
            if old is not None:
                continue
            whole.add(path)
        moves.append(path)
    await side.settle(stage, files)
    apart = [
        path
        for path in staged
        if is_directory(staged, path) and not whole.intersection(parents(path))
    ]
    await side.dress(stage, 0o700, 0)
    await open_up(side, stage, apart, staged)

    async def move(path: bytes) -> None:
        await side.rename(join(stage, path), join(final, path))
        if side.modes and is_directory(staged, path) and not staged[path].usable:
            await side.dress(join(final, path), staged[path].mode, staged[path].mtime)

    await each(_AT_ONCE, moves, move)
    await clear(side, stage)
    along = [
        path
        for path in staged
        if not is_directory(staged, path) and whole.intersection(parents(path))
    ]
    return len(moves) + len(along)


async def clear(side: Side, stage: bytes) -> None:
    """Take a stage away with all that is left in it."""
    if await side.find(stage) is None:
        return
    left = await walk(side, stage)
    await open_up(side, stage, list(left), left)

    async def remove(path: bytes) -> None:
        await side.remove(join(stage, path))

    await each(
        _AT_ONCE, [path for path, entry in left.items() if entry.kind != "directory"], remove
    )
    for path in sorted(
        (path for path, entry in left.items() if entry.kind == "directory"), reverse=True
    ):
        await side.rmdir(join(stage, path))
    await side.rmdir(stage)
