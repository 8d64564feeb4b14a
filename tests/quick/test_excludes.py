"""Patterns of `cp --exclude`, compared with what git makes of the same patterns."""

import shutil
import subprocess
from pathlib import Path

import pytest

from apexgpu.errors import UsageError
from apexgpu.transfer import excludes

PATHS = (
    "a.pyc",
    "src/a.pyc",
    "src/deep/a.pyc",
    "src/a.py",
    "data/x",
    "src/data/x",
    "data.txt",
    "runs/1.tmp",
    "runs/deep/1.tmp",
    "other/runs/1.tmp",
    "keep.pyc",
    "a b",
    "名字.csv",
    "[x]",
    "x",
    "z",
    "star*",
    "back\\slash",
    "-",
)
SETS = (
    ["*.pyc"],
    ["data"],
    ["/data"],
    ["data/"],
    ["runs/*.tmp"],
    ["**/runs/*.tmp"],
    ["runs/**"],
    ["runs/**/1.tmp"],
    ["*.pyc", "!keep.pyc"],
    ["!keep.pyc", "*.pyc"],
    ["src", "!src/a.py"],
    ["a b"],
    ["名*"],
    ["[xz]"],
    ["[!x]"],
    ["\\[x\\]"],
    ["star\\*"],
    ["?"],
    ["s?c/*"],
    ["/*.pyc"],
    ["deep/"],
    ["*"],
    ["**"],
    ["*.py?"],
    ["[]x]"],
)


def left_out(patterns: list[str], paths: tuple[str, ...]) -> set[str]:
    """What a walk from the top leaves out."""
    parsed = excludes.parse(patterns)
    found = set()
    for path in paths:
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            part = "/".join(parts[:count]).encode()
            if parsed.leaves_out(part, is_directory=count < len(parts)):
                found.add(path)
    return found


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("patterns", SETS, ids=" ".join)
def test_patterns_mean_what_they_mean_to_git(patterns: list[str], tmp_path: Path) -> None:
    for path in PATHS:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".git/info/exclude").write_text("\n".join(patterns) + "\n")
    words = ["git", "-C", str(tmp_path), "-c", "core.excludesFile=/dev/null"]
    listed = subprocess.run(
        [*words, "ls-files", "-z", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
    ).stdout
    kept = {path for path in listed.decode().split("\0") if path}
    assert left_out(patterns, PATHS) == set(PATHS) - kept


def test_no_pattern_leaves_out_nothing() -> None:
    assert not excludes.parse([])
    assert left_out([], PATHS) == set()


@pytest.mark.parametrize("pattern", ["", "/", "!", "!/"])
def test_a_pattern_that_names_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="names nothing"):
        excludes.parse([pattern])


def test_a_range_that_ends_before_it_begins_is_no_error() -> None:
    assert left_out(["[z-a]x"], ("zx", "[z-a]x")) == {"[z-a]x"}
