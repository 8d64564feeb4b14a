"""A copy between this laptop and a container: into a staging directory, then into place by renames.

A file gets its final name only when it is complete and on the disk.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from apexgpu.errors import RefusedError, UsageError
from apexgpu.files import locked
from apexgpu.platforms.system import current
from apexgpu.transfer import copypaths, rsync
from apexgpu.transfer.concurrency import run_both
from apexgpu.transfer.copyconnection import CopyConnection
from apexgpu.transfer.copytargets import CopyJob, expand_wildcards, find_jobs
from apexgpu.transfer.excludes import Excludes
from apexgpu.transfer.fileinfo import TRUSTED_MODE, FileKind, count_files, join
from apexgpu.transfer.filesystem import FileSystem, NoSpaceError, display
from apexgpu.transfer.localfiles import LocalFiles
from apexgpu.transfer.progress import CopyProgress
from apexgpu.transfer.remotefiles import RemoteFiles
from apexgpu.transfer.renames import move_into_place, remove_stage
from apexgpu.transfer.staging import (
    Comparison,
    SendAll,
    StageRequest,
    StageResult,
    compare,
    fill_stage,
)

_WORTH_COMPARING = 1 << 20  # bytes of a file: below, it is faster to send all of them


class Method(StrEnum):
    """What carries the files."""

    RSYNC = "rsync"
    SFTP = "sftp"


@dataclass(frozen=True, slots=True)
class CopySummary:
    """What a copy did.

    `files` and `size` (bytes) are those of the sources, `sent` the bytes that had to be sent,
    `changed` the names that changed, `left_out` the special files that were skipped; `targets` are
    the paths of the copies.
    """

    method: Method
    files: int
    size: int
    sent: int
    changed: int
    left_out: int
    seconds: float
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlannedCopy:
    """Something that a copy would send: where to, how many bytes, and whether it replaces a file there."""

    target: str
    kind: FileKind
    size: int
    replaces: bool

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory that the target does not have."""
        return self.kind is FileKind.DIRECTORY


