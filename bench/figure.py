"""One row of the table."""

from typing import NamedTuple


class Figure(NamedTuple):
    """What, against what, the ratio (or seconds), the goal it should not pass, and the raw numbers.

    `seconds` are apexgpu's and the peer's, where both were timed.
    """

    what: str
    against: str
    value: float
    goal: float
    raw: str
    seconds: tuple[float, float] | None = None
