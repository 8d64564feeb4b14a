"""Fills the staging directory of a copy with what the target does not have yet.

The trees on both sides are read and compared; what is missing is sent by rsync or, here, over SFTP.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from shlex import quote

from apexgpu.errors import ApexError, RefusedError
from apexgpu.transfer import foldednames
from apexgpu.transfer.concurrency import for_each, run_both, run_together
from apexgpu.transfer.copypaths import parent
from apexgpu.transfer.copyplan import CopyPlan, plan_copy
from apexgpu.transfer.excludes import Excludes
from apexgpu.transfer.fileinfo import FileInfo, FileKind, Tree, count_files, is_directory, join
from apexgpu.transfer.filesystem import (
    Attributes,
    FileSystem,
    LinksNotAllowedError,
    OpenFile,
    display,
)
from apexgpu.transfer.progress import CopyProgress
from apexgpu.transfer.treewalk import conflict_error, make_writable, read_tree

# Bytes of one file that are on the way at a time. The last that many of a partial file may have
# holes.
_WINDOW = 1 << 22
_LARGE_FILE = 1 << 18  # bytes
_SMALL_AT_ONCE = 48
# Files of one piece. Each waits for two answers, so many have to be on the way on a distant line.
_TINY_AT_ONCE = 512
_TINY_FILE = 1 << 15  # bytes
_DIRECTORIES_AHEAD = 100  # directories that `mkdir_all` makes without waiting in between
# Few, so that those that were sent are complete when the copy is interrupted.
_LARGE_AT_ONCE = 2

SendAll = Callable[[], Awaitable[int]]
"""Sends everything in its own way; returns the bytes that had to be sent."""

Carrier = Callable[["Comparison"], Awaitable[SendAll | None]]
"""Chooses what sends everything; None for SFTP."""


class SourceChangedError(ApexError):
    """A file of the source became shorter while it was copied."""

    code = "changed"


@dataclass(frozen=True, slots=True)
class StageRequest:
    """What to put into the staging directory `stage`: the file or directory `source`.

    `name` is the name of a single file in the staging directory. `existing` is the directory on the
    target into which a directory is merged, None if it will be new. `new_directory` has to be made
    before `stage`, empty if there is nothing to make. With `files`, those of the directory `source`
    are all that is wanted, and `replaced` are the files that the target has in their place.

    `ignored` are the paths in a directory that are left out, with all that is below them; `excludes`
    are patterns of more. `has_no_stage`: it is known that there is no `stage` yet. `free_space` are
    the bytes on the disks of some directories.
    """

    source: bytes
    info: FileInfo
    stage: bytes
    name: bytes = b""
    existing: bytes | None = None
    new_directory: bytes = b""
    files: Tree | None = None
    replaced: Tree = field(default_factory=dict)
    ignored: frozenset[bytes] = frozenset()
    excludes: Excludes = field(default_factory=Excludes)
    has_no_stage: bool = False
    free_space: Mapping[bytes, int | None] = field(default_factory=dict)

    @property
    def existing_directory(self) -> bytes:
        """A directory on the disk of `stage` that exists before anything is made."""
        return parent(self.new_directory or self.stage)


@dataclass(frozen=True, slots=True)
class StageResult:
    """Files and bytes of a source, bytes sent, special files left out, names changed.

    `staged` says whether there is a staging directory now whose content has to be moved into place;
    `content` is that content, None if it has to be read. `resumed`: an earlier run had made it.
    `attributes` are those of the directories in it, to be set before they are moved.
    """

    files: int
    size: int
    sent: int
    left_out: int
    changed: int = 0
    staged: bool = True
    content: Tree | None = None
    resumed: bool = True
    attributes: tuple[Attributes, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a copy has to do, and what it was found from: the trees of source, target and staging directory.

    `excluded` are the paths of the source that patterns left out. `stage_exists` says whether an
    earlier run has left a staging directory, `free` how many bytes the target's disk has (None if
    unknown).
    """

    wanted: Tree
    existing: Tree
    staged: Tree
    excluded: frozenset[bytes]
    stage_exists: bool
    free: int | None
    plan: CopyPlan


