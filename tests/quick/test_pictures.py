"""The pictures in the README are what the program prints today, and need nothing from the network."""

import json
import re
import runpy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.quick.goldenscreens import PICTURE_WIDTH, shown

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
SVG = "{http://www.w3.org/2000/svg}"
THEMES = ("light", "dark")


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`scripts/terminalpictures.py`."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return runpy.run_path(str(ROOT / "scripts" / "terminalpictures.py"))


def pieces(file: Path) -> list[tuple[float, float, str]]:
    """The texts in the window of a picture, with their places."""
    window = ElementTree.parse(file).getroot().find(f"{SVG}g")
    assert window is not None
    found = []
    for element in window.iter(f"{SVG}text"):
        found.append((float(element.get("y", 0)), float(element.get("x", 0)), element.text or ""))
    return found


@pytest.mark.parametrize("theme", THEMES)
def test_the_first_picture_is_the_golden_screen(theme: str, pictures: dict[str, Any]) -> None:
    rows: dict[int, str] = {}
    for y, x, text in pieces(DOCS / f"first-screen-{theme}.svg"):
        row = int(y / pictures["CELL_HEIGHT"])
        column = round(x / pictures["CELL_WIDTH"])
        rows[row] = rows.get(row, "").ljust(column) + text
    lines = [rows.get(row, "").rstrip() for row in range(max(rows) + 1)]
    assert "\n".join(lines) + "\n" == shown("first-screen", PICTURE_WIDTH).text, "run: make screens"


@pytest.mark.parametrize("theme", THEMES)
def test_the_animation_shows_the_recorded_demo(theme: str, pictures: dict[str, Any]) -> None:
    monkeypatched = runpy.run_path(str(ROOT / "scripts" / "make-animation"))
    cast = (DOCS / "demo.cast").read_text(encoding="utf-8")
    recorded = [line.text for line in monkeypatched["lines"](cast)]
    texts = [text for _, _, text in pieces(DOCS / f"demo-{theme}.svg")]
    assert texts == recorded, "run: make picture"
    # A minute at most, and it begins again.
    durations = re.findall(r"([\d.]+)s step-end", (DOCS / f"demo-{theme}.svg").read_text())
    assert {float(duration) <= 75 for duration in durations} == {True}


def test_the_recording_is_a_cast_that_asciinema_plays() -> None:
    head, *events = (DOCS / "demo.cast").read_text(encoding="utf-8").splitlines()
    assert json.loads(head)["version"] == 2
    moments = [json.loads(event)[0] for event in events]
    assert moments == sorted(moments)
    assert {json.loads(event)[1] for event in events} == {"o"}


@pytest.mark.parametrize("file", sorted(DOCS.glob("*.svg")), ids=lambda file: str(file.name))
def test_a_picture_loads_nothing_from_the_network(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", re.sub(r"<text.*?</text>", "", text)))
    names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert {address for address in addresses if address not in names} == set()
    assert "url(http" not in text


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_readme_has_both_pictures_light_and_dark(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for name in ("first-screen", "demo"):
        assert f'(prefers-color-scheme: dark)" srcset="docs/{name}-dark.svg"' in text
        assert f'<img src="docs/{name}-light.svg" alt=' in text
        assert all((DOCS / f"{name}-{theme}.svg").is_file() for theme in THEMES)
