"""The text that checks or does the steps of a plan in a container, and what it says. Pure but for its own files."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from apexgpu.recipes.planner import Plan
from apexgpu.recipes.recipe import END_OF_TEXT, Recipe
from apexgpu.remote import remotescript

Mode = Literal["check", "run", "follow"]
_MARK = re.compile(r"apexgpu@([0-9a-f]+) (\w+) ?(.*)")


@dataclass(frozen=True, slots=True)
class Mark:
    """A line of the script's own: `begin`, `did`, `failed` … and its words."""

    run: str
    kind: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that is installed from, as it lies in the container. Bytes; `sha256` empty where it cannot be read."""

    name: str
    path: str
    size: int = 0
    sha256: str = ""


def mark(line: str) -> Mark | None:
    """The mark in a line of output, None for what programs say."""
    found = _MARK.fullmatch(line.rstrip("\r"))
    return Mark(found[1], found[2], tuple(found[3].split(" "))) if found else None


def command(mode: Mode, run: str, plan: Plan | None = None, known: Sequence[str] = ()) -> str:
    """The command line for the container's shell. `known` are the names of sources whose checksum is known."""
    texts = layout(plan, known) if plan is not None else ""
    what = f"{run} {' '.join(plan.words)}" if plan is not None else run
    program = remotescript.text("run.sh")
    words = ["env", "LC_ALL=C", "sh", "-c", program, "apexgpu", mode, what, texts]
    return remotescript.apart(shlex.join([*words, program] if mode == "run" else words))


def login_command(plan: Plan, recipe: Recipe) -> str:
    """The command line that proves, in a new login, what a recipe promises every login."""
    names = {name: value for name, value in plan.variables.items() if value}
    assigned = [
        f"{name}={value}" for name, value in {**names, "SUFFIX": plan.variables["SUFFIX"]}.items()
    ]
    return shlex.join(["env", *assigned, "sh", "-c", f"set -e\n{recipe.login}"])


def layout(plan: Plan, known: Sequence[str] = ()) -> str:
    """The script that lays out the run's files under $RUN."""
    variables = dict(plan.variables)
    for _, source in plan.sources:
        variables |= {
            source.name: source.path,
            f"{source.name}_KNOWN": "yes" if source.name in known else "",
        }
    files = {
        "steps.sh": remotescript.text("steps.sh"),
        "variables.sh": _assignments(variables),
        "count": f"{len(plan.steps)}\n",
    }
    sources = []
    for number, one in enumerate(plan.steps, 1):
        step = one.step
        files |= {
            f"{number}.done": step.done,
            f"{number}.do": step.do,
            f"{number}.verify": step.verify,
        }
        files[f"{number}.constraints"] = one.constraints or "none"
        if step.action:
            files[f"{number}.here"] = ""
        sources += [
            f"{source.name} {number} {source.path}\n"
            for recipe, source in plan.sources
            if recipe is one.recipe and source.path and source.name in step.do
        ]
    files["sources"] = "".join(sources)
    for recipe in plan.recipes:
        files |= {f"files/{name}": text for name, text in _own_files(plan, recipe).items()}
    return 'mkdir -p "$RUN/files"\n' + "".join(_written(name, text) for name, text in files.items())


def _own_files(plan: Plan, recipe: Recipe) -> dict[str, str]:
    """The files that a recipe sends along. Constraints that are not there leave versions to pip."""
    room = recipe.room / "files"
    found = {name: (room / name).read_text(encoding="utf-8") for name in recipe.files}
    constraints = recipe.constraints.format_map(plan.variables)
    if constraints and (room / constraints).is_file():
        found[constraints] = (room / constraints).read_text(encoding="utf-8")
    return found


def _assignments(variables: Mapping[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def _written(name: str, text: str) -> str:
    text = text if not text or text.endswith("\n") else f"{text}\n"
    return f"cat >\"$RUN/{name}\" <<'{END_OF_TEXT}'\n{text}{END_OF_TEXT}\n"
