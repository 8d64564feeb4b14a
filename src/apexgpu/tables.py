"""Tables that fit: which columns of a table are shown, and how wide, for a given number of terminal cells. Pure.

On a terminal no row wraps: columns are shortened (with `…`) and then dropped, in the order that the table's columns
name. In a pipe a table has all its columns in full.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from apexgpu.text import safe, start_of, width

Row = Sequence[str]

GAP = 2
"""Cells between two columns."""


@dataclass(frozen=True)
class Column:
    """One column. `least` is the width down to which it may be shortened; None: it is never shortened.

    Columns with a lower `keep` are shortened and dropped first. A column without one is never dropped. An `optional`
    column is left out where no row has anything in it. `is_path`: its cells are shortened at a slash. `is_coloured`: it
    shows the colour of a row that has one.
    """

    title: str
    least: int | None = None
    keep: int | None = None
    optional: bool = False
    is_path: bool = False
    is_coloured: bool = False


@dataclass(frozen=True)
class TableLayout:
    """The columns that are shown, as indexes with their widths in cells, and the titles of those that are not."""

    widths: dict[int, int]
    dropped: tuple[str, ...]


def columns_of(titles: Sequence[str]) -> list[Column]:
    """Columns for a small table: the last is shortened first, then the one before it; none is dropped."""
    return [Column(title, least=max(6, width(title)), keep=None) for title in titles]


def as_columns(columns: Sequence[Column] | Sequence[str]) -> list[Column]:
    """Columns, also from bare titles."""
    titles = [column for column in columns if isinstance(column, str)]
    if titles:
        return columns_of(titles)
    return [column for column in columns if isinstance(column, Column)]


def natural_widths(columns: Sequence[Column], rows: Sequence[Row]) -> list[int]:
    """The width of each column if nothing is shortened."""
    widths = [width(column.title) for column in columns]
    for row in rows:
        for index, cell in enumerate(row):
            widths[index] = max(widths[index], width(safe(cell)))
    return widths


def lay_out(columns: Sequence[Column], rows: Sequence[Row], room: int) -> TableLayout:
    """Choose what is shown of a table in `room` cells."""
    shown = []
    for index, column in enumerate(columns):
        if not column.optional or any(row[index] for row in rows):
            shown.append(index)
    return fit(columns, natural_widths(columns, rows), room, shown)


def fit(
    columns: Sequence[Column],
    widths: Sequence[int],
    room: int,
    considered: Sequence[int] | None = None,
) -> TableLayout:
    """Choose what is shown of `columns`, `widths` wide in full, in `room` cells.

    `considered` are the indexes of those that may be shown; None: all.
    """
    shown = list(range(len(columns)) if considered is None else considered)
    dropped: list[str] = []
    while True:
        layout = _shortened(columns, {index: widths[index] for index in shown}, room)
        if layout is not None:
            return TableLayout(layout, tuple(dropped))
        droppable = [index for index in shown if columns[index].keep is not None]
        if not droppable:
            return TableLayout(
                _squeezed({index: widths[index] for index in shown}, room), tuple(dropped)
            )
        first = min(droppable, key=lambda index: columns[index].keep or 0)
        shown.remove(first)
        dropped.append(columns[first].title)


def _shortened(
    columns: Sequence[Column], widths: dict[int, int], room: int
) -> dict[int, int] | None:
    """`widths` with columns shortened so that they fit, those to keep least first; None if that is not enough."""
    excess = sum(widths.values()) + GAP * (len(widths) - 1) - room
    if excess <= 0:
        return widths
    widths = dict(widths)
    # Of columns that are kept alike, the last gives way first: the first ones say what a row is about.
    order = sorted(widths, key=lambda index: (_rank(columns[index]), -index))
    for index in order:
        least = columns[index].least
        if least is None:
            continue
        spare = max(0, widths[index] - max(least, 1))
        cut = min(spare, excess)
        widths[index] -= cut
        excess -= cut
        if excess <= 0:
            return widths
    return None


def _rank(column: Column) -> float:
    return float("inf") if column.keep is None else column.keep


def _squeezed(widths: dict[int, int], room: int) -> dict[int, int]:
    """Widths for a terminal that is too narrow for what can neither be dropped nor shortened: the last give way."""
    squeezed = dict(widths)
    for index in sorted(squeezed, reverse=True):
        excess = sum(squeezed.values()) + GAP * (len(squeezed) - 1) - room
        if excess <= 0:
            break
        squeezed[index] = max(1, squeezed[index] - excess)
    return squeezed


def shorten_path(path: str, room: int) -> str:
    """Return a path in `room` cells: whole directories at its start give way, because its end tells most.

    >>> shorten_path("/home/alice/experiments/run-7", 20)
    '…/experiments/run-7'
    """
    if width(path) <= room:
        return path
    parts = path.split("/")
    for start in range(1, len(parts)):
        shorter = "/".join(["…", *parts[start:]])
        if width(shorter) <= room:
            return shorter
    return path  # not even its last part fits: it is cut at its end, as other text


_NUMBER_AT_END = re.compile(r" [\d.,]+$")
_UNIT = re.compile(r"\s*([KMGT]iB|B|%|°C|d|h|min|s)\b")


def shorten(text: str, room: int) -> str:
    """Return a text in `room` cells: whole words at its end give way, and no number loses its unit.

    A text that would lose most of what fits is cut inside a word: a long name, Chinese.

    >>> shorten("you 9.2 GiB (python), others 1.0 GiB", 18)
    'you 9.2 GiB…'
    """
    if width(text) <= room:
        return text
    start = start_of(text, room - 1)
    words = start
    if text[len(start)] != " ":
        words = start.rpartition(" ")[0]
    if _UNIT.match(text[len(words) :]):
        words = _NUMBER_AT_END.sub("", words)
    if 3 * width(words) >= room:
        start = words
    return f"{start.rstrip()}…"


def aligned(columns: Sequence[Column], rows: Sequence[Row], least: Sequence[int] = ()) -> list[str]:
    """The table as lines, header first, for a pipe: nothing is shortened, and no line ends in blanks.

    `least` are widths for the columns, for rows that are still to come.
    """
    widths = natural_widths(columns, rows)
    if least:
        widths = [max(pair) for pair in zip(widths, least, strict=True)]
    header = [column.title for column in columns]
    return [_line(row, widths) for row in [header, *rows]]


def _line(row: Row, widths: Sequence[int]) -> str:
    cells = []
    for cell, cell_width in zip(row, widths, strict=True):
        text = safe(cell)
        padding = cell_width - width(text)
        cells.append(text + " " * padding)
    return (" " * GAP).join(cells).rstrip()
