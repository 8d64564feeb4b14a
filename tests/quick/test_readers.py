"""Numbers, sizes and JSON from outside: a value, or None or an UnexpectedError with the text, and nothing else."""

import pytest

from apexgpu import readers
from apexgpu.errors import UnexpectedError

UNITS = {"bytes": 1, "MiB": 1 << 20}
NO_NUMBERS = ["", "²", "٣", "-1", "+1", "1_000", "1e3", " 1", "1 ", "0x10", "9" * 5000, "NaN", "½"]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_not_a_number_is_none(text: str) -> None:
    assert readers.number(text) is None
    assert readers.decimal(text) is None
    assert readers.port(text) is None
    assert readers.size(f"{text} MiB", UNITS) is None


def test_numbers_sizes_and_ports_are_read() -> None:
    assert readers.number("0012") == 12
    assert readers.number("256", most=255) is None
    assert readers.decimal("17.25") == 17.25
    assert readers.size("1.5 MiB", UNITS) == 1_572_864
    assert readers.size("12 bytes", UNITS) == 12
    assert readers.size("1.2.3 MiB", UNITS) is None
    assert readers.size("9999999999999999999 MiB", UNITS) is None
    assert readers.port("22001") == 22001
    assert readers.port("0") is None
    assert readers.port("65536") is None


NO_JSON = [
    b"",
    b"{",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"9" * 5000,
    b"1e999",
    b"Infinity",
    b"[NaN]",
    b"\xff\xfe",
    b'"\x01"',
    b"<html>",
]


@pytest.mark.parametrize("document", NO_JSON, ids=lambda document: repr(document[:12]))
def test_what_is_not_json_is_our_error_with_the_beginning_of_the_text(document: bytes) -> None:
    with pytest.raises(UnexpectedError, match=r"^the list is not JSON: ") as caught:
        readers.json_value(document, "the list")
    assert len(caught.value.message) < 300


def test_a_field_of_another_type_is_our_error_with_its_value() -> None:
    fields = readers.json_object('{"pid": "12", "port": 70000, "name": "a\\u0000b"}', "the record")
    with pytest.raises(UnexpectedError, match=r"^pid of the record is not understood: 12$"):
        fields.number("pid")
    with pytest.raises(UnexpectedError, match=r"^port of the record is not understood: 70000$"):
        fields.port("port")
    with pytest.raises(UnexpectedError, match=r"^name of the record is not understood: "):
        fields.text("name")
    with pytest.raises(UnexpectedError, match=r"^the record has no state$"):
        fields.text("state")


def test_true_is_no_number_and_one_is_no_flag() -> None:
    fields = readers.json_object('{"count": true, "on": 1}', "the record")
    with pytest.raises(UnexpectedError):
        fields.number("count")
    with pytest.raises(UnexpectedError):
        fields.flag("on")


def test_a_date_after_the_year_9999_is_our_error() -> None:
    fields = readers.json_object('{"since": 1e18}', "the record")
    with pytest.raises(UnexpectedError):
        fields.time("since")
