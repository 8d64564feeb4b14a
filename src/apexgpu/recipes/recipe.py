"""Recipes: what `apexgpu setup` can set up, as data.

They are read, strictly, from the package and the user's files.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from apexgpu.errors import ConfigError
from apexgpu.platforms import hints

CHOOSABLE = ("cuda", "cudnn", "tensorflow", "pytorch", "python3")
VARIABLES = (
    "CUDA",
    "CUDNN",
    "CUDNN_ARCHIVE",
    "TENSORFLOW",
    "PYTORCH",
    "PYTHON",
    "TAG",
    "PYTHON3",
    "TAG3",
    "SUFFIX",
    "GROWTH",
    "PIP",
)
"""The planner's variables for scripts, beside `FILES`, `CONSTRAINTS` and the sources' names."""

ACTIONS = ("renew_host_keys",)
"""What this machine can do for a step instead of a script in the container."""

PACKAGED = Path(__file__).with_name("builtin")

END_OF_TEXT = "END_OF_APEXGPU_TEXT"
"""The line that ends each text in the script that is sent, so no text may contain it."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,30}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Source:
    """A file in the container to install from.

    `path` may name a variable; `sha256` are the published checksums.
    """

    name: str
    path: str
    sha256: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a recipe; its texts are sh, run under `set -e`.

    `done` succeeds if there is nothing to do, `verify` if `do` has worked. A step has either `do`
    or `action`, the name of what this machine does instead. `when` is variable -> the values with
    which the step is needed, `disk` is path -> MiB that it takes.
    """

    name: str
    title: str
    done: str
    do: str = ""
    verify: str = ""
    action: str = ""
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    disk: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """One recipe.

    `needs` are recipes that come first, `choose` the parts that the planner has to choose a version
    of. `login` is a script that must succeed in a new login afterwards, `use` tells the user how to
    use the software. `directory` contains the recipe's file, and in `files/` the `files` and
    `constraints` that it sends along.
    """

    name: str
    summary: str
    steps: Sequence[Step]
    directory: Path
    needs: Sequence[str] = ()
    choose: Sequence[str] = ()
    sources: Sequence[Source] = ()
    files: Sequence[str] = ()
    constraints: str = ""
    login: str = ""
    use: str = ""

    @cached_property
    def is_users_own(self) -> bool:
        """Whether it comes from the user's config directory, not from the package."""
        return self.directory != PACKAGED


def load_all(config_dir: Path) -> dict[str, Recipe]:
    """Load every recipe, by name; the user's replace the package's.

    ConfigError names the file and the key.
    """
    recipes = {}
    for directory in (PACKAGED, config_dir / "recipes"):
        for path in sorted(directory.glob("*.toml")):
            recipes[path.stem] = load(path)
    for recipe in recipes.values():
        for name in recipe.needs:
            if name not in recipes:
                path = recipe.directory / f"{recipe.name}.toml"
                raise _error(path, "needs", f"names {name}, and there is no recipe {name}")
    return recipes


def load(path: Path) -> Recipe:
    """Load the recipe in one file. ConfigError names the file and the key."""
    import tomllib

    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        message = f"{path} cannot be read: {reason}"
        raise ConfigError(message, hint=hints.look_at(path), code="recipe") from None
    except tomllib.TOMLDecodeError as exc:
        message = f"{path} is not valid TOML: {exc}"
        raise ConfigError(message, hint=hints.show_file(path), code="recipe") from None
    return _read_recipe(_Table(path, "", values))


def _error(path: Path, key: str, problem: str) -> ConfigError:
    # The hint shows a correct recipe.
    hint = hints.show_file(PACKAGED / "cuda.toml")
    return ConfigError(f"{path}: {key} {problem}", hint=hint, code="recipe")


