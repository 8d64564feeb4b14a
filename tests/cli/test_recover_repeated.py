"""The same recover again: after a success, and after it was interrupted at any step, by Ctrl-C or by a kill.

Whenever it is repeated, it must bring back the archive that it meant the first time, and lose nothing.
CI interrupts it at some of the steps, the longer run at each; see tests/longruns.py.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.backups import TAR, UNPACK, Hook, Scene, digest, raising, saved, thesis
from tests.cli.killing import mortal_runs
from tests.cli.newcomer import ended
from tests.cli.product import at_terminal
from tests.cli.test_backup_killed import notes
from tests.longruns import one_in

NAS = "/NAS/Workspaces/lxc-snapshot"
RECOVER = ("recover", "gpu2", "--yes", "--keep-host-keys")

pytestmark = pytest.mark.timeout(600)  # dozens of whole commands, one after the other


@pytest.fixture
def scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Scene]:
    """Three hosts; gpu2's container runs, was saved with the file `thesis` as "first", and is broken since."""
    with saved(tmp_path, monkeypatch, capsys) as scene:
        spoil(scene)
        yield scene


def spoil(scene: Scene, text: str = "broken") -> None:
    """What the user wants to be rid of."""
    (scene.home("gpu2") / "thesis").write_text(text)


def labels(scene: Scene) -> list[str]:
    return sorted(one["name"].partition("Z-")[2] for one in scene.snapshots())


class TestRepeated:
    def test_three_times_brings_back_the_same_archive(self, scene: Scene) -> None:
        for number in range(3):
            spoil(scene, f"broken {number}")
            row = scene.hosts(*RECOVER)["gpu2"]
            assert row["from"].endswith("-first")
            assert thesis(scene) == "first"
        assert labels(scene) == ["before-recover", "before-recover", "before-recover", "first"]
        assert [one["for_undo"] for one in scene.snapshots()].count(True) == 3

    def test_what_it_saved_has_to_be_named_and_a_name_of_several_is_refused(
        self, scene: Scene
    ) -> None:
        assert scene(*RECOVER) == 0, scene.err
        assert scene(*RECOVER, "--from", "before-recover") == 0, scene.err
        assert thesis(scene) == "broken"
        assert scene(*RECOVER, "--from", "before-recover") == 6
        assert "is the name of several snapshots" in scene.err
        assert "hint: apexgpu snapshots\n" in scene.err
        assert scene(*RECOVER) == 0, scene.err
        assert thesis(scene) == "first"

    @pytest.mark.parametrize("wanted", ["alice", "alice.tar.gz", f"{NAS}/alice.tar.gz"])
    def test_the_servers_own_file_is_another_archive_the_second_time(
        self, scene: Scene, wanted: str
    ) -> None:
        assert scene(*RECOVER, "--from", wanted) == 0, scene.err
        assert thesis(scene) == "first"
        assert scene(*RECOVER, "--from", wanted) == 6
        assert "is now what was saved before a recover: alice-gpu2-" in scene.err
        assert thesis(scene) == "first"
        (undo,) = [one["name"] for one in scene.snapshots() if one["for_undo"]]
        assert scene(*RECOVER, "--from", undo) == 0, scene.err
        assert thesis(scene) == "broken"

    def test_a_leftover_that_nobody_knows_is_not_preferred(self, scene: Scene) -> None:
        assert scene("snapshot", "gpu2", "--name", "second", "--yes") == 0, scene.err
        spoil(scene, "worse")
        scene.own.rename(scene.nas / "kept")
        (scene.nas / "alice.tar.gz.json").unlink()
        scene.own.write_bytes((scene.nas / "template.tar.gz").read_bytes())
        row = scene.hosts(*RECOVER)["gpu2"]
        assert row["from"].endswith("-first")
        assert thesis(scene) == "first"

    def test_with_nothing_but_what_a_rebuild_saved_that_has_to_be_named(self, scene: Scene) -> None:
        assert scene("snapshots", "remove", "first", "--yes") == 0, scene.err
        assert scene("rebuild", "gpu2", "--yes", "--keep-host-keys") == 0, scene.err
        assert scene(*RECOVER) == 6
        assert "but what a recover or rebuild saved itself" in scene.err
        hint = scene.err.partition("hint: apexgpu ")[2].split()
        assert scene(*hint, "--yes", "--keep-host-keys") == 0, scene.err
        assert thesis(scene) == "broken"

    def test_three_rebuilds_and_a_rotation_keep_what_the_user_asked_for(self, scene: Scene) -> None:
        first = digest(scene.own)
        for _ in range(3):
            assert scene("rebuild", "gpu2", "--yes", "--keep-host-keys") == 0, scene.err
            assert not (scene.home("gpu2") / "thesis").exists()
        assert scene("snapshots", "keep", "1", "--yes") == 0, scene.err
        assert first in scene.good_ones()
        assert labels(scene) == ["before-rebuild", "first"]
        assert scene(*RECOVER) == 0, scene.err
        assert thesis(scene) == "first"

    def test_its_name_is_refused_for_a_snapshot(self, scene: Scene) -> None:
        assert scene("snapshot", "gpu2", "--name", "before-recover", "--yes") == 2
        assert scene.sent == []


