"""Where each source goes, by the rules of `cp -r`. Nothing is written here."""

import fnmatch
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from shlex import quote

from apexgpu.errors import ApexError, DroppedError, RefusedError, UsageError
from apexgpu.text import counted
from apexgpu.transfer import copypaths, foldednames
from apexgpu.transfer.concurrency import run_both, run_together
from apexgpu.transfer.fileinfo import STAGE_PREFIX, STAGE_SUFFIX, FileInfo, FileKind, Tree, join
from apexgpu.transfer.filesystem import FileMissingError, FileSystem, display
from apexgpu.transfer.staging import StageRequest

_FEW = 4  # sources: for more, it takes longer to ask in advance than later


def _stage_path(directory: bytes, key: str) -> bytes:
    return join(directory, STAGE_PREFIX + key.encode() + STAGE_SUFFIX)


@dataclass(frozen=True, slots=True)
class CopyJob:
    """One source and where it goes, or several files of one directory that go into another one.

    `existing` is what is at `final` now (links followed), None if nothing is. `key` is a hash of
    source and target: the same copy finds its staging directory again, and no other copy does.
    `new_directory` is a directory that has to be made first, empty if none. `files` are the files
    of the directory `source` that are copied into `final`, by name; None for a source of its own.
    `replaced` are those files of that name that `final` has. `has_no_stage`: it is known that no
    earlier run has left anything. `free_space` are the bytes on the disks of some directories.
    """

    source: bytes
    info: FileInfo
    final: bytes
    existing: FileInfo | None
    key: str
    new_directory: bytes = b""
    files: Tree | None = None
    replaced: Tree = field(default_factory=dict)
    has_no_stage: bool = False
    free_space: Mapping[bytes, int | None] = field(default_factory=dict)

    @property
    def merges(self) -> bool:
        """Whether files are merged into a directory that exists, or will when they are sent."""
        if self.files is not None:
            return True
        return self.info.is_directory and self.existing is not None

    @property
    def stage(self) -> bytes:
        """The staging directory.

        It is beside the target (or in it), so that the renames stay on one file system.
        """
        directory = copypaths.parent(self.final)
        if self.merges:
            directory = self.final
        return _stage_path(directory, self.key)

    @property
    def single_file(self) -> bytes:
        """The name of the file in the staging directory, empty for a directory or several files."""
        if self.info.is_directory:
            return b""
        return copypaths.base_name(self.source)

    @property
    def targets(self) -> list[bytes]:
        """The paths of the copies."""
        if self.files is None:
            return [self.final]
        return [join(self.final, name) for name in self.files]

    @property
    def label(self) -> str:
        """What is copied, for people."""
        if self.files is None:
            return display(copypaths.base_name(self.source))
        return counted(len(self.files), "file")

    @property
    def stage_request(self) -> StageRequest:
        """What has to be put into the staging directory."""
        return StageRequest(
            self.source,
            self.info,
            self.stage,
            name=self.single_file,
            existing=self.final if self.merges else None,
            new_directory=self.new_directory,
            files=self.files,
            replaced=self.replaced,
            has_no_stage=self.has_no_stage,
            free_space=self.free_space,
        )


@dataclass(frozen=True, slots=True)
class _Origin:
    """A source: the path as it was given, what is there, and the path with all links resolved."""

    path: bytes
    info: FileInfo
    real: bytes