class _Table:
    """A table of a recipe file.

    Each method takes a key out; `end` refuses the keys that are left.
    """

    def __init__(self, path: Path, prefix: str, values: Any) -> None:
        self.path = path
        self._prefix = prefix
        if not isinstance(values, dict):
            raise _error(path, prefix.rstrip("."), "must be a table")
        self._left: dict[str, Any] = dict(values)

    def text(self, key: str, default: str | None = None) -> str:
        """A string; without a default, it must be there and not be empty."""
        value = self._left.pop(key, default)
        if value is None:
            raise self.error(key, "is missing")
        if not isinstance(value, str) or (not value.strip() and default is None):
            raise self.error(key, "must be a text that is not empty")
        if not _can_be_sent(value):
            raise self.error(key, _CANNOT_BE_SENT)
        return value.replace("\r\n", "\n")

    def template(self, key: str, default: str | None = None) -> str:
        """A string that may name variables in braces."""
        value = self.text(key, default)
        try:
            value.format_map(dict.fromkeys(VARIABLES, ""))
        except (KeyError, ValueError, IndexError, AttributeError):
            problem = f"may name {', '.join(VARIABLES)} in braces, and nothing else"
            raise self.error(key, problem) from None
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty if it is not there."""
        values = self._left.pop(key, [])
        if not isinstance(values, list):
            raise self.error(key, "must be a list of texts")
        for value in values:
            if not isinstance(value, str) or not value.strip():
                raise self.error(key, "must be a list of texts")
        return tuple(values)

    def tables(self, key: str) -> list["_Table"]:
        """A list of tables; empty if it is not there."""
        values = self._left.pop(key, [])
        if not isinstance(values, list):
            raise self.error(key, "must be a list of tables")
        tables = []
        for number, value in enumerate(values, 1):
            tables.append(_Table(self.path, f"{self._prefix}{key}[{number}].", value))
        return tables

    def mapping(self, key: str) -> dict[str, Any]:
        """A table whose keys are not fixed; empty if it is not there."""
        value = self._left.pop(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "must be a table")
        return value

    def end(self) -> None:
        """ConfigError if a key is left that nothing has asked for."""
        for key in self._left:
            raise self.error(key, "is not known")

    def error(self, key: str, problem: str) -> ConfigError:
        """The error about one key of this table."""
        return _error(self.path, f"{self._prefix}{key}", problem)


_CANNOT_BE_SENT = f"contains a NUL character or {END_OF_TEXT}"


def _can_be_sent(text: str) -> bool:
    """Whether a text can be part of a shell script, see `setupscript.files_script`."""
    return END_OF_TEXT not in text and "\0" not in text


def _read_recipe(table: _Table) -> Recipe:
    path = table.path
    if not _NAME.fullmatch(path.stem):
        raise _error(path, "the file's name", "must be lower-case letters, digits and dashes")
    recipe = Recipe(
        name=path.stem,
        directory=path.parent,
        summary=table.text("summary"),
        needs=table.texts("needs"),
        choose=table.texts("choose"),
        sources=tuple(_read_source(source) for source in table.tables("sources")),
        files=table.texts("files"),
        constraints=table.template("constraints", ""),
        login=table.text("login", ""),
        use=table.template("use", ""),
        steps=tuple(_read_step(step) for step in table.tables("steps")),
    )
    table.end()
    if not recipe.steps:
        raise table.error("steps", "is missing")
    for part in recipe.choose:
        if part not in CHOOSABLE:
            raise table.error("choose", f"names {part}, and may name {', '.join(CHOOSABLE)}")
    for name in (*recipe.files, recipe.constraints):
        if "/" in name or "\\" in name or name.startswith("."):
            problem = f"names {name}, and may name files in files/ beside the recipe"
            raise table.error("files", problem)
    for name in recipe.files:
        _check_file(table, path.parent / "files" / name)
    step_names = {step.name for step in recipe.steps}
    if len(step_names) < len(recipe.steps):
        raise table.error("steps", "has two of one name")
    return recipe


def _check_file(table: _Table, file: Path) -> None:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        problem = f"names {file.name}, and {file} does not exist, or is not UTF-8 text"
        raise table.error("files", problem) from None
    if not _can_be_sent(text):
        raise table.error("files", f"names {file.name}, which {_CANNOT_BE_SENT}")


def _read_source(table: _Table) -> Source:
    source = Source(table.text("name"), table.template("path"), table.texts("sha256"))
    table.end()
    if not _VARIABLE.fullmatch(source.name) or source.name in VARIABLES:
        problem = "must be upper-case letters, and not the name of a variable of the planner"
        raise table.error("name", problem)
    for checksum in source.sha256:
        if not _SHA256.fullmatch(checksum):
            raise table.error("sha256", "must contain 64 lower-case hexadecimal digits each")
    return source


def _read_step(table: _Table) -> Step:
    name = table.text("name")
    title = table.template("title")
    done = table.text("done")
    do = table.text("do", "")
    action = table.text("action", "")
    verify = table.text("verify", done)
    disk = _read_disk(table)
    when = _read_when(table)
    table.end()
    if not _NAME.fullmatch(name):
        raise table.error("name", "must be lower-case letters, digits and dashes")
    if bool(do.strip()) == bool(action):
        raise table.error("do", "must be there, or else action")
    if action and action not in ACTIONS:
        raise table.error("action", f"must be one of {', '.join(ACTIONS)}")
    return Step(name, title, done, do, verify, action, when, disk)


def _read_disk(table: _Table) -> dict[str, int]:
    disk = table.mapping("disk")
    for path, mebibytes in disk.items():
        # In Python, true is an integer.
        is_number = isinstance(mebibytes, int) and not isinstance(mebibytes, bool)
        if not path.startswith(("/", "~")) or not is_number or mebibytes < 0:
            problem = "must be a path, and its value MiB as a whole number"
            raise table.error(f"disk.{path!r}", problem)
    return disk


def _read_when(table: _Table) -> dict[str, tuple[str, ...]]:
    when = {}
    for variable, value in table.mapping("when").items():
        values = value if isinstance(value, list) else [value]
        if variable not in VARIABLES or not all(isinstance(text, str) for text in values):
            problem = f"must be one of {', '.join(VARIABLES)}, its value a text or a list of texts"
            raise table.error(f"when.{variable}", problem)
        when[variable] = tuple(values)
    return when