@dataclass
class Strike(Hook):
    """Counts the commands that are sent anywhere, and presses Ctrl-C around the chosen one."""

    chosen: int = 0
    count: int = 0

    def meets(self, target: object, command: str) -> bool:
        self.count += 1
        return self.count == self.chosen


def interrupted_at(scene: Scene, chosen: int, *, after: bool, words: tuple[str, ...]) -> int:
    """Run a command that is interrupted before or after its `chosen`-th message; how many it sent."""

    def strike(reply: object = None) -> None:
        raise KeyboardInterrupt

    hook = Strike("", "", chosen=chosen)
    if after:
        hook.after = strike  # type: ignore[assignment]
    else:
        hook.before = strike
    scene.hooks.append(hook)
    code = scene(*words)
    scene.hooks.remove(hook)
    assert code == (130 if chosen else 0), scene.err
    return hook.count


def assert_recovered(scene: Scene, first: str, where: str) -> None:
    """The intended archive is back, every archive is there, and the broken state can be had back."""
    assert thesis(scene) == "first", where
    assert first in scene.good_ones(), where
    assert scene.state("gpu2") == "RUNNING"
    assert not scene.hosts("status")["gpu2"]["interrupted"]


@pytest.mark.timeout(900)  # in the longer run, some minutes
def test_ctrl_c_at_every_message_then_the_same_words(scene: Scene) -> None:
    first = digest(scene.own)
    messages = interrupted_at(scene, 0, after=False, words=RECOVER)
    assert messages > 20
    for chosen in one_in(10, range(1, messages + 1)):
        spoil(scene)
        interrupted_at(scene, chosen, after=bool(chosen % 3), words=RECOVER)
        assert first in scene.good_ones()
        assert scene(*RECOVER) == 0, f"after message {chosen}: {scene.err}"
        assert_recovered(scene, first, f"message {chosen}")


@pytest.mark.openssh
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.parametrize("wanted", [(), ("--from", f"{NAS}/alice.tar.gz")], ids=["default", "path"])
def test_a_kill_at_every_note_then_the_same_words(
    scene: Scene, tmp_path: Path, wanted: tuple[str, ...]
) -> None:
    first = digest(scene.own)
    words = (*RECOVER, *wanted)
    with mortal_runs(
        tmp_path / "report", [str(Path(os.environ["APEXGPU_STATE_DIR"]) / "journal")]
    ) as mortals:
        killed, code, events, err = mortals.run(*words)
        assert (killed, code) == (False, 0), err
        assert len(notes(events)) >= 8
        for last in one_in(4, notes(events)):
            # As before the first run: "first" is the one archive, and the server's own.
            put_first_back(scene, first)
            spoil(scene)
            assert mortals.run(*words, last=last)[0], events[last - 1]
            assert first in scene.good_ones()
            assert scene(*words) == 0, f"after {events[last - 1]}: {scene.err}"
            assert_recovered(scene, first, events[last - 1])


def put_first_back(scene: Scene, first: str) -> None:
    (kept,) = [path for path in scene.nas.glob("alice*.tar.gz") if digest(path) == first]
    for path in scene.nas.glob("alice*"):
        if not path.name.startswith(kept.name):
            path.unlink()
    if kept != scene.own:
        kept.with_name(f"{kept.name}.json").rename(scene.nas / "alice.tar.gz.json")
        kept.rename(scene.own)
        scene.own.chmod(0o644)


