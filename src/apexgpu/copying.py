"""Copies of files and directories between this laptop and a container.

    from apexgpu import copying
    from apexgpu.session import Session

    result = copying.copy(Session(), ["data", "gpu7:/SSD/alice/"])
    print(result.summary.sent, "bytes sent to", result.summary.targets)

What goes where is as with `cp -r`. A file gets its final name only when it is complete; a copy that
was interrupted is resumed by the same call.
"""

import asyncio
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from apexgpu import containers, shells
from apexgpu.errors import ApexError, DroppedError
from apexgpu.models import Host, Target
from apexgpu.platforms.system import current
from apexgpu.reporter import Progress, Transferred
from apexgpu.results import JsonObject, Result
from apexgpu.session import Session
from apexgpu.transfer import copypaths
from apexgpu.transfer.copier import Copier, CopySummary, Method, PlannedCopy
from apexgpu.transfer.copyconnection import CopyConnection, SftpUnavailableError
from apexgpu.transfer.excludes import parse as parse_excludes
from apexgpu.transfer.progress import CopyProgress
from apexgpu.transfer.staging import SourceChangedError

__all__ = ["CopyResult", "CopySummary", "Method", "PlannedCopy", "copy"]

FIRST_RATE = 3.0
"""Seconds after which a rate says something about the rest of a copy."""

PROGRESS_PERIOD = 0.1
"""Seconds between two looks at how far a copy is."""


@dataclass(frozen=True)
class CopyResult(Result):
    """What `copy` returns: the host, and what was done.

    `planned` is what would be sent, after a dry run; None after a copy.
    """

    host: str
    summary: CopySummary
    planned: tuple[PlannedCopy, ...] | None = None

    def to_json(self) -> JsonObject:
        """See Result. `bytes` are those of the sources, `transferred` those that had to be sent."""
        summary = self.summary
        document: JsonObject = {
            "ok": True,
            "host": self.host,
            "files": summary.files,
            "bytes": summary.size,
            "transferred": summary.sent,
            "changed": summary.changed,
            "left_out": summary.left_out,
            "seconds": round(summary.seconds, 3),
            "method": summary.method,
            "targets": list(summary.targets),
        }
        if self.planned is not None:
            document["dry_run"] = True
            document["would_send"] = [
                {
                    "target": copy.target,
                    "kind": copy.kind.value,
                    "bytes": copy.size,
                    "replaces": copy.replaces,
                }
                for copy in self.planned
            ]
        return document


def copy(
    session: Session,
    arguments: Sequence[str],
    *,
    method: Method | None = None,
    exclude: Sequence[str] = (),
    dry_run: bool = False,
    ignored: frozenset[bytes] = frozenset(),
) -> CopyResult:
    """Copy `arguments[:-1]` to `arguments[-1]`.

    One side is `HOST:PATH`, the other is on this laptop.

    `method` None means the one that takes less time. A stopped container is
    started if the user agrees. `exclude` are patterns as in .gitignore; what matches one is left
    out. `ignored` are paths in the sources, which are directories, that are left out with all that
    is below them. With `dry_run`, nothing is sent or written; the result lists what would be sent.

    Raises UsageError for arguments that are not a copy, RefusedError for a source or a target that
    is missing or in the way, NoSpaceError, and the errors of a connection. After a DroppedError the
    partial copy is kept, and the hint is the command that resumes it.

    Example: copy(session, ["gpu7:runs/*.csv", "plots/"])
    """
    route = copypaths.parse_route(arguments, current())
    excludes = parse_excludes(exclude)
    host = containers.one_host(session, route.host)
    copier = Copier(route, _connector(session, host), session.state_dir, method)
    copier.ignored = ignored
    copier.excludes = excludes
    try:
        return _run(session, host, copier, dry_run=dry_run)
    except KeyboardInterrupt:
        _report_partial_copy(session, copier.progress)
        raise
    except (DroppedError, SourceChangedError) as error:
        _report_partial_copy(session, copier.progress)
        error.hint = error.hint or _command_line(arguments, method, exclude)
        raise


def _run(session: Session, host: Host, copier: Copier, *, dry_run: bool) -> CopyResult:
    """Copy, or only plan to. A container that cannot be logged in to is looked at, and started if the user agrees."""
    try:
        return _attempt(session, host, copier, dry_run=dry_run)
    except SftpUnavailableError:
        raise
    except ApexError as exc:
        if copier.is_connected:
            raise
        session.transport.ssh_failed(Target(host, "container"), exc)
        # Whether the container is stopped, only its host can tell. Asked beforehand, it would take
        # every copy another login.
        containers.ensure_running(session, host)
    return _attempt(session, host, copier, dry_run=dry_run)


def _attempt(session: Session, host: Host, copier: Copier, *, dry_run: bool) -> CopyResult:
    with ExitStack() as reporting:
        # Nothing is drawn before the connection is open: ssh may ask for a passphrase.
        copier.connected = lambda: reporting.enter_context(_reporting(session, copier.progress))
        if dry_run:
            planned, summary = asyncio.run(copier.plan())
            return CopyResult(host.name, summary, tuple(planned))
        summary = asyncio.run(copier.run())
    return CopyResult(host.name, summary)


def _connector(session: Session, host: Host) -> Callable[[], CopyConnection]:
    """Return a function that opens the connection to a container."""

    def connect() -> CopyConnection:
        return CopyConnection(
            Target(host, "container"),
            shells.ssh_arguments(session, host),
            connect=session.settings.timeout,
            ask=session.reporter.can_ask,
        )

    return connect


@contextmanager
def _reporting(session: Session, progress: CopyProgress) -> Iterator[None]:
    """Report how far the copy is until the block ends."""
    over = threading.Event()
    with session.reporter.working("copying") as shown:
        # The copy keeps the event loop busy, and this must not wait for it.
        thread = threading.Thread(target=_report, args=(progress, shown, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _report(progress: CopyProgress, shown: Progress, over: threading.Event) -> None:
    """Pass on how far the copy is, until `over` is set. The rate is that of the present source."""
    name = progress.name
    began = time.monotonic()
    while not over.wait(PROGRESS_PERIOD):
        if progress.name != name:
            name = progress.name
            began = time.monotonic()
        seconds = time.monotonic() - began
        # What an earlier run had sent would make the rate look too high.
        sent_now = progress.done - progress.resumed
        rate = 0.0  # none is shown, and no remaining time
        if seconds >= FIRST_RATE:
            rate = sent_now / seconds
        shown.transferred(Transferred(name, progress.done, progress.total, rate))


def _report_partial_copy(session: Session, progress: CopyProgress) -> None:
    if progress.partial is not None:
        machine, path = progress.partial
        session.reporter.note(
            f"the partial copy is kept in {path} on {machine}; run the same command to resume"
        )


def _command_line(arguments: Sequence[str], method: Method | None, exclude: Sequence[str]) -> str:
    """The command that makes this copy."""
    options = ["--method", str(method)] if method else []
    options += [f"--exclude={pattern}" for pattern in exclude]
    return shlex.join(["apexgpu", "cp", *options, *arguments])
