"""The command `port`."""

from typing import Annotated

import typer

from apexgpu import ports
from apexgpu.commands.options import Group, OneHost, session_of
from apexgpu.results import Result

app = Group()


@app.command("port")
def port(
    ctx: typer.Context,
    host: OneHost,
    number: Annotated[
        int | None,
        typer.Argument(metavar="[PORT]", help="A port of the container to map.", min=1, max=65535),
    ] = None,
) -> Result:
    """Show the ports of your container that the server maps to its own address, or map PORT as well.

    A map has no password and is open to the lab's whole network, and every stop of the container takes it away:
    `apexgpu tunnel HOST PORT` is the safer way. Example: apexgpu port gpu7 6006
    """
    session = session_of(ctx)
    if number is None:
        return ports.list_ports(session, host)
    return ports.map_port(session, host, number)
