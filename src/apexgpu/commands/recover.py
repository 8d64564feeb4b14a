"""recover and rebuild: another root file system in place of the container's, with everything that goes with it."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from apexgpu import manyhosts
from apexgpu.archives import recoverplan, recovery
from apexgpu.archives import snapshot as snapshots
from apexgpu.archives.access import ArchiveChangedError
from apexgpu.archives.journal import Work
from apexgpu.archives.recoverplan import RecoverPlan
from apexgpu.archives.recovery import RecoveredContainer
from apexgpu.archives.workcontext import WorkContext
from apexgpu.commands import interrupted, reach
from apexgpu.commands.backup import ask_snapshot, attempt, show_taken, undo_interrupted, words
from apexgpu.commands.options import Group, OneHost, session_of
from apexgpu.containers import show_activity
from apexgpu.errors import ApexError, DeclinedError, NoRootfsError, UsageError
from apexgpu.iam.publickeys import fingerprint
from apexgpu.manageshell import hostkeys, manage
from apexgpu.models import Host, Outcome
from apexgpu.session import Session
from apexgpu.ssh.hostkeys import KeyChange

app = Group()

SafetySnapshot = Annotated[
    bool | None,
    typer.Option(
        "--snapshot/--no-snapshot",
        help="Save what is there now first, or not; asked otherwise.",
        show_default=False,
    ),
]
NewKeys = Annotated[
    bool | None,
    typer.Option(
        "--new-host-keys/--keep-host-keys",
        help="Give the container host keys of its own; asked otherwise.",
        show_default=False,
    ),
]
Unverified = Annotated[
    bool, typer.Option("--unverified", help="Take an archive that cannot be tested, or is damaged.")
]
Undo = Annotated[bool, typer.Option("--undo", help="Put back what an interrupted one left behind.")]


@app.command("recover")
def recover(
    ctx: typer.Context,
    host: OneHost,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME|PATH",
            help="Which archive; see: apexgpu snapshots. The newest of HOST otherwise.",
        ),
    ] = None,
    unverified: Unverified = False,
    snapshot: SafetySnapshot = None,
    new_host_keys: NewKeys = None,
    undo: Undo = False,
) -> None:
    """Replace your container on HOST by a saved one, after its archive was tested.

    Example: apexgpu recover gpu7 --from before-upgrade
    """
    _run(session_of(ctx), host, Work.RECOVER, source, unverified, snapshot, new_host_keys, undo)


@app.command("rebuild")
def rebuild(
    ctx: typer.Context,
    host: OneHost,
    unverified: Unverified = False,
    snapshot: SafetySnapshot = None,
    new_host_keys: NewKeys = None,
    undo: Undo = False,
) -> None:
    """Make your container on HOST new from the administrators' template. Your files in it are gone then.

    Example: apexgpu rebuild gpu7
    """
    _run(session_of(ctx), host, Work.REBUILD, None, unverified, snapshot, new_host_keys, undo)


def _run(
    session: Session,
    name: str,
    what: Work,
    source: str | None,
    unverified: bool,
    snapshot: bool | None,
    new_host_keys: bool | None,
    undo: bool,
) -> None:
    host = reach.one_host(session, name)
    if source is not None and not manage.is_sendable(source):
        message = f"{source!r} cannot be the name of an archive: a manage shell takes no blanks, quotes or wildcards"
        raise UsageError(message, hint="apexgpu snapshots")
    if undo:
        raise typer.Exit(undo_interrupted(session, host))

    def work(context: WorkContext) -> tuple[RecoveredContainer, KeyChange | None]:
        anew = source is not None or what is Work.REBUILD
        done = interrupted.settle(session, context, host, wanted=what, anew=anew)
        if not isinstance(done, RecoveredContainer):
            made = _ask(
                session,
                context,
                recoverplan.plan_recover(context, host, what, source, unverified=unverified),
                snapshot,
            )
            done = recovery.replace_container(context, made, interrupted.place_of(session, host))
        _show_done(session, host, done)
        return done, _new_keys(session, context, host, done, new_host_keys)

    raise typer.Exit(_finish(session, host, attempt(session, host, f"{what} of {host.name}", work)))


def _ask(
    session: Session, context: WorkContext, made: RecoverPlan, snapshot: bool | None
) -> RecoverPlan:
    """The typed name, which says yes to the stop too, and the snapshot of what is about to be destroyed."""
    host = made.host
    if made.what is Work.REBUILD:
        session.screen.note(
            f"  the template: {made.archive.path}; {host.user}'s files in the container will be gone"
        )
    else:
        session.screen.note(f"  the archive: {words(made.archive)}")
        if made.check and made.check.hostname and not made.archive.name.startswith(host.user):
            session.screen.warn(
                f"it is none of your archives: its container called itself {made.check.hostname}"
            )
    if made.problem:
        session.screen.warn(f"the archive is NOT to be trusted: {made.problem}")
    if made.was_running:
        show_activity(session, host, made.activity)
    yours = f"your container on {host.name}"
    session.confirm_name(
        host.name,
        f"This stops {yours}, deletes and replaces all its files"
        if made.was_running
        else f"This deletes and replaces all files of {yours}",
    )
    if not made.can_save:
        session.screen.note(
            "  no snapshot of what is there now is offered: it is not whole, or nobody could test it"
        )
        return made
    return (
        _snapshot_first(session, context, made)
        if _wants_snapshot(session, host, snapshot)
        else made
    )


def _wants_snapshot(session: Session, host: Host, chosen: bool | None) -> bool:
    if chosen is not None or session.yes:
        return chosen is not False
    answer = session.screen.ask(
        f"Take a snapshot of what is on {host.name} now, before it is destroyed? [Y/n]"
    )
    return answer.lower() not in {
        "n",
        "no",
        "否",
    }  # what loses nothing is what happens when one merely presses Enter


def _snapshot_first(session: Session, context: WorkContext, made: RecoverPlan) -> RecoverPlan:
    """Save what is there. The archive to recover from may be the one that the server would overwrite: it moves."""
    host = made.host
    try:
        with snapshots.plan_snapshot(context, host) as plan:
            ask_snapshot(
                session, replace(plan, was_running=False), agreed=True
            )  # the stop was asked for already
            taken = snapshots.take_snapshot(context, plan, label=f"before-{made.what}")
    except DeclinedError:
        raise
    except ApexError as exc:
        if isinstance(exc, NoRootfsError):
            session.screen.note(f"  there is nothing to save: {exc.message}")
            return made
        hint = f"apexgpu {made.what} {host.name} --no-snapshot   (what is there now is lost then)"
        message = f"{exc.message}; the {made.what} was not begun"
        raise exc.with_message(message, hint=hint) from None
    show_taken(session, host, taken)
    if made.archive.path != taken.archive.path:
        return made
    if taken.previous is None or made.check is None or taken.previous.stamp != made.check.stamp:
        message = f"the archive that was tested is no longer at {made.archive.path}; the {made.what} was not begun"
        raise ArchiveChangedError(message, hint="apexgpu snapshots")
    return replace(
        made, archive=taken.previous, check=replace(made.check, mode=taken.previous.mode)
    )


def _new_keys(
    session: Session,
    context: WorkContext,
    host: Host,
    done: RecoveredContainer,
    chosen: bool | None,
) -> KeyChange | None:
    """Offer host keys that are the container's own: a template's are everybody's, and an old archive may be read."""
    if done.host_key_change is not None:
        _show_change(session, host, done.host_key_change)
    if chosen is None and (done.host_key_change is None and done.what is Work.RECOVER):
        return None
    try:
        if chosen is None:
            session.confirm(
                "Give the container new host keys of its own? Those in the archive others may have read"
            )
        change = None
        if chosen is not False:
            change = hostkeys.renew(
                context.transport,
                host,
                interrupted.place_of(session, host),
                wait=context.start_timeout,
                pause=context.pause,
                say=context.progress,
            )
    except DeclinedError:
        return None
    except ApexError as exc:
        manyhosts.show_error(session, host, exc)
        return None
    if change is not None:
        _show_change(session, host, change)
    return change


