"""Which columns of a table are shown."""

import pytest

from apexgpu.tables import Column, lay_out, shorten
from apexgpu.text import split_last_sentence, width, wrapped

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


@pytest.mark.parametrize(
    ("text", "room", "shortened"),
    [
        ("the manage port refuses connections", 40, "the manage port refuses connections"),
        ("the manage port refuses connections", 26, "the manage port refuses…"),
        ("the manage port refuses connections", 24, "the manage port refuses…"),
        ("you 9.2 GiB (python)", 13, "you 9.2 GiB…"),
        ("others 9.0 GiB", 13, "others…"),
        ("epoch 12  loss 0.0431  eta 3 h", 24, "epoch 12  loss 0.0431…"),
        ("resnet50-batch256", 12, "resnet50-ba…"),
        ("run resnet50-batch256", 12, "run resnet5…"),
        ("校外访问请先连接", 8, "校外访…"),
        ("abc", 1, "…"),
    ],
)
def test_a_text_is_cut_between_words_and_numbers_keep_their_units(
    text: str, room: int, shortened: str
) -> None:
    assert shorten(text, room) == shortened
    assert width(shortened) <= room


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("no answer from gpu7 in 10 s", ["no answer from", "gpu7 in 10 s"]),
        ("in ~/.virtualenvs/tensorflow/bin", ["in", "~/.virtualenvs/", "tensorflow/bin"]),
        ("容器已停止，请重新启动它。", ["容器已停止，请重", "新启动它。"]),
        ("一二三四五六七八。九", ["一二三四五六七", "八。九"]),
        ("abcdefghijklmnopqrstuvwxyz", ["abcdefghijklmnop", "qrstuvwxyz"]),
        ("", [""]),
    ],
)
def test_a_paragraph_is_broken_between_words_and_long_paths_at_their_slashes(
    text: str, lines: list[str]
) -> None:
    assert wrapped(text, 16) == lines
    assert max(width(line) for line in lines) <= 16


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("It is stopped. Start it?", ("It is stopped.", "Start it?")),
        ("容器已停止。启动它吗？", ("容器已停止。", "启动它吗？")),
        ("Use gpu.example.org?", ("", "Use gpu.example.org?")),
    ],
)
def test_the_last_sentence_of_a_question_is_the_question(text: str, parts: tuple[str, str]) -> None:
    assert split_last_sentence(text) == parts
