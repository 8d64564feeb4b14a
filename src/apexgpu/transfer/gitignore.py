"""What git leaves out of a directory: asked of git itself, so that every rule is git's own.

The rules come from .gitignore files in the directory and above it, .git/info/exclude and core.excludesFile.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from apexgpu.errors import ApexError, MissingProgramError
from apexgpu.process import Runner

_LIMIT = 60.0  # seconds


def ignored_paths(directory: Path, runner: Runner) -> frozenset[bytes]:
    """The paths in `directory`, relative to it, that git ignores; of a directory that it ignores, no path below it.

    Git's own directory is one of them. Without git on this laptop, a directory that has no .gitignore has none;
    MissingProgramError for one that has.
    """
    try:
        with _git_directory(directory, runner) as git_directory:
            argv = ["git", "-C", str(directory), *git_directory]
            argv += ["ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z"]
            completed = runner.run(argv, timeout=_LIMIT)
    except MissingProgramError:
        if next(directory.rglob(".gitignore"), None) is None:
            return frozenset()
        message = f"{directory} has a .gitignore, and git, which reads it, is not installed"
        raise MissingProgramError(message, hint="git --version") from None
    if completed.code != 0:
        message = f"git cannot tell what it ignores in {directory}: {completed.last_error_line}"
        raise ApexError(message, hint=f"git -C {directory} status", code="git")
    ignored = {path.rstrip(b"/") for path in completed.out.split(b"\0") if path}
    if (directory / ".git").exists():
        ignored.add(b".git")
    return frozenset(ignored)


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
