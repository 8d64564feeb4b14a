"""The commands `lab …` and `demo`. They need the extra `apexgpu[lab]`, so its package is imported when one is used."""

from pathlib import Path
from typing import Annotated

import typer

from apexgpu import labvariables
from apexgpu.commands.options import Group, StatusByDefault, output_line, session_of
from apexgpu.results import Result
from apexgpu.session import Session

app = Group()
group = Group(cls=StatusByDefault)
app.add_typer(group, name="lab", help="The embedded lab: up, env, status, fault, down.")

LabHost = Annotated[
    str | None, typer.Argument(metavar="[HOST]", help="A lab host, or iam.", show_default=False)
]


def _home(session: Session) -> Path:
    """The lab's directory. Within `lab env`, the state directory is a part of the lab itself."""
    return labvariables.lab_home(session.environment) or session.state_dir / "lab"


@group.command("up")
def up(
    ctx: typer.Context,
    hosts: Annotated[int, typer.Option(help="How many hosts.", min=1, max=254)] = 3,
    registered: Annotated[
        bool, typer.Option("--registered", help="Register the first user on every host.")
    ] = False,
) -> Result:
    """Start the lab: an IAM and GPU hosts on this machine's loopback. Example: apexgpu lab up --hosts 3."""
    from apexgpu_lab import lab

    session = session_of(ctx)
    with session.reporter.working("starting the lab"):
        return lab.up(_home(session), hosts=hosts, registered=registered)


@group.command("env")
def env(
    ctx: typer.Context,
    unset: Annotated[
        bool, typer.Option("--unset", help="Print lines that remove the variables again.")
    ] = False,
    shell: Annotated[
        str,
        typer.Option(
            "--shell",
            metavar="SHELL",
            help="sh, fish or powershell. By default sh, on Windows powershell.",
            show_default=False,
        ),
    ] = "",
) -> Result:
    """Print lines that point apexgpu and ssh at the lab, for the shell to run.

    In sh, bash and zsh: eval "$(apexgpu lab env)"

    In fish: apexgpu lab env --shell fish | source

    In PowerShell: apexgpu lab env | Out-String | Invoke-Expression
    """
    from apexgpu_lab import lab

    if unset:
        return lab.unset_environment(shell)
    return lab.environment(_home(session_of(ctx)), shell)


@group.command("status")
def status(ctx: typer.Context) -> Result:
    """Show the lab's hosts, users and directories. Example: apexgpu lab status --json."""
    from apexgpu_lab import lab

    return lab.status(_home(session_of(ctx)))


@group.command("fault")
def fault(
    ctx: typer.Context,
    host: LabHost = None,
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", show_default=False)] = None,
    times: Annotated[
        int | None, typer.Option(help="End the fault after it has happened so many times.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="End the fault now.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the kinds of faults.")] = False,
) -> Result:
    """Make a lab host (or iam) misbehave. Example: apexgpu lab fault gpu3 silent."""
    from apexgpu_lab import lab

    if list_ or host is None or kind is None:
        return lab.list_faults()
    return lab.fault(_home(session_of(ctx)), host, kind, times=times, clear=clear)


@group.command("down")
def down(ctx: typer.Context) -> Result:
    """End the lab: its mounts and tunnels, every process it started, and its directories. Example: apexgpu lab down."""
    from apexgpu import uninstall  # `lab env`, which shells run, does not need it
    from apexgpu_lab import lab

    session = session_of(ctx)
    home = _home(session)
    uninstall.release_lab(session, home)
    is_in_lab = labvariables.lab_home(session.environment) is not None
    return lab.down(home, variables_remain=is_in_lab)


@app.command("demo")
def demo(ctx: typer.Context) -> Result:
    """Play a first day in a lab inside this program, then remove the lab. Nothing of yours is touched."""
    from apexgpu_lab import demo

    return demo.play(print_line=output_line(ctx))
