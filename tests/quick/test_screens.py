"""Every table, error and question as a person sees it, at 60, 80 and 140 columns: text files, compared whole.

`make screens` writes them anew, and a page that shows them on a light and on a dark background. Look at each before
you commit it.
"""

import ast
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.quick.goldenscreens import (
    DIRECTORY,
    STYLED_WIDTH,
    STYLES,
    WIDTHS,
    drawn,
    golden_files,
    plain_lines,
    shown,
)
from tests.quick.screensamples import ERRORS, SCREENS, view_of

from apexgpu.errors import ApexError
from apexgpu.explain import Explained
from apexgpu.explanations import catalogue
from apexgpu.render import explain
from apexgpu.render.screen import Screen
from apexgpu.text import width as width_of

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "src" / "apexgpu"
TO_PASTE = ("        hint:", "apexgpu ssh ", "  apexgpu ")
"""What is never broken into two lines: commands."""
LEAST_CONTRAST = 4.5
"""What the Web Content Accessibility Guidelines require of text."""
PALE = {"green", "yellow"}
FORBIDDEN_STYLES = {"black", "blue", "cyan", "magenta", "white", "reverse", "blink"}


pytestmark = pytest.mark.skipif(
    not hasattr(time, "tzset"), reason="the screens have times, and Windows has no time.tzset"
)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_looks_as_it_was_looked_at(name: str, width: int) -> None:
    screen = shown(name, width)
    assert screen.text == (DIRECTORY / f"{name}-{width}.txt").read_text(encoding="utf-8")
    if width == STYLED_WIDTH:
        assert screen.styles == (DIRECTORY / f"{name}.styles").read_text(encoding="utf-8")


def test_there_is_no_golden_file_of_a_screen_that_is_gone() -> None:
    assert {file.name for file in DIRECTORY.iterdir()} == set(golden_files())


def functions_with_tables() -> set[tuple[str, str]]:
    """The functions of `render` that draw a table, with their files."""
    functions = set()
    for path in (SOURCE / "render").glob("*.py"):
        if path.stem in {"screen", "livetable"}:
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and ".table(" in ast.unparse(function):
                functions.add((path.stem, function.name))
    return functions


def test_every_table_is_on_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    callers = set()
    draw_table = Screen.table

    def recorded(screen: Screen, *args: Any, **options: Any) -> None:
        code = sys._getframe(1).f_code
        callers.add((Path(code.co_filename).stem, code.co_name))
        draw_table(screen, *args, **options)

    monkeypatch.setattr(Screen, "table", recorded)
    for draws in SCREENS.values():
        drawn(draws(), 80)
    assert functions_with_tables() - callers == set()


def test_an_error_of_each_exit_code_is_on_a_screen() -> None:
    branches: list[type[ApexError]] = [ApexError, *ApexError.__subclasses__()]
    codes = {branch.exit_code for branch in branches}
    # Ctrl-C, and what a program in the container returned, have no error line of their own.
    assert codes - {130} <= {error.exit_code for error in ERRORS}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SCREENS)
def test_no_line_of_a_result_is_wrapped_by_the_terminal(name: str, width: int) -> None:
    screen = shown(name, width)
    lines = plain_lines(screen.results)
    assert [
        line for line in lines if width_of(line) > width and not line.startswith(TO_PASTE)
    ] == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["errors", "errors-chinese"])
def test_a_hint_is_one_line_that_can_be_copied(name: str, width: int) -> None:
    lines = shown(name, width).lines
    for error in ERRORS:
        if type(error.hint) is str:
            assert f" hint: {error.hint}" in lines


@pytest.mark.parametrize("code", catalogue())
def test_the_page_of_a_code_fits_and_its_command_is_whole(code: str) -> None:
    entry = catalogue()[code]
    screen = drawn([view_of(explain, Explained(entry))], 60)
    command = f"  {entry.english.what_to_do.partition(': ')[2]}"
    assert screen.lines.count(command) == 2
    wide = [line for line in screen.lines if width_of(line) > 60 and line != command]
    assert wide == []


# Light and dark


@pytest.mark.parametrize("name", SCREENS)
def test_a_pale_colour_marks_a_word_and_never_a_whole_row(name: str) -> None:
    # `goldenscreens` refuses every style that is not one of STYLES.
    for _, style, text in shown(name, STYLED_WIDTH).pieces:
        if style in PALE:
            assert width_of(text) <= len("running, not reachable"), text


def test_no_colour_is_named_that_a_light_or_a_dark_background_hides() -> None:
    for path in SOURCE.rglob("*.py"):
        if "programs" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words = set(node.value.split())
                assert not (len(words) < 3 and words & FORBIDDEN_STYLES), (path.name, node.value)
                assert not node.value.startswith("bright_"), (path.name, node.value)


def luminance(colour: Any) -> float:
    """The relative luminance of a colour, as the guidelines define it."""
    parts = []
    for value in (colour.red, colour.green, colour.blue):
        share = value / 255
        parts.append(share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4)
    return 0.2126 * float(parts[0]) + 0.7152 * float(parts[1]) + 0.0722 * float(parts[2])


@pytest.mark.parametrize("name", ["light", "dark"])
def test_the_colours_of_our_pictures_can_be_read_on_their_background(name: str) -> None:
    theme = runpy.run_path(str(ROOT / "scripts" / "terminalpictures.py"))["THEMES"][name]
    back = luminance(theme.background_color)
    fronts = [theme.foreground_color]
    for code, style in STYLES.items():
        if style in {"red", "green", "yellow"}:
            fronts.append(type(theme.foreground_color)(*theme.ansi_colors[int(code) - 30]))
    for front in fronts:
        bright, dark = sorted((luminance(front), back), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= LEAST_CONTRAST
