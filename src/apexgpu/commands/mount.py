"""mount, mounts, unmount: the files of a container in a directory of this laptop."""

import contextlib
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from apexgpu import mountcheck, mountnotes, mountprograms, mounts, mounttable
from apexgpu.commands import reach
from apexgpu.commands.options import Group, ListByDefault, OneHost, kit_of
from apexgpu.errors import ApexError, RefusedError, UsageError
from apexgpu.kit import Kit
from apexgpu.models import Host, Target
from apexgpu.mountprograms import Wish
from apexgpu.mounts import ALIVE, STALE, Mount
from apexgpu.process import Completed, together
from apexgpu.render import duration, error_value

app = Group()
listing = Group(cls=ListByDefault)
app.add_typer(listing, name="mounts", help="The mounts of this laptop: list, repair.")

Remote = Annotated[str, typer.Option("--remote", metavar="PATH", help="A directory there; by default your home.")]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Nothing can be changed there.")]
Option = Annotated[
    list[str] | None, typer.Option("--option", "-o", metavar="OPT[=VALUE]", help="Handed to sshfs; repeatable.")
]
_HEADER = ("HOST", "DIRECTORY", "REMOTE", "STATE", "SINCE", "MODE")
_IAM = 1.0
_CHECK = 3.0  # seconds for a host to show that it could be mounted again


@app.command("mount")
def mount(
    ctx: typer.Context,
    host: OneHost,
    directory: Annotated[
        str | None, typer.Argument(metavar="[DIR]", help="Where; by default ~/apexgpu/HOST.", show_default=False)
    ] = None,
    remote: Remote = "",
    read_only: ReadOnly = False,
    option: Option = None,
) -> None:
    """Show the files of your container on HOST in DIR of this laptop, until: apexgpu unmount HOST.

    Examples: apexgpu mount gpu7 · apexgpu mount gpu7 ~/data --remote /SSD/alice --read-only
    """
    kit = kit_of(ctx)
    chosen = reach.one_host(kit, host)
    program = mountprograms.find(kit.runner)
    asked = mountcheck.remote_path(remote)
    mountcheck.quoted(asked)
    target = Target(chosen, "container")
    # The table is asked before the directory: who touches a stale one would wait.
    wish = Wish(target, asked, _absolute(directory or f"~/apexgpu/{chosen.name}"), kit.settings.ssh_config, read_only,
                tuple(option or ()))  # fmt: skip
    if _there_already(kit, wish):
        return
    real, _ = mounts.place(wish.directory)
    wish = replace(wish, directory=real)
    if _there_already(kit, wish):
        return
    if bad := mountprograms.known_bad(program):
        kit.screen.warn(bad)
    _mount(kit, program, wish)


def _mount(kit: Kit, program: mountprograms.Program, wish: Wish) -> None:
    asked, name = wish.remote, wish.target.host.name
    with kit.screen.working(f"looking at {name}"):
        full = _checked(kit, wish)
    wish = replace(wish, remote=full, ciphers=_ciphers(kit, wish.target))
    with kit.screen.working(f"mounting {name}"):
        made = mounts.make(kit.state_dir, program, wish, asked=asked, limit=kit.settings.timeout + 10)
    _show(kit, made, changed=True)
    kit.screen.note(f"until: apexgpu unmount {made.host}")


def _ciphers(kit: Kit, target: Target) -> str:
    return mountprograms.quick_ciphers(kit.runner, kit.transport.route(target).one("ciphers"))


def _absolute(word: str) -> str:
    """A directory in full, by its letters alone: `resolve()` would touch it. Here may be a dead mount, too."""
    try:
        return word if word[1:] == ":" else os.path.abspath(Path(word).expanduser())  # noqa: PTH100
    except OSError:
        return word


def _hosts(kit: Kit) -> Sequence[Host]:
    """The hosts that are remembered; what is mounted has to be seen without a network, too.

    Where none are, and there is an sshfs that is not by us, IAM is asked, and not waited for much longer than a moment.
    """
    if kit.account.hosts or not mounts.unclaimed(kit.state_dir):
        return kit.account.hosts
    found: list[Host] = []

    def ask() -> None:
        with contextlib.suppress(ApexError):
            found.extend(kit.known_hosts)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_IAM)
    return tuple(found)


