"""Labs to test against; each must come to its end without an error that nobody awaited."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu_lab.inprocess import Lab, running
from apexgpu_lab.labstate import WINDOW


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Two hosts, alice registered on both, containers stopped."""
    with running(tmp_path / "lab", hosts=2, registered=True) as found:
        let_tokens_live(found)
        yield found
        assert found.troubles == []


@pytest.fixture
def new_lab(tmp_path: Path) -> Iterator[Lab]:
    """Two hosts, and nobody has ever been there."""
    with running(tmp_path / "lab", hosts=2) as found:
        let_tokens_live(found)
        yield found
        assert found.troubles == []


def let_tokens_live(lab: Lab) -> None:
    """Set the lab's clock to the beginning of a token's five minutes: a test must not fail because they end."""
    began = time.time()
    first = began - began % WINDOW

    def clock() -> float:
        return first + time.time() - began

    lab.call(lambda lab_state: setattr(lab_state, "clock", clock))
