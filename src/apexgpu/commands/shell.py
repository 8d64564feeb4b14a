"""completion: what a shell needs, and putting it where the shell looks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from apexgpu.commands.options import Group, kit_of
from apexgpu.completion import SHELLS, script
from apexgpu.errors import UsageError
from apexgpu.files import replace_atomically
from apexgpu.kit import Kit

app = Group()
completion = Group()
app.add_typer(completion, name="completion", help="Print what your shell needs to complete apexgpu's words.")


@completion.command("show")
def show(ctx: typer.Context, shell: Annotated[str, typer.Argument(metavar="SHELL", show_default=False)]) -> None:
    """Print the completion script for SHELL: bash, zsh, fish or powershell. Example: apexgpu completion show bash."""
    kit = kit_of(ctx)
    text = script(_known(shell))
    kit.screen.result(text.rstrip("\n"))
    kit.screen.document({"ok": True, "shell": shell, "script": text})


def _known(shell: str) -> str:
    name = {"pwsh": "powershell"}.get(shell, shell)
    if name not in SHELLS:
        raise UsageError(f"there is no completion for {shell}", hint=f"one of: {', '.join(SHELLS)}")
    return name


def install(kit: Kit, words: Sequence[str]) -> int:
    """`--install-completion [SHELL]`: a file of ours, and one line in the shell's start file where it needs one."""
    shell = _known(words[0]) if words else _detect()
    home = Path.home()
    if shell == "fish":
        file, start = home / ".config/fish/completions/apexgpu.fish", None
    else:
        file = kit.settings.config_dir / f"completion.{shell}"
        start = {"bash": home / ".bashrc", "zsh": home / ".zshrc"}.get(shell)
    replace_atomically(file, script(shell).encode(), mode=0o644)
    changed = start is not None and _source(start, file)
    kit.screen.document({"ok": True, "shell": shell, "path": str(file), "changed": changed})
    if shell == "powershell":
        kit.screen.result(f"Put this line into $PROFILE: . '{file}'")
    else:
        kit.screen.result(f"Completion for {shell} is set up; it works in the next terminal you open.")
    return 0


def _source(start: Path, file: Path) -> bool:
    line = f'[ -r "{file}" ] && . "{file}"  # apexgpu\n'.encode()
    old = start.read_bytes() if start.exists() else b""
    if line in old:
        return False
    glue = b"" if not old or old.endswith(b"\n") else b"\n"
    mode = start.stat().st_mode & 0o777 if start.exists() else 0o644
    replace_atomically(start, old + glue + line, mode=mode)
    return True


def _detect() -> str:
    import shellingham

    try:
        name, _ = shellingham.detect_shell()
    except shellingham.ShellDetectionFailure:
        raise UsageError("cannot tell which shell this is", hint="apexgpu --install-completion bash") from None
    return _known(str(name))
