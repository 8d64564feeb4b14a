"""A small part of the two emulations; `scripts/as-windows` and `scripts/as-macos` run all that can be emulated."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("script", "tests"),
    [
        (
            "as-windows",
            ["quick/test_copypaths.py", "quick/test_files.py", "quick/test_mounttable.py"],
        ),
        ("as-macos", ["quick/test_macos.py", "quick/test_platforms.py"]),
    ],
)
def test_a_part_of_the_tests_passes_as_on_another_system(script: str, tests: list[str]) -> None:
    # What this run gives to its workers is not for another one.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")
    }
    completed = subprocess.run(
        [f"scripts/{script}", "-q", *(f"tests/{test}" for test in tests)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert completed.returncode == 0, completed.stdout[-4000:] + completed.stderr[-2000:]
