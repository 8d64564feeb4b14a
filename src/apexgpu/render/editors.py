"""How the results of `apexgpu.editors` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.editors import OpenedDirectories
from apexgpu.render.screen import Screen


def show_opened(result: OpenedDirectories, screen: Screen) -> None:
    """What was opened; the link, where the user has to open it."""
    for outcome in result.outcomes:
        if outcome.value is not None:
            opened = outcome.value
            if opened.is_opened:
                text = f"{opened.editor} opens {opened.directory} on {outcome.host.name}"
                screen.reporter.success(text)
            else:
                screen.reporter.note(f"{opened.editor} is not on PATH; open this link with it:")
                screen.line(opened.link)
    screen.reporter.errors(result.outcomes)


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {OpenedDirectories: show_opened}
