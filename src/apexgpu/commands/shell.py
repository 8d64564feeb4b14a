"""completion: what a shell needs, and putting it where the shell looks."""

from collections.abc import Sequence
from typing import Annotated

import typer

from apexgpu import shellstart
from apexgpu.commands.options import Group, session_of
from apexgpu.completion import SHELLS, script
from apexgpu.errors import UsageError
from apexgpu.session import Session

app = Group()
completion = Group()
app.add_typer(
    completion, name="completion", help="Print what your shell needs to complete apexgpu's words."
)


@completion.command("show")
def show(
    ctx: typer.Context, shell: Annotated[str, typer.Argument(metavar="SHELL", show_default=False)]
) -> None:
    """Print the completion script of a shell: bash, zsh, fish, powershell. Example: apexgpu completion show bash."""
    session = session_of(ctx)
    text = script(_known(shell))
    session.screen.result(text.rstrip("\n"))
    session.screen.document({"ok": True, "shell": shell, "script": text})


def _known(shell: str) -> str:
    name = {"pwsh": "powershell"}.get(shell, shell)
    if name not in SHELLS:
        raise UsageError(f"there is no completion for {shell}", hint=f"one of: {', '.join(SHELLS)}")
    return name


def install(session: Session, words: Sequence[str]) -> int:
    """`--install-completion [SHELL]`: a file of ours, and one line in the shell's start file where it needs one."""
    shell = _known(words[0]) if words else _detect()
    file, changed = shellstart.install(shell, session.settings.config_dir)
    session.screen.document({"ok": True, "shell": shell, "path": str(file), "changed": changed})
    if shell == "powershell":
        session.screen.result(f"Put this line into $PROFILE: . '{file}'")
    else:
        session.screen.result(
            f"Completion for {shell} is set up; it works in the next terminal you open."
        )
    return 0


def _detect() -> str:
    import shellingham

    try:
        name, _ = shellingham.detect_shell()
    except shellingham.ShellDetectionFailure:
        raise UsageError(
            "cannot tell which shell this is", hint="apexgpu --install-completion bash"
        ) from None
    return _known(str(name))
