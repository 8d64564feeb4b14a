"""The manual page, read by a real groff."""

import subprocess
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / "man" / "apexgpu.1"


def groff(*options: str) -> "subprocess.CompletedProcess[str]":
    words = ["groff", "-ww", "-man", *options, str(PAGE)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_groff_has_no_warning_about_the_manual_page() -> None:
    done = groff("-Tutf8", "-z")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_manual_page_shows_options_and_codes_as_they_are_typed() -> None:
    done = groff("-Tascii", "-P-cbou", "-rLL=78n")
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert "apexgpu login [USER]" in lines
    assert "--password-stdin" in lines
    assert "host_key_changed" in lines
    assert lines[0].startswith("APEXGPU(1)")
