"""What `run --sync` leaves out, compared with what git itself lists (`git ls-files`)."""

import os
import subprocess
from pathlib import Path

import pytest

from apexgpu.errors import RefusedError
from apexgpu.process import LocalRunner
from apexgpu.transfer import gitignore

RULES = {
    ".gitignore": (
        "*.log\n!keep.log\n/build/\n**/cache/\na/**/z.txt\n\\#hash\n\\!bang\ntrailing\\ \nspaces   \n"
        "[ab].txt\ndirectory-only/\ndata/*\n!data/kept\n# a comment\n\n*.b[i-k]n\nänderung.*\n名*\n"
        "literal\\*star\nquestion?\n/rooted\nover/\n!over/again\n"
    ),
    "sub/.gitignore": "!*.log\n/only-here\n*.tmp\n",
    "sub/deep/.gitignore": "*\n!.gitignore\n!left\n",
    "crlf/.gitignore": "plain\n",
    ".git/info/exclude": "excluded-here\n",
}
FILES = [
    "a.log",
    "keep.log",
    "build/x",
    "sub/build/x",
    "cache/x",
    "sub/cache/x",
    "a/z.txt",
    "a/b/z.txt",
    "a/b/c/z.txt",
    "#hash",
    "!bang",
    "spaces",
    "a.txt",
    "b.txt",
    "c.txt",
    "directory-only",
    "sub/directory-only/x",
    "data/one",
    "data/kept",
    "data/deep/x",
    "x.bin",
    "x.bjn",
    "änderung.md",
    "名字.csv",
    "literal*star",
    "literalXstar",
    "question1",
    "question",
    "rooted",
    "sub/rooted",
    "over/again",
    "over/x",
    "sub/a.log",
    "sub/only-here",
    "sub/deep/only-here",
    "sub/deep/left",
    "sub/deep/right",
    "sub/x.tmp",
    "x.tmp",
    "excluded-here",
    "sub/excluded-here",
    "everywhere.bak",
    "sub/everywhere.bak",
    "plain",
    "crlf/plain",
    "tracked.log",
    "build/tracked",
    "ignored-too/.git-not/x",
    "-dash",
    "sub/..x",
    "README",
]
NASTY = [
    "trailing ",
    "new\nline.log",
    "new\nline",
    "tab\t.log",
    "back\\slash",
    'quo"te.log',
    "quo'te",
]
TRACKED = ("tracked.log", "build/tracked", "README")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with files of all kinds, in which rules of the user's own hold too."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    (home / ".gitconfig").write_text(
        f"[core]\nexcludesFile = {home}/ignore\n[user]\nname = a\nemail = a@b\n"
    )
    (home / "ignore").write_text("*.bak\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    made = tmp_path / "tree"
    made.mkdir()
    git(made, "init", "--quiet")
    fill(made)
    git(made, "add", "--force", *TRACKED)
    return made


def git(directory: Path, *words: str) -> bytes:
    return subprocess.run(["git", "-C", directory, *words], check=True, capture_output=True).stdout


def fill(directory: Path) -> None:
    for name in (*FILES, *NASTY):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    for name, text in RULES.items():
        (directory / name).write_text(text)
    (directory / "link.log").symlink_to("README")
    (directory / "link").symlink_to("build")


def copied(directory: Path) -> set[bytes]:
    """The files that would be copied: all but the ignored ones and what is below them."""
    ignored = gitignore.ignored_paths(directory, LocalRunner())
    found = set()
    for path in directory.rglob("*"):
        name = path.relative_to(directory)
        above = {os.fsencode(part) for part in (name, *name.parents)}
        is_file = path.is_symlink() or not path.is_dir()
        if is_file and not above & ignored:
            found.add(os.fsencode(name))
    return found


def listed(directory: Path) -> set[bytes]:
    """The files that belong to the repository, as git lists them."""
    out = git(directory, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return {path for path in out.split(b"\0") if path}


def test_what_is_copied_is_what_git_lists(tree: Path) -> None:
    assert copied(tree) == listed(tree)
    assert b"a.log" not in copied(tree)
    assert b"tracked.log" in copied(tree)


def test_the_rules_above_a_directory_hold_in_it(tree: Path) -> None:
    assert copied(tree / "sub") == listed(tree / "sub")
    assert b"everywhere.bak" not in copied(tree / "sub")


def test_repositories_within_have_rules_of_their_own(tree: Path) -> None:
    for name in ("clone", "module", "over/hidden"):
        inner = tree / name
        inner.mkdir(parents=True)
        git(inner, "init", "--quiet")
        fill(inner)
        git(inner, "add", "--force", *TRACKED)
        git(inner, "commit", "--quiet", "--message", "all")
    git(tree, "add", "module")  # as a submodule, whose commit is noted
    expected = {path for path in listed(tree) if path not in {b"clone/", b"module"}}
    for name in ("clone", "module"):
        expected |= {name.encode() + b"/" + path for path in listed(tree / name)}
    assert copied(tree) == expected


def test_a_directory_in_no_repository_has_rules_too(tree: Path) -> None:
    expected = listed(tree) - {b"build/tracked", b"tracked.log"}
    (tree / ".git").rename(tree.parent / "away")
    # Only the repository's own file excluded it.
    expected |= {b"excluded-here", b"sub/excluded-here"}
    assert copied(tree) == expected


def test_a_directory_that_git_ignores_is_not_copied_as_an_empty_one(tree: Path) -> None:
    with pytest.raises(RefusedError, match="git ignores all of"):
        gitignore.ignored_paths(tree / "data" / "deep", LocalRunner())
