"""Output without end: the memory and the time that it takes are bounded."""

import sys
import time

import pytest

from apexgpu.boundedoutput import LONGEST_LINE, BoundedOutput, LineSplitter
from apexgpu.process import LocalRunner


def test_output_below_the_limit_is_kept_as_it_is() -> None:
    output = BoundedOutput(10)
    for data in (b"012", b"", b"3456789"):
        output.add_out(data)
    assert (output.out, output.err, output.is_full) == (b"0123456789", b"", False)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_of_longer_output_the_beginning_and_the_end_are_kept(size: int) -> None:
    output = BoundedOutput(10)
    text = bytes(range(48, 123))
    for start in range(0, len(text), size):
        output.add_err(text[start : start + size])
    assert output.is_full
    assert output.err == b"01234\n[65 bytes are left out]\nvwxyz"


def test_no_more_than_twice_the_limit_is_in_memory() -> None:
    output = BoundedOutput(1 << 16)
    for _ in range(1000):
        output.add_out(b"x" * 65536)
    assert len(output._out._first) + len(output._out._last) <= 2 << 16
    assert len(output.out) < (1 << 16) + 100


def lines_of(parts: list[bytes]) -> list[str]:
    lines: list[str] = []
    splitter = LineSplitter(lines.append)
    for part in parts:
        splitter.feed(part)
    splitter.end()
    return lines


def test_lines_are_the_same_however_the_bytes_arrive() -> None:
    text = "one\n\nzwei größer\r\nthree".encode()
    expected = ["one", "", "zwei größer\r", "three"]
    assert lines_of([text]) == expected
    assert lines_of([text[i : i + 1] for i in range(len(text))]) == expected


def test_a_line_without_an_end_takes_linear_time_and_is_passed_on_in_pieces() -> None:
    began = time.monotonic()
    lines = lines_of([b"x" * 65536] * 1024)  # 64 MiB; the quadratic way took minutes
    assert time.monotonic() - began < 20
    assert {len(line) for line in lines} == {LONGEST_LINE}
    assert len(lines) == 64


ENDLESS = "import sys\nwhile True: sys.stdout.write('x' * 65536)"


def test_a_program_that_never_stops_printing_is_killed_at_the_limit() -> None:
    completed = LocalRunner().stream(
        [sys.executable, "-c", ENDLESS], on_line=None, total=60, silence=None, output=1 << 20
    )
    assert completed.too_much
    assert not completed.timed_out
    assert completed.code != 0
    assert len(completed.out) < (1 << 20) + 100


def test_a_program_that_must_not_be_cut_off_is_read_to_its_end() -> None:
    program = "import sys; sys.stdout.write('x' * 5000000 + 'end')"
    completed = LocalRunner().stream(
        [sys.executable, "-c", program],
        on_line=None,
        total=60,
        silence=None,
        output=1 << 20,
        keeps_reading=True,
    )
    assert (completed.code, completed.is_cut, completed.too_much) == (0, True, False)
    assert completed.text.endswith("end")


def test_an_endless_program_ends_at_its_time_limit_too() -> None:
    began = time.monotonic()
    completed = LocalRunner().stream(
        [sys.executable, "-c", ENDLESS],
        on_line=None,
        total=1,
        silence=None,
        output=1 << 20,
        keeps_reading=True,
    )
    assert completed.timed_out
    assert time.monotonic() - began < 20
