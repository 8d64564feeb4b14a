"""A container that somebody starts while the server's tar saves it: what is half old, half new is never good."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from apexgpu.archives import observation
from apexgpu.errors import UnreachableError
from apexgpu.models import Reply
from tests.cli.backups import STAT, TAR, Hook, Scene, digest, raising, saved
from tests.waiting import until

AGES = r".*# Print the age of an archive.*"
HALF = "the container was started while tar was still saving it"

pytestmark = pytest.mark.timeout(300)  # whole commands in a row, on a machine that may be busy


@pytest.fixture
def scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Scene]:
    """Three hosts with alice's containers; the one on gpu2 runs and was saved once, as "first"."""
    with saved(tmp_path, monkeypatch, capsys) as scene:
        yield scene


def by_hand(*words: str) -> None:
    """A command to gpu2's manage shell from a second laptop; without words, it starts the container."""
    argv = ["ssh", "-F", os.environ["APEXGPU_SSH_CONFIG"], "-T", "gpu2-manage", *words]
    subprocess.run(argv, check=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)


def at_tar(scene: Scene, strike: Callable[[], object]) -> None:
    """Let `strike` run when tar has written, before its reply is back."""

    def after(reply: Reply) -> Reply:
        strike()
        return reply

    scene.hooks.append(Hook("gpu2", TAR, after=after))


def start_under_tar(scene: Scene) -> None:
    """Start the container from elsewhere, while tar still writes."""
    by_hand()
    os.utime(scene.own)


def assert_bad(scene: Scene, old: str, words: str) -> None:
    """The half archive is listed as damaged under its name, refused, and the old one is there."""
    assert words in scene.err
    assert old in scene.good_ones()
    (bad,) = [one for one in scene.snapshots() if one["damage"]]
    assert words in bad["damage"]
    assert (bad["host"], bad["verified"]) == ("gpu2", None)
    assert bad["name"].startswith("alice-gpu2-")
    assert scene("snapshots", "verify", bad["name"]) == 1
    assert scene("recover", "gpu2", "--from", bad["name"], "--yes", "--no-snapshot") == 6
    assert "cannot be trusted" in scene.err
    assert not scene.hosts("status")["gpu2"]["interrupted"]


def test_a_start_while_tar_runs_makes_the_archive_bad(scene: Scene) -> None:
    old = digest(scene.own)
    at_tar(scene, lambda: start_under_tar(scene))
    assert scene("snapshot", "gpu2", "--name", "half", "--yes") == 1
    assert_bad(scene, old, HALF)
    assert scene.state("gpu2") == "RUNNING"


def test_a_start_and_a_stop_while_tar_runs_are_seen(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observation, "WATCH_INTERVAL", 0.05)
    old = digest(scene.own)

    def visit() -> None:
        by_hand()
        looks = scene.sent.count("gpu2 help")
        until(lambda: scene.sent.count("gpu2 help") > looks + 2)
        by_hand("stop")

    at_tar(scene, visit)
    assert scene("snapshot", "gpu2", "--yes") == 1
    assert_bad(scene, old, HALF)


def test_a_start_of_a_container_that_is_to_stay_stopped_is_seen_too(scene: Scene) -> None:
    old = digest(scene.own)
    at_tar(scene, lambda: start_under_tar(scene))
    assert scene("snapshot", "gpu2", "--no-restart", "--yes") == 1
    assert_bad(scene, old, HALF)


def test_a_start_after_tar_has_ended_does_no_harm(scene: Scene) -> None:
    def later() -> None:
        minute_ago = time.time() - 60
        os.utime(scene.own, (minute_ago, minute_ago))
        by_hand()

    at_tar(scene, later)
    assert scene("snapshot", "gpu2", "--name", "second", "--yes") == 0, scene.err
    assert [one["damage"] for one in scene.snapshots()] == [None, None]


