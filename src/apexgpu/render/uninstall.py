"""How the result of `apexgpu.uninstall` looks."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.render.screen import Screen
from apexgpu.uninstall import Uninstallation

_PROGRAM = "To remove the program itself: pipx uninstall apexgpu (or pip uninstall apexgpu)"


def show_uninstallation(result: Uninstallation, screen: Screen) -> None:
    """What is left to do; each step was reported when it was done."""
    if result.removed:
        screen.line(_PROGRAM)
    else:
        screen.line(f"Nothing to do: there is nothing of apexgpu's here. {_PROGRAM}")


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {Uninstallation: show_uninstallation}
