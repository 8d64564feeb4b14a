"""mount, mounts and unmount against the embedded lab, as a member of it uses them."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apexgpu import cli
from apexgpu.session import Session
from apexgpu.sshfs import mountrecords, mounts
from apexgpu_lab.inprocess import running
from tests.cli.product import Product, product_of
from tests.lab.calls import rootfs_of
from tests.waiting import until

pytestmark = pytest.mark.sshfs


@pytest.fixture
def product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """Two hosts; alice is registered, gpu2 is up."""
    with running(tmp_path / "lab", hosts=2, registered=True, pace=0) as lab:
        found = product_of(lab, monkeypatch, capsys)
        assert found("up", "gpu2") == 0, found.err
        yield found
        found("unmount", "--all", "--force")


def one(document: Any) -> dict[str, Any]:
    assert document["ok"], document
    (found,) = document["mounts"]
    return dict(found)


def test_the_home_is_mounted_in_the_default_place_and_goes_without_a_trace(
    product: Product, isolated: Path
) -> None:
    made = one(product.json("mount", "gpu2"))
    there = isolated / "apexgpu" / "gpu2"
    assert {key: made[key] for key in ("host", "directory", "remote", "state", "read_only")} == {
        "host": "gpu2",
        "directory": str(there),
        "remote": "/home/alice",
        "state": "alive",
        "read_only": False,
    }
    (there / "new").write_text("here")
    assert (rootfs_of(product.lab) / "home" / "alice" / "new").read_text() == "here"
    assert {**one(product.json("mounts")), "since": 0} == {**made, "since": 0}
    assert product("mounts") == 0
    assert product.out.splitlines()[1].split()[:4] == ["gpu2", str(there), "/home/alice", "alive"]
    gone = product.json("unmount", "gpu2")
    assert (one(gone)["state"], gone["changed"]) == ("unmounted", True)
    assert not (isolated / "apexgpu").exists()
    assert product.json("mounts")["mounts"] == []


def test_a_path_begins_at_the_home_there(product: Product, isolated: Path) -> None:
    (rootfs_of(product.lab) / "home" / "alice" / "my data").mkdir()
    for word in ("my data", "~/my data/"):
        made = one(product.json("mount", "gpu2", str(isolated / "d"), "--remote", word))
        assert (made["remote"], made["directory"]) == ("/home/alice/my data", str(isolated / "d"))
        assert product("mount", "gpu2", str(isolated / "d"), "--remote", word) == 0
        assert "nothing to do" in product.err
        assert product("unmount", str(isolated / "d")) == 0


def test_a_relative_directory_and_a_link(
    product: Product, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(isolated)
    (isolated / "real").mkdir()
    (isolated / "link").symlink_to("real")
    assert one(product.json("mount", "gpu2", "link"))["directory"] == str(isolated / "real")
    assert product("mount", "gpu2", "link") == 0, product.err
    assert product("unmount", "link") == 0
    assert product.json("mounts")["mounts"] == []
    assert (isolated / "real").is_dir()


def test_a_stopped_container_is_started_when_the_user_says_so(
    product: Product, isolated: Path
) -> None:
    assert product("mount", "gpu3") == 6
    assert "the container on gpu3 is stopped" in product.err
    assert "apexgpu up gpu3" in product.err
    assert not (isolated / "apexgpu").exists()
    assert one(product.json("mount", "gpu3", "--yes"))["state"] == "alive"


def test_a_new_host_key_is_trusted_by_who_is_asked_and_never_by_itself(product: Product) -> None:
    known = product.lab.layout.known_hosts
    known.write_text("")
    assert product("mount", "gpu2") == 7
    assert "--accept-new" in product.err
    assert known.read_text() == ""
    assert one(product.json("mount", "gpu2", "--accept-new"))["state"] == "alive"
    assert product("unmount", "gpu2") == 0
    assert "ssh-ed25519" in known.read_text()


def test_a_host_that_says_nothing_costs_its_time_limit_once(product: Product) -> None:
    product.lab.fault("gpu2", "silent")
    began = time.monotonic()
    assert product("mount", "gpu2", "--timeout", "10") == 5
    assert 9.5 < time.monotonic() - began < 19


def test_a_container_that_stops_is_stale_and_repaired_when_it_is_up_again(
    product: Product, isolated: Path
) -> None:
    made = one(product.json("mount", "gpu2"))
    assert product("down", "gpu2", "--yes") == 0, product.err
    assert one(product.json("mounts"))["state"] == "stale"
    assert product("mounts") == 0
    assert "apexgpu mounts repair" in product.err
    document = product.json("mounts", "repair")
    assert document["mounts"][0]["error"]["code"] == "connection_refused"
    assert product("up", "gpu2") == 0, product.err
    product.json("mounts", "repair")
    # On a busy machine a mount that has just come back may need longer than `mounts` waits for it.
    until(lambda: one(product.json("mounts"))["state"] == "alive")
    assert (Path(made["directory"]) / ".bashrc").exists()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("gpu9",), 2, "there is no host gpu9"),
        (("gpu*",), 2, "matches 2 hosts"),
        (("gpu2", "--remote", "nowhere"), 6, "nowhere on gpu2 does not exist"),
        (("gpu2", "--remote", ".bashrc"), 6, "is not a directory"),
        (("gpu2", "--remote", "a\nb"), 2, "newline"),
        (("gpu2", "full"), 6, "is not empty"),
        (("gpu2", "file"), 2, "is a file"),
        (("gpu2", "file/below"), 2, "cannot make the directory"),
        (("gpu2", "-o", "nonsense=3"), 2, "one of the options"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    product: Product,
    isolated: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(isolated)
    (isolated / "full" / "x").mkdir(parents=True)
    (isolated / "file").touch()
    before = sorted(isolated.rglob("*"))
    assert product("mount", *words) == code, product.err
    assert says in product.err
    assert sorted(isolated.rglob("*")) == before
    assert product.json("mounts")["mounts"] == []


def test_without_sshfs_the_line_that_installs_it_is_said(
    product: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").symlink_to(shutil.which("ssh") or "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert product("mount", "gpu2") == 127
    assert " install " in product.err


def test_nothing_named_is_wrong_use_and_what_is_not_ours_is_left_alone(product: Product) -> None:
    assert product("unmount") == 2
    assert product("unmount", "/proc") == 2
    assert "is not a mount of a container of yours" in product.err
    assert product("unmount", "gpu9") == 2
    assert product("unmount", "gpu2") == 0
    assert product("unmount", "./nothing") == 0
    assert product("mounts", "repair") == 0


def test_of_several_that_fail_the_others_are_unmounted(product: Product, isolated: Path) -> None:
    product.json("mount", "gpu2", str(isolated / "a"))
    product.json("mount", "gpu2", str(isolated / "b"))
    with (isolated / "a" / ".bashrc").open():
        # Our own process is not named as the holder; another's would be.
        document = product.json("unmount", "gpu2")
    assert {row["directory"]: row["ok"] for row in document["mounts"]} == {
        str(isolated / "a"): False,
        str(isolated / "b"): True,
    }
    assert product("unmount", "gpu2") == 0


def test_a_mount_that_is_complete_is_taken_back_by_a_ctrl_c(
    product: Product, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        assert (isolated / "apexgpu" / "gpu2" / ".bashrc").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(mountrecords, "add", interrupted)
    assert product("mount", "gpu2") == 130
    assert product.json("mounts")["mounts"] == []
    assert not (isolated / "apexgpu").exists()


def test_notes_that_are_spoilt_or_missing_lose_no_mount(product: Product) -> None:
    made = one(product.json("mount", "gpu2"))
    state = Path(product.lab.environment["APEXGPU_STATE_DIR"])
    for text in ('{"x": 1}', "[1]", "not JSON"):
        (state / mountrecords.FILE).write_text(text)
        found = one(product.json("mounts"))
        # Only the notes know the full path: sshfs mounts the home as it was asked for.
        assert (found["host"], found["remote"], found["directory"]) == (
            "gpu2",
            "~",
            made["directory"],
        )
    (state / mountrecords.FILE).unlink()
    assert product("unmount", "gpu2") == 0
    assert product.json("mounts")["mounts"] == []


def test_another_labs_mounts_are_not_ours(product: Product, tmp_path: Path) -> None:
    """The same name, the same user, another server: `unmount --all` of one lab leaves the other's alone."""
    made = one(product.json("mount", "gpu2"))
    with running(tmp_path / "other", hosts=2, registered=True, pace=0) as other:
        environment = {**os.environ, **other.environment}
        for words in (["mounts"], ["unmount", "--all"], ["unmount", "gpu2"], ["mounts", "repair"]):
            assert cli.main(words, Session(environment=environment)) == 0
    assert one(product.json("mounts"))["directory"] == made["directory"]


def test_doctor_tells_what_is_mounted(product: Product) -> None:
    made = one(product.json("mount", "gpu2"))
    checks = product.json("doctor", "gpu2")["checks"]
    assert any(row["check"] == "programs" and "sshfs" in row["fact"] for row in checks)
    assert not any(row["check"] == "mounts" for row in checks) or made["directory"] in str(checks)
    assert mounts.find_own_mounts(Path(product.lab.environment["APEXGPU_STATE_DIR"]))
