"""A copy between this laptop and a container: what goes where, made ready in a stage, then put in place by renames.

Nothing ever has its final name before it is whole and on the disk. A stage is a directory beside (or in) the place
where its content will go, so that the renames stay on one file system; its name is made of source and target, so that
the same copy finds it again and no other one does.
"""

import fnmatch
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from apexgpu.errors import ApexError, RefusedError, UsageError
from apexgpu.files import locked
from apexgpu.transfer import copypaths, rsync
from apexgpu.transfer.fileinfo import STAGE_PREFIX, STAGE_SUFFIX, Entry, join
from apexgpu.transfer.remoteside import Remote
from apexgpu.transfer.renames import clear, put
from apexgpu.transfer.sftpcopy import Filled, Load, Watch, fill
from apexgpu.transfer.sides import NO_SPACE, Local, Side, shown
from apexgpu.transfer.sshpipe import Connection

Method = Literal["rsync", "sftp"]


@dataclass(frozen=True, slots=True)
class Job:
    """One source and where it goes. `there` is what lies at `final` (links followed), None when nothing does."""

    source: bytes
    entry: Entry
    final: bytes
    there: Entry | None
    key: str

    @property
    def merges(self) -> bool:
        """Whether a directory goes into one that is there."""
        return self.entry.kind == "directory" and self.there is not None

    @property
    def stage(self) -> bytes:
        """The directory in which it is made ready."""
        base = self.final if self.merges else copypaths.parent(self.final)
        return join(base, STAGE_PREFIX + self.key.encode() + STAGE_SUFFIX)

    @property
    def load(self) -> Load:
        """What fills the stage."""
        name = copypaths.name(self.source) if self.entry.kind == "file" else b""
        return Load(self.source, self.entry, self.stage, name, self.final if self.merges else None)


@dataclass(frozen=True, slots=True)
class Copied:
    """What came of it: files and bytes of the sources, bytes sent, names changed, special files left out, seconds."""

    method: Method
    files: int
    size: int
    sent: int
    changed: int
    left_out: int
    seconds: float
    targets: tuple[str, ...]


