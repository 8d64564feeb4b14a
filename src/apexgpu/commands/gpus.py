"""The commands `gpus` and `gpus free`."""

from typing import Annotated

import typer

from apexgpu import gpus
from apexgpu.commands.options import Group, HostsArgument, ListByDefault, session_of
from apexgpu.results import Result

app = Group()
group = Group(cls=ListByDefault)
app.add_typer(group, name="gpus", help="What every GPU does, and which of them are free.")


@group.command("list")
def show(
    ctx: typer.Context,
    hosts: HostsArgument = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")
    ] = False,
) -> Result:
    """Show every GPU: load, memory, who uses it.

    Of all hosts, or of those that are named, where your container runs. A container shows your own programs only:
    memory that none of them accounts for is `others`.

    Examples: apexgpu gpus · apexgpu gpus gpu7 --watch
    """
    return gpus.show(session_of(ctx), hosts or [], watch=watch)


@group.command("free")
def free(
    ctx: typer.Context,
    hosts: HostsArgument = None,
    memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", min=0.001, help="GiB free on each; without it, empty ones."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many GPUs, all on one host.")] = 1,
    over: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, max=3600, help="How long to look.")
    ] = 5,
) -> Result:
    """Show the free GPUs, best first, with the line to paste.

    Each is looked at several times: a pause between two batches does not count as free.

    Example: apexgpu gpus free --memory 8 --count 2
    """
    in_bytes = None if memory is None else int(memory * gpus.GIB)
    return gpus.free(session_of(ctx), hosts or [], memory=in_bytes, count=count, seconds=over)
