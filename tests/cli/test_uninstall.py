"""uninstall: what apexgpu wrote goes, what is the user's stays byte for byte, and twice is nothing to do."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keyring
import pytest
from keyring.backend import KeyringBackend

from apexgpu.archives.journal import Journal, SnapshotEntry, Stage, Work
from apexgpu.models import Target
from apexgpu.process import LocalRunner
from apexgpu.ssh import controlmaster
from apexgpu.sshfiles import knownhostsedit
from apexgpu_lab import client
from apexgpu_lab.inprocess import running
from tests.cli.product import Line, Product, product_of

pytestmark = pytest.mark.openssh

FOREIGN = "elsewhere.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEChdB5LANBdCmZAPaJr0vJNbyT2SqlpSdkkeoASXY\n"


class Remembering(KeyringBackend):
    """A keyring in memory."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # keyring has no types there
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


@pytest.fixture
def ring() -> Iterator[Remembering]:
    before, ring = keyring.get_keyring(), Remembering()
    keyring.set_keyring(ring)
    yield ring
    keyring.set_keyring(before)


@pytest.fixture
def laptop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """Two hosts, and a laptop that has seen neither; its directories are the default ones."""
    with running(tmp_path / "lab", hosts=2) as lab:
        lab.layout.known_hosts.write_text(FOREIGN)
        product = product_of(lab, monkeypatch, capsys)
        for name, directory in (("CONFIG", "config"), ("STATE", "state")):
            monkeypatch.setenv(f"APEXGPU_{name}_DIR", str(tmp_path / directory / "apexgpu"))
        settings = tmp_path / "config" / "apexgpu" / "config.toml"
        settings.parent.mkdir(parents=True)
        settings.write_text("keep_connections = false\n")
        yield product


def log_in(laptop: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Line(laptop.lab.password("alice")))
    assert (
        laptop("login", "--password-stdin", "--yes", "--accept-new", "--register", "gpu2") == 0
    ), laptop.err
    assert laptop("up", "gpu2", "--accept-new") == 0, laptop.err


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_all_of_it_goes_and_the_rest_is_as_it_was(
    laptop: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ring: Remembering
) -> None:
    bashrc = Path.home() / ".bashrc"
    bashrc.write_text("alias ll='ls -l'\n")
    before, home = files(laptop.lab.layout.home / "ssh"), files(Path.home())
    log_in(laptop, monkeypatch)
    for shell in ("bash", "zsh", "fish"):
        assert laptop("--install-completion", shell) == 0
    assert ring.kept
    assert files(laptop.lab.layout.home / "ssh") != before

    document = laptop.json("uninstall", "--yes")
    assert document["changed"]
    assert document["left"] == []
    assert set(document["removed"]) == {
        "ssh config",
        "known_hosts",
        "password",
        "completion",
        "directory",
    }
    assert files(laptop.lab.layout.home / "ssh") == before  # the keys are among it
    assert files(Path.home()) == home
    assert not ring.kept
    assert not (tmp_path / "config" / "apexgpu").exists()
    assert not (tmp_path / "state" / "apexgpu").exists()

    monkeypatch.delenv("APEXGPU_IAM_URL")  # nothing is asked of anybody
    assert laptop.json("uninstall") == {
        "schema": 1,
        "ok": True,
        "changed": False,
        "removed": [],
        "left": [],
        "interrupted": [],
    }
    assert laptop("uninstall") == 0
    assert "Nothing to do" in laptop.out


