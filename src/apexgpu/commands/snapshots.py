"""snapshots: every archive that can be seen; test one, remove one, keep only the newest."""

from typing import Annotated, Any

import typer

from apexgpu.backups.archivescripts import NOTE
from apexgpu.backups.backup import only_archive
from apexgpu.backups.eyes import running_eye
from apexgpu.backups.journal import Journal
from apexgpu.backups.nas import Eye, Means, now
from apexgpu.backups.snapshots import UNKNOWN, Manifest, Saved, choose, iso, owner, to_rotate
from apexgpu.commands.backup import words
from apexgpu.commands.options import Group, ListByDefault, kit_of
from apexgpu.errors import ApexError, RefusedError
from apexgpu.kit import Kit
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
    kit = kit_of(ctx)
    names = [one.name for one in kit.hosts([host])] if host else None
    with kit.screen.working("looking at the archives"):
        eye = find_eye(kit)
        sight = eye.look()
    found = [one for one in sight.archives if names is None or one.host in names]
    if found:
        kit.screen.table(_HEADER, [_row(one) for one in found])
    else:
        kit.screen.note("no snapshot can be seen; make one with: apexgpu snapshot HOST")
    kit.screen.note(f"{size(sight.free)} free in {eye.directory} (seen from {eye.host.name})")
    if not sight.writable:
        kit.screen.warn(
            f"{eye.directory} may not be written: a new snapshot would replace {eye.path}"
        )
    kit.screen.document(
        {
            "ok": True,
            "snapshots": [one.value() for one in found],
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
    kit = kit_of(ctx)
    with kit.screen.working("testing") as progress:
        eye = find_eye(kit, progress.say)
        found = choose(eye.look().archives, name, eye.host.name)
        result = eye.test(found.path)
        trouble = result.trouble
        if found.sha256 and found.sha256 != result.sha256 and not trouble:
            trouble = "its SHA-256 is no longer the one that was noted when it was verified"
        if trouble:
            # What was noted of it is not true any more, and `keep` must not take it for a good one.
            eye.unnote(found.path)
            message = f"{found.name} is damaged: {trouble}"
            raise ApexError(
                message, hint="apexgpu snapshots   (is there another one?)", code="archive_damaged"
            )
        host = (
            found.host
            if found.host != UNKNOWN
            else owner(result, kit.user, [one.name for one in kit.known_hosts])
        )
        manifest = Manifest(
            host or UNKNOWN, found.label, result.time, result.size, result.sha256, now()
        )
        if not eye.write_note(found.path, manifest):
            kit.screen.warn(f"{found.path}{NOTE} cannot be written, so the result is not kept")
    after = eye.find(found.path) or found
    kit.screen.good(f"{after.name} is good: {result.members} files, SHA-256 {result.sha256}")
    kit.screen.document({"ok": True, "snapshots": [after.value()]})


@snapshots.command("remove")
def remove(ctx: typer.Context, name: Name) -> None:
    """Delete an archive.

    Example: apexgpu snapshots remove before-upgrade
    """
    kit = kit_of(ctx)
    with only_archive(kit.state_dir):
        eye = find_eye(kit)
        seen = eye.look().archives
        found = choose(seen, name, eye.host.name)
        if found.path in Journal(kit.state_dir).needed():
            message = f"{found.name} is needed by what was interrupted"
            raise RefusedError(
                message,
                hint="apexgpu status   (names it, and how to finish or undo it)",
                code="needed",
            )
        _confirm(kit, [found], seen)
        eye.remove(found)
    kit.screen.good(f"{found.name} is removed")
    kit.screen.document({"ok": True, "snapshots": [found.value()]})


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
    kit = kit_of(ctx)
    with only_archive(kit.state_dir):
        eye = find_eye(kit)
        seen = eye.look().archives
        needed = Journal(kit.state_dir).needed()
        gone = [one for one in to_rotate(seen, count) if one.path not in needed]
        if gone:
            _confirm(kit, gone, seen)
        for one in gone:
            eye.remove(one)
    kit.screen.good(
        f"{len(gone)} removed, {len(seen) - len(gone)} kept" if gone else "nothing to remove"
    )
    kit.screen.document(
        {
            "ok": True,
            "removed": [one.value() for one in gone],
            "snapshots": [one.value() for one in seen if one not in gone],
        }
    )


def find_eye(kit: Kit, say: OnLine = lambda _: None) -> Eye:
    """A running container that sees the archives; nothing is started for it."""
    return running_eye(
        Means(
            kit.transport, kit.known_hosts, kit.state_dir, kit.pause, say=say, note=kit.screen.note
        )
    )


def _confirm(kit: Kit, gone: list[Saved], seen: tuple[Saved, ...]) -> None:
    for one in gone:
        kit.screen.note(f"  {words(one)}")
    left = [one for one in seen if one not in gone]
    if any(one.verified for one in gone) and not any(one.verified for one in left):
        kit.screen.warn("no verified snapshot would be left")
    kit.confirm(f"Delete {'this archive' if len(gone) == 1 else f'these {len(gone)} archives'}?")


def _row(one: Saved) -> tuple[str, ...]:
    verified: Any = iso(one.verified)[:16].replace("T", " ") if one.verified else "never"
    readers = "can read it" if one.others_can_read else "no"
    host = "?" if one.host == UNKNOWN else one.host
    return (
        one.name,
        host,
        iso(one.created)[:16].replace("T", " "),
        size(one.size),
        verified,
        readers,
        one.path,
    )
