"""The longer run: with `APEXGPU_LONG_TESTS=1`, tests go through all cases where CI takes a part."""

import os
from collections.abc import Sequence
from typing import TypeVar

Case = TypeVar("Case")

LONG = bool(os.environ.get("APEXGPU_LONG_TESTS"))
LARGE = (1024 if LONG else 128) * 1024 * 1024
"""Bytes of a file that fits into no buffer."""


def one_in(every: int, cases: Sequence[Case]) -> Sequence[Case]:
    """Return every `every`-th case and always the last one; in the longer run, all of them."""
    if LONG:
        return cases
    chosen = list(cases[::every])
    if (len(cases) - 1) % every:
        chosen.append(cases[-1])
    return chosen
