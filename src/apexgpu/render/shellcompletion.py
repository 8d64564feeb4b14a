"""How the results of `apexgpu.shellcompletion` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.render.screen import Screen
from apexgpu.shellcompletion import CompletionInstallation, CompletionScript


def show_script(result: CompletionScript, screen: Screen) -> None:
    """The script as it is, to redirect into a file."""
    screen.verbatim(result.script.rstrip("\n"))


def show_installation(result: CompletionInstallation, screen: Screen) -> None:
    """What is left to do."""
    if result.shell == "powershell":
        quoted = str(result.path).replace("'", "''")
        screen.line(
            "Completion for PowerShell is written. Three commands, once, to read it in each window:"
        )
        screen.line("  Set-ExecutionPolicy -Scope CurrentUser RemoteSigned")
        screen.line("  if (!(Test-Path $PROFILE)) { New-Item -Force $PROFILE }")
        screen.line(f"""  Add-Content $PROFILE ". '{quoted}'\"""")
    else:
        screen.line(
            f"Completion for {result.shell} is installed; it works in the next terminal you open."
        )


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    CompletionScript: show_script,
    CompletionInstallation: show_installation,
}
