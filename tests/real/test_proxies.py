"""Jump hosts and proxy commands: `ssh HOST true` and `apexgpu status` agree, and what a proxy said is quoted."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import openssh
from tests.real.agreement import Laptop, logged_in

pytestmark = pytest.mark.openssh


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openssh.OpenSSH]:
    started = openssh.start(tmp_path_factory.mktemp("server"))
    started.answer("help", "07-up-running")
    yield started
    started.stop()


@pytest.fixture
def laptop(server: openssh.OpenSSH, tmp_path: Path) -> Laptop:
    found = Laptop(tmp_path / "laptop", server)
    found.authorize(server.directory / "id_ed25519.pub")
    found.lines.append(f"IdentityFile {server.directory}/id_ed25519")
    return found


def command(laptop: Laptop, *, known_hosts: str = "known_hosts") -> str:
    """A command that leads through an ssh to the same server, as through a jump host."""
    host = laptop.server.host
    return (
        f"ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=yes "
        f"-o UserKnownHostsFile={laptop.directory}/{known_hosts} "
        f"-i {laptop.server.directory}/id_ed25519 -p {host.manage_port} "
        f"-W {host.address}:{host.manage_port} {host.address}"
    )


def script(laptop: Laptop, text: str) -> str:
    """The path of a script, in quotes, because a directory there has a blank."""
    directory = laptop.directory / "my programs"
    directory.mkdir()
    path = directory / "proxy"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f'"{path}" %h %p'


def named_jump_host(laptop: Laptop) -> str:
    """A jump host that the same config describes."""
    host = laptop.server.host
    name = f"[{host.address}]:{host.manage_port}"
    return (
        f"Match originalhost gpu7,gpu7-manage\n  ProxyJump jump\n"
        f"Host jump\n  HostName {host.address}\n  Port {host.manage_port}\n  HostKeyAlias {name}"
    )


# Lines of the config, whether ssh logs in, and otherwise the code of the error and what its message quotes.
PROXIES: dict[str, tuple[Callable[[Laptop], str], bool, str, str]] = {
    "a jump by a command": (lambda one: f"ProxyCommand {command(one)}", True, "", ""),
    "a jump host of the config": (named_jump_host, True, "", ""),
    "ProxyCommand none": (lambda _: "ProxyCommand none", True, "", ""),
    "ProxyJump none": (lambda _: "ProxyJump none", True, "", ""),
    "a program whose path has a blank": (
        lambda one: f"ProxyCommand {script(one, f'exec {command(one)}')}",
        True,
        "",
        "",
    ),
    "a program that warns": (
        lambda one: f"ProxyCommand {script(one, f'echo careful >&2; exec {command(one)}')}",
        True,
        "",
        "",
    ),
    "lines before the version": (
        lambda one: f"ProxyCommand {script(one, f'echo welcome; exec {command(one)}')}",
        True,
        "",
        "",
    ),
    "a program that says why it fails": (
        lambda one: f"ProxyCommand {script(one, 'echo the tunnel of $1 is down >&2; exit 1')}",
        False,
        "proxy",
        "the tunnel of 127.0.0.1 is down",
    ),
    "a program that ends without a word": (
        lambda one: f"ProxyCommand {script(one, 'exit 3')}",
        False,
        "proxy",
        "it closed the connection",
    ),
    "a jump host whose key is not known": (
        lambda one: f"ProxyCommand {command(one, known_hosts='nothing')}",
        False,
        "proxy",
        "Host key verification failed",
    ),
    "a jump host that nobody finds": (
        lambda _: "ProxyJump no-such-host.invalid",
        False,
        "proxy",
        "no-such-host.invalid",
    ),
    "a program that is silent": (
        lambda one: f"ConnectTimeout 2\nProxyCommand {script(one, 'exec tail -f /dev/null')}",
        False,
        "timeout",
        "no answer in time",
    ),
    "a web server": (
        lambda one: f"ProxyCommand {script(one, 'echo HTTP/1.1 400 Bad Request; exit')}",
        False,
        "proxy",
        "",
    ),
}


@pytest.mark.parametrize("what", PROXIES)
def test_status_logs_in_exactly_where_ssh_does_and_quotes_the_proxy(
    what: str,
    laptop: Laptop,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines, expected, code, quoted = PROXIES[what]
    laptop.lines.append(lines(laptop))
    monkeypatch.setenv("APEXGPU_TIMEOUT", "3" if code == "timeout" else "20")
    assert laptop.ssh_logs_in() is expected
    row = laptop.status(capsys, monkeypatch)
    assert logged_in(row) is expected, row
    if not expected:
        assert row["error"]["code"] == code, row
        assert quoted in row["error"]["message"]
