"""What apexgpu asks of a container whose owner has chosen a login shell that is no sh."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import openssh

from apexgpu.archives import recoverplan, scriptreplies, scripts
from apexgpu.archives.archivehost import ArchiveHost
from apexgpu.archives.workcontext import WorkContext
from apexgpu.manageshell import containershell
from apexgpu.nvidia import query
from apexgpu.recipes import facts
from apexgpu.session import Session
from apexgpu.ssh.transport import Transport

pytestmark = pytest.mark.openssh


@pytest.fixture(params=["fish", "zsh"])
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[openssh.OpenSSH]:
    home = tmp_path / "there"
    home.mkdir()
    found = openssh.start(
        tmp_path / "server", home=home, shell=shutil.which(request.param) or request.param
    )
    openssh.remember(found.host)
    monkeypatch.setenv("APEXGPU_SSH_CONFIG", str(found.config))
    yield found
    found.stop()


@pytest.fixture
def link(server: openssh.OpenSSH) -> Transport:
    return Session(environment=os.environ).transport


def test_its_disks_its_uptime_and_who_is_there(link: Transport, server: openssh.OpenSSH) -> None:
    said = containershell._query_details(link, server.host)
    assert said.split()[0].isdigit()
    assert "Filesystem" in said  # what df says first
    assert containershell.activity(link, server.host).gpu_processes == ()


def context_of(link: Transport, server: openssh.OpenSSH, state_dir: Path) -> WorkContext:
    return WorkContext(
        link,
        [server.host],
        state_dir,
        pause=lambda _: None,
        progress=lambda _: None,
        note=lambda _: None,
    )


def test_its_archives(link: Transport, server: openssh.OpenSSH, tmp_path: Path) -> None:
    there = tmp_path / "there"
    (there / f"{server.host.user}.tar.gz").write_bytes(b"no archive")
    archives = ArchiveHost(context_of(link, server, tmp_path), server.host, str(there))
    (seen,) = archives.list_archives().archives
    assert seen.size == 10
    assert archives.check(seen.path).problem
    reply = archives.run(scripts.move_away(seen.path, str(there / "kept.tar.gz")))
    assert scriptreplies.parse_move(reply, "gpu7") == "renamed"


def test_the_keys_in_it(link: Transport, server: openssh.OpenSSH, tmp_path: Path) -> None:
    line = (server.directory / "id_ed25519.pub").read_text().strip()
    (tmp_path / "there/.ssh").mkdir()
    (tmp_path / "there/.ssh/authorized_keys").write_text(line)
    context = context_of(link, server, tmp_path)
    assert recoverplan.read_authorized_keys(context, server.host) == (line,)


def test_its_gpus_and_its_software(link: Transport, server: openssh.OpenSSH) -> None:
    assert facts.query_facts(link, server.host).machine
    with pytest.raises(Exception, match="nvidia-smi"):
        query.look(link, server.host, connect=10)
