"""Files from one side to the other over SFTP: trees are walked, compared, and what is missing is put into a stage."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from apexgpu.errors import ApexError, RefusedError
from apexgpu.transfer.copypaths import parent
from apexgpu.transfer.fileinfo import Entry, Plan, Tree, is_directory, is_stage, join, plan, total
from apexgpu.transfer.sides import NO_LINKS, Handle, Local, Side, shown

T = TypeVar("T")
Carrier = Callable[[], Awaitable[int]]
_WINDOW = (
    1 << 22
)  # bytes on the way for one file; also what an end that was cut off may have holes in
_SMALL, _LARGE = (
    48,
    2,
)  # files at a time; of large ones few, so that those that came are whole when it stops
_SIZE = 1 << 18  # bytes from which a file is large
_LISTINGS = 32


@dataclass(frozen=True, slots=True)
class Filled:
    """What a source came to: its files and bytes, bytes sent, special files left out, names changed.

    `staged` tells whether there is a stage that has to be put in place.
    """

    files: int
    size: int
    sent: int
    left_out: int
    changed: int = 0
    staged: bool = True


@dataclass(slots=True)
class Watch:
    """What a copy has come to, for whoever shows it. Bytes; `total` None where nobody has counted yet.

    `spared` of the `done` bytes are known not to have travelled. `stage` is where what came is kept, as (side, path).
    """

    total: int | None = None
    done: int = 0
    spared: int = 0
    doing: str = ""
    stage: tuple[str, str] | None = None

    def begin(self, total: int | None, doing: str) -> None:
        """A new part of the work."""
        self.total, self.done, self.spared, self.doing = total, 0, 0, doing


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All at the same time; the first error ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def each(
    count: int, items: Sequence[bytes], work: Callable[[bytes], Coroutine[Any, Any, None]]
) -> None:
    """`work` on every item, `count` at a time, in their order."""
    rest = iter(items)

    async def worker() -> None:
        for item in rest:
            await work(item)

    await together(worker() for _ in range(min(count, len(items))))


async def walk(side: Side, top: bytes, *, only: Tree | None = None) -> dict[bytes, Entry]:
    """All that lies below `top`, but for stages; with `only`, no directory that is none there is looked into."""
    found: dict[bytes, Entry] = {}
    level = [b""]
    while level:
        listed: dict[bytes, list[Entry]] = {}

        async def look(path: bytes, listed: dict[bytes, list[Entry]] = listed) -> None:
            listed[path] = await side.listing(join(top, path) if path else top)

        await each(_LISTINGS, level, look)
        entries = {
            (path + b"/" + one.name if path else one.name): one
            for path in level
            for one in listed[path]
            if not is_stage(one.name)
        }
        found |= entries
        level = [
            path
            for path in entries
            if is_directory(entries, path) and (only is None or is_directory(only, path))
        ]
    return found


@dataclass(frozen=True, slots=True)
class Load:
    """One copy: `source` is a file or a directory, `stage` the directory to be filled.

    `name` is what a file is called in the stage. `final` is the directory that is there already, None for a new one.
    """

    source: bytes
    entry: Entry
    stage: bytes
    name: bytes = b""
    final: bytes | None = None


async def fill(
    source: Side, target: Side, load: Load, watch: Watch, carrier: Carrier | None = None
) -> Filled:
    """Make the stage hold what is not in its place yet; an error before anything is written where that cannot be.

    `carrier` does the work in its own way and returns the bytes that it sent; by default the two sides are used.
    """
    if load.entry.kind == "file":
        wanted: Tree = {load.name: load.entry}
    else:
        wanted = await walk(source, load.source)
    unfit = next((entry.name for entry in wanted.values() if not target.accepts(entry.name)), None)
    if unfit is not None:
        raise RefusedError(
            f"nothing can be called {shown(unfit)} on {target.where}",
            hint="rename it there first",
            code="name",
        )
    final = await walk(target, load.final, only=wanted) if load.final is not None else {}
    begun = await target.find(load.stage) is not None
    staged = await walk(target, load.stage) if begun else {}
    todo = plan(wanted, final, staged, modes=source.modes and target.modes)
    if todo.conflicts:
        raise conflict(load.final or b"", todo.conflicts[0], target.where)
    files, size = total(wanted)
    for path in todo.modes:
        await target.dress(join(load.final or b"", path), wanted[path].mode, wanted[path].mtime)
    new = load.entry.kind == "directory" and load.final is None
    if not (begun or new or todo.files or todo.links or todo.dressed):
        return Filled(files, size, 0, len(todo.left_out), len(todo.modes), staged=False)
    needed = sum(wanted[path].size - _size(staged, path) for path in todo.files)
    await room(target, load.stage if begun else parent(load.stage), needed)
    if not begun:
        await target.mkdir(load.stage)
    watch.stage = (target.where, shown(load.stage))
    watch.begin(sum(wanted[path].size for path in todo.files), watch.doing)
    sent = await (
        carrier or partial(_Filling(source, target, load, wanted, staged, watch).do, todo)
    )()
    return Filled(files, size, sent, len(todo.left_out), len(todo.modes))


def _size(tree: Tree, path: bytes) -> int:
    return tree[path].size if path in tree else 0


async def room(side: Side, directory: bytes, needed: int) -> None:
    """ApexError where `needed` bytes have no room: disks are shared, and to fill one up helps nobody."""
    free = await side.free(directory)
    if free is not None and needed > free:
        message = f"{_bytes(needed)} are needed at {shown(directory)} on {side.where}, and {_bytes(free)} are free"
        hint = "make room there" if isinstance(side, Local) else f"apexgpu status {side.where}"
        raise ApexError(message, hint=hint, code="no_room")


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


async def open_up(side: Side, stage: bytes, paths: Sequence[bytes], staged: Tree) -> None:
    """Nothing can be moved into or out of a directory that its owner cannot write, nor such a directory itself."""
    for path in paths:
        if side.modes and is_directory(staged, path) and not staged[path].usable:
            await side.dress(join(stage, path), staged[path].mode | 0o700, staged[path].mtime)


def conflict(directory: bytes, path: bytes, where: str) -> RefusedError:
    """The error for a file where a directory should go, or the other way round."""
    name = shown(join(directory, path))
    message = f"{name} on {where} is a directory and the copy is none, or the other way round: it is not replaced"
    return RefusedError(
        message, hint=f"move {name} out of the way, then run the same line again", code="in_the_way"
    )


@dataclass(frozen=True, slots=True)
class _Filling:
    source: Side
    target: Side
    load: Load
    wanted: Tree
    staged: Tree
    watch: Watch

    async def do(self, todo: Plan) -> int:
        # An earlier run may have given them their own modes already.
        await open_up(self.target, self.load.stage, list(self.staged), self.staged)
        for path in reversed(todo.junk):  # the deepest first
            gone = self.target.rmdir if is_directory(self.staged, path) else self.target.remove
            await gone(self._at(path))
        for path in todo.directories:  # parents come first
            await self.target.mkdir(self._at(path))
        large = {path for path in todo.files if self.wanted[path].size >= _SIZE}
        await each(_SMALL, [path for path in todo.files if path not in large], self._send)
        await each(_LARGE, [path for path in todo.files if path in large], self._send)
        await each(_SMALL, todo.links, lambda path: self._link(path, todo))
        for path in todo.dressed:  # the deepest first: what is made in one changes its time
            await self._dress(path, self.wanted[path])
        if self.load.entry.kind == "directory" and self.load.final is None:
            await self._dress(b"", self.load.entry)
        return self.watch.done - self.watch.spared

    def _at(self, path: bytes) -> bytes:
        return join(self.load.stage, path) if path else self.load.stage

    async def _dress(self, path: bytes, entry: Entry) -> None:
        await self.target.dress(
            self._at(path), entry.mode if self.target.modes else None, entry.mtime
        )

    async def _link(self, path: bytes, todo: Plan) -> None:
        if path in self.staged:
            await self.target.remove(self._at(path))
        try:
            await self.target.link(self.wanted[path].target, self._at(path))
        except ApexError as exc:
            if exc.code != NO_LINKS:
                raise
            todo.left_out.append(path)

    async def _send(self, path: bytes) -> None:
        entry = self.wanted[path]
        before = self.staged.get(path)
        origin = (
            self.load.source if self.load.entry.kind == "file" else join(self.load.source, path)
        )
        if before is not None and before.kind != "file":
            await self.target.remove(self._at(path))
            before = None
        begin = (
            await self._verified(origin, self._at(path), entry, before.size)
            if before is not None
            else 0
        )
        self.watch.done += begin
        self.watch.spared += begin
        opened = self.source.opened(origin), self.target.opened(self._at(path), write=True)
        async with opened[0] as reader, opened[1] as writer:
            if before is not None:
                await writer.cut(begin)
            await self._pump(
                reader, writer, range(begin, entry.size, self._chunk), entry.size, origin
            )
            await writer.dress(entry.mode if self.target.modes else None, entry.mtime)

    @property
    def _chunk(self) -> int:
        return min(self.source.chunk, self.target.chunk)

    async def _pump(
        self, reader: Handle, writer: Handle, places: range, end: int, origin: bytes
    ) -> None:
        """Chunk by chunk, a window of them at a time, in order."""
        offsets = iter(places)

        async def worker() -> None:
            for at in offsets:
                size = min(places.step, end - at)
                data = await reader.read(at, size)
                if len(data) != size:
                    message = f"{shown(origin)} became shorter while it was copied"
                    raise ApexError(message, hint="run the same line again", code="changed")
                await writer.write(at, data)
                self.watch.done += size

        await together(worker() for _ in range(min(_WINDOW // places.step, len(places))))

    async def _verified(self, origin: bytes, stage: bytes, entry: Entry, size: int) -> int:
        """How much of what an earlier run left is the source's own: its hash is compared, nothing is believed."""
        begin = (min(size, entry.size) - _WINDOW) // self._chunk * self._chunk
        if begin <= 0:
            return 0
        ours, theirs = await together(
            [self.source.digest(origin, begin), self.target.digest(stage, begin)]
        )
        return begin if ours is not None and ours == theirs else 0