@dataclass
class Copier:
    """One run of `cp`: the words, the way there, and where its locks lie."""

    route: copypaths.Route
    connect: Callable[[], AbstractAsyncContextManager[Connection]]
    state_dir: Path
    method: Method | None = None
    watch: Watch = field(default_factory=Watch)
    connected: Callable[[], object] = lambda: None

    async def run(self) -> Copied:
        """Copy. Errors name what stands in the way; what came until then is found again by the next run."""
        began = time.monotonic()
        async with self.connect() as connection:
            self.connected()
            remote = Remote(connection, await connection.client.real(b"."))
            ends: tuple[Side, Side] = (Local(), remote) if self.route.upload else (remote, Local())
            jobs = await self._jobs(remote, *ends)
            method = await self._choose(connection)
            done = [await self._copy(job, ends, connection, method) for job in jobs]
        return Copied(
            method,
            sum(one.files for one in done),
            sum(one.size for one in done),
            sum(one.sent for one in done),
            sum(one.changed for one in done),
            sum(one.left_out for one in done),
            time.monotonic() - began,
            tuple(shown(job.final) for job in jobs),
        )

    async def _choose(self, connection: Connection) -> Method:
        if self.method == "sftp":
            return "sftp"
        here = await rsync.is_here()
        there = here and await rsync.is_there(connection)
        if self.method == "rsync" and not here:
            raise rsync.absent(sys.platform)
        if self.method == "rsync" and not there:
            message = f"there is no rsync 3.1 or newer in the container on {connection.host}"
            hint = f"apexgpu ssh {connection.host} -- sudo apt install -y rsync"
            raise RefusedError(message, hint=hint, code="no_rsync")
        return "rsync" if there else "sftp"

    async def _jobs(self, remote: Remote, source: Side, target: Side) -> list[Job]:
        """Every source with its target, all looked at before anything is written."""
        origins = [
            path
            for word in self.route.sources
            for path in await self._origins(remote, source, word)
        ]
        goal = copypaths.tidy(self._absolute(remote, self.route.target, here=not self.route.upload))
        several = len(origins) > 1
        jobs = [await resolve(source, target, origin, goal, several=several) for origin in origins]
        finals = [job.final for job in jobs]
        twice = next(
            (path for path in finals if finals.count(path) > 1 and not several_into(jobs, path)),
            None,
        )
        if twice is not None:
            message = f"two of the sources would both become {shown(twice)}"
            raise UsageError(message, hint="copy them one by one, to different names")
        return jobs

    async def _origins(self, remote: Remote, source: Side, word: str) -> list[bytes]:
        path = self._absolute(remote, word, here=self.route.upload)
        if not self.route.upload and path == remote.home:
            return [join(path, b".")]
        if self.route.upload or not copypaths.is_glob(path) or await source.find(path) is not None:
            return [path]
        found = await expand(source, path)
        if not found:
            message = f"nothing matches {shown(path)} on {source.where}"
            raise RefusedError(message, hint=f"apexgpu ssh {source.where} -- ls", code="no_source")
        return found

    def _absolute(self, remote: Remote, word: str, *, here: bool) -> bytes:
        if here:
            path = (
                os.fsencode(Path(word).expanduser()) if word.startswith("~") else os.fsencode(word)
            )
            kept = path if os.sep == "/" else path.replace(b"\\", b"/")
            return os.path.join(os.fsencode(Path.cwd()), kept)  # noqa: PTH118 - paths are bytes here
        path = copypaths.remote(word)
        return path if path.startswith(b"/") else join(remote.home, path) if path else remote.home

    async def _copy(
        self, job: Job, ends: tuple[Side, Side], connection: Connection, method: Method
    ) -> Filled:
        source, target = ends
        if job.entry.kind == "file" and job.entry.same(job.there):
            return await _same_file(job, target, modes=source.modes and target.modes)
        self.watch.begin(None, shown(copypaths.name(job.source)))
        with locked(
            self.state_dir / "locks" / f"cp-{job.key}.lock",
            what=f"the copy to {shown(job.final)}",
            timeout=2,
        ):
            try:
                carrier = partial(self._by_rsync, job, connection) if method == "rsync" else None
                filled = await fill(source, target, job.load, self.watch, carrier)
                if not filled.staged:
                    return filled
                changed = await put(
                    target, job.stage, job.final, file=job.load.name, merge=job.merges
                )
            except ApexError as exc:
                if (
                    exc.code == NO_SPACE
                ):  # others want to write there too: what came gives its room back
                    await clear(target, job.stage)
                    self.watch.stage = None
                raise
        self.watch.stage = None
        return replace(filled, changed=filled.changed + changed)

    async def _by_rsync(self, job: Job, connection: Connection) -> int:
        single = job.entry.kind == "file"
        origin = copypaths.parent(job.source) if single else job.source
        name = copypaths.name(job.source) if single else None
        compare = job.merges or (
            single and name == copypaths.name(job.final) and job.there is not None
        )
        here, there = (origin, job.stage) if self.route.upload else (job.stage, origin)
        return await rsync.run(
            rsync.Errand(self.route.upload, here, there, name, compare), connection, self.watch
        )


async def _same_file(job: Job, target: Side, *, modes: bool) -> Filled:
    assert job.there is not None  # noqa: S101 - it is the same as something
    differs = modes and job.there.mode != job.entry.mode
    if differs:
        await target.dress(job.final, job.entry.mode, job.entry.mtime)
    return Filled(1, job.entry.size, 0, 0, int(differs), staged=False)


def several_into(jobs: Sequence[Job], path: bytes) -> bool:
    """Whether all that goes to `path` are the contents of directories: those may be merged."""
    return all(
        job.entry.kind == "directory" and copypaths.name(job.source) != copypaths.name(path)
        for job in jobs
        if job.final == path
    )


