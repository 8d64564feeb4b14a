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
        screen.line(f"Put this line into $PROFILE: . '{result.path}'")
    else:
        screen.line(
            f"Completion for {result.shell} is installed; it works in the next terminal you open."
        )


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    CompletionScript: show_script,
    CompletionInstallation: show_installation,
}