def _show_done(session: Session, host: Host, done: RecoveredContainer) -> None:
    kept = f", {done.keys_restored} of your keys put back" if done.keys_restored else ""
    source = done.archive_name if done.what is Work.RECOVER else "the template"
    session.screen.good(
        f"{host.name} is up again from {source}{kept}: a login has proved it. Next: ssh {host.name}"
    )


def _show_change(session: Session, host: Host, change: KeyChange) -> None:
    old = ", ".join(fingerprint(key) for key in change.old)
    session.screen.note(
        f"  the host key of {host.name} in known_hosts: was {old}, is {fingerprint(change.new)}"
    )


def _finish(
    session: Session, host: Host, came: tuple[RecoveredContainer, KeyChange | None] | ApexError
) -> int:
    if isinstance(came, ApexError):
        manyhosts.show_error(session, host, came)
        return manyhosts.finish(session, [Outcome(host, None, came)], lambda _: {})
    done, renewed = came
    return manyhosts.finish(session, [Outcome(host, done)], lambda value: _value(value, renewed))


def _value(done: RecoveredContainer, renewed: KeyChange | None) -> dict[str, Any]:
    change = renewed or done.host_key_change
    return {
        "from": done.archive_name,
        "changed": True,
        "keys_put_back": done.keys_restored,
        "host_key": fingerprint(change.new) if change else None,
        "new_host_keys": renewed is not None,
    }
