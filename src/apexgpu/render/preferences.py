"""How the results of `apexgpu.preferences` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.preferences import EditedSettings, ShownSetting
from apexgpu.render.screen import Screen
from apexgpu.settings import SettingSource


def show_setting(result: ShownSetting, screen: Screen) -> None:
    """The bare value, for scripts; what was written goes beside it."""
    screen.line(result.value)
    if result.path is None:
        return
    screen.reporter.success(f"{result.path}: {result.name} is written")
    if result.source in {SettingSource.ENVIRONMENT, SettingSource.FLAG}:
        screen.reporter.warn(
            f"the {result.source} sets {result.name} too, and is used instead of the file"
        )


def show_edited(result: EditedSettings, screen: Screen) -> None:
    """Whether anything was changed."""
    if result.changed:
        screen.reporter.success(f"{result.path} is changed and can be used")
    else:
        screen.reporter.note(f"{result.path} was not changed")


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    ShownSetting: show_setting,
    EditedSettings: show_edited,
}
