"""Atomic replacement, and what a killed run left behind."""

import os
import stat
import time
from pathlib import Path

import pytest

from apexgpu import files


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "place"
    directory.mkdir()
    return directory


def test_what_a_killed_run_left_goes_when_it_is_old(place: Path) -> None:
    stale, fresh, other = (place / name for name in (".a.1.tmp", ".a.2.tmp", ".b.1.tmp"))
    for path in (stale, fresh, other):
        path.write_bytes(b"half")
    for path in (stale, other):
        os.utime(path, (time.time() - 7200,) * 2)
    files.replace_atomically(place / "a", b"whole")
    assert {path.name for path in place.iterdir()} == {"a", ".a.2.tmp", ".b.1.tmp"}
    assert (place / "a").read_bytes() == b"whole"
    assert (place / "a").stat().st_mode & 0o777 == 0o600


def test_a_symlink_stays_one(place: Path) -> None:
    (place / "dotfiles").write_bytes(b"old")
    (place / "link").symlink_to("dotfiles")
    files.replace_atomically(place / "link", b"new", mode=0o644)
    assert (place / "link").is_symlink()
    assert (place / "dotfiles").read_bytes() == b"new"
    assert (place / "dotfiles").stat().st_mode & 0o777 == 0o644


def test_a_refused_write_leaves_the_old_bytes_and_nothing_else(place: Path) -> None:
    (place / "a").mkdir()  # a file cannot take the place of a directory
    with pytest.raises(OSError, match="directory"):
        files.replace_atomically(place / "a", b"new")
    assert [path.name for path in place.iterdir()] == ["a"]


def test_bytes_are_on_the_disk_before_they_get_their_name_and_the_name_is_after(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut leaves is the old bytes or the new ones, never an empty file."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "bytes")
        fsync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        done.append("name")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    files.replace_atomically(place / "a", b"new")
    assert done == ["bytes", "name", "directory"]


def test_a_lock_is_private(place: Path) -> None:
    with files.locked(place / "locks" / "gpu2.lock", what="gpu2"):
        assert (place / "locks" / "gpu2.lock").stat().st_mode & 0o777 == 0o600
        assert (place / "locks").stat().st_mode & 0o777 == 0o700
