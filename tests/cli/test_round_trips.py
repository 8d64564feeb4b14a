"""What common commands cost on a long line: connections, logins and round trips, which may only decrease.

The longer run (`tests/longruns.py`) counts all of them, in three minutes. `python -m bench.counts --record` writes new
numbers.
"""

from collections.abc import Iterator

import pytest
from bench.counts import (
    COMMANDS,
    EXACT,
    REPEATED,
    Cost,
    Scene,
    exceeds,
    measure,
    recorded,
    scene,
)

from tests.longruns import LONG

ALL = [*COMMANDS, *REPEATED]
SOME = [
    "mount",
    "exec, repeated",
    "cp, to the host",
    "cp, nothing to do",
    "run --env",
    "runs logs --follow, first line",
]
OTHERS = [name for name in ALL if name not in EXACT] if LONG else SOME

pytestmark = [pytest.mark.openssh, pytest.mark.sshfs]


@pytest.fixture(scope="module")
def line() -> Iterator[Scene]:
    with scene() as found:
        yield found


@pytest.mark.parametrize("name", EXACT)
def test_a_command_costs_what_is_recorded(line: Scene, name: str) -> None:
    assert measure(line, name) == recorded()[name], "less? then: python -m bench.counts --record"


@pytest.mark.serial  # a df of another test would look at its mount just when it is unmounted
def test_no_command_costs_more_than_is_recorded(line: Scene) -> None:
    costs = {name: measure(line, name) for name in OTHERS}
    assert {name: cost for name, cost in costs.items() if exceeds(cost, recorded()[name])} == {}


def test_the_numbers_of_all_commands_are_recorded() -> None:
    assert set(recorded()) == set(ALL)


def test_runs_cost_no_more_round_trips_than_two_logins() -> None:
    costs = recorded()
    two_logins = 2 * costs["exec"].round_trips
    runs = {
        name: cost
        for name, cost in costs.items()
        if name.replace(",", " ").split()[0] in {"run", "runs"}
    }
    assert len(runs) >= 7
    assert {name for name, cost in runs.items() if cost.round_trips > two_logins} == set()


def test_a_cost_exceeds_another_one_in_any_of_its_numbers() -> None:
    assert exceeds(Cost(2, 1, 9), Cost(1, 1, 9))
    assert exceeds(Cost(1, 1, 10), Cost(2, 2, 9))
    assert not exceeds(Cost(1, 1, 9), Cost(1, 1, 9))
