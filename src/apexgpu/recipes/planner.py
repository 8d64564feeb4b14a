"""Makes a plan from facts and recipes, or refuses before anything is changed. Pure."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from apexgpu.errors import RefusedError, UsageError
from apexgpu.recipes import compatibility
from apexgpu.recipes.compatibility import ChosenVersions, VersionRequest
from apexgpu.recipes.facts import Facts
from apexgpu.recipes.recipe import Recipe, Source, Step


class StepState(StrEnum):
    """How far a step is."""

    UNKNOWN = ""
    """Not checked yet."""

    TO_DO = "to do"
    DONE = "done"
    """There was nothing to do."""

    DID = "did"
    """Done by this setup."""

    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RecipeRequest:
    """What the user asks for: recipes, versions of some, and the Python (2 or 3) for TensorFlow."""

    names: tuple[str, ...]
    versions: Mapping[str, str]
    python: int = 3

    @property
    def arguments(self) -> tuple[str, ...]:
        """The same as arguments of `apexgpu setup HOST`."""
        arguments = []
        for name in self.names:
            if name in self.versions:
                arguments.append(f"{name}=={self.versions[name]}")
            else:
                arguments.append(name)
        if self.python == 2:
            arguments += ["--python", "2"]
        return tuple(arguments)


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step of a plan; the variables in `title` and `constraints` are filled in."""

    recipe: Recipe
    step: Step
    title: str
    constraints: str
    state: StepState = StepState.UNKNOWN


@dataclass(frozen=True, slots=True)
class SetupPlan:
    """What is to be done in one container: the steps, and the variables and files for them."""

    host: str
    arguments: tuple[str, ...]
    facts: Facts
    versions: ChosenVersions
    variables: Mapping[str, str]
    steps: tuple[PlannedStep, ...]
    sources: tuple[tuple[Recipe, Source], ...]

    @property
    def steps_to_do(self) -> tuple[PlannedStep, ...]:
        """The steps that are not done yet."""
        return tuple(step for step in self.steps if step.state is not StepState.DONE)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """Each recipe once, in order."""
        recipes = {planned.recipe.name: planned.recipe for planned in self.steps}
        return tuple(recipes.values())

    @property
    def command(self) -> str:
        """The command that makes this plan, for hints."""
        return f"apexgpu setup {self.host} {' '.join(self.arguments)}"


def parse_request(
    arguments: Sequence[str], recipes: Mapping[str, Recipe], python: int = 3
) -> RecipeRequest:
    """Parse arguments such as `tensorflow==1.10.1` and `jupyter`.

    UsageError for an unknown recipe, with the most similar names, and for a version without
    numbers.
    """
    # A dict rather than a set: it keeps the order.
    names: dict[str, None] = {}
    versions: dict[str, str] = {}
    for argument in arguments:
        name, separator, version = argument.partition("==")
        if name not in recipes:
            message = f"there is no recipe {name}"
            similar = difflib.get_close_matches(name, recipes, n=3, cutoff=0.5)
            if similar:
                message += f"; did you mean {', '.join(similar)}?"
            raise UsageError(message, hint="apexgpu setup list", code="unknown_recipe")
        names[name] = None
        if separator:
            if not compatibility.version_numbers(version):
                message = (
                    f"{argument}: {version or 'nothing'} is not a version; write {name}, or {name}==VERSION with a"
                    " version such as 1.10.1"
                )
                raise UsageError(message, hint="apexgpu setup --help")
            versions[name] = version
    return RecipeRequest(tuple(names), versions, python)


def with_dependencies(names: Sequence[str], recipes: Mapping[str, Recipe]) -> list[Recipe]:
    """Return the named recipes and those that they need, each once, after those that it needs."""
    ordered: dict[str, Recipe] = {}

    def add(name: str, dependents: tuple[str, ...]) -> None:
        if name in dependents:
            message = f"the recipes {' and '.join(dependents)} need each other"
            raise UsageError(message, hint="apexgpu setup list", code="recipe")
        for dependency in recipes[name].needs:
            add(dependency, (*dependents, name))
        ordered.setdefault(name, recipes[name])

    for name in names:
        add(name, ())
    return list(ordered.values())


