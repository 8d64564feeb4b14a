"""snapshot: a saved container that can be trusted, or the plain word that it is none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer

from apexgpu import manyhosts
from apexgpu.archives import snapshot as snapshots
from apexgpu.archives.catalog import UNKNOWN_HOST, Archive, checked_label, iso
from apexgpu.archives.journal import Work
from apexgpu.archives.snapshot import SnapshotPlan, TakenSnapshot
from apexgpu.archives.workcontext import WorkContext
from apexgpu.commands import reach
from apexgpu.commands.options import Group, OneHost, session_of
from apexgpu.containers import confirm_stop
from apexgpu.errors import ApexError, DeclinedError, RefusedError
from apexgpu.manageshell.replies import clean
from apexgpu.models import Host, Outcome
from apexgpu.session import Session
from apexgpu.text import size

app = Group()

T = TypeVar("T")


@app.command("snapshot")
def snapshot(
    ctx: typer.Context,
    host: OneHost,
    name: Annotated[str, typer.Option(help="A word to find it by, such as before-upgrade.")] = "",
    no_restart: Annotated[
        bool, typer.Option("--no-restart", help="Leave the container stopped.")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Go on where the previous archive cannot be kept: it is lost."
        ),
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Put back what an interrupted snapshot left behind.")
    ] = False,
) -> None:
    """Save your container on HOST to the NAS, keep the previous archive, and test the new one.

    The container is stopped meanwhile. Example: apexgpu snapshot gpu7 --name before-upgrade
    """
    session = session_of(ctx)
    label = checked_label(name)
    one = reach.one_host(
        session,
        host,
        several="apexgpu snapshot HOST   takes one at a time: all write to the same file",
    )
    if undo:
        raise typer.Exit(undo_interrupted(session, one))

    def work(context: WorkContext) -> TakenSnapshot:
        from apexgpu.commands import interrupted

        taken = interrupted.settle(session, context, one, wanted=Work.SNAPSHOT)
        if isinstance(taken, TakenSnapshot):
            return taken
        with snapshots.plan_snapshot(context, one) as plan:
            ask_snapshot(session, plan, lose=replace)
            return snapshots.take_snapshot(
                context, plan, label=label, restart=not no_restart, replace_previous=replace
            )

    raise typer.Exit(finish(session, one, attempt(session, one, f"snapshot of {one.name}", work)))


def undo_interrupted(session: Session, host: Host) -> int:
    """Undo what an earlier command left half done; the exit code."""
    from apexgpu.commands import interrupted

    def work(context: WorkContext) -> bool:
        return interrupted.undo(session, context, host)

    came = attempt(session, host, f"putting {host.name} back", work, answered=True)
    if isinstance(came, ApexError):
        manyhosts.show_error(session, host, came)
        return manyhosts.finish(session, [Outcome(host, None, came)], lambda _: {})
    return manyhosts.finish(session, [Outcome(host, came)], lambda changed: {"changed": changed})


@contextmanager
def working(session: Session, host: Host, what: str, *, answered: bool) -> Iterator[WorkContext]:
    """The context for a piece of work, shown as it goes on; Ctrl-C says what is left to do."""
    with session.screen.working(what) as progress:
        context = WorkContext(
            manyhosts.Trusting(session, host),
            session.known_hosts,
            session.state_dir,
            session.pause,
            progress=lambda line: progress.update(clean(line).strip().lstrip("= ")),
            note=lambda line: session.screen.note(f"  {line}"),
            may_start=answered or session.yes or session.screen.can_ask,
        )
        try:
            yield context
        except KeyboardInterrupt:
            entry = context.journal.find(host.name)
            if entry is not None:
                hint = f"apexgpu {entry.what} {host.name}   (offers to finish or undo it)"
                session.screen.warn(entry.describe(), hint=hint)
            raise


def ask_snapshot(
    session: Session, plan: SnapshotPlan, *, lose: bool = False, agreed: bool = False
) -> None:
    """Show what would be replaced and who would be stopped, and ask; RefusedError where the old one cannot be kept.

    With `lose` it is replaced there all the same; `agreed` is that the user has said yes to a snapshot already.
    """
    host, old = plan.host, plan.previous
    if old is not None:
        session.screen.note(f"  the archive that is there: {words(old)}")
        if not plan.writable and not lose:
            message = f"{plan.archives.directory} may not be written, so the archive that is there cannot be kept"
            hint = f"apexgpu snapshot {host.name} --replace   (the old archive is lost, whatever comes of the new one)"
            raise RefusedError(message, hint=hint, code="not_writable")
        if plan.free is not None and plan.free < old.size:
            session.screen.warn(
                f"the NAS has {size(plan.free)} left, less than the last archive took"
            )
        what = "is kept under a name of its own" if plan.writable else "is REPLACED"
        if not (agreed and plan.writable):
            session.confirm(f"Take a snapshot of {host.name}? The archive that is there {what}")
    if plan.was_running:
        confirm_stop(session, [Outcome(host, plan.activity)])


def words(one: Archive) -> str:
    """An archive in a line for people."""
    whose = "nobody knows whose" if one.host == UNKNOWN_HOST else one.host
    tested = f"verified {iso(one.verified)[:10]}" if one.verified else "never tested"
    return f"{one.name} ({whose}, {iso(one.created)}, {size(one.size)}, {tested})"


def attempt(
    session: Session,
    host: Host,
    what: str,
    work: Callable[[WorkContext], T],
    *,
    answered: bool = False,
) -> T | ApexError:
    """The work's value, done alone on the host, or its error as a value; a refusal by the user ends the command.

    `answered` says that the command line itself is the user's yes.
    """
    try:
        with (
            working(session, host, what, answered=answered) as context,
            snapshots.exclusive_work(session.state_dir, host),
        ):
            return work(context)
    except DeclinedError:
        raise
    except ApexError as exc:
        return exc


def finish(session: Session, host: Host, taken: TakenSnapshot | ApexError) -> int:
    """Show what came of a snapshot; the exit code."""
    if isinstance(taken, ApexError):
        manyhosts.show_error(session, host, taken)
        return manyhosts.finish(session, [Outcome(host, None, taken)], lambda _: {})
    show_taken(session, host, taken)
    outcome = Outcome(host, taken, taken.start_error)
    return manyhosts.finish(session, [outcome], taken_value)


def show_taken(session: Session, host: Host, taken: TakenSnapshot) -> None:
    """A good snapshot, where the old one is, and what did not go well beside it."""
    session.screen.good(f"{host.name}: the snapshot is good: {words(taken.archive)}")
    if taken.previous is not None:
        session.screen.note(f"  the previous one is kept: {words(taken.previous)}")
        if taken.previous.others_can_read:
            session.screen.warn(
                f"others can read {taken.previous.path}: it could not be made private"
            )
    if not taken.has_manifest:
        session.screen.warn(
            f"its manifest cannot be written beside {taken.archive.path}, so it counts as untested later"
        )
    if taken.start_error is not None:
        manyhosts.show_error(session, host, taken.start_error)
    session.screen.note(
        f"  to bring it back: apexgpu recover {host.name} --from {taken.archive.name}"
    )


def taken_value(taken: TakenSnapshot) -> dict[str, Any]:
    """A snapshot as JSON tells it."""
    return {
        "snapshot": taken.archive.to_json(),
        "previous": taken.previous.to_json() if taken.previous else None,
        "restarted": taken.restarted,
    }
