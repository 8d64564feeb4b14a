"""Atomic replacement, and what a killed run left behind."""

import os
import time
from pathlib import Path

import pytest

from apexgpu import files


def test_what_a_killed_run_left_goes_when_it_is_old(tmp_path: Path) -> None:
    stale, fresh, other = (tmp_path / name for name in (".a.1.tmp", ".a.2.tmp", ".b.1.tmp"))
    for path in (stale, fresh, other):
        path.write_bytes(b"half")
    for path in (stale, other):
        os.utime(path, (time.time() - 7200,) * 2)
    files.replace_atomically(tmp_path / "a", b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a", ".a.2.tmp", ".b.1.tmp"}
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_symlink_stays_one(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").write_bytes(b"old")
    (tmp_path / "link").symlink_to("dotfiles")
    files.replace_atomically(tmp_path / "link", b"new", mode=0o644)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "dotfiles").read_bytes() == b"new"
    assert (tmp_path / "dotfiles").stat().st_mode & 0o777 == 0o644


def test_a_refused_write_leaves_the_old_bytes_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()  # a file cannot take the place of a directory
    with pytest.raises(OSError, match="directory"):
        files.replace_atomically(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
