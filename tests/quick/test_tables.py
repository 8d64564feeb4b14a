"""Which columns of a table are shown."""

from apexgpu.tables import Column, lay_out

COLUMNS = (Column("NAME"), Column("GPU", keep=2, optional=True), Column("LINE", keep=1))


def shown(rows: list[tuple[str, str, str]], room: int = 80) -> tuple[list[int], tuple[str, ...]]:
    layout = lay_out(COLUMNS, rows, room)
    return list(layout.widths), layout.dropped


def test_an_optional_column_is_shown_if_one_row_has_something_in_it() -> None:
    assert shown([("a", "", "x"), ("b", "3", "")]) == ([0, 1, 2], ())


def test_an_optional_column_without_anything_in_it_is_left_out_and_not_missed() -> None:
    assert shown([("a", "", ""), ("b", "", "")]) == ([0, 2], ())
    assert shown([]) == ([0, 2], ())


def test_columns_that_find_no_room_are_named() -> None:
    assert shown([("a", "3", "x" * 80)]) == ([0, 1], ("LINE",))