def _there_already(kit: Kit, wish: Wish) -> bool:
    """Whether that is mounted there, shown as such; RefusedError when it is stale, or something else is there."""
    known = mounts.found(kit.state_dir, kit.known_hosts)
    here = next((one for one in known if one.directory == wish.directory), None)
    if here is None:
        return _refuse_others(known, wish)
    here = mounts.looked_at([here])[0]
    if here.state == STALE:
        message = f"{here.directory} is mounted from {here.host} already, and it is stale: {here.reason}"
        raise RefusedError(message, hint="apexgpu mounts repair", code="stale")
    note = mountnotes.load(kit.state_dir).get(here.directory)
    asked = {here.remote, note.asked if note else "", "" if here.remote == "~" else here.remote}
    if here.host != wish.target.host.name or wish.remote not in asked or here.read_only != wish.read_only:
        what = f"{here.host}:{here.remote}{' (read-only)' if here.read_only else ''}"
        message = f"{what} is mounted on {here.directory} already"
        raise RefusedError(message, hint=f"apexgpu unmount {here.directory}", code="mounted")
    _show(kit, here, changed=False)
    return True


def _refuse_others(known: Sequence[Mount], wish: Wish) -> bool:
    outer = next((one for one in known if wish.directory.startswith(f"{one.directory}{os.sep}")), None)
    if outer is not None:
        message = f"{wish.directory} lies in {outer.directory}, which is mounted from {outer.host}"
        raise RefusedError(message, hint=f"apexgpu mount {wish.target.host.name}", code="nested")
    if mounttable.at(mounts.table(), wish.directory) is not None:
        message = f"something else is mounted on {wish.directory}"
        raise RefusedError(message, hint=f"apexgpu mount {wish.target.host.name} DIR", code="mounted")
    return False


def _checked(kit: Kit, wish: Wish) -> str:
    """The full path there. What sftp meets on the way is first cured as for every command: trust a key, start it."""
    target = wish.target
    limit = kit.settings.timeout
    if target.port:
        job = mountcheck.job(target, wish.remote, config=wish.config, limit=limit)
        try:
            return mountcheck.absolute(together([job])[0], target, wish.remote)
        except ApexError as exc:
            if exc.code in {"no_path", "no_sftp", "shell_talks"}:
                raise
    reach.ready(kit, target.host)
    job = mountcheck.job(target, wish.remote, config=wish.config, limit=limit)
    return mountcheck.absolute(together([job])[0], target, wish.remote)


@listing.command("list")
def show(ctx: typer.Context) -> None:
    """Show what is mounted here from your containers, and whether it answers.

    Example: apexgpu mounts
    """
    kit = kit_of(ctx)
    found = mounts.looked_at(mounts.found(kit.state_dir, _hosts(kit)))
    if found:
        kit.screen.table(_HEADER, [_row(one) for one in found], styles=lambda row: "red" if row[3] == STALE else "")
    else:
        kit.screen.note("nothing is mounted; mount a container with: apexgpu mount HOST")
    for one in found:
        if one.state == STALE:
            kit.screen.warn(f"{one.directory} is stale: {one.reason}", hint="apexgpu mounts repair")
    kit.screen.document({"ok": True, "mounts": [value(one) for one in found]})


@listing.command("repair")
def repair(ctx: typer.Context) -> None:
    """Unmount what does not answer any more and mount it again, once its host is found to answer.

    A host that does not answer keeps its mount, which works again by itself when the host is back.

    Example: apexgpu mounts repair
    """
    kit = kit_of(ctx)
    found = mounts.found(kit.state_dir, _hosts(kit))
    wishes = [_again(kit, one) for one in found]
    with kit.screen.working("looking at the mounts"):
        jobs = [mountcheck.job(wish.target, wish.remote, config=wish.config, limit=_CHECK) for wish in wishes if wish]
        done = together([*(mounts.probe(one.directory) for one in found), *jobs])
    states = [mounts.judged(one, result) for one, result in zip(found, done, strict=False)]
    checks = iter(done[len(found) :])
    rows = [(one, wish, next(checks) if wish else None) for one, wish in zip(states, wishes, strict=True)]
    results = [_repaired(kit, one, wish, check) for one, wish, check in rows if one.state == STALE]
    if not results:
        kit.screen.good("nothing to repair" if found else "nothing is mounted")
    _finish(kit, results, done_state=ALIVE)


def _again(kit: Kit, one: Mount) -> Wish | None:
    """What was mounted, to be mounted again; None when its host is not known any more."""
    note = mountnotes.load(kit.state_dir).get(one.directory)
    known = kit.account.hosts or kit.__dict__.get("known_hosts", ())
    host = next((host for host in known if host.name == one.host), note.host if note else None)
    if host is None or not host.port:
        return None
    remote = "" if one.remote == "~" else one.remote
    return Wish(Target(host, "container"), remote, one.directory, kit.settings.ssh_config,
                note.read_only if note else one.read_only, note.options if note else ())  # fmt: skip