async def compare(
    source: FileSystem, target: FileSystem, request: StageRequest, *, dry_run: bool = False
) -> Comparison:
    """Find out what a copy has to do. Nothing is copied; with `dry_run`, nothing is written at all.

    Raises the errors that are known before the first byte is sent: about names, and conflicts.
    """
    wanted, excluded = await _wanted_files(source, request)
    _check_names(source, target, request, wanted)
    finding_existing = _existing_files(target, request, wanted)
    finding_staged = _staged_files(target, request)
    finding_free = _free_space(target, request)
    (existing, staged), free = await run_both(
        run_both(finding_existing, finding_staged), finding_free
    )
    stage_exists = staged is not None
    staged = staged or {}
    # Whether a disk takes two names for one, only a try can tell.
    if not dry_run and await _check_twins(source, target, request, wanted, existing, staged):
        existing = foldednames.respelled(existing, wanted)
        staged = foldednames.respelled(staged, wanted)

    plan = plan_copy(wanted, existing, staged, modes=source.has_modes and target.has_modes)
    if plan.conflicts:
        raise conflict_error(target, request.existing or b"", plan.conflicts[0])
    return Comparison(wanted, existing, staged, excluded, stage_exists, free, plan)


async def _existing_files(target: FileSystem, request: StageRequest, wanted: Tree) -> Tree:
    if request.files is not None:
        return request.replaced
    if request.existing is None:
        return {}
    return await read_tree(target, request.existing, only=foldednames.directories(wanted))


async def _free_space(target: FileSystem, request: StageRequest) -> int | None:
    if request.existing_directory in request.free_space:
        return request.free_space[request.existing_directory]
    return await target.free_space(request.existing_directory)


async def _staged_files(target: FileSystem, request: StageRequest) -> Tree | None:
    """What an earlier run has left; None if there is no staging directory."""
    if request.has_no_stage or await target.info(request.stage) is None:
        return None
    return await read_tree(target, request.stage)


async def fill_stage(
    source: FileSystem,
    target: FileSystem,
    request: StageRequest,
    progress: CopyProgress,
    carrier: Carrier | None = None,
) -> StageResult:
    """Make the staging directory hold what the target does not have yet. `carrier` may replace SFTP.

    Whatever can be checked beforehand is: errors about names, conflicts and free space come before
    the first write.
    """
    comparison = await compare(source, target, request)
    wanted, staged, plan = comparison.wanted, comparison.staged, comparison.plan
    for path in plan.modes:
        info = wanted[path]
        existing = join(request.existing or b"", path)
        await target.set_attributes(existing, info.mode, info.mtime)

    files, size = count_files(wanted)
    is_new_directory = request.info.is_directory and request.existing is None
    if not (comparison.stage_exists or is_new_directory or plan.sends_anything):
        left_out, changed = len(plan.skipped), len(plan.modes)
        return StageResult(files, size, 0, left_out, changed, staged=False)

    to_send = 0
    already_staged = 0
    for path in plan.files:
        to_send += wanted[path].size
        already_staged += _size(staged, path)
    check_free_space(target, request.existing_directory, comparison.free, to_send - already_staged)
    if request.new_directory:
        await _make_directory(target, request.new_directory)
    progress.partial = (target.where, display(request.stage))
    progress.begin(progress.name, to_send)
    sender = _SftpSender(source, target, request, wanted, staged, progress)
    if comparison.stage_exists:
        await sender.remove_leftovers(plan)
    content = None
    attributes: list[Attributes] = []
    send_all = await carrier(comparison) if carrier is not None else None
    if send_all is None:
        sent = await sender.send(plan, stage_exists=comparison.stage_exists)
        content = _staged_content(comparison)
        attributes = sender.directory_attributes(plan)
    else:
        if not comparison.stage_exists:
            await target.mkdir(request.stage)
        await target.prepare_sync(request.stage)
        sent = await send_all()
    return StageResult(
        files,
        size,
        sent,
        len(plan.skipped),
        len(plan.modes),
        content=content,
        resumed=comparison.stage_exists,
        attributes=tuple(attributes),
    )


async def _make_directory(files: FileSystem, path: bytes) -> None:
    try:
        await files.mkdir(path, private=False)
    except ApexError:
        # Another source of the same copy may have made it.
        if await files.info(path) is None:
            raise


def _staged_content(comparison: Comparison) -> Tree:
    """What is in the staging directory after all of the plan was sent."""
    plan = comparison.plan
    present = {*plan.directories, *plan.files, *plan.links, *plan.complete}
    present.difference_update(plan.skipped)
    content = {}
    for path, info in comparison.wanted.items():
        kept_directory = info.is_directory and is_directory(comparison.staged, path)
        if path in present or kept_directory:
            content[path] = info
    return content