class _Lookups:
    """What is at some paths of one side, all asked at the same time. An error counts when the path is needed."""

    def __init__(self) -> None:
        self._found: dict[tuple[bytes, bool], FileInfo | ApexError | None] = {}
        self.free_space: dict[bytes, int | None] = {}

    async def ask(
        self,
        files: FileSystem,
        paths: Iterable[bytes],
        *,
        stages: Iterable[bytes],
        disks: Iterable[bytes],
    ) -> None:
        """Look at `paths`, with links followed and without, at `stages`, and at the room on the disks of `disks`."""

        async def ask(path: bytes, follow: bool) -> None:
            try:
                self._found[path, follow] = await files.info(path, follow=follow)
            except ApexError as error:
                if isinstance(error, DroppedError):
                    raise
                self._found[path, follow] = error

        async def ask_for_room(path: bytes) -> None:
            try:
                self.free_space[path] = await files.free_space(path)
            except ApexError as error:
                # Nothing is there. What is needed and missing is asked again.
                if isinstance(error, DroppedError):
                    raise

        questions = [ask_for_room(path) for path in disks]
        for path in dict.fromkeys(paths):
            questions += [ask(path, True), ask(path, False)]
        questions += [ask(path, False) for path in dict.fromkeys(stages)]
        await run_together(questions)

    def is_missing(self, path: bytes) -> bool:
        """Whether it is known that nothing is at a path."""
        return (path, False) in self._found and self._found[path, False] is None

    def info(self, path: bytes, *, follow: bool = True) -> FileInfo | None:
        """What was found at a path. Raises the error that came instead."""
        found = self._found[path, follow]
        if isinstance(found, ApexError):
            raise found
        return found

    def is_directory(self, path: bytes) -> bool:
        """Whether there is a directory."""
        info = self.info(path)
        return info is not None and info.is_directory

    def is_link(self, path: bytes) -> bool:
        """Whether there is a link, to whatever."""
        info = self.info(path, follow=False)
        return info is not None and info.kind is FileKind.LINK


async def find_jobs(
    source: FileSystem, target: FileSystem, origins: Sequence[bytes], goal: bytes
) -> list[CopyJob]:
    """The jobs that copy the `origins` to `goal`.

    Raises RefusedError if one is missing or cannot go there, and UsageError if two would get the
    same name.
    """
    known = _Lookups()
    paths = [copypaths.without_slash(goal), copypaths.parent(goal)]
    paths += [join(goal, copypaths.base_name(origin)) for origin in origins]
    found = await run_together(_find_origin(source, origin) for origin in origins)
    stages = []
    if len(found) <= _FEW:
        # Wherever the copy will be found to go, it is known then whether an earlier run has left something.
        for origin in found:
            for final in (paths[0], join(goal, copypaths.base_name(origin.path))):
                key = _key(source.where, origin.real, target.where, final)
                stages += [_stage_path(copypaths.parent(final), key), _stage_path(final, key)]
    await known.ask(target, paths, stages=stages, disks=paths[:2])

    several = len(found) > 1
    jobs = []
    for origin in found:
        job = _find_job(source, target, origin, goal, known, several=several)
        is_file = job.existing is not None and job.existing.kind is FileKind.FILE
        if is_file and known.is_link(job.final):
            # A link to a file stays; its file is replaced.
            final = await target.real_path(job.final)
            job = replace(job, final=final)
        key = _key(source.where, job.source, target.where, job.final)
        job = replace(job, key=key, free_space=known.free_space)
        jobs.append(replace(job, has_no_stage=known.is_missing(job.stage)))
    _check_different_names(jobs)
    await _check_spellings(source, target, jobs)
    return _grouped(jobs, known, source.where, target.where)


async def _find_origin(source: FileSystem, origin: bytes) -> _Origin:
    path = copypaths.without_slash(origin)
    info, real = await run_both(source.info(path, follow=True), _real_path(source, origin))
    if info is None or info.kind is FileKind.SPECIAL:
        raise await _not_copyable(source, origin, info)
    if origin.endswith(b"/") and not info.is_directory:
        message = f"{display(origin)} on {source.where} is not a directory"
        raise RefusedError(message, hint="apexgpu cp --help", code="no_source")
    return _Origin(origin, info, real or path)


async def _real_path(files: FileSystem, path: bytes) -> bytes | None:
    """The path with all links resolved; None if nothing is there."""
    try:
        return await files.real_path(path)
    except RefusedError:
        return None


def _key(*ends: str | bytes) -> str:
    """The same copy gets the same key in a later run, which then continues this one."""
    parts = [end.encode() if isinstance(end, str) else end for end in ends]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:10]


