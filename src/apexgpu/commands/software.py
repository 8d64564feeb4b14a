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
            help="A host name, or `list` to list all recipes.",
            show_default=False,
        ),
    ] = "list",
    recipes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE...",
            help="Recipes, with a version if you need a certain one: tensorflow==1.8.0.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "--plan", help="Show the plan and change nothing.")
    ] = False,
    python: Annotated[
        int,
        typer.Option(
            "--python",
            metavar="2|3",
            min=2,
            max=3,
            help="The Python version for TensorFlow and PyTorch.",
        ),
    ] = 3,
    accept_files: Annotated[
        bool,
        typer.Option(
            "--accept-files",
            help="Accept installers on the NAS whose checksums have changed since the last time.",
        ),
    ] = False,
) -> Result:
    """Set up software in your container on HOST, in compatible versions.

    The plan is shown before anything is changed. If the connection is lost, the work continues in
    the container; run the same command again to follow or resume it. If everything is set up,
    nothing is changed.

    Examples: apexgpu setup list · apexgpu setup gpu7 tensorflow jupyter · apexgpu setup gpu7 cuda
    --plan
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
        str | None,
        typer.Option("--python", metavar="PATH", help="The Python or the environment to test."),
    ] = None,
    wait: Annotated[
        float,
        typer.Option("--wait", metavar="SECONDS", min=1, help="Seconds that each run may take."),
    ] = software.RUN_LIMIT,
) -> Result:
    """Test GPU computing in your container: driver, CUDA, cuDNN, TensorFlow, a convolution, memory.

    The first check that fails is shown, with a command that helps. The GPU with the most free
    memory is used: once in a login shell, and once in a non-interactive shell. Nothing is changed.
    Exit code 1: it does not work; 6: others use the GPUs; 5: not finished in time. Example: apexgpu
    verify gpu7
    """
    return software.verify(session_of(ctx), host, python=python, wait=wait)
