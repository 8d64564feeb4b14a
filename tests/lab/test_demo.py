"""How the demo reads the programs that it starts."""

import subprocess
import sys

from apexgpu_lab import demo


def test_a_program_whose_output_is_closed_has_no_first_line() -> None:
    """As when Ctrl-C ends the demo before it has begun to read. A traceback in the thread would fail this test."""
    with subprocess.Popen(
        [sys.executable, "-c", "print('hello')"], stdout=subprocess.PIPE
    ) as program:
        assert program.stdout
        program.stdout.close()
        assert demo._first_line(program) == ""


def test_the_first_line_has_no_colours_and_no_line_end() -> None:
    words = "print('\\x1b[32mup\\x1b[0m\\r\\nmore')"
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE) as program:
        assert demo._first_line(program) == "up"
