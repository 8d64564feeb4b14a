"""What git leaves out of a directory: asked of git itself, so that every rule is git's own.

The rules come from .gitignore files in the directory and above it, .git/info/exclude and core.excludesFile.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from apexgpu.errors import ApexError, MissingProgramError, RefusedError
from apexgpu.platforms.shellwords import quoted
from apexgpu.process import Runner

_LIMIT = 60.0  # seconds
_ALL = b"."  # how git calls the directory that it is asked about


def ignored_paths(directory: Path, runner: Runner) -> frozenset[bytes]:
    """The paths in `directory`, relative to it, that git ignores; of a directory that it ignores, no path below it.

    Git's own directory is one of them. Repositories within the directory (clones, submodules) have rules of their own.
    Without git on this laptop, a directory that has no .gitignore has none; MissingProgramError for one that has.
    RefusedError if git ignores the directory itself.
    """
    ignored = _ignored_paths(directory, runner)
    if _ALL in ignored:
        message = f"git ignores all of {directory}, so there is nothing to copy"
        raise RefusedError(
            message, hint=f"git -C {quoted(str(directory))} check-ignore -v .", code="git"
        )
    return frozenset(ignored)


def _ignored_paths(directory: Path, runner: Runner) -> set[bytes]:
    """As `ignored_paths`; _ALL is one of them if git ignores the directory itself."""
    try:
        with _git_directory(directory, runner) as git_directory:
            git = _Git(directory, git_directory, runner)
            ignored = git.ignored()
            repositories = git.repositories()
    except MissingProgramError:
        if next(directory.rglob(".gitignore"), None) is None:
            return set()
        message = f"{directory} has a .gitignore, and git, which reads it, is not installed"
        raise MissingProgramError(message, hint="git --version") from None
    if (directory / ".git").exists():
        ignored.add(b".git")
    for path in repositories:
        inner = directory / os.fsdecode(path)
        if not (inner / ".git").exists():
            continue
        for name in _ignored_paths(inner, runner):
            ignored.add(path if name == _ALL else path + b"/" + name)
    return ignored


class _Git:
    """What git says about a directory."""

    def __init__(self, directory: Path, options: Sequence[str], runner: Runner) -> None:
        self._directory = directory
        self._options = options
        self._runner = runner

    def ignored(self) -> set[bytes]:
        """The paths that it ignores, without what is below an ignored directory."""
        paths = self._list("--others", "--ignored", "--exclude-standard", "--directory")
        return {path.rstrip(b"/") for path in paths}

    def repositories(self) -> list[bytes]:
        """The paths of other repositories within it."""
        # A repository that nobody has added is listed with a slash, and without what is in it.
        clones = [
            path for path in self._list("--others", "--exclude-standard") if path.endswith(b"/")
        ]
        submodules = []
        for entry in self._list("--stage"):
            mode, _, path = entry.partition(b"\t")
            if mode.startswith(b"160000 "):
                submodules.append(path)
        return [path.rstrip(b"/") for path in (*clones, *submodules)]

    def _list(self, *options: str) -> list[bytes]:
        argv = ["git", "-C", str(self._directory), *self._options, "ls-files", *options, "-z"]
        completed = self._runner.run(argv, timeout=_LIMIT)
        if completed.code != 0:
            message = (
                f"git cannot tell what it ignores in {self._directory}: {completed.last_error_line}"
            )
            raise ApexError(
                message, hint=f"git -C {quoted(str(self._directory))} status", code="git"
            )
        return [path for path in completed.out.split(b"\0") if path]


@contextlib.contextmanager
def _git_directory(directory: Path, runner: Runner) -> Iterator[list[str]]:
    """The options that let git read the rules in a directory that is in no repository."""
    inside = runner.run(["git", "-C", str(directory), "rev-parse", "--is-inside-work-tree"])
    if inside.code == 0:
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="apexgpu-") as temporary:
        runner.run(["git", "init", "--quiet", "--bare", temporary])
        yield [f"--git-dir={temporary}", f"--work-tree={os.path.abspath(directory)}"]  # noqa: PTH100