def _check_different_names(jobs: Sequence[CopyJob]) -> None:
    """Raise UsageError if two jobs have the same target and cannot be merged."""
    by_final: dict[bytes, list[CopyJob]] = {}
    for job in jobs:
        by_final.setdefault(job.final, []).append(job)
    for final, same in by_final.items():
        if len(same) > 1 and not all(_brings_contents(job) for job in same):
            message = (
                f"two of the sources would both become {display(final)}: "
                "copy them one by one, to different names"
            )
            raise UsageError(message, hint="apexgpu cp --help")


async def _check_spellings(source: FileSystem, target: FileSystem, jobs: Sequence[CopyJob]) -> None:
    """Raise TwinNamesError if the target's disk takes the name of a copy and another name for one."""
    twins = []
    for pair in foldednames.twins_within(job.final for job in jobs):
        directory = copypaths.parent(pair.first)
        for job in jobs:
            if job.new_directory == directory:
                directory = copypaths.parent(directory)
                break
        twins += await foldednames.taken_for_one(target, directory, [pair])
    for job in jobs:
        if job.existing is not None:
            pair = foldednames.Twins(job.final, await target.spelling(job.final))
            if not pair.differ_in_form_only:
                twins.append(pair)
    if twins:
        origins = {job.final: job.source for job in jobs}
        raise foldednames.refusal(source, target, origins, twins)


def _brings_contents(job: CopyJob) -> bool:
    """Whether the content of a directory goes into another one: several of those can be merged."""
    return job.info.is_directory and copypaths.base_name(job.source) != copypaths.base_name(
        job.final
    )


def _grouped(
    jobs: Sequence[CopyJob], known: _Lookups, source_name: str, target_name: str
) -> list[CopyJob]:
    """The jobs, in which files that go from one directory into another under their names are one job."""
    groups: dict[tuple[bytes, bytes], list[CopyJob]] = {}
    others = []
    for job in jobs:
        keeps_name = copypaths.base_name(job.source) == copypaths.base_name(job.final)
        if job.info.kind is FileKind.FILE and keeps_name:
            ends = (copypaths.parent(job.source), copypaths.parent(job.final))
            groups.setdefault(ends, []).append(job)
        else:
            others.append(job)
    result = []
    for (directory, final), group in groups.items():
        if len(group) == 1:
            others += group
            continue
        names = {copypaths.base_name(job.source): job for job in group}
        files = {name: job.info for name, job in names.items()}
        replaced = {name: job.existing for name, job in names.items() if job.existing is not None}
        key = _key(source_name, directory, target_name, final, *sorted(files))
        virtual = FileInfo(copypaths.base_name(final), FileKind.DIRECTORY)
        new_directory = group[0].new_directory
        result.append(CopyJob(directory, virtual, final, None, key, new_directory, files, replaced))
    return result + others


def _find_job(
    source: FileSystem,
    target: FileSystem,
    origin: _Origin,
    goal: bytes,
    known: _Lookups,
    *,
    several: bool,
) -> CopyJob:
    """Where `origin` goes when it is copied to `goal`, alone or as one of `several`. Its key is not set."""
    final, new_directory = _final_path(target, origin, goal, known, several=several)
    # In a directory that does not exist yet, nothing exists.
    existing = None if new_directory else known.info(final)
    if existing is None:
        _require_valid_name(target, copypaths.base_name(final))
    elif existing.kind is not origin.info.kind:
        raise _in_the_way(target, final, existing, origin.info)
    return CopyJob(origin.real, origin.info, final, existing, "", new_directory)


def _require_valid_name(target: FileSystem, name: bytes) -> None:
    if not target.accepts_name(name):
        message = (
            f"a file cannot have the name {display(name)} on {target.where}: give the copy another"
        )
        raise RefusedError(message, hint="apexgpu cp --help", code="name")


