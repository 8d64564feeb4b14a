"""The samples of output in the pages, in both languages, are what the program prints."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from tests.quick.docsamples import DOCS, MARK, SAMPLES, pages, sample, with_samples

SOURCES = DOCS.parent / "src"
LABELS = ("✓ ", "warning: ", "  ")
"""What begins a line whose text a sample repeats from the source."""
BY_THE_SERVER = {"gpu7: Starting your container...", "gpu7: The container is up"}
TABLE = re.compile(r"  (HOST|gpu7-manage) ")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(DOCS)))
def test_the_samples_of_a_page_are_what_is_printed_today(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == with_samples(page), "run: make screens"


def test_both_languages_have_the_same_samples() -> None:
    for page in pages():
        names = [match[2] for match in MARK.finditer(page.read_text(encoding="utf-8"))]
        other = DOCS / page.name if page.parent.name == "zh" else DOCS / "zh" / page.name
        others = [match[2] for match in MARK.finditer(other.read_text(encoding="utf-8"))]
        assert names == others


def test_every_sample_is_in_a_page() -> None:
    used = {
        match[2] for page in pages() for match in MARK.finditer(page.read_text(encoding="utf-8"))
    }
    assert used == set(SAMPLES)


def test_output_in_a_page_has_a_mark() -> None:
    for page in DOCS.rglob("*.md"):
        text = MARK.sub("", page.read_text(encoding="utf-8"))
        for block in re.findall(r"```(?:console|text)\n(.*?)```", text, re.DOTALL):
            assert not re.search(
                r"^(✓ |error: |warning: |ok  )|\[[yY]/[nN]\]", block, re.MULTILINE
            ), (
                page.name,
                block,
            )


COMPOSED = {
    "http://iam.apexlab.org has no TLS: ": (
        "would be sent unencrypted",
        "anyone on the network",
        " could read it.",
    ),
    "IAM now has your key": ("now has", "your key"),
    "gpu7 is up. Next: ": ("is up", ". Next: "),
    "not registered yet: ": ("not registered yet",),
    "17 host keys added to ": (" host key", " added to "),
    "gpu7 is down.": (" is down.", " Next: apexgpu up "),
}
"""Lines that the source puts together from several strings."""


@cache
def strings_of_the_source() -> tuple[list[str], list[str]]:
    """The strings of the source, and the patterns of those with values in them."""
    plain = []
    patterns = []
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                plain.append(node.value.strip())
            elif isinstance(node, ast.JoinedStr):
                parts = [
                    ast.literal_eval(part) if isinstance(part, ast.Constant) else None
                    for part in node.values
                ]
                if sum(len(part or "") for part in parts) >= len(": on a GPU: "):
                    pattern = "".join(".+?" if part is None else re.escape(part) for part in parts)
                    patterns.append(pattern)
    return plain, patterns


def is_printed(line: str) -> bool:
    """Whether a string of the source, with values in it, is the line."""
    plain, patterns = strings_of_the_source()
    for beginning, composed in COMPOSED.items():
        if line.startswith(beginning):
            return all(any(piece.strip() in text for text in plain) for piece in composed)
    # Notes may begin with two blanks.
    forms = (line, f"  {line}")
    return line in plain or any(
        re.fullmatch(pattern, form) for pattern in patterns for form in forms
    )


def repeated(name: str) -> Iterator[str]:
    """The lines of a sample that repeat a text of the source."""
    for line in sample(name, chinese=False).splitlines():
        if line.startswith(LABELS) and not TABLE.match(line):
            yield re.sub(r"^(✓ |warning: | +)", "", line)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_repeats_what_the_source_has(name: str) -> None:
    assert [
        line for line in repeated(name) if line not in BY_THE_SERVER and not is_printed(line)
    ] == []


def test_a_sample_that_is_out_of_date_is_found() -> None:
    assert is_printed("gpu7: registered. Next: apexgpu up gpu7")
    assert not is_printed("gpu7: was enrolled; continue with apexgpu up gpu7")
