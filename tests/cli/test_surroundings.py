"""Unusual laptops: no file locks, no umask, another user's home, a user without a name."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from apexgpu import settings
from apexgpu.errors import ConfigError
from tests.cli.newcomer import LIMIT, Newcomer

pytestmark = pytest.mark.openssh

NO_LOCKS = """
#include <errno.h>
#include <stdlib.h>
int flock(int fd, int op) { (void)fd; (void)op; errno = atoi(getenv("FLOCK_ERRNO")); return -1; }
"""
STRANGER = 61234
needs_root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can act as another user"
)
OWN_DIRECTORIES = ("APEXGPU_STATE_DIR", "APEXGPU_CONFIG_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME")


@pytest.fixture
def no_locks(tmp_path: Path) -> Path:
    """A library that makes every flock fail, as on a home directory over NFS without locks."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "run: make setup-tests"
    source = tmp_path / "noflock.c"
    source.write_text(NO_LOCKS)
    library = tmp_path / "noflock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS])
def test_without_file_locks_nothing_is_sent_and_the_way_out_is_named(
    new: Newcomer, no_locks: Path, number: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "apexgpu", "login", "alice", "--password-stdin", "--yes"],
        env={**os.environ, "LD_PRELOAD": str(no_locks), "FLOCK_ERRNO": str(number)},
        input=f"{new.password()}\n",
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 1
    assert str(new.state) in done.stderr
    assert "set APEXGPU_STATE_DIR to a directory on a local disk" in done.stderr
    assert " hint: export APEXGPU_STATE_DIR=/" in done.stderr
    assert new.spy.posts == []
    assert not new.config.exists()
    # Nothing stands in for a lock, to outlive its process.
    assert all(path.stat().st_size == 0 for path in new.state.rglob("*.lock"))


def test_what_a_login_makes_is_private_whatever_the_umask_is(new: Newcomer) -> None:
    old = os.umask(0)
    try:
        assert new.log_in().code == 0
        assert new.run("keys", "list").code == 0
    finally:
        os.umask(old)
    places = (new.ssh, new.state)
    made = [path for place in places for path in (place, *place.rglob("*"))]
    open_to_others = [
        path for path in made if path.lstat().st_mode & 0o077 and path.suffix != ".pub"
    ]
    assert open_to_others == []
    assert len(made) > 5


def as_user(uid: int, work: Callable[[], object]) -> str:
    """Run `work` in a child process of another user; the error's message, or what it returned."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(uid)
            os.setuid(uid)
            try:
                text = str(work())
            except ConfigError as error:
                text = f"{error.message} | {error.hint}"
            os.write(writer, text.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return text


def load_settings() -> object:
    return settings.load({}, os.environ, {}).state_dir


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable names a directory: all of them are in the home directory."""
    import pwd  # noqa: F401 - both must be loaded before a child becomes a user who cannot read them

    import platformdirs

    platformdirs.user_state_path("x")
    for name in OWN_DIRECTORIES:
        monkeypatch.delenv(name, raising=False)


@needs_root
@pytest.mark.usefixtures("defaults")
class TestHome:
    def test_another_users_under_sudo_is_refused(self, isolated: Path) -> None:
        os.chown(isolated, STRANGER, STRANGER)
        with pytest.raises(
            ConfigError, match="belongs to uid 61234, but this runs as root"
        ) as caught:
            load_settings()
        assert caught.value.hint == "run the same command without sudo"
        assert list(isolated.iterdir()) == []

    def test_is_not_looked_at_where_it_is_not_used(
        self, isolated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        os.chown(isolated, STRANGER, STRANGER)
        for name in ("APEXGPU_STATE_DIR", "APEXGPU_CONFIG_DIR", "APEXGPU_SSH_CONFIG"):
            monkeypatch.setenv(name, str(tmp_path / "own"))
        assert load_settings() == tmp_path / "own"

    def test_a_user_without_a_name_is_told_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/")  # as in a container
        said = as_user(STRANGER, load_settings)
        assert said.startswith(
            "uid 61234 has no entry in the password database, and ssh does not run"
        )

    def test_none_at_all_is_told_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HOME")
        said = as_user(STRANGER, load_settings)
        assert said.startswith(
            "there is no home directory: HOME is not set, and uid 61234 has no entry"
        )

    @pytest.mark.parametrize("home", ["", "here", "."])
    def test_one_that_is_no_full_path_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, home: str
    ) -> None:
        monkeypatch.setenv("HOME", home)
        with pytest.raises(ConfigError, match="not the full path of a directory"):
            load_settings()


@needs_root
def test_a_state_directory_that_somebody_else_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In /var/tmp anybody could prepare one."""
    place = tmp_path / "prepared"
    place.mkdir()
    os.chown(place, STRANGER, STRANGER)
    monkeypatch.setenv("APEXGPU_STATE_DIR", str(place))
    with pytest.raises(ConfigError, match="must name a directory of your own"):
        load_settings()


def test_an_ssh_config_with_a_second_name_is_refused_and_stays_one(new: Newcomer) -> None:
    new.ssh.mkdir(mode=0o700)
    new.config.write_text("Host mine\n")
    twin = new.home / "dotfiles"
    twin.hardlink_to(new.config)
    said = new.log_in()
    assert said.code == 2
    assert "hard link" in said.err
    assert twin.samefile(new.config)
    assert new.config.read_text() == "Host mine\n"
