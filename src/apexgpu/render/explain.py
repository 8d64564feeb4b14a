"""How the results of `apexgpu.explain` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.explain import CodeList, Explained
from apexgpu.render.screen import Screen
from apexgpu.tables import Column


def show_explained(result: Explained, screen: Screen) -> None:
    """The page of a code, first in English, then in Chinese."""
    entry = result.explanation
    screen.line(entry.code)
    screen.line("")
    screen.line(entry.english.meaning)
    screen.line(f"Why: {entry.english.why}")
    screen.line(f"What to do: {entry.english.what_to_do}")
    screen.line("")
    screen.line(entry.chinese.meaning)
    screen.line(f"原因：{entry.chinese.why}")
    screen.line(f"处理：{entry.chinese.what_to_do}")


def show_codes(result: CodeList, screen: Screen) -> None:
    """A row for each code."""
    columns = (Column("CODE"), Column("MEANING", least=20))
    screen.table(columns, [(each.code, each.english.meaning) for each in result.explanations])


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    Explained: show_explained,
    CodeList: show_codes,
}
