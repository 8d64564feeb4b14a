"""The commands `register`, `up`, `down`, `restart` and `status`."""

from typing import Annotated

import typer

from apexgpu import containers
from apexgpu.commands.options import (
    AllHosts,
    Group,
    HostsArgument,
    Interval,
    Watch,
    session_of,
    watch_interval,
)
from apexgpu.results import Result

StartWait = Annotated[
    float, typer.Option(help="Seconds to wait for the start, and for the container's port.")
]

app = Group()


@app.command("register")
def register(
    ctx: typer.Context, hosts: HostsArgument = None, everything: AllHosts = False
) -> Result:
    """Make your container on HOST, once. It takes minutes; do not interrupt it.

    Example: apexgpu register gpu7
    """
    return containers.register(session_of(ctx), hosts or [], everything=everything)


@app.command("up")
def up(
    ctx: typer.Context,
    hosts: HostsArgument = None,
    everything: AllHosts = False,
    wait: StartWait = containers.START_WAIT,
) -> Result:
    """Start your container on HOST and wait until it answers SSH.

    Example: apexgpu up gpu7
    """
    return containers.up(session_of(ctx), hosts or [], everything=everything, wait=wait)


@app.command("down")
def down(ctx: typer.Context, hosts: HostsArgument = None, everything: AllHosts = False) -> Result:
    """Stop your container on HOST. Its files stay; the programs in it end.

    Example: apexgpu down gpu7
    """
    return containers.down(session_of(ctx), hosts or [], everything=everything)


@app.command("restart")
def restart(
    ctx: typer.Context,
    hosts: HostsArgument = None,
    everything: AllHosts = False,
    wait: StartWait = containers.START_WAIT,
) -> Result:
    """Stop your container on HOST, and start it again. The programs in it end.

    Example: apexgpu restart gpu7
    """
    return containers.restart(session_of(ctx), hosts or [], everything=everything, wait=wait)


@app.command("status")
def status(
    ctx: typer.Context,
    hosts: HostsArgument = None,
    watch: Watch = False,
    interval: Interval = None,
) -> Result:
    """Show every host: whether you are registered, and state, address and memory of your container.

    If you name hosts, their uptime and the free space on their disks are shown, too. Example:
    apexgpu status gpu7
    """
    return containers.status(session_of(ctx), hosts or [], watch=watch_interval(watch, interval))
