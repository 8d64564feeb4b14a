"""The commands `doctor`, `explain` and `uninstall`."""

from pathlib import Path
from typing import Annotated

import typer

from apexgpu import explain as explanations
from apexgpu.commands.options import Group, session_of
from apexgpu.doctor import diagnose
from apexgpu.results import Result
from apexgpu.uninstall import uninstall as uninstall_everything

app = Group()


@app.command("doctor")
def doctor(
    ctx: typer.Context,
    host: Annotated[
        str | None,
        typer.Argument(
            metavar="[HOST]", help="A host name or glob; all by default.", show_default=False
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Also write the result into FILE, for an administrator. It contains no secret.",
            show_default=False,
        ),
    ] = None,
) -> Result:
    """Check everything between this machine and your containers, and show how to fix it.

    It changes nothing. Exit code 1 if there is a problem. Examples: apexgpu doctor gpu7 · apexgpu
    doctor --report report.txt
    """
    return diagnose(session_of(ctx), host, report=report)


@app.command("explain")
def explain(
    ctx: typer.Context,
    code: Annotated[
        str | None,
        typer.Argument(
            metavar="[CODE]",
            help="A code that an error has in --json, such as not_registered.",
            show_default=False,
        ),
    ] = None,
) -> Result:
    """Show what an error means, why it happens and what to do, in English and in Chinese.

    Without CODE, all codes are listed. Example: apexgpu explain not_registered
    """
    if code is None:
        return explanations.list_codes()
    return explanations.explain(code)


@app.command("uninstall")
def uninstall(ctx: typer.Context) -> Result:
    """Remove everything that apexgpu wrote on this machine. Your keys stay, on this machine and in IAM.

    It lists everything and asks before it removes anything. A second run has nothing to do.
    Example: apexgpu uninstall
    """
    return uninstall_everything(session_of(ctx))
