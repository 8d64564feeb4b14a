"""The catalogue of codes: what each error means, why it happens and what to do, in English and in Chinese.

Everything comes from `explanations.txt`: the Chinese line below an error, `apexgpu explain`, and the table in
docs/reference.md. `tests/test_explanations.py` finds a code without an entry.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("explanations.txt")
_LINES = 6
"""Lines of an entry below its code: three in each language."""


@dataclass(frozen=True, slots=True)
class Text:
    """One language of an entry: what the code means, why it happens, and what to do (with a command)."""

    meaning: str
    why: str
    what_to_do: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The entry of one code."""

    code: str
    english: Text
    chinese: Text


@cache
def catalogue() -> dict[str, Explanation]:
    """Return all entries by their codes, in the order of the file.

    >>> catalogue()["stopped"].english.meaning
    'The container is stopped.'
    """
    entries: dict[str, Explanation] = {}
    for block in _FILE.read_text(encoding="utf-8").split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if not lines:
            continue
        code = lines[0].strip("[]")
        if len(lines) != _LINES + 1 or code in entries:
            message = f"{_FILE.name}: the entry of {code} must be there once, with {_LINES} lines"
            raise ValueError(message)
        entries[code] = Explanation(code, Text(*lines[1:4]), Text(*lines[4:7]))
    return entries


def chinese_line(code: str) -> str | None:
    """Return the Chinese line that is shown below an error; None for a code without an entry."""
    entry = catalogue().get(code)
    return entry.chinese.meaning if entry is not None else None
