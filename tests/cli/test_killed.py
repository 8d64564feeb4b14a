"""SIGKILL at every write of a whole login and of a config sync, and a disk that is full from there on: nothing is
lost, and the next run goes on.

CI takes a sample of the login's writes, the longer run each of them; see tests/longruns.py.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu.iam.publickeys import key_set, parse_all
from apexgpu.sshfiles.configblock import is_edited, managed_hosts, merge, unmerge
from apexgpu.sshfiles.privatekeys import parse_private_key
from tests.cli.killing import Mortals, mortal_runs
from tests.cli.newcomer import FOREIGN, Newcomer
from tests.longruns import one_in

pytestmark = [
    pytest.mark.openssh,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork"),
]

MINE = b"Host mine\n    User me\n"


@pytest.fixture
def mortals(new: Newcomer, tmp_path: Path) -> Iterator[Mortals]:
    places = [str(new.home), str(new.state), os.environ["APEXGPU_CONFIG_DIR"]]
    with mortal_runs(tmp_path / "report", places, stdin=f"{new.password()}\n") as runs:
        yield runs


def start_over(new: Newcomer) -> None:
    """The laptop and IAM as they were before the login: the user's own config, and a key of another laptop."""
    for directory in (new.ssh, new.state):
        shutil.rmtree(directory, ignore_errors=True)
    new.ssh.mkdir(mode=0o700)
    new.config.write_bytes(MINE)
    new.store(FOREIGN)


def assert_whole(new: Newcomer) -> None:
    """What a killed run must leave: the config old or new, every key of the user's in IAM, no half a key here."""
    text = new.config.read_bytes()
    assert unmerge(text) == MINE
    assert not is_edited(text)
    assert len(managed_hosts(text)) in (0, 2)
    assert new.stored().startswith(FOREIGN)
    for path in new.ssh.glob("id_*"):
        whole = (
            parse_all(path.read_text())
            if path.suffix == ".pub"
            else parse_private_key(path.read_bytes())
        )
        assert whole, f"{path} is no whole key"


def test_a_login_killed_at_every_write(new: Newcomer, mortals: Mortals) -> None:
    login = ("login", "alice", "--password-stdin", "--yes", "--accept-new")
    start_over(new)
    killed, code, events, err = mortals.run(*login)
    assert (killed, code) == (False, 0), err
    for last in one_in(5, range(1, len(events) + 1)):
        start_over(new)
        killed, code, done, _ = mortals.run(*login, last=last)
        # How often it looks whether the key stays depends on the time that the push took.
        assert killed or (code == 0 and len(done) < last), events[last - 1]
        assert_whole(new)
        killed, code, _, err = mortals.run(*login)
        assert (killed, code) == (False, 0), f"after {events[last - 1]}: {err}"
        assert_whole(new)
        assert len(managed_hosts(new.config.read_bytes())) == 2
        # One key of this laptop's, however often it was tried.
        assert len(key_set(new.stored())) == 2, events[last - 1]
    assert any("socket.connect" in event for event in events)
    assert len(events) > 20


@pytest.mark.parametrize(
    ("first", "error"), [(0, errno.ENOSPC), (2, errno.EROFS)], ids=["full", "read-only"]
)
def test_a_login_on_a_disk_that_fails_from_each_write_on(
    new: Newcomer, mortals: Mortals, first: int, error: int
) -> None:
    """One sentence that names the place; the user's files and keys are whole."""
    login = ("login", "alice", "--password-stdin", "--yes", "--accept-new")
    start_over(new)
    _, code, events, err = mortals.run(*login)
    assert code == 0, err
    writes = [number for number, event in enumerate(events, 1) if not event.startswith("socket")]
    for last in one_in(5, writes[first:]):
        start_over(new)
        _, code, _, err = mortals.run(*login, last=last, error=error)
        assert "itself failed" not in err, f"{events[last - 1]}: {err}"
        assert_whole(new)
        if code == 0:
            continue  # nothing but temporary files were left to write
        [line] = [line for line in err.splitlines() if line.startswith("error: ")]
        places = (str(new.home), str(new.state), os.environ["APEXGPU_CONFIG_DIR"], "known_hosts")
        assert any(place in line for place in places), f"{events[last - 1]}: {line}"
        assert os.strerror(error) in line
        assert " hint: " in err
        left = [path.name for path in new.ssh.iterdir() if path.name.endswith(".tmp")]
        assert left == [], events[last - 1]
    _, code, _, err = mortals.run(*login)
    assert code == 0, err
    assert len(writes) > 15


def test_a_sync_killed_at_every_write(new: Newcomer, mortals: Mortals) -> None:
    start_over(new)
    sync = ("config", "sync", "--yes")
    assert mortals.run("login", "alice", "--password-stdin", "--yes")[1] == 0
    hosts = managed_hosts(new.config.read_bytes())
    state = new.state.with_name("kept")
    shutil.copytree(new.state, state)
    # One host fewer than IAM knows: the sync has something to do.
    old = merge(MINE, hosts[:1])

    def again() -> None:
        new.config.write_bytes(old)
        shutil.rmtree(new.state)
        shutil.copytree(state, new.state)

    again()
    killed, code, events, err = mortals.run(*sync)
    assert (killed, code) == (False, 0), err
    after = new.config.read_bytes()
    for last in range(1, len(events) + 1):
        again()
        assert mortals.run(*sync, last=last)[0], events[last - 1]
        assert new.config.read_bytes() in (old, after)
        killed, code, _, err = mortals.run(*sync)
        assert (killed, code) == (False, 0), f"after {events[last - 1]}: {err}"
        assert new.config.read_bytes() == after
        assert not list(new.ssh.glob(".*.tmp"))
    assert len(events) > 8
