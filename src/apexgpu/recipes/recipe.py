"""Recipes: what can be set up in a container, as data. Read from the package and the user's own directory, strictly."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from apexgpu.errors import ConfigError

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
"""What the planner tells the scripts, beside `FILES`, `CONSTRAINTS` and the sources' own names."""

ACTIONS = ("renew_host_keys",)
"""What a step may have done by the laptop instead of by a script."""

PACKAGED = Path(__file__).with_name("builtin")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,30}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
END_OF_TEXT = "END_OF_APEXGPU_TEXT"


@dataclass(frozen=True, slots=True)
class Source:
    """A file in the container that is installed from. `path` may name a variable; `sha256` are those that are known."""

    name: str
    path: str
    sha256: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """`done` says whether there is nothing to do, `verify` whether `do` has worked: sh, under `set -e`.

    `action` stands in place of `do` for what the laptop does. `when`: variable -> the values with which it is wanted.
    `disk`: path -> MiB that it takes.
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
    """One recipe. `needs` are recipes that come first, `choose` what the planner has to choose a version of.

    `login` is what a new login must find in the end, `use` how it is used, `room` where its files lie.
    """

    name: str
    summary: str
    steps: Sequence[Step]
    room: Path
    needs: Sequence[str] = ()
    choose: Sequence[str] = ()
    sources: Sequence[Source] = ()
    files: Sequence[str] = ()
    constraints: str = ""
    login: str = ""
    use: str = ""

    @cached_property
    def own(self) -> bool:
        """Whether it is the user's own."""
        return self.room != PACKAGED


def load_all(config_dir: Path) -> dict[str, Recipe]:
    """Every recipe by its name; the user's take the place of the package's. ConfigError with file and key."""
    found = {}
    for room in (PACKAGED, config_dir / "recipes"):
        for path in sorted(room.glob("*.toml")):
            found[path.stem] = load(path)
    for recipe in found.values():
        for name in recipe.needs:
            if name not in found:
                raise _wrong(
                    recipe.room / f"{recipe.name}.toml", "needs", f"there is no recipe {name}"
                )
    return found


def load(path: Path) -> Recipe:
    """The recipe in one file."""
    import tomllib

    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        message = f"{path} cannot be read: {getattr(exc, 'strerror', None) or exc}"
        raise ConfigError(message, hint=f"ls -l {path}", code="recipe") from None
    except tomllib.TOMLDecodeError as exc:
        message = f"{path} is not valid TOML: {exc}"
        raise ConfigError(
            message, hint="correct the line, or move the file away", code="recipe"
        ) from None
    return _recipe(_Table(path, "", table))


class _Table:
    """A table of a recipe file, whose keys are taken one by one; what is left over in the end is wrong."""

    def __init__(self, path: Path, where: str, values: Any) -> None:
        self.path = path
        self._where = where
        if not isinstance(values, dict):
            raise _wrong(path, where.rstrip("."), "must be a table")
        self._left: dict[str, Any] = dict(values)

    def text(self, key: str, default: str | None = None) -> str:
        """A string that is not empty; required without a default."""
        value = self._left.pop(key, default)
        if value is None:
            raise self.wrong(key, "is missing")
        if not isinstance(value, str) or (not value.strip() and default is None):
            raise self.wrong(key, "must be a text that is not empty")
        if END_OF_TEXT in value or "\0" in value:
            raise self.wrong(key, "holds what no script may hold")
        return value.replace("\r\n", "\n")

    def template(self, key: str, default: str | None = None) -> str:
        """A string that may name the planner's variables in braces."""
        value = self.text(key, default)
        try:
            value.format_map(dict.fromkeys(VARIABLES, ""))
        except (KeyError, ValueError, IndexError, AttributeError):
            raise self.wrong(
                key, f"may name {', '.join(VARIABLES)} in braces, and nothing else"
            ) from None
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self._left.pop(key, [])
        if not isinstance(value, list) or not all(
            isinstance(one, str) and one.strip() for one in value
        ):
            raise self.wrong(key, "must be a list of texts")
        return tuple(value)

    def tables(self, key: str) -> list["_Table"]:
        """A list of tables."""
        value = self._left.pop(key, [])
        if not isinstance(value, list):
            raise self.wrong(key, "must be a list of tables")
        return [
            _Table(self.path, f"{self._where}{key}[{number}].", one)
            for number, one in enumerate(value, 1)
        ]

    def mapping(self, key: str) -> dict[str, Any]:
        """A table as it stands."""
        value = self._left.pop(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "must be a table")
        return value

    def end(self) -> None:
        """Nothing may be left."""
        for key in self._left:
            raise self.wrong(key, "is not known")

    def wrong(self, key: str, what: str) -> ConfigError:
        """The error for one key."""
        return _wrong(self.path, f"{self._where}{key}", what)


