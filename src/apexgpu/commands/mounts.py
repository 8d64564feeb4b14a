"""mounts and unmount: what is mounted here, whether it answers, and taking it away again."""

import contextlib
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from apexgpu.commands.options import Group, ListByDefault, session_of
from apexgpu.errors import ApexError, UnknownHostError, UsageError
from apexgpu.models import Host, Target
from apexgpu.process import Completed, run_all
from apexgpu.results import error_json
from apexgpu.session import Session
from apexgpu.sshfs import mountcheck, mountnotes, mountprograms, mounts, mounttable
from apexgpu.sshfs.mountprograms import Wish
from apexgpu.sshfs.mounts import ALIVE, STALE, Mount
from apexgpu.text import duration

app = Group()
listing = Group(cls=ListByDefault)
app.add_typer(listing, name="mounts", help="The mounts of this laptop: list, repair.")

_HEADER = ("HOST", "DIRECTORY", "REMOTE", "STATE", "SINCE", "MODE")
_IAM = 1.0  # seconds for IAM, where no hosts are remembered
_CHECK = 3.0  # seconds for a host to show that it could be mounted again


@listing.command("list")
def show(ctx: typer.Context) -> None:
    """Show what is mounted here, and whether it answers.

    Example: apexgpu mounts
    """
    session = session_of(ctx)
    found = mounts.looked_at(mounts.found(session.state_dir, _hosts(session)))
    if found:
        session.screen.table(
            _HEADER,
            [_row(one) for one in found],
            styles=lambda row: "red" if row[3] == STALE else "",
        )
    else:
        session.screen.note("nothing is mounted; mount a container with: apexgpu mount HOST")
    for one in found:
        if one.state == STALE:
            session.screen.warn(
                f"{one.directory} is stale: {one.reason}", hint="apexgpu mounts repair"
            )
    session.screen.document({"ok": True, "mounts": [value(one) for one in found]})


@listing.command("repair")
def repair(ctx: typer.Context) -> None:
    """Mount again what has stopped answering.

    Nothing is unmounted before its host is found to answer. A host that does not answer keeps its mount, which
    works again by itself when the host is back.

    Example: apexgpu mounts repair
    """
    session = session_of(ctx)
    found = mounts.found(session.state_dir, _hosts(session))
    wishes = [_again(session, one) for one in found]
    with session.screen.working("looking at the mounts"):
        jobs = [
            mountcheck.job(wish.target, wish.remote, config=wish.config, limit=_CHECK)
            for wish in wishes
            if wish
        ]
        done = run_all([*(mounts.probe(one.directory) for one in found), *jobs])
    states = [mounts.judged(one, result) for one, result in zip(found, done, strict=False)]
    checks = iter(done[len(found) :])
    rows = [
        (one, wish, next(checks) if wish else None)
        for one, wish in zip(states, wishes, strict=True)
    ]
    results = [
        _repaired(session, one, wish, check) for one, wish, check in rows if one.state == STALE
    ]
    if not results:
        session.screen.good("nothing to repair" if found else "nothing is mounted")
    _finish(session, results, done_state=ALIVE)


def _again(session: Session, one: Mount) -> Wish | None:
    """What was mounted, to be mounted again; None when its host is not known any more."""
    note = mountnotes.load(session.state_dir).get(one.directory)
    known = session.hosts_known_so_far
    host = next((host for host in known if host.name == one.host), note.host if note else None)
    if host is None or not host.port:
        return None
    remote = "" if one.remote == "~" else one.remote
    return Wish(
        Target(host, "container"),
        remote,
        one.directory,
        session.settings.ssh_config,
        note.read_only if note else one.read_only,
        note.options if note else (),
    )


def _repaired(
    session: Session, one: Mount, wish: Wish | None, check: Completed | None
) -> tuple[Mount, ApexError | None]:
    """The mount as it is then, and what stood in the way."""
    try:
        if wish is None or check is None:
            message = f"{one.directory}: {one.host} is no host that is known any more"
            raise UsageError(message, hint=f"apexgpu unmount {one.directory} --force")
        full = mountcheck.absolute(check, wish.target, wish.remote)
        program = mountprograms.find(session.runner)
        note = mountnotes.load(session.state_dir).get(one.directory)
        mounts.unmount(session.state_dir, one, force=True, keep=True)
        wish = replace(
            wish, remote=full, ciphers=note.ciphers if note else ciphers(session, wish.target)
        )
        asked = note.asked if note else wish.remote
        made = mounts.make(
            session.state_dir, program, wish, asked=asked, limit=session.settings.timeout
        )
    except ApexError as exc:
        session.screen.error(exc, host=one.host)
        return one, exc
    session.screen.good(f"{made.directory} shows {made.host}:{made.remote} again")
    return made, None


