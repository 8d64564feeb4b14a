"""Atomic replacement, appending, locks, private modes, and what a killed run left behind."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
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


@pytest.fixture
def no_umask() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


@pytest.mark.usefixtures("no_umask")
def test_everything_is_private_whatever_the_umask_is(place: Path) -> None:
    files.replace_atomically(place / "a" / "b" / "file", b"x")
    files.append(place / "c" / "d" / "file", lambda _: b"x")
    with files.locked(place / "e" / "f" / "lock", what="it"):
        pass
    modes = {
        path.relative_to(place).as_posix(): path.stat().st_mode & 0o777 for path in place.rglob("*")
    }
    assert {modes[name] for name in ("a", "a/b", "c", "c/d", "e", "e/f")} == {0o700}
    assert {modes[name] for name in ("a/b/file", "c/d/file", "e/f/lock")} == {0o600}


class TestAppend:
    def test_appends_to_what_is_there_then(self, place: Path) -> None:
        path = place / "a"
        path.write_bytes(b"one\n")
        assert files.append(path, lambda old: b"two\n" * (b"two" not in old)) is True
        assert files.append(path, lambda old: b"two\n" * (b"two" not in old)) is False
        assert path.read_bytes() == b"one\ntwo\n"

    def test_nothing_to_append_makes_no_file(self, place: Path) -> None:
        assert files.append(place / "a", lambda _: b"") is False
        assert list(place.iterdir()) == []

    def test_what_another_program_appends_during_a_slow_sync_stays(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = place / "a"

        def slow_sync(_: int) -> None:
            with path.open("ab") as stream:
                stream.write(b"theirs\n")

        monkeypatch.setattr(os, "fsync", slow_sync)
        files.append(path, lambda _: b"ours\n")
        assert path.read_bytes() == b"ours\ntheirs\n"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_sync_that_fails_names_the_file_and_leaves_the_old_bytes(
    place: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (place / "a").write_bytes(b"old")

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        files.replace_atomically(place / "a", b"new")
    assert caught.value.filename == str(place / "a")
    assert (place / "a").read_bytes() == b"old"
    assert [path.name for path in place.iterdir()] == ["a"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_sync_is_written_all_the_same(
    place: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    files.replace_atomically(place / "a", b"new")
    assert (place / "a").read_bytes() == b"new"


class TestLock:
    @pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS])
    def test_a_file_system_without_locks_is_named_with_the_way_out(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        import fcntl

        def fail(_descriptor: int, _operation: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", fail)
        with (
            pytest.raises(files.NoLocksError) as caught,
            files.locked(place / "lock", what="your config"),
        ):
            pytest.fail("the block ran without a lock")
        assert str(place) in caught.value.message
        assert "APEXGPU_STATE_DIR" in caught.value.message
        assert (caught.value.hint or "").startswith("export APEXGPU_STATE_DIR=")

    def test_a_second_holder_is_told_so_at_once(self, place: Path) -> None:
        with (
            files.locked(place / "lock", what="gpu2"),
            pytest.raises(files.BusyError, match="gpu2 is in use"),
            files.locked(place / "lock", what="gpu2", timeout=0),
        ):
            pytest.fail("two hold the same lock")
        with files.locked(place / "lock", what="gpu2", timeout=0):
            pass

    def test_a_killed_process_holds_nothing(self, place: Path) -> None:
        code = (
            "import sys, time; from pathlib import Path; from apexgpu import files\n"
            "with files.locked(Path(sys.argv[1]), what='x'):\n"
            "    print('held', flush=True); time.sleep(60)"
        )
        argv = [sys.executable, "-c", code, str(place / "lock")]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with (
                pytest.raises(files.BusyError),
                files.locked(place / "lock", what="x", timeout=0),
            ):
                pytest.fail("two hold the same lock")
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            with files.locked(place / "lock", what="x", timeout=0):
                pass

    def test_a_lock_file_that_the_holder_deletes_is_not_the_next_one(self, place: Path) -> None:
        """Else a third process, which makes the file anew, would hold another lock than the second."""
        path = place / "lock"
        with files.locked(path, what="x"):
            path.unlink()
            with files.locked(path, what="x", timeout=0):
                inode = path.stat().st_ino
        with files.locked(path, what="x", timeout=0):
            assert path.stat().st_ino == inode
