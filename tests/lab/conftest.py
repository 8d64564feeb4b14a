"""Labs to test against; each must come to its end without an error that nobody awaited."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu_lab.inprocess import Lab, running


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Two hosts, alice registered on both, containers stopped."""
    with running(tmp_path / "lab", hosts=2, registered=True) as found:
        yield found
        assert found.troubles == []


@pytest.fixture
def new_lab(tmp_path: Path) -> Iterator[Lab]:
    """Two hosts, and nobody has ever been there."""
    with running(tmp_path / "lab", hosts=2) as found:
        yield found
        assert found.troubles == []
