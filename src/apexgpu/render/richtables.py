"""A table as rich draws it, laid out by `apexgpu.tables`: no row wraps, and nothing is cut without `…`."""

from collections.abc import Callable, Sequence

from rich.table import Table
from rich.text import Text

from apexgpu.tables import GAP, Column, Row, TableLayout, shorten, shorten_path
from apexgpu.text import safe

StyleOf = Callable[[Row], str]
"""A row's colour; "" for none."""

_PALE = {"green", "yellow"}
"""Colours that are pale on a light background. They mark one cell: values have the terminal's own colour."""


def table(
    columns: Sequence[Column],
    rows: Sequence[Row],
    layout: TableLayout,
    style: StyleOf | None = None,
) -> Table:
    """The columns of `layout`, in its widths. Cells are data: rich reads no markup in them."""
    drawn = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for index, width in layout.widths.items():
        drawn.add_column(Text(columns[index].title), width=width, no_wrap=True, overflow="ellipsis")
    for row in rows:
        row_style = style(row) if style else ""
        cells = []
        for index, width in layout.widths.items():
            text = safe(row[index])
            if columns[index].is_path:
                text = shorten_path(text, width)
            cell_style = row_style if columns[index].is_coloured else ""
            cells.append(Text(shorten(text, width), style=cell_style))
        drawn.add_row(*cells, style="" if row_style in _PALE else row_style)
    return drawn
