"""Further commands of one run go over the connections that it has made already."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests import openssh
from tests.countingport import Port

from apexgpu.models import Reply, Target
from apexgpu.process import LocalRunner
from apexgpu.ssh.identities import Identities
from apexgpu.ssh.paramikoclient import ParamikoClient
from apexgpu.ssh.transport import Connections, Limits

pytestmark = pytest.mark.openssh


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openssh.OpenSSH]:
    found = openssh.start(tmp_path_factory.mktemp("server"))
    yield found
    found.stop()


@pytest.fixture
def port(server: openssh.OpenSSH) -> Iterator[Port]:
    with contextlib.closing(Port(server.host)) as found:
        yield found


@pytest.fixture
def link(server: openssh.OpenSSH, port: Port, tmp_path: Path) -> Connections:
    """Without masters."""
    key = (server.directory / "known_hosts").read_text().split(" ", 1)[1]
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port.port} {key}")
    config = tmp_path / "config"
    known = f"{server.directory}/known_hosts"
    config.write_text(server.config.read_text().replace(known, f"{tmp_path}/known_hosts"))
    client = ParamikoClient(Identities(preferred=None, fingerprint="", passphrase=lambda _: None))
    return Connections(config, LocalRunner(), lambda _: client, limits=Limits(connect=20))


@pytest.fixture
def target(server: openssh.OpenSSH, port: Port) -> Target:
    return Target(replace(server.host, port=port.port, manage_port=port.port), "container")


def test_commands_after_the_first_need_no_login(
    link: Connections, target: Target, port: Port
) -> None:
    lines: list[str] = []
    assert link.run(target, "echo one; exit 3") == Reply(3, "one\n")
    assert link.run(target, "echo two >&2") == Reply(0, "", "two\n")
    assert link.run(target, "echo three", on_line=lines.append).out == "three\n"
    assert lines == ["three"]
    assert port.connections == 1


def test_a_command_that_must_not_run_twice_gets_a_login_of_its_own(
    link: Connections, target: Target, port: Port
) -> None:
    link.run(target, "true")
    link.run(target, "true", once=True)
    assert port.connections == 2


def test_a_connection_that_has_lost_its_network_is_replaced(
    link: Connections, target: Target, port: Port
) -> None:
    link.run(target, "true")
    port.freeze()
    assert link.run(target, "echo again").out == "again\n"
    assert port.connections == 2


def test_a_connection_that_was_closed_is_not_used(
    link: Connections, target: Target, port: Port
) -> None:
    link.run(target, "true")
    link.close(target)
    assert link.run(target, "echo again").out == "again\n"
    assert port.connections == 2


def test_one_that_leads_to_another_shell_is_closed_and_the_question_repeated(
    link: Connections, target: Target, port: Port
) -> None:
    recognised = iter([True, False, True])
    link = replace(link, is_manage_reply=lambda _: next(recognised))
    manage = replace(target, role="manage")
    link.run(manage, "true")
    assert link.run(manage, "echo a shell").out == "a shell\n"
    assert port.connections == 2
