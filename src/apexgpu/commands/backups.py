"""The panel "Backups": `snapshot`, `snapshots`, `recover`, `rebuild`."""

from typing import Annotated

import typer

from apexgpu import backups
from apexgpu.commands.options import Group, ListByDefault, OneHost, session_of
from apexgpu.results import Result

app = Group()
listing = Group(cls=ListByDefault)
app.add_typer(listing, name="snapshots", help="Your snapshots: list, verify, remove, keep.")

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A snapshot's name, its --name, or its file.", show_default=False
    ),
]
SnapshotFirst = Annotated[
    bool | None,
    typer.Option(
        "--snapshot/--no-snapshot",
        help="Whether to take a snapshot of the current files first. By default, you are asked.",
        show_default=False,
    ),
]
NewKeys = Annotated[
    bool | None,
    typer.Option(
        "--new-host-keys/--keep-host-keys",
        help="Whether to give the container new host keys. By default, you are asked.",
        show_default=False,
    ),
]
Unverified = Annotated[
    bool,
    typer.Option("--unverified", help="Also use an archive that is damaged or cannot be checked."),
]
Undo = Annotated[
    bool,
    typer.Option("--undo", help="Undo what an interrupted snapshot, recover or rebuild has done."),
]


@app.command("snapshot")
def snapshot(
    ctx: typer.Context,
    host: OneHost,
    name: Annotated[
        str, typer.Option(help="A name for the snapshot, such as before-upgrade.")
    ] = "",
    no_restart: Annotated[
        bool, typer.Option("--no-restart", help="Leave the container stopped.")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Overwrite the previous archive if it cannot be kept.",
        ),
    ] = False,
    undo: Undo = False,
) -> Result:
    """Save your container on HOST to the NAS, keep the previous archive, and check the new one.

    The container is stopped meanwhile. Example: apexgpu snapshot gpu7 --name before-upgrade
    """
    session = session_of(ctx)
    if undo:
        return backups.undo(session, host)
    return backups.snapshot(
        session, host, label=name, restart=not no_restart, replace_previous=replace
    )


@listing.command("list")
def list_snapshots(
    ctx: typer.Context,
    host: Annotated[
        str | None,
        typer.Argument(metavar="[HOST]", help="Only the snapshots of HOST.", show_default=False),
    ] = None,
) -> Result:
    """Show every snapshot, and the free space on the NAS.

    This needs one running container; none is started for it.

    Example: apexgpu snapshots
    """
    return backups.snapshots(session_of(ctx), host)


@listing.command("verify")
def verify(ctx: typer.Context, name: Name) -> Result:
    """Read a snapshot to its end, and record the result.

    This runs in a container, with gzip, tar and sha256sum. The result is saved beside the snapshot.

    Example: apexgpu snapshots verify before-upgrade
    """
    return backups.verify(session_of(ctx), name)


@listing.command("remove")
def remove(ctx: typer.Context, name: Name) -> Result:
    """Delete a snapshot.

    Example: apexgpu snapshots remove before-upgrade
    """
    return backups.remove(session_of(ctx), name)


@listing.command("keep")
def keep(
    ctx: typer.Context,
    count: Annotated[
        int | None,
        typer.Argument(metavar="[N]", min=1, help="As --last N.", show_default=False),
    ] = None,
    last: Annotated[int, typer.Option(metavar="N", min=0, help="Keep the newest N.")] = 0,
    daily: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Keep the newest of each of the last N days."),
    ] = 0,
    weekly: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Keep the newest of each of the last N weeks."),
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be kept, and why; delete nothing.")
    ] = False,
) -> Result:
    """Keep some snapshots of each host; delete the rest. Days and weeks without a snapshot do not count.

    The newest verified snapshot of each host is always kept, and the newest that a recover saved.

    Examples: apexgpu snapshots keep 3 · apexgpu snapshots keep --daily 7 --weekly 4 --dry-run
    """
    rules = backups.KeepRules(last=max(last, count or 0), daily=daily, weekly=weekly)
    return backups.keep(session_of(ctx), rules, dry_run=dry_run)


@app.command("recover")
def recover(
    ctx: typer.Context,
    host: OneHost,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME|PATH",
            help="The snapshot to use (see: apexgpu snapshots). By default, the newest good one that you took.",
        ),
    ] = None,
    unverified: Unverified = False,
    snapshot: SnapshotFirst = None,
    new_host_keys: NewKeys = None,
    undo: Undo = False,
) -> Result:
    """Replace your container on HOST with a saved one. The archive is checked first.

    Example: apexgpu recover gpu7 --from before-upgrade
    """
    session = session_of(ctx)
    if undo:
        return backups.undo(session, host)
    return backups.recover(
        session,
        host,
        source,
        unverified=unverified,
        snapshot_first=snapshot,
        new_host_keys=new_host_keys,
    )


@app.command("rebuild")
def rebuild(
    ctx: typer.Context,
    host: OneHost,
    unverified: Unverified = False,
    snapshot: SnapshotFirst = None,
    new_host_keys: NewKeys = None,
    undo: Undo = False,
) -> Result:
    """Make your container on HOST anew from the administrators' template.

    Your files in it are deleted.

    Example: apexgpu rebuild gpu7
    """
    session = session_of(ctx)
    if undo:
        return backups.undo(session, host)
    return backups.rebuild(
        session,
        host,
        unverified=unverified,
        snapshot_first=snapshot,
        new_host_keys=new_host_keys,
    )