def test_a_start_at_an_unknown_time_is_not_good(scene: Scene) -> None:
    old = digest(scene.own)
    at_tar(scene, lambda: start_under_tar(scene))
    scene.hooks.append(
        Hook("gpu2", AGES, before=raising(UnreachableError("gpu2: no answer")), times=9)
    )
    assert scene("snapshot", "gpu2", "--yes") == 1
    assert_bad(scene, old, "it is not known whether it was started before tar had ended")


def test_a_host_that_does_not_tell_leaves_it_open_until_it_does(scene: Scene) -> None:
    at_tar(scene, lambda: scene.lab.fault("gpu2", "iam-down"))
    assert scene("snapshot", "gpu2", "--name", "second", "--yes") == 1
    assert "it is not known whether the container was started meanwhile" in scene.err
    assert "hint: apexgpu snapshot gpu2\n" in scene.err
    scene.lab.clear("gpu2", "iam-down")
    assert scene.hosts("status")["gpu2"]["interrupted"]["stage"] == "test"
    assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
    assert scene.sent.count("gpu2 snapshot TOKEN") == 1
    assert scene.state("gpu2") == "RUNNING"
    assert len([one for one in scene.snapshots() if one["verified"]]) == 2


def test_our_own_start_tells_where_the_host_did_not(scene: Scene) -> None:
    at_tar(scene, lambda: scene.lab.fault("gpu2", "iam-down", 1))
    assert scene("snapshot", "gpu2", "--yes") == 0, scene.err
    # An archive with the size and the second of the one before would count as not written.
    minute_ago = time.time() - 60
    os.utime(scene.own, (minute_ago, minute_ago))

    def start_and_hide() -> None:
        start_under_tar(scene)
        scene.lab.fault("gpu2", "iam-down", 1)

    at_tar(scene, start_and_hide)
    assert scene("snapshot", "gpu2", "--yes") == 1
    assert HALF in scene.err


def test_a_start_after_a_drop_while_tar_goes_on_is_seen(scene: Scene) -> None:
    assert scene("up", "gpu3") == 0, scene.err
    old = digest(scene.own)
    scene.at(TAR, "drop")
    scene.hooks.append(Hook("gpu3", STAT, before=lambda: start_under_tar(scene)))
    assert scene("snapshot", "gpu2", "--yes") == 1
    assert HALF in scene.err
    assert old in scene.good_ones()


def test_a_start_and_a_stop_after_a_drop_are_seen(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observation, "WATCH_INTERVAL", 0.05)
    assert scene("up", "gpu3") == 0, scene.err

    def visit() -> None:
        by_hand()
        looks = scene.sent.count("gpu2 help")
        until(lambda: scene.sent.count("gpu2 help") > looks + 2)
        by_hand("stop")

    scene.at(TAR, "drop")
    scene.hooks.append(Hook("gpu3", STAT, before=visit))
    assert scene("snapshot", "gpu2", "--yes") == 1
    assert HALF in scene.err


def test_what_was_seen_outlives_the_laptop(scene: Scene) -> None:
    """Interrupted after the start was seen: the container may be stopped by the time it is finished."""
    at_tar(scene, lambda: start_under_tar(scene))
    scene.hooks.append(Hook("gpu2", "", before=raising(KeyboardInterrupt())))
    assert scene("snapshot", "gpu2", "--yes") == 130
    by_hand("stop")
    assert scene("snapshot", "gpu2", "--yes") == 1
    assert HALF in scene.err


def test_a_file_that_changed_while_tar_read_it_is_a_sign(scene: Scene) -> None:
    words = "tar: rootfs/var/log/syslog: file changed as we read it\n"
    scene.hooks.append(Hook("gpu2", TAR, after=lambda reply: replace(reply, err=words)))
    assert scene("snapshot", "gpu2", "--yes") == 1
    assert "file changed as we read it" in scene.err
    assert "the previous one is still there: /NAS/" in scene.err