@dataclass
class Copier:
    """One run of `cp`.

    `connect` opens the connection; `connected` is called when it is open. `method` None means the one
    that takes less time. Locks are kept in `state_dir`. `ignored` are paths in
    the sources, which are directories, that are left out with all that is below them; `excludes`
    are patterns of more. `is_connected` tells afterwards whether the connection was ever open.
    """

    route: copypaths.CopyRoute
    connect: Callable[[], AbstractAsyncContextManager[CopyConnection]]
    state_dir: Path
    method: Method | None = None
    progress: CopyProgress = field(default_factory=CopyProgress)
    connected: Callable[[], object] = lambda: None
    ignored: frozenset[bytes] = frozenset()
    excludes: Excludes = field(default_factory=Excludes)
    is_connected: bool = False

    async def run(self) -> CopySummary:
        """Copy.

        After an error, what was sent stays in the staging directory, and the next run continues
        there.
        """
        began = time.monotonic()
        async with self.connect() as connection:
            self._report_connected()
            choice = MethodChoice(self.method, connection)
            (source, target, jobs), _ = await run_both(self._prepare(connection), choice.check())
            results = [await self._copy(job, source, target, choice) for job in jobs]
        return CopySummary(
            method=choice.used,
            files=sum(result.files for result in results),
            size=sum(result.size for result in results),
            sent=sum(result.sent for result in results),
            changed=sum(result.changed for result in results),
            left_out=sum(result.left_out for result in results),
            seconds=time.monotonic() - began,
            targets=_displayed_targets(jobs),
        )

    async def plan(self) -> tuple[list[PlannedCopy], CopySummary]:
        """What `run` would send, and its summary as far as that can be told. Nothing is written."""
        began = time.monotonic()
        planned: list[PlannedCopy] = []
        files, size, left_out = 0, 0, 0
        async with self.connect() as connection:
            self._report_connected()
            choice = MethodChoice(self.method, connection)
            (source, target, jobs), _ = await run_both(self._prepare(connection), choice.check())
            for job in jobs:
                if _is_up_to_date(job):
                    files += 1
                    size += job.info.size
                    continue
                comparison = await compare(source, target, self._stage_request(job), dry_run=True)
                await choice.method_for(job, comparison)
                planned += _planned_copies(job, comparison)
                job_files, job_size = count_files(comparison.wanted)
                files += job_files
                size += job_size
                left_out += len(comparison.plan.skipped)
        summary = CopySummary(
            method=choice.used,
            files=files,
            size=size,
            sent=sum(copy.size for copy in planned),
            changed=len(planned),
            left_out=left_out,
            seconds=time.monotonic() - began,
            targets=_displayed_targets(jobs),
        )
        return planned, summary

    async def _prepare(
        self, connection: CopyConnection
    ) -> tuple[FileSystem, FileSystem, list[CopyJob]]:
        """The two sides, source first, and what goes where."""
        local = LocalFiles()
        mode_mask = 0o7777 if self.route.upload else TRUSTED_MODE
        home = connection.client.home
        remote = RemoteFiles(connection, home, mode_mask=mode_mask)
        source: FileSystem = local if self.route.upload else remote
        target: FileSystem = remote if self.route.upload else local
        origins = self._kept(await self._find_origins(source, home))
        goal = copypaths.without_dots(self._target_path(home))
        return source, target, await find_jobs(source, target, origins, goal)

    def _kept(self, origins: list[bytes]) -> list[bytes]:
        """The origins whose own names no pattern leaves out."""
        kept = []
        for origin in origins:
            name = copypaths.base_name(origin)
            is_directory = origin.endswith(b"/")
            if not self.excludes.leaves_out(name, is_directory=is_directory):
                kept.append(origin)
        if not kept:
            message = "--exclude leaves out everything that would be copied"
            raise UsageError(message, hint="apexgpu cp --help")
        return kept

    def _stage_request(self, job: CopyJob) -> StageRequest:
        return replace(job.stage_request, ignored=self.ignored, excludes=self.excludes)

    def _report_connected(self) -> None:
        self.is_connected = True
        self.connected()

    async def _find_origins(self, source: FileSystem, home: bytes) -> list[bytes]:
        """The absolute paths of what is copied, with the wildcards of a remote path expanded."""
        origins = []
        for word in self.route.sources:
            if self.route.upload:
                origins.append(_local_path(word))
            else:
                origins += await self._find_remote_origins(source, home, word)
        return origins

    async def _find_remote_origins(self, source: FileSystem, home: bytes, word: str) -> list[bytes]:
        path = _remote_path(word, home)
        if path == home:
            return [join(path, b".")]  # the content of the home, not a directory of its name
        # A file whose name contains a wildcard is copied as it is.
        if not copypaths.has_wildcard(path) or await source.info(path) is not None:
            return [path]
        matches = await expand_wildcards(source, path)
        if not matches:
            message = f"nothing matches {display(path)} on {source.where}"
            raise RefusedError(message, hint=source.shell_hint("ls"), code="no_source")
        return matches

    def _target_path(self, home: bytes) -> bytes:
        if self.route.upload:
            return _remote_path(self.route.target, home)
        return _local_path(self.route.target)

    async def _copy(
        self,
        job: CopyJob,
        source: FileSystem,
        target: FileSystem,
        choice: "MethodChoice",
    ) -> StageResult:
        """Copy one source; what is the same already is not sent."""
        if _is_up_to_date(job):
            return await _update_mode(job, source, target)
        self.progress.begin(job.label, None)
        lock = self.state_dir / "locks" / f"cp-{job.key}.lock"
        with locked(lock, what=f"the copy to {display(job.final)}", timeout=2):
            try:
                carry = partial(self._carrier, job, target, choice)
                request = self._stage_request(job)
                result = await fill_stage(source, target, request, self.progress, carry)
                if not result.staged:
                    return result
                changed = await move_into_place(
                    target,
                    job.stage,
                    job.final,
                    file=job.single_file,
                    merge=job.merges,
                    content=result.content,
                    resumed=result.resumed,
                    attributes=result.attributes,
                )
            except NoSpaceError:
                # Others write to the same disk: give the space back.
                await remove_stage(target, job.stage)
                self.progress.partial = None
                raise
        self.progress.partial = None
        return replace(result, changed=result.changed + changed)

    async def _carrier(
        self, job: CopyJob, target: FileSystem, choice: "MethodChoice", comparison: Comparison
    ) -> SendAll | None:
        """What fills the staging directory of `job`: rsync, or None for SFTP."""
        if await choice.method_for(job, comparison) is Method.SFTP:
            return None
        return partial(self._send_by_rsync, job, target, choice.connection, comparison)

    async def _send_by_rsync(
        self, job: CopyJob, target: FileSystem, connection: CopyConnection, comparison: Comparison
    ) -> int:
        """Fill the staging directory of `job`; the bytes that were sent."""
        plan = comparison.plan
        names = [*plan.directories, *plan.new_directories, *plan.files, *plan.links]
        if job.info.is_directory:
            origin = job.source
            compare_with_target = job.merges
            if not job.merges:
                names.append(b".")  # the directory itself, for its mode and time
        else:
            origin = copypaths.parent(job.source)
            # rsync looks for the old version under the name of the source.
            same_name = copypaths.base_name(job.source) == copypaths.base_name(job.final)
            compare_with_target = job.existing is not None and same_name
        if self.route.upload:
            local_directory, remote_directory = origin, job.stage
        else:
            local_directory, remote_directory = job.stage, origin
        rsync_job = rsync.RsyncJob(
            self.route.upload,
            local_directory,
            remote_directory,
            tuple(dict.fromkeys(names)),
            compare_with_target,
        )
        return await rsync.run(rsync_job, connection, target, self.progress)


