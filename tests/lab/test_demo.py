"""How the demo reads the programs that it starts."""

import subprocess
import sys
import tempfile

from apexgpu_lab import demo


def test_a_program_whose_output_is_closed_has_no_first_line() -> None:
    """As when Ctrl-C ends the demo before it has begun to read. A traceback in the thread would fail this test."""
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            [sys.executable, "-c", "print('hello')"], stdout=subprocess.PIPE, stderr=stderr
        ) as program,
    ):
        assert program.stdout
        program.stdout.close()
        assert demo._Running(program, stderr).first_line() == ""


def test_the_first_line_has_no_colours_and_no_line_end() -> None:
    words = "print('\\x1b[32mup\\x1b[0m\\r\\nmore')"
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE) as program,
    ):
        assert demo._Running(program, stderr).first_line() == "up"


def test_a_program_that_does_not_start_is_named_with_its_reason() -> None:
    words = "import sys; sys.exit('no port is free')"
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            [sys.executable, "-c", words], stdout=subprocess.PIPE, stderr=stderr
        ) as program,
    ):
        running = demo._Running(program, stderr)
        assert running.first_line() == ""
        program.wait()
        assert demo._not_started("web server", running).message == (
            "the demo's web server did not start: no port is free"
        )
