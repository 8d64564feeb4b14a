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
    screen.paragraph(entry.english.meaning)
    screen.paragraph(f"Why: {entry.english.why}")
    _show_advice("What to do: ", entry.english.what_to_do, ": ", screen)
    screen.line("")
    screen.paragraph(entry.chinese.meaning)
    screen.paragraph(f"原因：{entry.chinese.why}")
    _show_advice("处理：", entry.chinese.what_to_do, "：", screen)


def _show_advice(label: str, text: str, colon: str, screen: Screen) -> None:
    """What to do; the command that follows the colon is on a line of its own, so that it can be pasted."""
    advice, _, command = text.partition(colon)
    screen.paragraph(f"{label}{advice}{colon.rstrip()}")
    screen.line(f"  {command}")


def show_codes(result: CodeList, screen: Screen) -> None:
    """A row for each code."""
    columns = (Column("CODE"), Column("MEANING", least=20))
    screen.table(columns, [(each.code, each.english.meaning) for each in result.explanations])


VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    Explained: show_explained,
    CodeList: show_codes,
}
