"""recover and rebuild: another root file system in place of the container's, with everything that goes with it."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from apexgpu import manyhosts
from apexgpu.archives import recoverplan, recovery, saving
from apexgpu.archives.archivehost import Means
from apexgpu.archives.journal import Work
from apexgpu.archives.recoverplan import Plan
from apexgpu.archives.recovery import Done
from apexgpu.commands import interrupted, reach
from apexgpu.commands.backup import ask_snapshot, attempt, show_taken, undo_interrupted, words
from apexgpu.commands.options import Group, OneHost, session_of
from apexgpu.containers import show_activity
from apexgpu.errors import ApexError, DeclinedError, RefusedError, UsageError
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
    _run(session_of(ctx), host, "recover", source, unverified, snapshot, new_host_keys, undo)


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
    _run(session_of(ctx), host, "rebuild", None, unverified, snapshot, new_host_keys, undo)


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

    def work(means: Means) -> tuple[Done, KeyChange | None]:
        anew = source is not None or what == "rebuild"
        done = interrupted.settle(session, means, host, wanted=what, anew=anew)
        if not isinstance(done, Done):
            made = _ask(
                session,
                means,
                recoverplan.plan(means, host, what, source, unverified=unverified),
                snapshot,
            )
            done = recovery.execute(means, made, interrupted.place_of(session, host))
        _show_done(session, host, done)
        return done, _new_keys(session, means, host, done, new_host_keys)

    raise typer.Exit(_finish(session, host, attempt(session, host, f"{what} of {host.name}", work)))


def _ask(session: Session, means: Means, made: Plan, snapshot: bool | None) -> Plan:
    """The typed name, which says yes to the stop too, and the snapshot of what is about to be destroyed."""
    host = made.host
    if made.what == "rebuild":
        session.screen.note(
            f"  the template: {made.archive.path}; {host.user}'s files in the container will be gone"
        )
    else:
        session.screen.note(f"  the archive: {words(made.archive)}")
        if made.tested and made.tested.hostname and not made.archive.name.startswith(host.user):
            session.screen.warn(
                f"it is none of your archives: its container called itself {made.tested.hostname}"
            )
    if made.doubt:
        session.screen.warn(f"the archive is NOT to be trusted: {made.doubt}")
    if made.ran:
        show_activity(session, host, made.use)
    yours = f"your container on {host.name}"
    session.confirm_name(
        host.name,
        f"This stops {yours}, deletes and replaces all its files"
        if made.ran
        else f"This deletes and replaces all files of {yours}",
    )
    if not made.whole:
        session.screen.note(
            "  no snapshot of what is there now is offered: it is not whole, or nobody could test it"
        )
        return made
    return (
        _snapshot_first(session, means, made) if _wants_snapshot(session, host, snapshot) else made
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


def _snapshot_first(session: Session, means: Means, made: Plan) -> Plan:
    """Save what is there. The archive to recover from may be the one that the server would overwrite: it moves."""
    host = made.host
    try:
        with saving.planned(means, host) as plan:
            ask_snapshot(
                session, replace(plan, ran=False), agreed=True
            )  # the stop was asked for already
            taken = saving.take(means, plan, label=f"before-{made.what}")
    except DeclinedError:
        raise
    except ApexError as exc:
        if exc.code == "no_rootfs":
            session.screen.note(f"  there is nothing to save: {exc.message}")
            return made
        hint = f"apexgpu {made.what} {host.name} --no-snapshot   (what is there now is lost then)"
        message = f"{exc.message}; the {made.what} was not begun"
        raise type(exc)(message, hint=hint, code=exc.code) from None
    show_taken(session, host, taken)
    if made.archive.path != taken.saved.path:
        return made
    if taken.previous is None or made.tested is None or taken.previous.stamp != made.tested.stamp:
        message = f"the archive that was tested is no longer at {made.archive.path}; the {made.what} was not begun"
        raise RefusedError(message, hint="apexgpu snapshots", code="archive_changed")
    return replace(
        made, archive=taken.previous, tested=replace(made.tested, mode=taken.previous.mode)
    )


def _new_keys(
    session: Session, means: Means, host: Host, done: Done, chosen: bool | None
) -> KeyChange | None:
    """Offer host keys that are the container's own: a template's are everybody's, and an old archive may be read."""
    if done.change is not None:
        _show_change(session, host, done.change)
    if chosen is None and (done.change is None and done.what == "recover"):
        return None
    try:
        if chosen is None:
            session.confirm(
                "Give the container new host keys of its own? Those in the archive others may have read"
            )
        change = None
        if chosen is not False:
            change = hostkeys.renew(
                means.link,
                host,
                interrupted.place_of(session, host),
                wait=means.wait,
                pause=means.pause,
                say=means.say,
            )
    except DeclinedError:
        return None
    except ApexError as exc:
        manyhosts.show_error(session, host, exc)
        return None
    if change is not None:
        _show_change(session, host, change)
    return change


def _show_done(session: Session, host: Host, done: Done) -> None:
    kept = f", {done.keys_put_back} of your keys put back" if done.keys_put_back else ""
    source = done.archive if done.what == "recover" else "the template"
    session.screen.good(
        f"{host.name} is up again from {source}{kept}: a login has proved it. Next: ssh {host.name}"
    )


def _show_change(session: Session, host: Host, change: KeyChange) -> None:
    old = ", ".join(fingerprint(key) for key in change.old)
    session.screen.note(
        f"  the host key of {host.name} in known_hosts: was {old}, is {fingerprint(change.new)}"
    )


def _finish(session: Session, host: Host, came: tuple[Done, KeyChange | None] | ApexError) -> int:
    if isinstance(came, ApexError):
        manyhosts.show_error(session, host, came)
        return manyhosts.finish(session, [Outcome(host, None, came)], lambda _: {})
    done, renewed = came
    return manyhosts.finish(session, [Outcome(host, done)], lambda value: _value(value, renewed))


def _value(done: Done, renewed: KeyChange | None) -> dict[str, Any]:
    change = renewed or done.change
    return {
        "from": done.archive,
        "changed": True,
        "keys_put_back": done.keys_put_back,
        "host_key": fingerprint(change.new) if change else None,
        "new_host_keys": renewed is not None,
    }