def _final_path(
    target: FileSystem, origin: _Origin, goal: bytes, known: _Lookups, *, several: bool
) -> tuple[bytes, bytes]:
    """The path of the copy, and the directory that has to be made for it (empty if none)."""
    path = copypaths.without_slash(goal)
    is_named_directory = goal.endswith(b"/")
    existing = known.info(path)
    if existing is not None and existing.is_directory:
        if copypaths.means_contents(origin.path):
            return path, b""
        return join(goal, copypaths.base_name(origin.path)), b""
    if existing is not None and (several or is_named_directory):
        message = f"{display(goal)} on {target.where} is not a directory"
        raise RefusedError(message, hint="apexgpu cp --help", code="no_directory")
    if existing is not None:
        return path, b""
    if several and not is_named_directory:
        message = f"there is no directory {display(path)} on {target.where}: write a slash at its end to make it"
        raise RefusedError(message, hint="apexgpu cp --help", code="no_directory")
    directory = copypaths.parent(path)
    if not known.is_directory(directory):
        message = f"there is no directory {display(directory)} on {target.where}"
        hint = target.shell_hint(f"mkdir -p {quote(display(directory))}")
        raise RefusedError(message, hint=hint, code="no_directory")
    if not is_named_directory or copypaths.means_contents(origin.path):
        return path, b""
    # As if the directory had been made before, so that the same copy does the same again.
    return join(path, copypaths.base_name(origin.path)), path


def _in_the_way(
    target: FileSystem, final: bytes, existing: FileInfo, info: FileInfo
) -> RefusedError:
    kinds = {FileKind.DIRECTORY: "a directory", FileKind.FILE: "a file"}
    existing_kind = kinds.get(existing.kind, "not a file that can be replaced")
    message = (
        f"{display(final)} on {target.where} is {existing_kind}, "
        f"and what is copied is {kinds[info.kind]}"
    )
    hint = target.shell_hint(f"ls -ld {quote(display(final))}")
    return RefusedError(message, hint=hint, code="in_the_way")


async def _not_copyable(files: FileSystem, path: bytes, info: FileInfo | None) -> RefusedError:
    """The error for a source that is missing, or neither a file nor a directory."""
    name = f"{display(path)} on {files.where}"
    if info is not None:
        return RefusedError(f"{name} is neither a file nor a directory", code="no_source")
    link = await files.info(path)
    message = f"{name} does not exist"
    if link is not None:
        message = f"{name} is a broken link (to {display(link.link_target)})"
    hint = files.shell_hint(f"ls -a {quote(display(copypaths.parent(path)))}")
    return RefusedError(message, hint=hint, code="no_source")


async def expand_wildcards(files: FileSystem, pattern: bytes) -> list[bytes]:
    """The paths that match an absolute pattern, in order.

    As in a shell, `*` leaves out names that begin with a dot.
    """
    paths = [b"/"]
    is_listed = False
    for part in pattern.strip(b"/").split(b"/"):
        is_listed = copypaths.has_wildcard(part)
        if is_listed:
            paths = await _matches(files, paths, part)
        else:
            paths = [join(path, part) for path in paths]
    if is_listed:
        return paths
    # The last name was put behind those that match: it need not be there.
    infos = await run_together(files.info(path) for path in paths)
    return [path for path, info in zip(paths, infos, strict=True) if info is not None]


async def _matches(files: FileSystem, directories: Sequence[bytes], pattern: bytes) -> list[bytes]:
    """The paths in `directories` whose name matches a pattern."""
    listings = await run_together(_sorted_names(files, path) for path in directories)
    matches = []
    for directory, names in zip(directories, listings, strict=True):
        for name in names:
            hidden = name.startswith(b".") and not pattern.startswith(b".")
            if fnmatch.fnmatchcase(name, pattern) and not hidden:
                matches.append(join(directory, name))
    return matches


async def _sorted_names(files: FileSystem, path: bytes) -> list[bytes]:
    """The names in a directory; none if it is not a directory."""
    try:
        listing = await files.list_directory(path)
    except FileMissingError:
        return []
    except DroppedError:
        raise
    except ApexError:
        info = await files.info(path, follow=True)
        if info is not None and info.is_directory:
            raise
        return []
    return sorted(info.name for info in listing)
