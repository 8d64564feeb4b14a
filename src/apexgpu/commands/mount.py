"""mount: the files of a container in a directory of this laptop."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from apexgpu.commands import reach
from apexgpu.commands.mounts import absolute, ciphers, value
from apexgpu.commands.options import Group, OneHost, session_of
from apexgpu.errors import ApexError, RefusedError
from apexgpu.models import Target
from apexgpu.process import run_all
from apexgpu.session import Session
from apexgpu.sshfs import mountcheck, mountnotes, mountprograms, mounts, mounttable
from apexgpu.sshfs.mountprograms import Wish
from apexgpu.sshfs.mounts import STALE, Mount

app = Group()

Remote = Annotated[
    str, typer.Option("--remote", metavar="PATH", help="A directory there; by default your home.")
]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Nothing can be changed there.")]
Option = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="OPT[=VALUE]", help="Handed to sshfs; repeatable."),
]
# What may be cured before a mount, or be told better: a new host key, a stopped container, a key that was not sent.
_CURABLE = {
    "host_key_unknown",
    "connection_refused",
    "closed",
    "no_route",
    "key_prompt",
    "host_key_changed",
}


@app.command("mount")
def mount(
    ctx: typer.Context,
    host: OneHost,
    directory: Annotated[
        str | None,
        typer.Argument(
            metavar="[DIR]", help="Where; by default ~/apexgpu/HOST.", show_default=False
        ),
    ] = None,
    remote: Remote = "",
    read_only: ReadOnly = False,
    option: Option = None,
) -> None:
    """Show the files of your container on HOST in DIR of this laptop, until: apexgpu unmount HOST.

    Examples: apexgpu mount gpu7 · apexgpu mount gpu7 ~/data --remote /SSD/alice --read-only
    """
    session = session_of(ctx)
    chosen = reach.one_host(session, host)
    program = mountprograms.find(session.runner)
    asked = mountcheck.remote_path(remote)
    mountcheck.quoted(asked)
    target = Target(chosen, "container")
    # The table is asked before the directory: who touches a stale one would wait.
    wish = Wish(
        target,
        asked,
        absolute(directory or f"~/apexgpu/{chosen.name}"),
        session.settings.ssh_config,
        read_only,
        tuple(option or ()),
    )
    if _there_already(session, wish):
        return
    real, _ = mounts.place(wish.directory)
    wish = replace(wish, directory=real)
    if _there_already(session, wish):
        return
    if bad := mountprograms.known_bad(program):
        session.screen.warn(bad)
    _mount(session, program, wish)


def _mount(session: Session, program: mountprograms.Program, wish: Wish) -> None:
    asked, name = wish.remote, wish.target.host.name
    with session.screen.working(f"looking at {name}"):
        full = _checked(session, wish)
    wish = replace(wish, remote=full, ciphers=ciphers(session, wish.target))
    with session.screen.working(f"mounting {name}"):
        made = mounts.make(
            session.state_dir, program, wish, asked=asked, limit=session.settings.timeout + 10
        )
    _show(session, made, changed=True)
    session.screen.note(f"to take it away again: apexgpu unmount {made.host}")


def _there_already(session: Session, wish: Wish) -> bool:
    """Whether that is mounted there, shown as such; RefusedError when it is stale, or something else is there."""
    known = mounts.found(session.state_dir, session.known_hosts)
    here = next((one for one in known if one.directory == wish.directory), None)
    if here is None:
        return _refuse_others(known, wish)
    here = mounts.looked_at([here])[0]
    if here.state == STALE:
        message = (
            f"{here.directory} is mounted from {here.host} already, and it is stale: {here.reason}"
        )
        raise RefusedError(message, hint="apexgpu mounts repair", code="stale")
    note = mountnotes.load(session.state_dir).get(here.directory)
    asked = {
        here.remote,
        note.asked if note else here.remote,
        "" if here.remote == "~" else here.remote,
    }
    if (
        here.host != wish.target.host.name
        or wish.remote not in asked
        or here.read_only != wish.read_only
    ):
        what = f"{here.host}:{here.remote}{' (read-only)' if here.read_only else ''}"
        message = f"{what} is mounted on {here.directory} already"
        raise RefusedError(message, hint=f"apexgpu unmount {here.directory}", code="mounted")
    _show(session, here, changed=False)
    return True


def _refuse_others(known: Sequence[Mount], wish: Wish) -> bool:
    outer = next(
        (one for one in known if wish.directory.startswith(f"{one.directory}{os.sep}")), None
    )
    if outer is not None:
        message = f"{wish.directory} lies in {outer.directory}, which is mounted from {outer.host}"
        raise RefusedError(message, hint=f"apexgpu mount {wish.target.host.name}", code="nested")
    if mounttable.at(mounts.table(), wish.directory) is not None:
        message = f"something else is mounted on {wish.directory}"
        raise RefusedError(
            message, hint=f"apexgpu mount {wish.target.host.name} DIR", code="mounted"
        )
    return False


def _checked(session: Session, wish: Wish) -> str:
    """The full path there. What sftp meets on the way is first cured as for every command: trust a key, start it."""
    target = wish.target
    limit = session.settings.timeout
    if target.port:
        job = mountcheck.job(target, wish.remote, config=wish.config, limit=limit)
        try:
            return mountcheck.absolute(run_all([job])[0], target, wish.remote)
        except ApexError as exc:
            if exc.code not in _CURABLE:
                raise
    reach.ready(session, target.host)
    job = mountcheck.job(target, wish.remote, config=wish.config, limit=limit)
    return mountcheck.absolute(run_all([job])[0], target, wish.remote)


def _show(session: Session, one: Mount, *, changed: bool) -> None:
    session.screen.result(
        f"{one.directory}  →  {one.host}:{one.remote}{' (read-only)' if one.read_only else ''}"
    )
    if not changed:
        session.screen.note("nothing to do: it is mounted already")
    session.screen.document({"ok": True, "changed": changed, "mounts": [value(one)]})