@app.command("unmount")
def unmount(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[HOST|DIR...]", help="Host names, globs, directories.", show_default=False
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every mount of a container.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also when a program uses it, or it does not answer (a lazy unmount)."
        ),
    ] = False,
) -> None:
    """Unmount what is mounted from HOST, or on DIR.

    Examples: apexgpu unmount gpu7 · apexgpu unmount ~/data · apexgpu unmount --all --force
    """
    session = session_of(ctx)
    if not names and not everything:
        raise UsageError("no mount was named", hint="apexgpu unmount --all")
    found = mounts.found(session.state_dir, _hosts(session))
    chosen = found if everything else _chosen(session, found, names or [])
    results = _unmount_all(session, chosen, force=force)
    mounts.forget(session.state_dir, None if everything else names or [])
    if not chosen:
        session.screen.good("nothing to unmount")
    _finish(session, results, done_state="unmounted")


def _unmount_all(
    session: Session, chosen: Sequence[Mount], *, force: bool
) -> list[tuple[Mount, ApexError | None]]:
    """Unmount each and say so; what cannot be is shown and goes on the list with its error."""
    results: list[tuple[Mount, ApexError | None]] = []
    for one in mounts.looked_at(chosen) if force else chosen:
        try:
            mounts.unmount(session.state_dir, one, force=force)
        except ApexError as exc:
            session.screen.error(exc, host=one.host)
            results.append((one, exc))
        else:
            session.screen.good(f"unmounted {one.directory} ({one.host}:{one.remote})")
            results.append((one, None))
    return results


def _chosen(session: Session, found: Sequence[Mount], names: Sequence[str]) -> list[Mount]:
    """The mounts that words mean: hosts and globs of them, or directories."""
    chosen: dict[str, Mount] = {}
    for name in names:
        meant = _meant(session, found, name)
        chosen |= {one.directory: one for one in found if one.directory in meant}
    return list(chosen.values())


def _meant(session: Session, found: Sequence[Mount], name: str) -> set[str]:
    """The mounted directories that a word means. Nothing here is touched but by a child: it may be dead."""
    mounted = {one.directory for one in found}
    by_host = {one.directory for one in found if one.host == name}
    path = absolute(name)
    if by_host or path in mounted:
        return by_host or {path}
    is_path = os.sep in name or name[:1] in {"~", "."} or name[1:] == ":"
    if not is_path:
        with contextlib.suppress(UnknownHostError):
            hosts = {host.name for host in session.hosts([name])}
            return {one.directory for one in found if one.host in hosts}
    real = mounts.place(path)[0]  # through links
    if real not in mounted and not is_path:
        session.hosts([name])  # neither a host nor a mount: says so
    if real not in mounted and mounttable.at(mounts.table(), real) is not None:
        message = f"{real} is no mount of a container of yours"
        raise UsageError(message, hint="apexgpu mounts")
    return {real}


def _finish(
    session: Session, results: Sequence[tuple[Mount, ApexError | None]], *, done_state: str
) -> None:
    codes = [error.exit_code for _, error in results if error is not None]
    code = (
        0
        if not codes
        else 3
        if len(codes) < len(results)
        else codes[0]
        if len(set(codes)) == 1
        else 1
    )
    rows = [
        {
            **value(one),
            "state": one.state if error else done_state,
            "ok": not error,
            "error": error_json(error),
        }
        for one, error in results
    ]
    session.screen.document(
        {"ok": not codes, "changed": any(error is None for _, error in results), "mounts": rows}
    )
    raise typer.Exit(code)


def _hosts(session: Session) -> Sequence[Host]:
    """The hosts that are remembered; what is mounted has to be seen without a network, too.

    Where none are, and there is an sshfs that is not by us, IAM is asked, and not waited for much longer than a moment.
    """
    if session.account.hosts or not mounts.unclaimed(session.state_dir):
        return session.account.hosts
    found: list[Host] = []

    def ask() -> None:
        with contextlib.suppress(ApexError):
            found.extend(session.known_hosts)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_IAM)
    return tuple(found)


def ciphers(session: Session, target: Target) -> str:
    """The ciphers to prefer for a mount of `target`."""
    return mountprograms.quick_ciphers(
        session.runner, session.transport.route(target).option("ciphers")
    )


def absolute(word: str) -> str:
    """A directory in full, by its letters alone: `resolve()` would touch it. Here may be a dead mount, too."""
    try:
        return word if word[1:] == ":" else os.path.abspath(Path(word).expanduser())  # noqa: PTH100
    except OSError:
        return word


def value(one: Mount) -> dict[str, Any]:
    """A mount as JSON; `since` is a time with zone."""
    rest = {key: val for key, val in asdict(one).items() if key != "number"}
    since = (
        datetime.fromtimestamp(one.since).astimezone().isoformat(timespec="seconds")
        if one.since
        else None
    )
    return {**rest, "since": since}


def _row(one: Mount) -> tuple[str, ...]:
    since = duration(datetime.now().timestamp() - one.since) if one.since else "-"
    return (
        one.host,
        one.directory,
        one.remote,
        one.state,
        since,
        "read-only" if one.read_only else "read-write",
    )