def _repaired(
    kit: Kit, one: Mount, wish: Wish | None, check: Completed | None
) -> tuple[Mount, ApexError | None]:  # fmt: skip
    """The mount as it is then, and what stood in the way."""
    try:
        if wish is None or check is None:
            message = f"{one.directory}: {one.host} is no host that is known any more"
            raise UsageError(message, hint=f"apexgpu unmount {one.directory} --force")
        full = mountcheck.absolute(check, wish.target, wish.remote)
        program = mountprograms.find(kit.runner)
        note = mountnotes.load(kit.state_dir).get(one.directory)
        mounts.unmount(kit.state_dir, one, force=True, keep=True)
        wish = replace(wish, remote=full, ciphers=note.ciphers if note else _ciphers(kit, wish.target))
        asked = note.asked if note else wish.remote
        made = mounts.make(kit.state_dir, program, wish, asked=asked, limit=kit.settings.timeout)
    except ApexError as exc:
        kit.screen.error(exc, host=one.host)
        return one, exc
    kit.screen.good(f"{made.directory} shows {made.host}:{made.remote} again")
    return made, None


@app.command("unmount")
def unmount(
    ctx: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[HOST|DIR...]", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every mount of a container.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also when a program uses it, or it does not answer (a lazy unmount).")
    ] = False,
) -> None:
    """Unmount what is mounted from HOST, or on DIR.

    Examples: apexgpu unmount gpu7 · apexgpu unmount ~/data · apexgpu unmount --all --force
    """
    kit = kit_of(ctx)
    if not names and not everything:
        raise UsageError("no mount was named", hint="apexgpu unmount --all")
    found = mounts.found(kit.state_dir, _hosts(kit))
    chosen = found if everything else _chosen(kit, found, names or [])
    results = unmount_all(kit, chosen, force=force)
    if not chosen:
        kit.screen.good("nothing to unmount")
    _finish(kit, results, done_state="unmounted")


def unmount_all(kit: Kit, chosen: Sequence[Mount], *, force: bool) -> list[tuple[Mount, ApexError | None]]:
    """Unmount each and say so; what cannot be is shown and goes on the list with its error."""
    results: list[tuple[Mount, ApexError | None]] = []
    for one in mounts.looked_at(chosen) if force else chosen:
        try:
            mounts.unmount(kit.state_dir, one, force=force)
        except ApexError as exc:
            kit.screen.error(exc, host=one.host)
            results.append((one, exc))
        else:
            kit.screen.good(f"unmounted {one.directory} ({one.host}:{one.remote})")
            results.append((one, None))
    return results


def _chosen(kit: Kit, found: Sequence[Mount], names: Sequence[str]) -> list[Mount]:
    """The mounts that words mean: hosts and globs of them, or directories."""
    directories = {one.directory for one in found}
    chosen: dict[str, Mount] = {}
    for name in names:
        path = _absolute(name)
        if path in directories:
            chosen |= {one.directory: one for one in found if one.directory == path}
        elif os.sep in name or name[:1] in {"~", "."} or name[1:] == ":":
            if mounttable.at(mounts.table(), path) is not None:
                message = f"{path} is no mount of a container of yours"
                raise UsageError(message, hint="apexgpu mounts")
        else:
            known = {one.host for one in found}
            hosts = {name} if name in known else {host.name for host in kit.hosts([name])}
            chosen |= {one.directory: one for one in found if one.host in hosts}
    return list(chosen.values())


def _finish(kit: Kit, results: Sequence[tuple[Mount, ApexError | None]], *, done_state: str) -> None:
    codes = [error.exit_code for _, error in results if error is not None]
    code = 0 if not codes else 3 if len(codes) < len(results) else codes[0] if len(set(codes)) == 1 else 1
    rows = [
        {**value(one), "state": one.state if error else done_state, "ok": not error, "error": error_value(error)}
        for one, error in results
    ]
    kit.screen.document({"ok": not codes, "changed": any(error is None for _, error in results), "mounts": rows})
    raise typer.Exit(code)


def _show(kit: Kit, one: Mount, *, changed: bool) -> None:
    kit.screen.result(f"{one.directory}  →  {one.host}:{one.remote}{' (read-only)' if one.read_only else ''}")
    if not changed:
        kit.screen.note("nothing to do: it is mounted already")
    kit.screen.document({"ok": True, "changed": changed, "mounts": [value(one)]})


def value(one: Mount) -> dict[str, Any]:
    """A mount as JSON; `since` is a time with zone."""
    rest = {key: val for key, val in asdict(one).items() if key != "number"}
    since = datetime.fromtimestamp(one.since).astimezone().isoformat(timespec="seconds") if one.since else None
    return {**rest, "since": since}


def _row(one: Mount) -> tuple[str, ...]:
    since = duration(datetime.now().timestamp() - one.since) if one.since else "-"
    return (one.host, one.directory, one.remote, one.state, since, "read-only" if one.read_only else "read-write")
