"""Facts of a container and recipes -> a plan, or a refusal before anything is changed. Pure."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from apexgpu.errors import RefusedError, UsageError
from apexgpu.recipes import compatibility
from apexgpu.recipes.compatibility import Choice, Wish
from apexgpu.recipes.facts import Facts
from apexgpu.recipes.recipe import Recipe, Source, Step

TODO, DONE = "to do", "done"


@dataclass(frozen=True, slots=True)
class Planned:
    """One step of a plan. `state`: `to do` or `done`, empty before it was looked at."""

    recipe: Recipe
    step: Step
    title: str
    constraints: str
    state: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done in one container: steps in their order, the variables and source files of their scripts."""

    where: str
    words: tuple[str, ...]
    facts: Facts
    choice: Choice
    variables: Mapping[str, str]
    steps: tuple[Planned, ...]
    sources: tuple[tuple[Recipe, Source], ...]

    @property
    def todo(self) -> tuple[Planned, ...]:
        """The steps that are to be done."""
        return tuple(one for one in self.steps if one.state != DONE)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """Each recipe once, in order."""
        return tuple({one.recipe.name: one.recipe for one in self.steps}.values())

    @property
    def again(self) -> str:
        """The command that makes this plan."""
        return f"apexgpu setup {self.where} {' '.join(self.words)}"


@dataclass(frozen=True, slots=True)
class Order:
    """What the user asks for: recipes, versions of some, Python 2 or 3."""

    names: tuple[str, ...]
    versions: Mapping[str, str]
    python: int = 3

    @property
    def words(self) -> tuple[str, ...]:
        """The same as words of the command line."""
        named = [
            f"{name}=={self.versions[name]}" if name in self.versions else name
            for name in self.names
        ]
        return (*named, *(["--python", "2"] if self.python == 2 else []))


def order(words: Sequence[str], recipes: Mapping[str, Recipe], python: int = 3) -> Order:
    """`tensorflow==1.10.1 jupyter` -> an order. UsageError with the nearest names for a recipe that is not there."""
    names: dict[str, None] = {}
    versions: dict[str, str] = {}
    for word in words:
        name, given, version = word.partition("==")
        if name not in recipes:
            near = difflib.get_close_matches(name, recipes, n=3, cutoff=0.5)
            hint = "apexgpu setup list"
            hint = f"did you mean {', '.join(near)}?   (all of them: {hint})" if near else hint
            message = f"there is no recipe {name}"
            raise UsageError(message, hint=hint, code="unknown_recipe")
        if given and not compatibility.numbers(version):
            message = f"{word}: {version or 'nothing'} is no version"
            raise UsageError(
                message, hint=f"{name}, or {name}==VERSION with a version such as 1.10.1"
            )
        names[name] = None
        if given:
            versions[name] = version
    return Order(tuple(names), versions, python)


def with_needs(names: Sequence[str], recipes: Mapping[str, Recipe]) -> list[Recipe]:
    """The named recipes and all that they need, each once, what is needed first."""
    found: dict[str, Recipe] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            message = f"the recipes {' and '.join(above)} need each other"
            raise UsageError(message, hint="apexgpu setup list", code="recipe")
        for need in recipes[name].needs:
            add(need, (*above, name))
        found.setdefault(name, recipes[name])

    for name in names:
        add(name, ())
    return list(found.values())


def plan(where: str, facts: Facts, recipes: Mapping[str, Recipe], wanted: Order) -> Plan:
    """The plan for one container; RefusedError with the reason and the ways out when nothing fits."""
    chosen = with_needs(wanted.names, recipes)
    parts = frozenset(part for recipe in chosen for part in recipe.choose)
    choice = compatibility.choose(facts.have(where), Wish(parts, wanted.versions, wanted.python))
    if not facts.sudo:
        message = f"sudo asks for a password in the container on {where}, and a setup runs without anybody to type it"
        raise RefusedError(
            message, hint=f"apexgpu ssh {where} -- sudo -v   (shows what it wants)", code="no_sudo"
        )
    variables = _variables(facts, choice)
    steps = tuple(
        Planned(
            recipe, step, step.title.format_map(variables), recipe.constraints.format_map(variables)
        )
        for recipe in chosen
        for step in recipe.steps
        if all(variables[name] in values for name, values in step.when.items())
    )
    sources = tuple(
        (recipe, replace(source, path=source.path.format_map(variables)))
        for recipe in chosen
        for source in recipe.sources
    )
    return Plan(where, wanted.words, facts, choice, variables, steps, sources)


def _variables(facts: Facts, choice: Choice) -> dict[str, str]:
    def tag(python: str) -> str:
        return f"py{python.replace('.', '')}" if python else ""

    return {
        "CUDA": choice.cuda,
        "CUDNN": choice.cudnn,
        "CUDNN_ARCHIVE": facts.archives.get(choice.cudnn, ""),
        "TENSORFLOW": choice.tensorflow,
        "PYTORCH": choice.pytorch,
        "PYTHON": choice.python,
        "TAG": tag(choice.python),
        "PYTHON3": choice.python3,
        "TAG3": tag(choice.python3),
        "GROWTH": choice.growth,
        "PIP": compatibility.PIP,
        "SUFFIX": "-py2" if choice.python.startswith("2") else "",
    }


def looked_at(made: Plan, done: frozenset[int]) -> Plan:
    """The plan with the states of its steps: `done` are the numbers, from 1, of those with nothing to do.

    RefusedError where the disk has no room for the others.
    """
    steps = tuple(
        replace(one, state=DONE if number in done else TODO)
        for number, one in enumerate(made.steps, 1)
    )
    made = replace(made, steps=steps)
    _check_disk(made)
    return made


def _check_disk(made: Plan) -> None:
    needed: dict[str, int] = {}
    room: dict[str, tuple[int, str]] = {}
    for one in made.todo:
        for path, size in one.step.disk.items():
            place = _place(path, made.facts)
            if place is not None:
                free, system = made.facts.free[place]
                needed[system] = needed.get(system, 0) + size
                room[system] = free, path
    for system, size in needed.items():
        free, path = room[system]
        if size > free:
            message = f"{made.where} has {free} MiB free for {path}, and {size} MiB are needed"
            hint = f"apexgpu ssh {made.where} -- df -h   (make room, then the same again)"
            raise RefusedError(message, hint=hint, code="disk")


def _place(path: str, facts: Facts) -> str | None:
    """The measured path that `path` lies under."""
    if path == "~" or path.startswith("~/"):
        path = facts.home + path[1:]
    under = [
        place for place in facts.free if path == place or path.startswith(place.rstrip("/") + "/")
    ]
    return max(under, key=len, default=None)
