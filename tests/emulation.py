"""What the two emulations have in common: a table of tests that say nothing there, each with its reason."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest


def leave_out(
    config: pytest.Config, items: list[pytest.Item], table: Mapping[str, str]
) -> Counter[str]:
    """Deselect the tests that `table` names by a part of their IDs; return how many there are for each reason."""
    reasons: Counter[str] = Counter()
    kept, left_out = [], []
    for item in items:
        reason = reason_for(item.nodeid, table)
        if reason is None:
            kept.append(item)
        else:
            left_out.append(item)
            reasons[reason] += 1
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)
    return reasons


def is_left_out(file: Path, table: Mapping[str, str]) -> bool:
    """Whether the table names the whole file, which may not even be importable there."""
    return file.name in table


def reason_for(test_id: str, table: Mapping[str, str]) -> str | None:
    """Why a test is left out; None if it is not."""
    for part, reason in table.items():
        if part in test_id:
            return reason
    return None