async def _wanted_files(source: FileSystem, request: StageRequest) -> tuple[Tree, frozenset[bytes]]:
    """What has to be on the target in the end, and the paths that patterns leave out."""
    if request.files is not None:
        return request.files, frozenset()
    if not request.info.is_directory:
        return {request.name: request.info}, frozenset()
    excluded: set[bytes] = set()

    def is_left_out(path: bytes, info: FileInfo) -> bool:
        if path in request.ignored:
            return True
        if request.excludes.leaves_out(path, is_directory=info.is_directory):
            excluded.add(path)
            return True
        return False

    tree = await read_tree(source, request.source, is_left_out=is_left_out)
    return tree, frozenset(excluded)


def _check_names(
    source: FileSystem, target: FileSystem, request: StageRequest, wanted: Tree
) -> None:
    """Raise RefusedError for a name that the target cannot have."""
    for info in wanted.values():
        if not target.accepts_name(info.name):
            message = (
                f"a file cannot have the name {display(info.name)} on {target.where}: "
                f"rename it on {source.where} first"
            )
            hint = source.shell_hint(f"ls -la {quote(display(parent(request.source)))}")
            raise RefusedError(message, hint=hint, code="name")


async def _check_twins(
    source: FileSystem,
    target: FileSystem,
    request: StageRequest,
    wanted: Tree,
    existing: Tree,
    staged: Tree,
) -> bool:
    """Raise TwinNamesError where two names would become one on the target, and one file would be lost.

    Returns whether the target has names of the source in another Unicode form: those are the same names.
    """
    candidates = foldednames.twins_within(wanted)
    candidates += foldednames.twins_between(wanted, existing)
    for pair in foldednames.twins_between(wanted, staged):
        # What an earlier run has left under a name in another case is removed before anything is sent.
        if pair.differ_in_form_only:
            candidates.append(pair)
    # The disk of the staging directory is that of the target.
    found = await foldednames.taken_for_one(target, request.existing_directory, candidates)
    lost = []
    for pair in found:
        if pair.second in wanted or not pair.differ_in_form_only:
            lost.append(pair)
    if lost:
        origins = {pair.first: _origin(request, pair.first) for pair in lost}
        raise foldednames.refusal(source, target, origins, lost)
    return bool(found)


def _origin(request: StageRequest, path: bytes) -> bytes:
    """The absolute path in the source of a path of its tree."""
    return join(request.source, path) if request.info.is_directory else request.source


def _size(tree: Tree, path: bytes) -> int:
    if path not in tree:
        return 0
    return tree[path].size


def check_free_space(files: FileSystem, directory: bytes, free: int | None, needed: int) -> None:
    """Raise ApexError if `needed` bytes do not fit into the `free` ones of a disk.

    The disks are shared, so a full one is everybody's trouble.
    """
    if free is not None and needed > free:
        message = (
            f"{_binary_size(needed)} are needed at {display(directory)} on {files.where}, "
            f"and {_binary_size(free)} are free"
        )
        raise ApexError(message, hint=files.no_space_hint(directory), code="no_room")


def _binary_size(count: int) -> str:
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.1f} MiB"


def _became_shorter(origin: bytes) -> SourceChangedError:
    return SourceChangedError(f"{display(origin)} became shorter while it was copied")