class MethodChoice:
    """Which of the two methods carries each source. `used` is the one that a summary names.

    `wanted` is what the user asked for, None if nothing.
    """

    def __init__(self, wanted: Method | None, connection: CopyConnection) -> None:
        self.connection = connection
        self.used = wanted or Method.SFTP
        self._wanted = wanted
        self._has_rsync: bool | None = None

    async def check(self) -> None:
        """Raise MissingProgramError or RefusedError if the user insists on rsync and a side has none."""
        if self._wanted is not Method.RSYNC:
            return
        if not await rsync.is_installed_locally():
            raise rsync.not_installed(current())
        if not await rsync.is_installed_remotely(self.connection):
            host = self.connection.host
            message = f"there is no rsync 3.1 or newer in the container on {host}"
            hint = f"apexgpu ssh {host} -- sudo apt install -y rsync"
            raise RefusedError(message, hint=hint, code="no_rsync")

    async def method_for(self, job: CopyJob, comparison: Comparison) -> Method:
        """The method that sends what has to be sent of `job`."""
        if self._wanted is not None:
            return self._wanted
        if not _has_large_old_version(job, comparison):
            return Method.SFTP
        if self._has_rsync is None:
            # Where there is none here, the other side is not asked.
            is_here = await rsync.is_installed_locally()
            self._has_rsync = is_here and await rsync.is_installed_remotely(self.connection)
        if not self._has_rsync:
            return Method.SFTP
        self.used = Method.RSYNC
        return Method.RSYNC


def _has_large_old_version(job: CopyJob, comparison: Comparison) -> bool:
    """Whether the target has an older version of a large file, of which rsync sends the differences only.

    In all other cases, rsync sends as much as SFTP and needs more round trips.
    """
    for path in comparison.plan.files:
        old = comparison.existing.get(path)
        if not job.info.is_directory:
            old = job.existing
        if old is None or old.kind is not FileKind.FILE:
            continue
        if min(old.size, comparison.wanted[path].size) >= _WORTH_COMPARING:
            return True
    return False


def _is_up_to_date(job: CopyJob) -> bool:
    """Whether a single file is there already."""
    return job.info.kind is FileKind.FILE and job.info.same_content(job.existing)


def _displayed_targets(jobs: Sequence[CopyJob]) -> tuple[str, ...]:
    return tuple(display(target) for job in jobs for target in job.targets)


def _planned_copies(job: CopyJob, comparison: Comparison) -> list[PlannedCopy]:
    """What would be sent for one job, in the order of the source."""
    plan = comparison.plan
    sent = {*plan.files, *plan.links, *plan.new_directories, *plan.complete}
    copies = []
    for path, info in comparison.wanted.items():
        if path not in sent:
            continue
        target = job.final
        replaces = job.existing is not None
        if job.info.is_directory:
            target = join(job.final, path)
            replaces = path in comparison.existing
        size = info.size if info.kind is FileKind.FILE else 0
        copies.append(PlannedCopy(display(target), info.kind, size, replaces))
    return copies


async def _update_mode(job: CopyJob, source: FileSystem, target: FileSystem) -> StageResult:
    """Give a file whose content is right the source's mode."""
    assert job.existing is not None  # noqa: S101 - its content is the same
    info = job.info
    changed = 0
    if source.has_modes and target.has_modes and job.existing.mode != info.mode:
        await target.set_attributes(job.final, info.mode, info.mtime)
        changed = 1
    return StageResult(files=1, size=info.size, sent=0, left_out=0, changed=changed, staged=False)


def _local_path(word: str) -> bytes:
    """The absolute path of a word of the command line, with `/` between its parts."""
    return copypaths.local_path(
        word,
        home=os.path.expanduser("~"),  # noqa: PTH111 - unlike pathlib, it never fails
        directory_on_drive=lambda drive: os.path.abspath(drive or "."),  # noqa: PTH100 - of a drive
        platform=current(),
    )


def _remote_path(word: str, home: bytes) -> bytes:
    """The absolute path in the container that a word of the command line means."""
    path = copypaths.remote_path(word)
    if path.startswith(b"/"):
        return path
    return join(home, path)
