"""cp that is killed: no file under its name is half, what was there is not lost, and the next run finishes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.killing import Mortals, mortal_runs
from tests.cli.test_copy import Laptop, laptop
from tests.longruns import one_in
from tests.real.copies import noise, stages, tree

__all__ = ["laptop"]

pytestmark = [pytest.mark.openssh, pytest.mark.timeout(1200)]

NEW = {"a": noise(3000), "big": noise(300_000), "sub/c": noise(20), "sub/empty": b"", "ro/x": b"x"}
OLD = {"a": noise(5000, 2), "sub/c": noise(20, 2), "kept": b"only at the target"}


@pytest.fixture
def mortals(laptop: Laptop, tmp_path: Path) -> Iterator[Mortals]:
    places = [str(laptop.here), str(tmp_path / "state")]
    with mortal_runs(tmp_path / "report.json", places) as found:
        yield found


def write(directory: Path, files: dict[str, bytes], mtime: int) -> None:
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (mtime, mtime))


def reset(directory: Path) -> None:
    """The target before the copy: other content under two of the names, and a file of its own."""
    for path in sorted(directory.rglob("*"), reverse=True):
        path.chmod(0o700)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    write(directory, OLD, mtime=1_600_000_000)


def files_of(directory: Path) -> dict[str, tuple[object, ...]]:
    """The tree without the times and modes of its directories.

    Those that were there before keep no time of ours, and a read-only one is writable for the moment in which it is
    moved into place.
    """
    found = tree(directory)
    return {name: entry[:1] if entry[0] == "directory" else entry for name, entry in found.items()}


def assert_whole(target: Path) -> None:
    """Each file is the old or the new one, and none of the old names is gone."""
    for name in {*OLD, *NEW}:
        path = target / name
        if name in OLD or path.exists():
            assert path.read_bytes() in (OLD.get(name), NEW.get(name)), name


@pytest.mark.parametrize("method", ["rsync", "sftp"])
@pytest.mark.parametrize("upload", [True, False], ids=["up", "down"])
def test_a_copy_killed_at_every_write_leaves_no_torn_file_and_is_finished_by_the_next(
    laptop: Laptop, mortals: Mortals, method: str, upload: bool
) -> None:
    home = laptop.there.home
    source, final = (laptop.here, home) if upload else (home, laptop.here)
    here = str(laptop.here)
    route = (f"{here}/data", "gpu7:") if upload else ("gpu7:data", here)
    words = ["cp", "--method", method, *route]
    write(source / "data", NEW, mtime=1_700_000_000)
    (source / "data" / "link").symlink_to("a")
    (source / "data" / "ro").chmod(0o500)
    sent = tree(source / "data")

    for _ in range(2):  # the first run of all makes directories of apexgpu's own
        reset(final / "data")
        killed, code, events, err = mortals.run(*words)
        assert (killed, code) == (False, 0), err
    expected = files_of(final / "data")
    assert len(events) > 10, events
    cases = list(range(1, len(events) + 1))
    for last in one_in(12, cases):
        reset(final / "data")
        about = f"killed at {last} of {len(events)}: {events[last - 1]}"
        assert mortals.run(*words, last=last)[0], about
        assert_whole(final / "data")
        assert tree(source / "data") == sent, about
        killed, code, _, err = mortals.run(*words)
        assert (killed, code) == (False, 0), f"{about}: {err}"
        assert files_of(final / "data") == expected, about
        assert stages(final) == [], about
