"""The commands `mount`, `mounts` and `unmount`."""

from typing import Annotated

import typer

from apexgpu import mount as mount_module
from apexgpu.commands.options import Group, ListByDefault, OneHost, session_of
from apexgpu.results import Result

app = Group()
group = Group(cls=ListByDefault)
app.add_typer(group, name="mounts", help="The mounts of this laptop: list, repair.")


@app.command("mount")
def mount(
    ctx: typer.Context,
    host: OneHost,
    directory: Annotated[
        str | None,
        typer.Argument(
            metavar="[DIR]",
            help="The local directory; by default ~/apexgpu/HOST.",
            show_default=False,
        ),
    ] = None,
    remote: Annotated[
        str,
        typer.Option(
            "--remote", metavar="PATH", help="A directory in the container; by default your home."
        ),
    ] = "",
    read_only: Annotated[bool, typer.Option("--read-only", help="Mount read-only.")] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", metavar="OPT[=VALUE]", help="An option for sshfs. Can be repeated."
        ),
    ] = None,
) -> Result:
    """Mount the files of your container on HOST in a directory of this laptop, until: apexgpu unmount HOST.

    Examples: apexgpu mount gpu7 · apexgpu mount gpu7 ~/data --remote /SSD/alice --read-only
    """
    return mount_module.mount(
        session_of(ctx),
        host,
        directory,
        remote=remote,
        read_only=read_only,
        options=option or [],
    )


@group.command("list")
def show(ctx: typer.Context) -> Result:
    """Show what is mounted on this laptop, and whether it answers.

    Example: apexgpu mounts
    """
    return mount_module.list_mounts(session_of(ctx))


@group.command("repair")
def repair(ctx: typer.Context) -> Result:
    """Mount again what does not answer any more.

    A mount is replaced only if its host answers. Otherwise it is kept, and works again by itself
    when the host is back.

    Example: apexgpu mounts repair
    """
    return mount_module.repair(session_of(ctx))


@app.command("unmount")
def unmount(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[HOST|DIR...]", help="Host names, globs or directories.", show_default=False
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Unmount everything that is mounted from your containers.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Unmount even if a program uses the directory or the server does not answer (a lazy unmount).",
        ),
    ] = False,
) -> Result:
    """Unmount everything that is mounted from HOST, or the directory DIR.

    Examples: apexgpu unmount gpu7 · apexgpu unmount ~/data · apexgpu unmount --all --force
    """
    return mount_module.unmount(session_of(ctx), names or [], everything=everything, force=force)