def test_a_config_that_is_a_pipe_stops_nothing(
    laptop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(laptop, monkeypatch)
    path = laptop.lab.layout.ssh_config
    path.unlink()
    os.mkfifo(path)
    # Opened, it would hold whoever reads it for ever.
    assert laptop("config", "status") == 2
    assert f"{path} is not a regular file" in laptop.err
    assert f"hint: ls -ld {path}" in laptop.err
    assert laptop("logout") == 0
    assert laptop("uninstall", "--yes") == 0
    assert path.is_fifo()


def test_it_shows_everything_and_asks_first(
    laptop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(laptop, monkeypatch)
    before = files(laptop.lab.layout.home / "ssh")
    assert laptop("uninstall") == 7
    assert "--yes" in laptop.err
    assert f"apexgpu's block in {laptop.lab.layout.ssh_config}" in laptop.err
    assert f" host keys in {laptop.lab.layout.known_hosts}" in laptop.err
    assert files(laptop.lab.layout.home / "ssh") == before


def test_a_known_hosts_file_that_apexgpu_made_goes_with_its_entries(
    laptop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop.lab.layout.known_hosts.unlink()
    log_in(laptop, monkeypatch)
    assert laptop.lab.layout.known_hosts.exists()
    assert laptop("uninstall", "--yes") == 0
    assert not laptop.lab.layout.known_hosts.exists()


def test_host_keys_that_the_user_confirmed_stay(
    laptop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(laptop, monkeypatch)
    known = laptop.lab.layout.known_hosts
    entries = known.read_text().splitlines(keepends=True)
    (state,) = (
        Path(path) for path in [laptop.json("config", "status")["settings"]["state_dir"]["value"]]
    )
    notes = state / "known_hosts.json"
    noted = json.loads(notes.read_text())
    kept = noted[str(known)].pop(0)
    notes.write_text(json.dumps(noted))
    assert laptop("uninstall", "--yes") == 0
    assert known.read_text() == "".join(
        line for line in entries if line == FOREIGN or line.startswith(kept)
    )


def test_damaged_marks_are_said_before_anything_is_taken_away(
    laptop: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(laptop, monkeypatch)
    path = laptop.lab.layout.ssh_config
    path.write_bytes(path.read_bytes().replace(b"# <<< apexgpu <<<\n", b""))
    before = files(tmp_path / "state")
    assert laptop("uninstall", "--yes") == 2
    assert "line 1 opens" in laptop.err
    assert before.items() <= files(tmp_path / "state").items()


def test_in_a_directory_of_another_name_only_what_is_apexgpus_goes(
    laptop: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "documents"
    mine.mkdir()
    (mine / "thesis.tex").write_text("")
    monkeypatch.setenv("APEXGPU_STATE_DIR", str(mine))
    log_in(laptop, monkeypatch)
    assert (mine / "account.json").exists()
    document = laptop.json("uninstall", "--yes")
    assert files(mine) == {"thesis.tex": b""}
    assert document["left"] == [f"{mine} contains files that are not apexgpu's"]
    assert not laptop.json("uninstall")["changed"]


def test_an_include_line_that_was_pasted_is_named(
    laptop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(laptop, monkeypatch)
    assert laptop("config", "remove") == 0
    assert laptop("config", "sync", "--include", "--yes") == 0
    line = laptop.out.strip()
    path = laptop.lab.layout.ssh_config
    path.write_text(f"{line}\n{path.read_text()}")
    assert laptop("uninstall", "--yes") == 0
    assert f"still has the line that you pasted: {line}" in laptop.err


def test_what_was_interrupted_on_a_host_is_not_forgotten_in_silence(laptop: Product) -> None:
    state = Path(os.environ["APEXGPU_STATE_DIR"])
    Journal(state).record(
        SnapshotEntry(
            host="gpu2",
            what=Work.SNAPSHOT,
            stage=Stage.TAR,
            began=1_700_000_000,
            directory="/NAS",
            path="/NAS/a.tar.gz",
            was_running=True,
            restart=True,
            label="",
            previous=None,
        )
    )
    (state / "journal" / "gpu3.json").write_text("{")
    assert laptop("uninstall") == 7
    assert "a snapshot on gpu2 was interrupted while the server was writing" in laptop.err
    assert "gpu3.json cannot be read" in laptop.err
    assert (state / "journal" / "gpu2.json").exists()
    assert len(laptop.json("uninstall", "--yes")["interrupted"]) == 2
    assert not state.exists()


def test_a_lab_in_the_state_directory_is_ended(laptop: Product, tmp_path: Path) -> None:
    home = tmp_path / "state" / "apexgpu" / "lab"
    client.up(home, hosts=1, registered=False, pace=0)
    assert "lab" in laptop.json("uninstall", "--yes")["removed"]
    assert not client.status(home)["running"]
    assert not home.exists()


def test_connections_that_are_kept_open_are_closed(
    laptop: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(laptop, monkeypatch)
    runner = LocalRunner()
    masters = controlmaster.ControlMasters(laptop.lab.layout.ssh_config, runner)
    target = Target(_hosts(laptop)[0], "container")
    path = masters.path(target)
    assert (
        runner.run(
            controlmaster.master_argv(target, config=laptop.lab.layout.ssh_config, path=path),
            timeout=20,
        ).code
        == 0
    )
    assert controlmaster.sockets() == [path]
    assert "connections" in laptop.json("uninstall", "--yes")["removed"]
    assert controlmaster.sockets() == []
    assert not path.parent.exists()
    check = ["ssh", "-F", "/dev/null", "-o", f"ControlPath={path}", "-O", "check", "x"]
    assert runner.run(check, timeout=20).code == 255


def _hosts(laptop: Product) -> Any:
    from apexgpu.session import Session

    return Session().known_hosts


def test_taking_names_out_keeps_what_shares_their_lines(tmp_path: Path) -> None:
    key = FOREIGN.partition(" ")[2]
    path = tmp_path / "known_hosts"
    path.write_text(
        f"# mine\n[10.0.0.7]:22001,other {key}[10.0.0.7]:22001 {key}@revoked [10.0.0.7]:22001 {key}"
    )
    knownhostsedit.remove(path, ["[10.0.0.7]:22001"])
    assert path.read_text() == f"# mine\nother {key}@revoked [10.0.0.7]:22001 {key}"