async def expand(side: Side, pattern: bytes) -> list[bytes]:
    """The paths that a pattern matches, in order; `*` leaves out names with a dot in front, as a shell's."""
    found = [b"/"]
    for part in pattern.strip(b"/").split(b"/"):
        if not copypaths.is_glob(part):
            found = [join(path, part) for path in found]
            continue
        found = [
            join(path, one.name)
            for path in found
            if await _is_directory(side, path)
            for one in sorted(await side.listing(path), key=lambda one: one.name)
            if fnmatch.fnmatchcase(one.name, part)
            and (part.startswith(b".") or not one.name.startswith(b"."))
        ]
    return [path for path in found if await side.find(path) is not None]


async def _is_directory(side: Side, path: bytes) -> bool:
    found = await side.find(path, follow=True)
    return found is not None and found.kind == "directory"


async def resolve(source: Side, target: Side, origin: bytes, goal: bytes, *, several: bool) -> Job:
    """Where `origin` goes when it is copied to `goal`, by the rules of `cp -r`; RefusedError where it cannot."""
    entry = await source.find(origin.rstrip(b"/") or b"/", follow=True)
    if entry is None or entry.kind == "other":
        raise await _no_source(source, origin, entry)
    if entry.kind == "file" and origin.endswith(b"/"):
        raise RefusedError(f"{shown(origin)} on {source.where} is no directory", code="no_source")
    contents = copypaths.takes_contents(origin)
    real = await source.real(origin)
    at = await target.find(goal.rstrip(b"/") or b"/", follow=True)
    final = goal.rstrip(b"/") or b"/"
    if at is not None and at.kind == "directory":
        if not contents:
            final = join(goal, copypaths.name(origin))
            at = await target.find(final, follow=True)
    elif several or (at is not None and goal.endswith(b"/")):
        raise RefusedError(f"{shown(goal)} on {target.where} is no directory", code="no_directory")
    elif (
        at is None
        and (problem := await _no_parent(target, goal, file=entry.kind == "file")) is not None
    ):
        raise problem
    if not target.accepts(copypaths.name(final)) and at is None:
        message = f"nothing can be called {shown(copypaths.name(final))} on {target.where}"
        raise RefusedError(
            message, hint="name the target: apexgpu cp HOST:PATH NEW-NAME", code="name"
        )
    _refuse(entry, at, final, target.where)
    if at is not None and at.kind == "file":
        final = await target.real(final)  # a link to a file stays one, and its file is replaced
    key = hashlib.sha256(
        b"\0".join([source.where.encode(), real, target.where.encode(), final])
    ).hexdigest()[:10]
    return Job(real, entry, final, at, key)


def _refuse(entry: Entry, at: Entry | None, final: bytes, where: str) -> None:
    if at is None or (at.kind == entry.kind):
        return
    kinds = {"directory": "a directory", "file": "a file"}
    there = kinds.get(at.kind, "no file that can be replaced")
    message = f"{shown(final)} on {where} is {there}, and what is copied is {kinds[entry.kind]}"
    raise RefusedError(
        message, hint="name another target, or move it out of the way", code="in_the_way"
    )


async def _no_source(side: Side, path: bytes, entry: Entry | None) -> RefusedError:
    if entry is not None:
        return RefusedError(
            f"{shown(path)} on {side.where} is neither a file nor a directory", code="no_source"
        )
    link = await side.find(path)
    words = (
        "is not there" if link is None else f"is a link that leads nowhere ({shown(link.target)})"
    )
    local = isinstance(side, Local)
    near = shown(copypaths.parent(path))
    hint = f"ls -a {near}" if local else f"apexgpu ssh {side.where} -- ls -a {near}"
    return RefusedError(f"{shown(path)} on {side.where} {words}", hint=hint, code="no_source")


async def _no_parent(side: Side, goal: bytes, *, file: bool) -> RefusedError | None:
    """The error for a new name whose directory is not there."""
    needed = goal.rstrip(b"/") if file and goal.endswith(b"/") else copypaths.parent(goal)
    if await _is_directory(side, needed):
        return None
    make = f"mkdir -p {shown(needed)}"
    hint = make if isinstance(side, Local) else f"apexgpu ssh {side.where} -- {make}"
    return RefusedError(
        f"there is no directory {shown(needed)} on {side.where}", hint=hint, code="no_directory"
    )
