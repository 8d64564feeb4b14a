"""The command `completion show`. `--install-completion` is an option of apexgpu: see `cli`."""

from typing import Annotated

import typer

from apexgpu import shellcompletion
from apexgpu.commands.options import Group
from apexgpu.results import Result

app = Group()
group = Group()
app.add_typer(group, name="completion", help="Print the script for completion in your shell.")


@group.command("show")
def show(shell: Annotated[str, typer.Argument(metavar="SHELL", show_default=False)]) -> Result:
    """Print the completion script of a shell: bash, zsh, fish, powershell.

    Example: apexgpu completion show bash
    """
    return shellcompletion.show(shell)
