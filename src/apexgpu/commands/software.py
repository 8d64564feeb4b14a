"""The commands `setup` and `verify`."""

from typing import Annotated

import typer

from apexgpu import software
from apexgpu.commands.options import Group, session_of
from apexgpu.results import Result

app = Group()


@app.command("setup")
def setup(
    ctx: typer.Context,
    host: Annotated[
        str,
        typer.Argument(
            metavar="HOST",
            help="A host name; or the word list, for all recipes.",
            show_default=False,
        ),
    ],
    recipes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE...",
            help="Recipes, with a version where you want one: tensorflow==1.8.0.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "--plan", help="Show the plan and change nothing.")
    ] = False,
    python: Annotated[
        int,
        typer.Option(
            "--python", metavar="2|3", min=2, max=3, help="The Python of TensorFlow and PyTorch."
        ),
    ] = 3,
    accept_files: Annotated[
        bool,
        typer.Option(
            "--accept-files",
            help="Accept installers on the NAS that have been replaced since the last time.",
        ),
    ] = False,
) -> Result:
    """Set up software in your container on HOST: compatible versions, or the reason why there are none.

    The plan is shown before anything is changed. The work continues if the connection is lost; the same command then
    follows it, resumes it, and changes nothing when all is done.

    Examples: apexgpu setup list · apexgpu setup gpu7 tensorflow jupyter · apexgpu setup gpu7 cuda --plan
    """
    session = session_of(ctx)
    if host == "list":
        return software.list_recipes(session)
    return software.setup(
        session,
        host,
        recipes or [],
        python=python,
        dry_run=dry_run,
        accept_files=accept_files,
    )


@app.command("verify")
def verify(
    ctx: typer.Context,
    host: Annotated[
        str, typer.Argument(metavar="HOST", help="A host name or glob.", show_default=False)
    ],
    python: Annotated[
        str | None, typer.Option("--python", metavar="PATH", help="A Python or environment.")
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=1, help="How long one run may take.")
    ] = software.RUN_LIMIT,
) -> Result:
    """Test that your container computes: driver, CUDA, cuDNN, TensorFlow, a convolution on a GPU, memory.

    The first check that fails is named, with the command that helps. The GPU with most free memory is used, first as
    after a login and then as a plain command; nothing is changed. Exit code 1: it does not compute; 6: others use
    the GPUs; 5: not done in time. Example: apexgpu verify gpu7
    """
    return software.verify(session_of(ctx), host, python=python, wait=wait)
