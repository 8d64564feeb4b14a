"""The tables of an HTML page as rows of text, whatever shape the page is in. Pure, and bounded."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

_WIDTH, _LENGTH, _CELLS = 64, 5000, 100_000
_BREAKS = {"br", "p", "div", "li", "tr"}
_SILENT = {"script", "style", "template"}


@dataclass
class Table:
    """The text that stood before it (since the last table) with its caption, and its rows, all cells filled in."""

    heading: str = ""
    rows: list[list[str]] = field(default_factory=list)


@dataclass
class _Open:
    """A table that is being read: the cell under way, and the cells that reach down into later rows."""

    table: Table
    row: list[str] | None = None
    cell: list[str] | None = None
    span: tuple[int, int] = (1, 1)
    below: dict[int, tuple[int, str]] = field(default_factory=dict)
    in_caption: bool = False


def tables(page: str) -> list[Table]:
    """Every table in the order of their beginnings; a table inside another's cell is one of its own."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    while reader.open:
        reader.handle_endtag("table")
    return reader.found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[Table] = []
        self.open: list[_Open] = []
        self._between: list[str] = []
        self._silent = 0
        self._cells = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A table, row or cell begins; one that was not ended ends here."""
        self._silent += tag in _SILENT
        if tag == "table":
            self.open.append(_Open(Table(_tidy("".join(self._between)))))
            self.found.append(self.open[-1].table)
            self._between.clear()
        if tag in _BREAKS:
            self.handle_data("\n")
        if not self.open:
            return
        if tag == "caption":
            self.open[-1].in_caption = True
        elif tag == "tr":
            self._end_row()
            self.open[-1].row = []
        elif tag in {"td", "th"}:
            self._end_cell()
            here = self.open[-1]
            here.row = [] if here.row is None else here.row
            spans = dict(attrs)
            here.cell, here.span = (
                [],
                (_count(spans.get("colspan"), _WIDTH), _count(spans.get("rowspan"), _LENGTH)),
            )

    def handle_endtag(self, tag: str) -> None:
        """A table, row or cell ends."""
        self._silent = max(0, self._silent - (tag in _SILENT))
        if not self.open:
            return
        if tag in {"td", "th"}:
            self._end_cell()
        elif tag == "tr":
            self._end_row()
        elif tag == "caption":
            self.open[-1].in_caption = False
        elif tag == "table":
            self._end_row()
            self.open.pop()

    def handle_data(self, data: str) -> None:
        """Text goes to the cell, the caption, or the heading of the table to come."""
        if self._silent:
            return
        here = self.open[-1] if self.open else None
        if here is None:
            self._between.append(data)
        elif here.in_caption:
            here.table.heading = _tidy(f"{here.table.heading} {data}")
        elif here.cell is not None:
            here.cell.append(data)

    def _end_cell(self) -> None:
        here = self.open[-1]
        if here.cell is None or here.row is None:
            return
        text = _tidy("".join(here.cell))
        here.cell = None
        self._fill_from_above(here)
        wide, deep = here.span
        for _ in range(wide):
            if len(here.row) < _WIDTH:
                if deep > 1:
                    here.below[len(here.row)] = (deep - 1, text)
                here.row.append(text)

    def _fill_from_above(self, here: _Open) -> None:
        """Cells of rows before that reach down to here."""
        while here.row is not None and len(here.row) in here.below:
            place = len(here.row)
            left, text = here.below.pop(place)
            here.row.append(text)
            if left > 1:
                here.below[place] = (left - 1, text)

    def _end_row(self) -> None:
        self._end_cell()
        here = self.open[-1]
        if here.row is None:
            return
        # Cells from above that stood before this row's first one were put in with it; these stand after its last.
        self._fill_from_above(here)
        self._cells += len(here.row)
        if here.row and len(here.table.rows) < _LENGTH and self._cells < _CELLS:
            here.table.rows.append(here.row)
        here.row = None


def _count(text: str | None, most: int) -> int:
    return (
        min(int(text), most)
        if text and text.isascii() and text.isdigit() and 0 < len(text) < 6 and int(text)
        else 1
    )


def _tidy(text: str) -> str:
    """Blanks made one; lines kept, for they tell one user from the next."""
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)
