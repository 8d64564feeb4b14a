"""How ssh would go, as `ssh -G` tells it: OpenSSH itself is asked."""

import os
from pathlib import Path

import pytest

from apexgpu.errors import ConfigError
from apexgpu.models import Host, Target
from apexgpu.process import LocalRunner
from apexgpu.ssh import route as routes
from apexgpu.ssh import sshoptions
from apexgpu.ssh.route import Route
from apexgpu.sshfiles.sshhome import home

pytestmark = pytest.mark.openssh

TARGET = Target(Host("gpu7", "10.0.0.7", "alice", 22001), "container")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config"


def asked(config: Path, *lines: str) -> Route:
    config.write_text("".join(f"{line}\n" for line in lines))
    return routes.resolve(TARGET, config=config, runner=LocalRunner())


def test_a_known_hosts_path_may_hold_blanks_and_quotes(config: Path, tmp_path: Path) -> None:
    blank, quote, plain = (
        tmp_path / name for name in ("my known  hosts", "o'brien", "known_hosts")
    )
    route = asked(
        config,
        f'UserKnownHostsFile "{blank}" "{quote}" {plain}',
        f'GlobalKnownHostsFile "{blank}2"',
    )
    assert route.known_hosts_files == [blank, quote, plain, Path(f"{blank}2")]


def test_the_known_hosts_files_of_windows_keep_their_backslashes() -> None:
    names = r"C:\Users\Wang Fang\.ssh\known_hosts D:/keys"
    route = Route(TARGET, {"userknownhostsfile": [names]})
    assert [str(path) for path in route.known_hosts_files] == [
        r"C:\Users\Wang Fang\.ssh\known_hosts",
        "D:/keys",
    ]


def test_new_keys_go_into_the_first_file_that_keeps_them(config: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("")
    os.mkfifo(tmp_path / "fifo")
    assert (
        asked(config, f"UserKnownHostsFile /dev/null {tmp_path} {there}").new_host_keys_file
        == there
    )
    assert (
        asked(config, f"UserKnownHostsFile {tmp_path}/fifo {tmp_path}/new").new_host_keys_file
        == tmp_path / "new"
    )


@pytest.mark.parametrize("files", ["/dev/null", "none"])
def test_the_systems_files_are_never_where_new_keys_go(
    config: Path, tmp_path: Path, files: str
) -> None:
    route = asked(config, f"UserKnownHostsFile {files}", f"GlobalKnownHostsFile {tmp_path}/system")
    assert route.new_host_keys_file is None
    assert tmp_path / "system" in route.known_hosts_files


def test_a_config_that_ssh_cannot_read_is_refused_with_the_line(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 2: Bad configuration option: nonsense$") as caught:
        asked(config, "Host *", "Nonsense yes")
    assert str(config) in (caught.value.hint or "")


def test_iams_address_account_and_port_are_in_force_over_a_config(tmp_path: Path) -> None:
    found = asked(
        tmp_path / "config", "Host gpu7", "  HostName 10.6.6.6", "  User mallory", "  Port 2222"
    )
    assert (found.address, found.user, found.port) == ("10.0.0.7", "alice", 22001)


@pytest.mark.parametrize(
    ("line", "openssh"),
    [
        ("ProxyJump bob@jump", True),
        ("ProxyCommand nc %h %p", True),
        ("ProxyJump none", False),
        ("ProxyCommand none", False),
        ("CertificateFile /x/id-cert.pub", True),
        ("PKCS11Provider /x/lib.so", True),
        ("PKCS11Provider none", False),
        ("IdentityFile /x/id", False),
    ],
)
def test_what_only_openssh_can_do_is_left_to_it(tmp_path: Path, line: str, openssh: bool) -> None:
    assert asked(tmp_path / "config", "Host *", f"  {line}").needs_openssh is openssh


def test_files_that_are_none_are_no_files(tmp_path: Path) -> None:
    found = asked(
        tmp_path / "config",
        "IdentityFile none",
        "UserKnownHostsFile /x/known ~/y",
        "GlobalKnownHostsFile none",
    )
    assert found.identity_files == []
    assert found.known_hosts_files == [Path("/x/known"), Path(home()) / "y"]


def test_a_config_that_is_not_there_is_none(tmp_path: Path) -> None:
    found = routes.resolve(TARGET, config=tmp_path / "config", runner=LocalRunner())
    assert found.address == "10.0.0.7"


def test_what_ssh_is_never_to_do_for_us() -> None:
    never = {"RemoteCommand=none", "RequestTTY=no", "PermitLocalCommand=no", "Tunnel=no"}
    assert never <= set(sshoptions.COMMAND_ONLY)
    assert {"ForwardAgent=no", "ForwardX11=no", "ClearAllForwardings=yes"} <= set(
        sshoptions.NO_FORWARDING
    )
    assert sshoptions.connect_timeout(0.2) == "ConnectTimeout=1"  # 0 would be no limit
