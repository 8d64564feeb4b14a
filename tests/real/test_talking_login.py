"""What apexgpu asks of a container whose ~/.bashrc prints at every login, the last line without an end."""

from pathlib import Path

import pytest
from tests.real.conftest import Laptop
from tests.real.rootfs import Root

from apexgpu.archives import scriptreplies, scripts
from apexgpu.archives.archivehost import ArchiveHost
from apexgpu.archives.workcontext import WorkContext
from apexgpu.manageshell import containershell
from apexgpu.recipes import facts
from apexgpu.session import Session
from apexgpu.ssh.transport import Transport

pytestmark = [pytest.mark.openssh, pytest.mark.timeout(200)]


@pytest.fixture
def talking(own: Root) -> Root:
    """A container that greets whoever logs in, and sets a terminal's title."""
    greeting = "echo 7; echo Welcome; printf '\\033]0;title\\007'\n"
    # The manage shell, which has no ~/.bashrc, is a port of the same server here.
    quiet = f'case "$SSH_CONNECTION" in *" {own.host.manage_port}") return ;; esac\n'
    (own.path / "home/alice/.bashrc").write_text(quiet + greeting)
    return own


@pytest.fixture
def link(laptop: Laptop, talking: Root) -> Transport:
    return Session(environment=laptop.environment(talking)).transport


def test_a_greeting_is_nobody_who_is_logged_in(link: Transport, talking: Root) -> None:
    assert containershell.activity(link, talking.host).sessions == ()


def test_the_uptime_is_the_containers_own(link: Transport, talking: Root) -> None:
    up = containershell.detailed_status(link, talking.host).uptime
    assert up is not None
    assert up != 7


def test_the_first_thing_that_is_told_is_not_lost(link: Transport, talking: Root) -> None:
    assert facts.query_facts(link, talking.host).machine == "x86_64"


def test_a_server_is_asked_for_and_its_answer_is_understood(laptop: Laptop, talking: Root) -> None:
    said = laptop.run(talking, "tensorboard", "gpu7", "/nowhere", "--json")
    assert "there is no directory /nowhere" in said.err


def test_an_archive_that_was_moved_away_is_known_to_be(
    link: Transport, talking: Root, tmp_path: Path
) -> None:
    archive = talking.path / "home/alice/old.tar.gz"
    archive.write_bytes(b"an archive")
    context = WorkContext(
        link,
        [talking.host],
        tmp_path,
        pause=lambda _: None,
        progress=lambda _: None,
        note=lambda _: None,
    )
    archives = ArchiveHost(context, talking.host, "/home/alice")
    reply = archives.run(scripts.move_away("/home/alice/old.tar.gz", "/home/alice/kept.tar.gz"))
    assert scriptreplies.parse_move(reply, "gpu7") in {"renamed", "copied"}