def make_plan(
    host: str, facts: Facts, recipes: Mapping[str, Recipe], request: RecipeRequest
) -> SetupPlan:
    """Make the plan for one container; RefusedError, with a way out, if nothing is compatible."""
    needed = with_dependencies(request.names, recipes)
    parts: set[str] = set()
    for recipe in needed:
        parts.update(recipe.choose)
    versions = compatibility.choose_versions(
        facts.software(host), VersionRequest(frozenset(parts), request.versions, request.python)
    )
    if not facts.sudo:
        message = f"sudo asks for a password in the container on {host}, and during a setup nobody can type it"
        raise RefusedError(message, hint=f"apexgpu ssh {host} -- sudo -v", code="no_sudo")
    variables = _variables(facts, versions)
    steps = []
    sources = []
    for recipe in needed:
        constraints = recipe.constraints.format_map(variables)
        for step in recipe.steps:
            if _is_needed(step, variables):
                title = step.title.format_map(variables)
                steps.append(PlannedStep(recipe, step, title, constraints))
        for source in recipe.sources:
            path = source.path.format_map(variables)
            sources.append((recipe, replace(source, path=path)))
    return SetupPlan(
        host, request.arguments, facts, versions, variables, tuple(steps), tuple(sources)
    )


def _is_needed(step: Step, variables: Mapping[str, str]) -> bool:
    """Whether the variables have the values that the step is for."""
    return all(variables[name] in values for name, values in step.when.items())


def _variables(facts: Facts, versions: ChosenVersions) -> dict[str, str]:
    """The variables of titles and scripts; their names are listed in `recipe.VARIABLES`."""
    return {
        "CUDA": versions.cuda,
        "CUDNN": versions.cudnn,
        "CUDNN_ARCHIVE": facts.cudnn_archives.get(versions.cudnn, ""),
        "TENSORFLOW": versions.tensorflow,
        "PYTORCH": versions.pytorch,
        "PYTHON": versions.python,
        "TAG": _python_tag(versions.python),
        "PYTHON3": versions.python3,
        "TAG3": _python_tag(versions.python3),
        "GROWTH": versions.growth,
        "PIP": compatibility.PIP,
        "SUFFIX": "-py2" if versions.python.startswith("2") else "",
    }


def _python_tag(version: str) -> str:
    """`py35` for `3.5`, as in the names of the constraints files."""
    return f"py{version.replace('.', '')}" if version else ""


def with_states(plan: SetupPlan, done: frozenset[int]) -> SetupPlan:
    """Return the plan with the states of its steps; `done` are the numbers (from 1) of those done.

    RefusedError if the disk has no room for the others.
    """
    steps = []
    for number, planned in enumerate(plan.steps, 1):
        state = StepState.DONE if number in done else StepState.TO_DO
        steps.append(replace(planned, state=state))
    plan = replace(plan, steps=tuple(steps))
    _check_disk(plan)
    return plan


def _check_disk(plan: SetupPlan) -> None:
    """Add up what the steps need on each file system, and compare it with the free space."""
    needed: dict[str, int] = {}
    free: dict[str, int] = {}
    example: dict[str, str] = {}
    for planned in plan.steps_to_do:
        for path, mebibytes in planned.step.disk.items():
            directory = _measured_directory(path, plan.facts)
            if directory is None:
                continue
            space = plan.facts.free[directory]
            file_system = space.file_system
            needed[file_system] = needed.get(file_system, 0) + mebibytes
            free[file_system] = space.mebibytes
            example[file_system] = path
    for file_system, mebibytes in needed.items():
        if mebibytes > free[file_system]:
            message = (
                f"{plan.host} has {free[file_system]} MiB free for {example[file_system]}, and {mebibytes} MiB are"
                " needed"
            )
            raise RefusedError(message, hint=f"apexgpu ssh {plan.host} -- df -h", code="disk")


def _measured_directory(path: str, facts: Facts) -> str | None:
    """The innermost directory around `path` whose free space is known."""
    if path == "~" or path.startswith("~/"):
        path = facts.home + path[1:]
    best = None
    for directory in facts.free:
        is_around = path == directory or path.startswith(directory.rstrip("/") + "/")
        if is_around and (best is None or len(directory) > len(best)):
            best = directory
    return best