def _wrong(path: Path, key: str, what: str) -> ConfigError:
    hint = f"correct it; one that is right, to compare with: {PACKAGED / 'cuda.toml'}"
    return ConfigError(f"{path}: {key} {what}", hint=hint, code="recipe")


def _recipe(table: _Table) -> Recipe:
    path = table.path
    if not _NAME.fullmatch(path.stem):
        raise _wrong(path, "the file's name", "must be lower-case letters, digits and dashes")
    recipe = Recipe(
        name=path.stem,
        room=path.parent,
        summary=table.text("summary"),
        needs=table.texts("needs"),
        choose=table.texts("choose"),
        sources=tuple(map(_source, table.tables("sources"))),
        files=table.texts("files"),
        constraints=table.template("constraints", ""),
        login=table.text("login", ""),
        use=table.template("use", ""),
        steps=tuple(map(_step, table.tables("steps"))),
    )
    table.end()
    if not recipe.steps:
        raise table.wrong("steps", "is missing")
    for one in recipe.choose:
        if one not in CHOOSABLE:
            raise table.wrong("choose", f"names {one}, and knows {', '.join(CHOOSABLE)}")
    for name in (*recipe.files, recipe.constraints):
        if "/" in name or "\\" in name or name.startswith("."):
            raise table.wrong(
                "files", f"names {name}, and may name files in files/ beside the recipe"
            )
    for name in recipe.files:
        _check_file(table, path.parent / "files" / name)
    names = [step.name for step in recipe.steps]
    if len(set(names)) < len(names):
        raise table.wrong("steps", "has two of one name")
    return recipe


def _disk(table: _Table) -> dict[str, int]:
    found = table.mapping("disk")
    for place, size in found.items():
        if (
            not place.startswith(("/", "~"))
            or not isinstance(size, int)
            or isinstance(size, bool)
            or size < 0
        ):
            raise table.wrong(
                f"disk.{place!r}", "must be a path, and its value MiB as a whole number"
            )
    return found


def _check_file(table: _Table, file: Path) -> None:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise table.wrong(
            "files", f"names {file.name}, and {file} is not there, or no text"
        ) from None
    if END_OF_TEXT in text or "\0" in text:
        raise table.wrong("files", f"names {file.name}, which holds what no script may hold")


def _source(table: _Table) -> Source:
    source = Source(table.text("name"), table.template("path"), table.texts("sha256"))
    table.end()
    if not _VARIABLE.fullmatch(source.name) or source.name in VARIABLES:
        raise table.wrong("name", "must be upper-case letters and none of the planner's own")
    if any(not _SHA256.fullmatch(one) for one in source.sha256):
        raise table.wrong("sha256", "must hold 64 lower-case hexadecimal digits each")
    return source


def _step(table: _Table) -> Step:
    name, title, done = table.text("name"), table.template("title"), table.text("done")
    do, action = table.text("do", ""), table.text("action", "")
    verify, disk = table.text("verify", done), _disk(table)
    when = {key: _values(table, key, value) for key, value in table.mapping("when").items()}
    table.end()
    if not _NAME.fullmatch(name):
        raise table.wrong("name", "must be lower-case letters, digits and dashes")
    if bool(do.strip()) == bool(action):
        raise table.wrong("do", "must be there, or else action")
    if action and action not in ACTIONS:
        raise table.wrong("action", f"must be one of {', '.join(ACTIONS)}")
    return Step(name, title, done, do, verify, action, when, disk)


def _values(table: _Table, key: str, value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if key not in VARIABLES or not all(isinstance(one, str) for one in values):
        raise table.wrong(
            f"when.{key}",
            f"must be one of {', '.join(VARIABLES)}, its value a text or a list of texts",
        )
    return tuple(values)
