"""Where each source goes, by the rules of `cp -r`. Nothing is written here."""

import fnmatch
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

from apexgpu.errors import RefusedError, UsageError
from apexgpu.transfer import copypaths, foldednames
from apexgpu.transfer.fileinfo import STAGE_PREFIX, STAGE_SUFFIX, FileInfo, FileKind, join
from apexgpu.transfer.filesystem import FileSystem, display
from apexgpu.transfer.staging import StageRequest


@dataclass(frozen=True, slots=True)
class CopyJob:
    """One source and where it goes.

    `existing` is what is at `final` now (links followed), None if nothing is. `key` is a hash of
    source and target: the same copy finds its staging directory again, and no other copy does.
    """

    source: bytes
    info: FileInfo
    final: bytes
    existing: FileInfo | None
    key: str

    @property
    def merges(self) -> bool:
        """Whether a directory is merged into one that exists."""
        return self.info.is_directory and self.existing is not None

    @property
    def stage(self) -> bytes:
        """The staging directory.

        It is beside the target (or in it), so that the renames stay on one file system.
        """
        directory = copypaths.parent(self.final)
        if self.merges:
            directory = self.final
        name = STAGE_PREFIX + self.key.encode() + STAGE_SUFFIX
        return join(directory, name)

    @property
    def single_file(self) -> bytes:
        """The name of the file in the staging directory, empty for a directory."""
        if self.info.is_directory:
            return b""
        return copypaths.base_name(self.source)

    @property
    def stage_request(self) -> StageRequest:
        """What has to be put into the staging directory."""
        existing = self.final if self.merges else None
        return StageRequest(self.source, self.info, self.stage, self.single_file, existing)


async def find_jobs(
    source: FileSystem, target: FileSystem, origins: Sequence[bytes], goal: bytes
) -> list[CopyJob]:
    """A job for each of the `origins`, all of which are copied to `goal`.

    Raises RefusedError if one is missing or cannot go there, and UsageError if two would get the
    same name.
    """
    several = len(origins) > 1
    jobs = [await find_job(source, target, origin, goal, several=several) for origin in origins]
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
    await _check_spellings(source, target, jobs)
    return jobs


async def _check_spellings(source: FileSystem, target: FileSystem, jobs: Sequence[CopyJob]) -> None:
    """Raise TwinNamesError if the target's disk takes the name of a copy and another name for one."""
    twins = []
    for pair in foldednames.twins_within(job.final for job in jobs):
        twins += await foldednames.taken_for_one(target, copypaths.parent(pair.first), [pair])
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


async def find_job(
    source: FileSystem, target: FileSystem, origin: bytes, goal: bytes, *, several: bool
) -> CopyJob:
    """Where `origin` goes when it is copied to `goal`, alone or as one of `several`."""
    info = await source.info(copypaths.without_slash(origin), follow=True)
    if info is None or info.kind is FileKind.SPECIAL:
        raise await _not_copyable(source, origin, info)
    if origin.endswith(b"/") and not info.is_directory:
        message = f"{display(origin)} on {source.where} is not a directory"
        raise RefusedError(message, code="no_source")
    real_source = await source.real_path(origin)

    final, existing = await _final_path(target, origin, info, goal, several=several)
    if existing is None:
        _require_valid_name(target, copypaths.base_name(final))
    elif existing.kind is not info.kind:
        raise _in_the_way(target, final, existing, info)
    elif existing.kind is FileKind.FILE:
        final = await target.real_path(final)  # a link to a file stays; its file is replaced

    # The same copy gets the same key in a later run, which then continues this one.
    ends = [source.where.encode(), real_source, target.where.encode(), final]
    key = hashlib.sha256(b"\0".join(ends)).hexdigest()[:10]
    return CopyJob(real_source, info, final, existing, key)


def _require_valid_name(target: FileSystem, name: bytes) -> None:
    if not target.accepts_name(name):
        message = (
            f"a file cannot have the name {display(name)} on {target.where}: give the copy another"
        )
        raise RefusedError(message, hint="apexgpu cp HOST:PATH NEW-NAME", code="name")


async def _final_path(
    target: FileSystem, origin: bytes, info: FileInfo, goal: bytes, *, several: bool
) -> tuple[bytes, FileInfo | None]:
    """The path of the copy, and what is there now."""
    path = copypaths.without_slash(goal)
    existing = await target.info(path, follow=True)
    if existing is not None and existing.is_directory:
        if copypaths.means_contents(origin):
            return path, existing
        path = join(goal, copypaths.base_name(origin))
        return path, await target.info(path, follow=True)
    if several or (existing is not None and goal.endswith(b"/")):
        message = f"{display(goal)} on {target.where} is not a directory"
        raise RefusedError(message, code="no_directory")
    if existing is None:
        await _require_parent(target, goal, info)
    return path, existing


async def _require_parent(target: FileSystem, goal: bytes, info: FileInfo) -> None:
    """Raise RefusedError if the directory of a new name does not exist."""
    directory = copypaths.parent(goal)
    if goal.endswith(b"/") and not info.is_directory:
        directory = copypaths.without_slash(goal)
    if not await _is_directory(target, directory):
        message = f"there is no directory {display(directory)} on {target.where}"
        hint = target.shell_hint(f"mkdir -p {quote(display(directory))}")
        raise RefusedError(message, hint=hint, code="no_directory")


async def _is_directory(files: FileSystem, path: bytes) -> bool:
    info = await files.info(path, follow=True)
    return info is not None and info.is_directory


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
    for part in pattern.strip(b"/").split(b"/"):
        if not copypaths.has_wildcard(part):
            paths = [join(path, part) for path in paths]
            continue
        matches = []
        for path in paths:
            for name in await _sorted_names(files, path):
                hidden = name.startswith(b".") and not part.startswith(b".")
                if fnmatch.fnmatchcase(name, part) and not hidden:
                    matches.append(join(path, name))
        paths = matches
    return [path for path in paths if await files.info(path) is not None]


async def _sorted_names(files: FileSystem, path: bytes) -> list[bytes]:
    """The names in a directory; none if it is not a directory."""
    if not await _is_directory(files, path):
        return []
    return sorted(info.name for info in await files.list_directory(path))
