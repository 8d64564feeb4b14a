"""What `ssh -G` says of a target, as values: OpenSSH itself is asked."""

import os
from pathlib import Path

import pytest

from apexgpu.errors import ConfigError
from apexgpu.models import Host, Target
from apexgpu.process import LocalRunner
from apexgpu.ssh import route as routes
from apexgpu.ssh.route import Route

TARGET = Target(Host("gpu7", "10.0.0.7", "alice", 22001, 22), "container")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config"


def asked(config: Path, *lines: str) -> Route:
    config.write_text("".join(f"{line}\n" for line in lines))
    return routes.resolve(TARGET, config=config, runner=LocalRunner())


def test_a_known_hosts_path_may_hold_blanks_and_quotes(config: Path, tmp_path: Path) -> None:
    blank, quote, plain = (tmp_path / name for name in ("my known  hosts", "o'brien", "known_hosts"))
    route = asked(config, f'UserKnownHostsFile "{blank}" "{quote}" {plain}', f'GlobalKnownHostsFile "{blank}2"')
    assert route.known_hosts_files == [blank, quote, plain, Path(f"{blank}2")]


def test_the_known_hosts_files_of_windows_keep_their_backslashes() -> None:
    names = r"C:\Users\Wang Fang\.ssh\known_hosts D:/keys"
    route = Route(TARGET, {"userknownhostsfile": [names]})
    assert [str(path) for path in route.known_hosts_files] == [r"C:\Users\Wang Fang\.ssh\known_hosts", "D:/keys"]


def test_new_keys_go_into_the_first_file_that_keeps_them(config: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("")
    os.mkfifo(tmp_path / "fifo")
    assert asked(config, f"UserKnownHostsFile /dev/null {tmp_path} {there}").new_keys_file == there
    assert asked(config, f"UserKnownHostsFile {tmp_path}/fifo {tmp_path}/new").new_keys_file == tmp_path / "new"


@pytest.mark.parametrize("files", ["/dev/null", "none"])
def test_the_systems_files_are_never_where_new_keys_go(config: Path, tmp_path: Path, files: str) -> None:
    route = asked(config, f"UserKnownHostsFile {files}", f"GlobalKnownHostsFile {tmp_path}/system")
    assert route.new_keys_file is None
    assert tmp_path / "system" in route.known_hosts_files


def test_a_config_that_ssh_cannot_read_is_refused_with_the_line(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 2: Bad configuration option: nonsense$") as caught:
        asked(config, "Host *", "Nonsense yes")
    assert str(config) in (caught.value.hint or "")
