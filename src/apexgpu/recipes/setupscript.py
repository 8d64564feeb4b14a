"""Builds the command (run.sh) that checks or does the steps of a plan, and reads its marks.

Pure but for the recipes' own files, which it reads.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from apexgpu import readers
from apexgpu.recipes.planner import PlannedStep, SetupPlan
from apexgpu.recipes.recipe import END_OF_TEXT, Recipe
from apexgpu.remote import remotescript


class ScriptMode(StrEnum):
    """What run.sh does."""

    CHECK = "check"
    """Report which steps are done, and the checksums of the files to install from.

    Changes nothing.
    """

    RUN = "run"
    """Begin the steps, or follow the run with the same id if it has begun."""

    FOLLOW = "follow"
    """Follow a run of any id until it ends."""


class MarkKind(StrEnum):
    """The first word of a mark, and its arguments."""

    # check
    DONE = "done"  # step
    TO_DO = "todo"  # step
    FILE = "file"  # name, bytes, SHA-256, path
    NO_FILE = "nofile"  # name, path
    END = "end"
    # run
    BEGIN = "begin"  # step
    SKIPPED = "skipped"  # step: it was done already
    DID = "did"  # step
    FAILED = "failed"  # step, part, exit code
    STOPPED = "stopped"  # step
    BUSY = "busy"  # id and recipes of another run
    ALIVE = "alive"
    ENDED = "ended"  # RunEnd


class RunEnd(StrEnum):
    """How a run ended."""

    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    """By Ctrl-C."""

    DIED = "died"
    """The container was stopped, or the run was killed."""

    UNKNOWN = "unknown"
    """The container's note of the end cannot be read, for example because the disk was full."""


@dataclass(frozen=True, slots=True)
class ScriptMark:
    """A line of run.sh itself among the output of the steps: `apexgpu@RUN_ID KIND ARGUMENTS`."""

    run_id: str
    kind: MarkKind
    arguments: tuple[str, ...]

    @property
    def step(self) -> int:
        """The number of the step, from 1; 0 if the mark has none."""
        return readers.number(self.arguments[0]) or 0


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to install from, as it is in the container.

    Bytes; `sha256` is empty if it cannot be read.
    """

    name: str
    path: str
    size: int = 0
    sha256: str = ""


_MARK = re.compile(r"apexgpu@([0-9a-f]+) (\w+) ?(.*)")
_FILE_ARGUMENTS = 3  # name, size, checksum; the path follows
_MARK_KINDS = frozenset(MarkKind)


def parse_mark(line: str) -> ScriptMark | None:
    """The mark in a line of output; None for the output of a step's programs."""
    match = _MARK.fullmatch(line.rstrip("\r"))
    if match is None or match[2] not in _MARK_KINDS:
        return None
    return ScriptMark(match[1], MarkKind(match[2]), tuple(match[3].split(" ")))


def source_file(mark: ScriptMark) -> SourceFile | None:
    """The file that a mark describes; None if it describes none."""
    if mark.kind is MarkKind.NO_FILE and mark.arguments:
        name, *path = mark.arguments
        return SourceFile(name, " ".join(path))
    if mark.kind is MarkKind.FILE and len(mark.arguments) >= _FILE_ARGUMENTS:
        name, size_text, sha256, *path = mark.arguments
        size = readers.required(readers.number(size_text), f"the size of {name}", size_text)
        return SourceFile(name, " ".join(path), size, sha256)
    return None


def script_command(
    mode: ScriptMode,
    run_id: str,
    plan: SetupPlan | None = None,
    published_sources: Sequence[str] = (),
) -> str:
    """The command line for the container's shell.

    `published_sources` are the names of the sources whose checksum is the published one.
    """
    files, title = "", run_id
    if plan is not None:
        files = files_script(plan, published_sources)
        title = f"{run_id} {' '.join(plan.arguments)}"
    program = remotescript.text("run.sh")
    words = ["env", "LC_ALL=C", "sh", "-c", program, "apexgpu", mode, title, files]
    if mode is ScriptMode.RUN:
        # It writes itself into a file, to outlive the connection.
        words.append(program)
    return remotescript.apart(shlex.join(words))


def login_test_command(plan: SetupPlan, recipe: Recipe) -> str:
    """The command line that tests, in a new login, what `recipe` promises to every login."""
    assignments = []
    for name, value in plan.variables.items():
        # An empty SUFFIX has a meaning: Python 3.
        if value or name == "SUFFIX":
            assignments.append(f"{name}={value}")
    return shlex.join(["env", *assignments, "sh", "-c", f"set -e\n{recipe.login}"])


def files_script(plan: SetupPlan, published_sources: Sequence[str] = ()) -> str:
    """The script that writes the run's files into $RUN; run.sh describes them."""
    files = {
        "steps.sh": remotescript.text("steps.sh"),
        "variables.sh": _variables_file(plan, published_sources),
        "count": f"{len(plan.steps)}\n",
    }
    sources = []
    for number, planned in enumerate(plan.steps, 1):
        step = planned.step
        files[f"{number}.done"] = step.done
        files[f"{number}.do"] = step.do
        files[f"{number}.verify"] = step.verify
        files[f"{number}.constraints"] = planned.constraints or "none"
        if step.action:
            files[f"{number}.here"] = ""
        sources += _source_lines(plan, number, planned)
    files["sources"] = "".join(sources)
    for recipe in plan.recipes:
        for name, text in _own_files(plan, recipe).items():
            files[f"files/{name}"] = text
    commands = [_write_file_command(name, text) for name, text in files.items()]
    return 'mkdir -p "$RUN/files"\n' + "".join(commands)


def _variables_file(plan: SetupPlan, published_sources: Sequence[str]) -> str:
    variables = dict(plan.variables)
    for _, source in plan.sources:
        variables[source.name] = source.path
        variables[f"{source.name}_KNOWN"] = "yes" if source.name in published_sources else ""
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    return "".join(lines)


def _source_lines(plan: SetupPlan, number: int, planned: PlannedStep) -> list[str]:
    """The lines of `sources` for a step: the files of its recipe that its script names."""
    lines = []
    for recipe, source in plan.sources:
        if recipe is planned.recipe and source.path and source.name in planned.step.do:
            lines.append(f"{source.name} {number} {source.path}\n")
    return lines


def _own_files(plan: SetupPlan, recipe: Recipe) -> dict[str, str]:
    """The files that a recipe sends along.

    If its constraints file does not exist, pip chooses the versions.
    """
    directory = recipe.directory / "files"
    files = {name: (directory / name).read_text(encoding="utf-8") for name in recipe.files}
    constraints = recipe.constraints.format_map(plan.variables)
    if constraints and (directory / constraints).is_file():
        files[constraints] = (directory / constraints).read_text(encoding="utf-8")
    return files


def _write_file_command(name: str, text: str) -> str:
    if text and not text.endswith("\n"):
        text += "\n"
    return f"cat >\"$RUN/{name}\" <<'{END_OF_TEXT}'\n{text}{END_OF_TEXT}\n"
