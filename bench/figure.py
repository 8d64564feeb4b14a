"""One row of the table."""

from typing import NamedTuple


class Figure(NamedTuple):
    """What, against what, the ratio (or seconds), the goal it should not pass, and the raw numbers."""

    what: str
    against: str
    value: float
    goal: float
    raw: str