@dataclass(frozen=True, slots=True)
class _SftpSender:
    """Carries out a CopyPlan through the two file systems."""

    source: FileSystem
    target: FileSystem
    request: StageRequest
    wanted: Tree
    staged: Tree
    progress: CopyProgress

    async def send(self, plan: CopyPlan, *, stage_exists: bool) -> int:
        """Fill the staging directory; the bytes that were sent."""
        directories = [self._staged_path(path) for path in plan.directories]
        if not stage_exists:
            directories.insert(0, self.request.stage)
        if len(directories) > _DIRECTORIES_AHEAD:
            await self.target.mkdir_all(directories)
            directories = []
        # The files are opened without waiting for their directories: the other side works on requests
        # in the order in which they are sent. If a directory cannot be made, its error comes first.
        await run_both(self.target.mkdir_all(directories), self._send_content_of(plan))
        return self.progress.done - self.progress.resumed

    async def _send_content_of(self, plan: CopyPlan) -> None:
        await self.target.prepare_sync(self.request.stage)
        tiny: list[bytes] = []
        small: list[bytes] = []
        large: list[bytes] = []
        for path in plan.files:
            if self.wanted[path].size <= self._tiny and path not in self.staged:
                tiny.append(path)
            elif self.wanted[path].size < _LARGE_FILE:
                small.append(path)
            else:
                large.append(path)
        most_files = min(self.source.most_files, self.target.most_files)
        await for_each(tiny, self._send_tiny_file, at_once=min(_TINY_AT_ONCE, most_files // 2))
        await for_each(small, self._send_file, at_once=_SMALL_AT_ONCE)
        await for_each(large, self._send_file, at_once=_LARGE_AT_ONCE)
        await for_each(plan.links, partial(self._make_link, plan), at_once=_TINY_AT_ONCE)

    def directory_attributes(self, plan: CopyPlan) -> list[Attributes]:
        """The attributes of the new directories, innermost first: one that its owner cannot enter has to be last.

        Whatever is made in a directory changes its time, so they are set at the end.
        """
        attributes = [self._attributes(path, self.wanted[path]) for path in plan.new_directories]
        if self.request.info.is_directory and self.request.existing is None:
            attributes.append(self._attributes(b"", self.request.info))
        return attributes

    async def remove_leftovers(self, plan: CopyPlan) -> None:
        """Remove what an earlier run has left in the staging directory and is not wanted any more."""
        # That run may have given its directories their final modes already.
        await make_writable(self.target, self.request.stage, self.staged, self.staged)
        for path in reversed(plan.leftovers):  # innermost first
            if is_directory(self.staged, path):
                await self.target.rmdir(self._staged_path(path))
            else:
                await self.target.remove(self._staged_path(path))

    def _staged_path(self, path: bytes) -> bytes:
        return join(self.request.stage, path)

    def _attributes(self, path: bytes, info: FileInfo) -> Attributes:
        mode = info.mode if self.target.has_modes else None
        return self._staged_path(path), mode, info.mtime

    async def _make_link(self, plan: CopyPlan, path: bytes) -> None:
        staged_path = self._staged_path(path)
        if path in self.staged:
            await self.target.remove(staged_path)
        try:
            await self.target.symlink(self.wanted[path].link_target, staged_path)
        except LinksNotAllowedError:
            plan.skipped.append(path)

    async def _send_tiny_file(self, path: bytes) -> None:
        """Send a file of which no run has sent anything, in one piece."""
        info = self.wanted[path]
        origin = _origin(self.request, path)
        data = await self.source.read_small(origin, info.size)
        if len(data) != info.size:
            raise _became_shorter(origin)
        mode = info.mode if self.target.has_modes else None
        await self.target.write_small(self._staged_path(path), data, mode, info.mtime)
        self.progress.done += info.size

    async def _send_file(self, path: bytes) -> None:
        """Send one file, or the rest of it if an earlier run sent a part."""
        info = self.wanted[path]
        origin = _origin(self.request, path)
        staged_path = self._staged_path(path)
        earlier = self.staged.get(path)
        if earlier is not None and earlier.kind is not FileKind.FILE:
            await self.target.remove(staged_path)  # never write through a link
            earlier = None
        start = 0
        if earlier is not None:
            start = await self._verified_bytes(origin, staged_path, min(earlier.size, info.size))
        self.progress.done += start
        self.progress.resumed += start
        async with (
            self.source.open(origin) as reader,
            self.target.open(staged_path, write=True) as writer,
        ):
            if earlier is not None:
                await writer.truncate(start)
            await self._send_content(reader, writer, start, info.size, origin)
            mode = info.mode if self.target.has_modes else None
            await writer.set_attributes(mode, info.mtime)

    @property
    def _tiny(self) -> int:
        return min(self._chunk, _TINY_FILE)

    @property
    def _chunk(self) -> int:
        return min(self.source.chunk, self.target.chunk)

    async def _send_content(
        self, reader: OpenFile, writer: OpenFile, start: int, end: int, origin: bytes
    ) -> None:
        """Send the bytes from `start` to `end` in chunks, up to _WINDOW bytes at a time."""
        chunk = self._chunk
        offsets = range(start, end, chunk)
        remaining = iter(offsets)

        async def worker() -> None:
            for offset in remaining:
                size = min(chunk, end - offset)
                data = await reader.read(offset, size)
                if len(data) != size:
                    raise _became_shorter(origin)
                await writer.write(offset, data)
                self.progress.done += size

        await run_together(worker() for _ in range(min(_WINDOW // chunk, len(offsets))))

    async def _verified_bytes(self, origin: bytes, staged_path: bytes, size: int) -> int:
        """How many of the first `size` bytes are the same on both sides, by their hash."""
        # The end of a partial file may have holes, because its chunks are written at the same time.
        whole_chunks = (size - _WINDOW) // self._chunk * self._chunk
        if whole_chunks <= 0:
            return 0
        hashes = await run_together(
            [
                self.source.hash_start(origin, whole_chunks),
                self.target.hash_start(staged_path, whole_chunks),
            ]
        )
        if hashes[0] is not None and hashes[0] == hashes[1]:
            return whole_chunks
        return 0
