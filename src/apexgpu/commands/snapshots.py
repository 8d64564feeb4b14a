"""snapshots: every archive that can be seen; test one, remove one, keep only the newest."""

from typing import Annotated, Any

import typer

from apexgpu.archives.archivehost import ArchiveHost
from apexgpu.archives.catalog import (
    MANIFEST_SUFFIX,
    UNKNOWN_HOST,
    Archive,
    Manifest,
    iso,
    saved_host,
)
from apexgpu.archives.findhost import running_archive_host
from apexgpu.archives.journal import Journal, now
from apexgpu.archives.selection import archives_to_remove, choose_archive
from apexgpu.archives.snapshot import exclusive_archives
from apexgpu.archives.workcontext import WorkContext
from apexgpu.commands.backup import words
from apexgpu.commands.options import Group, ListByDefault, session_of
from apexgpu.errors import ApexError, RefusedError
from apexgpu.session import Session
from apexgpu.ssh.transport import OnLine
from apexgpu.text import size

app = Group()
snapshots = Group(cls=ListByDefault)
app.add_typer(
    snapshots, name="snapshots", help="Every archive that can be seen: list, verify, remove, keep."
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A snapshot's name, its --name, or its file.", show_default=False
    ),
]
_HEADER = ("NAME", "HOST", "TIME", "SIZE", "VERIFIED", "OTHERS", "PATH")


@snapshots.command("list")
def show(
    ctx: typer.Context,
    host: Annotated[
        str | None, typer.Argument(metavar="[HOST]", help="Only this host's.", show_default=False)
    ] = None,
) -> None:
    """Show every archive, and the room on the NAS.

    It is what a running container of yours sees; none is started for it.

    Example: apexgpu snapshots
    """
    session = session_of(ctx)
    names = [one.name for one in session.hosts([host])] if host else None
    with session.screen.working("looking at the archives"):
        eye = find_eye(session)
        sight = eye.list_archives()
    found = [one for one in sight.archives if names is None or one.host in names]
    if found:
        session.screen.table(_HEADER, [_row(one) for one in found])
    else:
        session.screen.note("no snapshot can be seen; make one with: apexgpu snapshot HOST")
    session.screen.note(f"{size(sight.free)} free in {eye.directory} (seen from {eye.host.name})")
    if not sight.writable:
        session.screen.warn(
            f"{eye.directory} may not be written: a new snapshot would replace {eye.server_path}"
        )
    session.screen.document(
        {
            "ok": True,
            "snapshots": [one.to_json() for one in found],
            "free": sight.free,
            "writable": sight.writable,
            "directory": eye.directory,
            "seen_from": eye.host.name,
        }
    )


@snapshots.command("verify")
def verify(ctx: typer.Context, name: Name) -> None:
    """Read an archive to its end, and note the result.

    In a running container, with gzip, tar and sha256sum; the result lies beside the archive.

    Example: apexgpu snapshots verify before-upgrade
    """
    session = session_of(ctx)
    with session.screen.working("testing") as progress:
        eye = find_eye(session, progress.update)
        found = choose_archive(eye.list_archives().archives, name, eye.host.name)
        result = eye.check(found.path)
        trouble = result.problem
        if found.sha256 and found.sha256 != result.sha256 and not trouble:
            trouble = "its SHA-256 is no longer the one that was noted when it was verified"
        if trouble:
            # What was noted of it is not true any more, and `keep` must not take it for a good one.
            eye.delete_manifest(found.path)
            message = f"{found.name} is damaged: {trouble}"
            raise ApexError(
                message, hint="apexgpu snapshots   (is there another one?)", code="archive_damaged"
            )
        host = (
            found.host
            if found.host != UNKNOWN_HOST
            else saved_host(result, session.user, [one.name for one in session.known_hosts])
        )
        manifest = Manifest(
            host or UNKNOWN_HOST,
            found.label,
            result.stamp.mtime,
            result.stamp.size,
            result.sha256,
            now(),
        )
        if not eye.write_manifest(found.path, manifest):
            session.screen.warn(
                f"{found.path}{MANIFEST_SUFFIX} cannot be written, so the result is not kept"
            )
    after = eye.find(found.path) or found
    session.screen.good(f"{after.name} is good: {result.members} files, SHA-256 {result.sha256}")
    session.screen.document({"ok": True, "snapshots": [after.to_json()]})


@snapshots.command("remove")
def remove(ctx: typer.Context, name: Name) -> None:
    """Delete an archive.

    Example: apexgpu snapshots remove before-upgrade
    """
    session = session_of(ctx)
    with exclusive_archives(session.state_dir):
        eye = find_eye(session)
        seen = eye.list_archives().archives
        found = choose_archive(seen, name, eye.host.name)
        if found.path in Journal(session.state_dir).archives_needed():
            message = f"{found.name} is needed by what was interrupted"
            raise RefusedError(
                message,
                hint="apexgpu status   (names it, and how to finish or undo it)",
                code="needed",
            )
        _confirm(session, [found], seen)
        eye.remove(found)
    session.screen.good(f"{found.name} is removed")
    session.screen.document({"ok": True, "snapshots": [found.to_json()]})


@snapshots.command("keep")
def keep(
    ctx: typer.Context,
    count: Annotated[
        int, typer.Argument(metavar="N", min=1, help="How many of each host.", show_default=False)
    ],
) -> None:
    """Keep the newest N archives of each host; delete the rest.

    The last verified one of each host is kept in any case.

    Example: apexgpu snapshots keep 3
    """
    session = session_of(ctx)
    with exclusive_archives(session.state_dir):
        eye = find_eye(session)
        seen = eye.list_archives().archives
        needed = Journal(session.state_dir).archives_needed()
        gone = [one for one in archives_to_remove(seen, count) if one.path not in needed]
        if gone:
            _confirm(session, gone, seen)
        for one in gone:
            eye.remove(one)
    session.screen.good(
        f"{len(gone)} removed, {len(seen) - len(gone)} kept" if gone else "nothing to remove"
    )
    session.screen.document(
        {
            "ok": True,
            "removed": [one.to_json() for one in gone],
            "snapshots": [one.to_json() for one in seen if one not in gone],
        }
    )


def find_eye(session: Session, say: OnLine = lambda _: None) -> ArchiveHost:
    """A running container that sees the archives; nothing is started for it."""
    return running_archive_host(
        WorkContext(
            session.transport,
            session.known_hosts,
            session.state_dir,
            session.pause,
            progress=say,
            note=session.screen.note,
        )
    )


def _confirm(session: Session, gone: list[Archive], seen: tuple[Archive, ...]) -> None:
    for one in gone:
        session.screen.note(f"  {words(one)}")
    left = [one for one in seen if one not in gone]
    if any(one.verified for one in gone) and not any(one.verified for one in left):
        session.screen.warn("no verified snapshot would be left")
    session.confirm(
        f"Delete {'this archive' if len(gone) == 1 else f'these {len(gone)} archives'}?"
    )


def _row(one: Archive) -> tuple[str, ...]:
    verified: Any = iso(one.verified)[:16].replace("T", " ") if one.verified else "never"
    readers = "can read it" if one.others_can_read else "no"
    host = "?" if one.host == UNKNOWN_HOST else one.host
    return (
        one.name,
        host,
        iso(one.created)[:16].replace("T", " "),
        size(one.size),
        verified,
        readers,
        one.path,
    )