class TestResumed:
    def test_the_archive_it_began_with_counts_not_what_the_words_mean_by_now(
        self, scene: Scene
    ) -> None:
        scene.hooks.append(Hook("gpu2", UNPACK, before=raising(KeyboardInterrupt())))
        assert scene(*RECOVER, "--from", f"{NAS}/alice.tar.gz") == 130
        assert f"hint: apexgpu recover gpu2 --from {NAS}/alice.tar.gz" in scene.err
        assert scene(*RECOVER, "--from", f"{NAS}/alice.tar.gz") == 0, scene.err
        assert thesis(scene) == "first"

    def test_a_newer_snapshot_meanwhile_changes_nothing(self, scene: Scene) -> None:
        assert scene("snapshot", "gpu2", "--name", "second", "--yes") == 0, scene.err
        spoil(scene, "worse")
        scene.hooks.append(Hook("gpu2", TAR, before=raising(KeyboardInterrupt())))
        assert scene(*RECOVER, "--from", "first") == 130
        assert "hint: apexgpu recover gpu2 --from first" in scene.err
        assert scene("recover", "gpu2", "--yes", "--keep-host-keys") == 0, scene.err
        assert "the recover that was interrupted began with it" in scene.err
        assert thesis(scene) == "first"

    def test_other_words_replace_it(self, scene: Scene) -> None:
        assert scene("snapshot", "gpu2", "--name", "second", "--yes") == 0, scene.err
        scene.hooks.append(Hook("gpu2", TAR, before=raising(KeyboardInterrupt())))
        assert scene(*RECOVER, "--from", "first") == 130
        spoil(scene, "worse")
        assert scene(*RECOVER, "--from", "second") == 0, scene.err
        assert thesis(scene) == "broken"
        assert not scene.hosts("status")["gpu2"]["interrupted"]

    def test_a_snapshot_of_the_users_own_is_not_what_the_recover_saved(self, scene: Scene) -> None:
        scene.hooks.append(Hook("gpu2", TAR, before=raising(KeyboardInterrupt())))
        assert scene(*RECOVER) == 130
        row = scene.hosts("snapshot", "gpu2", "--name", "mine", "--yes")["gpu2"]
        assert row["snapshot"]["name"].endswith("-mine")
        assert not scene.hosts("status")["gpu2"]["interrupted"]
        assert thesis(scene) == "broken"

    def test_an_archive_that_is_gone_is_said_and_no_other_is_taken(self, scene: Scene) -> None:
        assert scene("snapshot", "gpu2", "--name", "second", "--yes") == 0, scene.err
        scene.hooks.append(Hook("gpu2", "stop", before=raising(KeyboardInterrupt())))
        assert scene(*RECOVER, "--from", "first", "--no-snapshot") == 130
        for path in scene.nas.glob("*-first.tar.gz*"):
            path.unlink()
        spoil(scene, "worse")
        assert scene(*RECOVER) == 6
        assert "from which the interrupted recover began, is gone or has changed" in scene.err
        assert thesis(scene) == "worse"
        assert scene.state("gpu2") == "RUNNING"
        # It is forgotten then: the next one means the default again.
        assert scene(*RECOVER) == 0, scene.err
        assert thesis(scene) == "broken"

    def test_an_archive_that_was_named_with_a_path_elsewhere_is_found_again(
        self, scene: Scene
    ) -> None:
        (scene.nas.parent / "mine.tar.gz").write_bytes(scene.own.read_bytes())
        words = (*RECOVER, "--from", "/NAS/Workspaces/mine.tar.gz")
        scene.hooks.append(Hook("gpu2", "stop", before=raising(KeyboardInterrupt())))
        assert scene(*words, "--no-snapshot") == 130
        assert scene(*RECOVER, "--no-snapshot") == 0, scene.err
        assert thesis(scene) == "first"
        assert "restored from mine" in scene.err


@pytest.mark.openssh
class TestAsked:
    def test_one_question_names_the_archive_and_covers_the_stop(self, scene: Scene) -> None:
        with at_terminal("recover", "gpu2", "--no-snapshot", "--keep-host-keys") as child:
            child.expect("This stops your container on gpu2, deletes and replaces all its files")
            child.expect(r"by those of alice-gpu2-\w+-first")
            child.expect("Type gpu2 to go ahead: ")
            child.sendline("gpu2")
            child.expect("was restored from alice-gpu2-")
            assert ended(child) == 0
        assert thesis(scene) == "first"

    def test_what_is_finished_is_named_in_the_question(self, scene: Scene) -> None:
        scene.at(UNPACK, "drop")
        assert scene(*RECOVER, "--no-snapshot") == 5
        with at_terminal("recover", "gpu2", "--keep-host-keys") as child:
            child.expect(r"Finish the recover from alice-gpu2-\w+-first now")
            child.sendline("y")
            assert ended(child) == 0
        assert thesis(scene) == "first"

    def test_declining_what_was_interrupted_forgets_it(self, scene: Scene) -> None:
        scene.hooks.append(Hook("gpu2", "stop", before=raising(KeyboardInterrupt())))
        assert scene(*RECOVER, "--no-snapshot") == 130
        with at_terminal("recover", "gpu2") as child:
            child.expect("Type gpu2 to go ahead: ")
            child.sendline("")
            assert ended(child) == 7
        assert not scene.hosts("status")["gpu2"]["interrupted"]
        assert thesis(scene) == "broken"
