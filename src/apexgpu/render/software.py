"""How the results of `apexgpu.software` look."""

from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.models import Outcome
from apexgpu.recipes.planner import StepState
from apexgpu.render.livetable import BlocksView
from apexgpu.render.screen import Screen, reported_already
from apexgpu.software import (
    STEP_TITLES,
    RecipeList,
    Setup,
    Verification,
    Verifications,
    step_rows,
)
from apexgpu.tables import Column, Row

_RECIPE_COLUMNS = (
    Column("RECIPE"),
    Column("NEEDS", least=8, keep=0),
    Column("WHAT", least=20),
)

_CHECK_NAMES = {
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "tensorflow": "TensorFlow",
    "gpu": "GPU",
    "command": "as a command",
}


def show_recipes(result: RecipeList, screen: Screen) -> None:
    """A row for each recipe."""
    rows = [
        (recipe.name, ", ".join(recipe.needs) or "-", recipe.summary) for recipe in result.recipes
    ]
    screen.table(_RECIPE_COLUMNS, rows)


def show_setup(result: Setup, screen: Screen) -> None:
    """The plan of a dry run. Everything else has been reported already."""
    if not result.dry_run or result.steps is None:
        return
    screen.table(STEP_TITLES, step_rows(result.steps), styles=_style_of_step)
    if result.ok and any(step.state is not StepState.DONE for step in result.steps):
        screen.reporter.note(f"nothing was changed; to do it: {result.command}")


def _style_of_step(row: Row) -> str:
    return "dim" if row[2] == StepState.DONE else ""


def _show_verification(outcome: Outcome[Verification], screen: Screen, is_only_host: bool) -> None:
    """A line for each check of a container, and what follows from them."""
    host = outcome.host.name
    if outcome.value is None:
        return
    if not is_only_host:
        screen.line(host)
    for finding in outcome.value.checks.findings:
        name = _CHECK_NAMES.get(finding.check, finding.check)
        screen.verdict(finding.verdict, name, finding.fact, hint=finding.hint, code=finding.code)
    if outcome.error is None:
        screen.line(f"TensorFlow works on {host}.")
    else:
        screen.reporter.error(outcome.error)


ROWS: Mapping[type, BlocksView] = {Verifications: BlocksView(_show_verification)}

VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    RecipeList: show_recipes,
    Setup: show_setup,
    Verifications: reported_already,
}
