"""The commands `gpus` and `gpus free`."""

from typing import Annotated

import typer

from apexgpu import gpus
from apexgpu.commands.options import (
    Group,
    HostsArgument,
    Interval,
    ListByDefault,
    Watch,
    session_of,
    watch_interval,
)
from apexgpu.results import Result

app = Group()
group = Group(cls=ListByDefault)
app.add_typer(group, name="gpus", help="What every GPU does, and which of them are free.")


@group.command("list")
def show(
    ctx: typer.Context,
    hosts: HostsArgument = None,
    watch: Watch = False,
    interval: Interval = None,
) -> Result:
    """Show every GPU: its load, its memory, and who uses it.

    By default, of all hosts where your container runs. A container shows only your own programs:
    memory that none of them uses is shown as `others`.

    Examples: apexgpu gpus · apexgpu gpus gpu7 --watch
    """
    return gpus.show(session_of(ctx), hosts or [], watch=watch_interval(watch, interval))


@group.command("free")
def free(
    ctx: typer.Context,
    hosts: HostsArgument = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="What must be free on each GPU: 8, 8G and 8GiB are 8 GiB. By default, GPUs must be empty.",
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many GPUs you need on one host.")] = 1,
    over: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, max=3600, help="Seconds over which the GPUs are checked."
        ),
    ] = 5,
) -> Result:
    """Show the free GPUs, best first, and a command that uses them.

    Each GPU is checked several times: one that pauses between two batches is not free.

    Example: apexgpu gpus free --memory 8 --count 2
    """
    in_bytes = None if memory is None else gpus.parse_memory(memory)
    return gpus.free(session_of(ctx), hosts or [], memory=in_bytes, count=count, seconds=over)
