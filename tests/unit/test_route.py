"""How ssh would go, as `ssh -G` tells it: what of it only OpenSSH can do, and what IAM's word is worth."""

from pathlib import Path

import pytest

from apexgpu.errors import ConfigError
from apexgpu.models import Host, Target
from apexgpu.process import LocalRunner
from apexgpu.ssh import route, sshoptions
from apexgpu.ssh.route import Route

pytestmark = pytest.mark.openssh

TARGET = Target(Host("gpu7", "10.0.0.7", "alice", 22001), "container")


def resolved(directory: Path, text: str) -> Route:
    config = directory / "config"
    config.write_text(text)
    return route.resolve(TARGET, config=config, runner=LocalRunner())


def test_iams_address_account_and_port_are_in_force_over_a_config(tmp_path: Path) -> None:
    found = resolved(tmp_path, "Host gpu7\n  HostName 10.6.6.6\n  User mallory\n  Port 2222\n")
    assert (found.address, found.user, found.port) == ("10.0.0.7", "alice", 22001)


@pytest.mark.parametrize(
    ("line", "openssh"),
    [
        ("ProxyJump bob@jump", True), ("ProxyCommand nc %h %p", True), ("ProxyJump none", False),
        ("ProxyCommand none", False), ("CertificateFile /x/id-cert.pub", True), ("PKCS11Provider /x/lib.so", True),
        ("PKCS11Provider none", False), ("IdentityFile /x/id", False),
    ],
)  # fmt: skip
def test_what_only_openssh_can_do_is_left_to_it(tmp_path: Path, line: str, openssh: bool) -> None:
    assert resolved(tmp_path, f"Host *\n  {line}\n").needs_openssh is openssh


def test_files_that_are_none_are_no_files(tmp_path: Path) -> None:
    found = resolved(tmp_path, "IdentityFile none\nUserKnownHostsFile /x/known ~/y\nGlobalKnownHostsFile none\n")
    assert found.identity_files == []
    assert found.known_hosts_files == [Path("/x/known"), Path(route.home()) / "y"]


def test_a_config_that_ssh_rejects_is_named_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bad configuration option") as caught:
        resolved(tmp_path, "NoSuchThing yes\n")
    assert caught.value.hint == f"correct that line in {tmp_path / 'config'}"


def test_a_config_that_is_not_there_is_none(tmp_path: Path) -> None:
    found = route.resolve(TARGET, config=tmp_path / "config", runner=LocalRunner())
    assert found.address == "10.0.0.7"


def test_what_ssh_is_never_to_do_for_us() -> None:
    never = {"RemoteCommand=none", "RequestTTY=no", "PermitLocalCommand=no", "Tunnel=no"}
    assert never <= set(sshoptions.PLAIN)
    assert {"ForwardAgent=no", "ForwardX11=no", "ClearAllForwardings=yes"} <= set(sshoptions.BARE)
    assert sshoptions.connect_limit(0.2) == "ConnectTimeout=1"  # 0 would be no limit
