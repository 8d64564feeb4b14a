"""cp: files and trees between this laptop and a container."""

import asyncio
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Literal

import typer

from apexgpu.commands import reach
from apexgpu.commands.options import Group, session_of
from apexgpu.errors import ApexError, DroppedError
from apexgpu.models import Target
from apexgpu.reporter import Progress, Transferred
from apexgpu.results import error_json
from apexgpu.session import Session
from apexgpu.text import size
from apexgpu.transfer import copypaths
from apexgpu.transfer.copier import Copier, CopySummary, Method
from apexgpu.transfer.copyconnection import CopyConnection
from apexgpu.transfer.progress import CopyProgress
from apexgpu.transfer.staging import SourceChangedError

app = Group()

Words = Annotated[
    list[str],
    typer.Argument(metavar="SRC... DST", help="One side is HOST:PATH.", show_default=False),
]
How = Annotated[
    Literal["auto", "rsync", "sftp"],
    typer.Option(
        "--method", help="rsync where both sides have it, SFTP otherwise; or one of them."
    ),
]
Habit = Annotated[
    bool,
    typer.Option(
        "-r",
        "-R",
        "-a",
        "-p",
        "--recursive",
        help="As always: directories too, times and modes kept.",
        show_default=False,
    ),
]


@app.command("cp")
def cp(ctx: typer.Context, words: Words, method: How = "auto", recursive: Habit = True) -> None:
    """Copy files and directories between this laptop and your container on HOST; the same line again goes on.

    Examples: apexgpu cp data gpu7:/SSD/alice/ · apexgpu cp gpu7:runs/best.ckpt . · apexgpu cp 'gpu7:runs/*.csv' plots/
    """
    session = session_of(ctx)
    route = copypaths.parse_route(words, sys.platform)
    host = reach.one_host(session, route.host)
    reach.ready(session, host)
    target = Target(host, "container")

    def connect() -> CopyConnection:
        where = reach.ssh_arguments(session, host)
        return CopyConnection(
            target, where, connect=session.settings.timeout, ask=session.screen.can_ask
        )

    copier = Copier(route, connect, session.state_dir, None if method == "auto" else Method(method))
    try:
        with ExitStack() as shown:
            # Nothing is drawn before: ssh may be asking for a passphrase.
            copier.connected = lambda: shown.enter_context(_told(session, copier.progress))
            done = asyncio.run(copier.run())
    except KeyboardInterrupt:
        _interrupted(session, copier.progress)
        raise typer.Exit(130) from None
    except (DroppedError, SourceChangedError) as error:
        _say_kept(session, copier.progress)
        error.hint = error.hint or _same_command(words, method)
        raise
    _show(session, host.name, done)


@contextmanager
def _told(session: Session, watch: CopyProgress) -> Iterator[None]:
    """Show how far it is while the block runs."""
    with session.screen.working("copying") as progress, _kept_up_to_date(progress, watch):
        yield


@contextmanager
def _kept_up_to_date(progress: Progress, watch: CopyProgress) -> Iterator[None]:
    over = threading.Event()

    def tell() -> None:
        began, part = time.monotonic(), watch.name
        while not over.wait(0.1):
            if watch.name != part:
                began, part = time.monotonic(), watch.name
            seconds = max(0.1, time.monotonic() - began)
            rate = (watch.done - watch.resumed) / seconds
            progress.transferred(Transferred(watch.name, watch.done, watch.total, rate))

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _say_kept(session: Session, watch: CopyProgress) -> None:
    if watch.partial is not None:
        where, path = watch.partial
        session.screen.note(
            f"the partial copy is kept in {path} on {where}; run the same command to resume"
        )


def _same_command(words: list[str], method: str) -> str:
    """The command line that resumes this copy."""
    options = [] if method == "auto" else ["--method", method]
    return shlex.join(["apexgpu", "cp", *options, *words])


def _interrupted(session: Session, watch: CopyProgress) -> None:
    _say_kept(session, watch)
    error = ApexError("interrupted", hint="run the same line again", code="interrupted")
    session.screen.document({"ok": False, "error": error_json(error)})


def _show(session: Session, host: str, done: CopySummary) -> None:
    if done.left_out:
        session.screen.warn(
            f"skipped {done.left_out} special file{'' if done.left_out == 1 else 's'} (sockets, pipes, devices)"
        )
    where = (
        ", ".join(dict.fromkeys(done.targets))
        if len(done.targets) <= 3
        else f"{len(done.targets)} places"
    )
    what = f"{done.files} file{'' if done.files == 1 else 's'}, {size(done.size)}"
    if not done.changed:
        session.screen.good(f"{where}: up to date ({what})")
    else:
        rate = (
            f" at {size(int(done.sent / done.seconds))}/s"
            if done.seconds >= 1 and done.sent
            else ""
        )
        session.screen.good(
            f"{where}: {what}; {size(done.sent)} sent in {done.seconds:.1f} s{rate} ({done.method})"
        )
    session.screen.document(
        {
            "ok": True,
            "host": host,
            "files": done.files,
            "bytes": done.size,
            "transferred": done.sent,
            "changed": done.changed,
            "left_out": done.left_out,
            "seconds": round(done.seconds, 3),
            "method": done.method,
            "targets": list(done.targets),
        }
    )
