"""cp as it is typed: against the embedded lab, and as a process that is killed before a real sshd."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from apexgpu import account
from apexgpu_lab.inprocess import running
from tests.cli.product import Product, product_of
from tests.real.copies import There, noise, sshd, stages
from tests.real.wire import Wire, wire

pytestmark = pytest.mark.openssh

MIB = 1 << 20


@pytest.fixture
def product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """Two hosts; alice's container on gpu2 runs. The laptop stands in an empty directory."""
    with running(tmp_path / "lab", hosts=2, registered=True) as lab:
        found = product_of(lab, monkeypatch, capsys)
        assert found("up", "gpu2") == 0, found.err
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        yield found


def home(product: Product, host: str = "gpu2") -> Path:
    container = product.lab.call(lambda lab_state: lab_state.host(host).accounts["alice"].container)
    assert container is not None
    return container.home


class TestInTheLab:
    @pytest.mark.parametrize("method", ["rsync", "sftp"])
    def test_json_tells_what_was_done_and_the_second_time_that_nothing_was(
        self, product: Product, method: str
    ) -> None:
        Path("data").mkdir()
        Path("data/数据 1").write_bytes(noise(100_000))
        Path("data/empty").touch()
        first = product.json("cp", "--method", method, "data", "gpu2:")
        assert first.pop("seconds") > 0
        assert first == {
            "schema": 1,
            "ok": True,
            "host": "gpu2",
            "files": 2,
            "bytes": 100_000,
            "transferred": 100_000,
            "changed": 2,
            "left_out": 0,
            "method": method,
            "targets": ["/home/alice/data"],
        }
        assert (home(product) / "data/数据 1").read_bytes() == noise(100_000)
        again = product.json("cp", "--method", method, "data", "gpu2:")
        assert (again["ok"], again["changed"], again["transferred"]) == (True, 0, 0)
        assert product("cp", "--method", method, "gpu2:data/.", "back") == 0
        assert "/back: 2 files, 97.7 KiB; 97.7 KiB sent in " in product.err
        assert product("cp", "--method", method, "gpu2:data/.", "back") == 0
        assert "up to date" in product.err
        assert product.out == ""

    @pytest.mark.parametrize("method", ["rsync", "sftp"])
    def test_a_file_that_names_the_labs_own_paths_comes_unchanged(
        self, product: Product, method: str
    ) -> None:
        text = f"{home(product)}\n" * 5000
        (home(product) / "log").write_text(text)
        assert product("cp", "--method", method, "gpu2:log", ".") == 0
        assert Path("log").read_text() == text

    def test_without_rsync_there_sftp_carries_and_rsync_by_name_says_how_to_get_it(
        self, product: Product
    ) -> None:
        bin_ = product.lab.call(lambda lab_state: lab_state.directory) / "bin"
        (bin_ / "rsync").write_text(
            "#!/bin/sh\necho 'bash: rsync: command not found' >&2\nexit 127\n"
        )
        (bin_ / "rsync").chmod(0o755)
        Path("file").write_text("x")
        assert product.json("cp", "file", "gpu2:")["method"] == "sftp"
        assert product("cp", "--method", "rsync", "file", "gpu2:other") == 6
        assert "there is no rsync 3.1 or newer in the container on gpu2" in product.err
        assert "hint: apexgpu ssh gpu2 -- sudo apt install -y rsync" in product.err

    def test_the_flags_of_a_habit_change_nothing(self, product: Product) -> None:
        Path("-data").mkdir()
        Path("-data/file").write_text("x")
        assert product("cp", "-r", "-a", "--", "-data", "gpu2:") == 0
        assert (home(product) / "-data/file").read_text() == "x"

    def test_a_dry_run_lists_what_would_be_sent_and_writes_nothing(self, product: Product) -> None:
        Path("data/sub").mkdir(parents=True)
        Path("data/a").write_bytes(noise(1000))
        Path("data/b.tmp").write_text("x")
        (home(product) / "data").mkdir()
        (home(product) / "data/a").write_text("older")
        words = ("cp", "--dry-run", "--exclude", "*.tmp", "data", "gpu2:")
        assert product(*words) == 0
        assert sorted(product.out.splitlines()) == ["/home/alice/data/a", "/home/alice/data/sub/"]
        assert "would send 1 file, 1000 B; nothing was sent" in product.err
        document = product.json(*words)
        assert document["dry_run"] is True
        planned = sorted(document["would_send"], key=lambda copy: copy["target"])
        assert planned[0] == {
            "target": "/home/alice/data/a",
            "kind": "file",
            "bytes": 1000,
            "replaces": True,
        }
        assert [path.name for path in (home(product) / "data").iterdir()] == ["a"]
        assert (home(product) / "data/a").read_text() == "older"
        assert product(*words[:1], *words[2:]) == 0
        assert not (home(product) / "data/b.tmp").exists()
        assert product(*words) == 0
        assert product.out == ""
        assert "nothing would be sent" in product.err

    def test_many_files_are_counted_as_files_and_their_directory_is_named(
        self, product: Product
    ) -> None:
        for number in range(5):
            (home(product) / f"{number}.csv").write_text("x")
        assert product("cp", "gpu2:*.csv", "plots/") == 0
        assert f"5 files in {Path.cwd()}/plots: 5 B; 5 B sent in" in product.err
        assert product("cp", "gpu2:*.csv", "plots/", "--exclude", "[0-3]*") == 0
        assert "4.csv: up to date" in product.err
        assert product("cp", "gpu2:*.csv", "plots/", "--exclude", "*") == 2
        assert "leaves out everything" in product.err

    def test_an_unknown_host_is_named_with_the_nearest(self, product: Product) -> None:
        assert product("cp", "gpu22:x", ".") == 2
        assert "there is no host gpu22" in product.err
        assert "did you mean gpu2" in product.err

    def test_two_hosts_for_one_word_are_refused(self, product: Product) -> None:
        assert product("cp", "gpu?:x", ".") == 2
        assert "matches 2 hosts" in product.err

    def test_a_stopped_container_is_offered_to_be_started(self, product: Product) -> None:
        Path("file").write_text("x")
        assert product("cp", "file", "gpu3:") == 6
        assert "the container on gpu3 is stopped" in product.err
        assert "hint: apexgpu up gpu3" in product.err
        assert product("cp", "file", "gpu3:", "--yes") == 0
        assert (home(product, "gpu3") / "file").read_text() == "x"

    def test_a_silent_host_is_given_up_in_time(self, product: Product) -> None:
        product.lab.fault("gpu2", "silent")
        assert product("cp", "gpu2:x", ".", "--timeout", "1") == 5
        product.lab.clear("gpu2", "silent")

    @pytest.mark.parametrize(
        ("words", "code"),
        [(("cp", "nothing", "gpu2:"), 6), (("cp", "gpu2:nothing", "."), 6), (("cp", "a", "b"), 2)],
    )
    def test_a_failure_is_one_document_too(
        self, product: Product, words: tuple[str, ...], code: int
    ) -> None:
        assert product(*words, "--json") == code
        document = json.loads(product.out)
        assert document["ok"] is False
        assert document["error"]["hint"]

    def test_what_a_server_calls_its_files_cannot_move_the_cursor(self, product: Product) -> None:
        (home(product) / "\x1b[2Jx").mkdir()
        assert product("cp", "gpu2:\x1b[2Jx", "\x1b[2Jy") == 0
        assert "\x1b" not in product.err
        assert "\\x1b[2Jy: 0 files" in product.err


@dataclass
class Laptop:
    """The program as a process of its own, whose connections go over a wire."""

    there: There
    line: Wire
    here: Path

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Run it; it can be killed."""
        argv = [sys.executable, "-m", "apexgpu", *words]
        return subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.here
        )

    def json(self, *words: str) -> Any:
        """Run it to its end."""
        with self.start(*words, "--json") as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return json.loads(out)


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Laptop]:
    """It knows one host, a real sshd behind a wire."""
    server, there = sshd(tmp_path / "there")
    here = tmp_path / "here"
    here.mkdir()
    with wire(there.host.address, server.host.manage_port) as line:
        host = replace(there.host, port=line.port, manage_port=line.port)
        known = server.directory / "known_hosts"
        known.write_text(
            known.read_text().replace(f":{server.host.manage_port} ", f":{line.port} ")
        )
        state, settings = tmp_path / "state", tmp_path / "settings"
        settings.mkdir()
        (settings / "config.toml").write_text("keep_connections = false\n")
        account.save(state, account.Account(user=host.user, hosts=(host,)))
        for name, value in {
            "APEXGPU_STATE_DIR": state,
            "APEXGPU_CONFIG_DIR": settings,
            "APEXGPU_USER": host.user,
            "APEXGPU_SSH_CONFIG": there.config,
            "APEXGPU_IAM_URL": "http://127.0.0.1:9",
        }.items():
            monkeypatch.setenv(name, str(value))
        yield Laptop(there, line, here)
    server.stop()


@pytest.mark.parametrize("method", ["rsync", "sftp"])
@pytest.mark.parametrize("upload", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on_and_sends_nothing_twice(
    laptop: Laptop, method: str, upload: bool, end: signal.Signals
) -> None:
    source, final = (laptop.here, laptop.there.home) if upload else (laptop.there.home, laptop.here)
    words = ["cp", "--method", method, *(("big", "gpu7:") if upload else ("gpu7:big", "."))]
    (source / "big").write_bytes(noise(48 * MIB))
    laptop.line.hold_after(32 * MIB)
    with laptop.start(*words) as process:
        laptop.line.await_hold()
        process.send_signal(end)
        if end == signal.SIGKILL:
            process.wait(30)
        laptop.line.release()
        _, err = process.communicate(timeout=30)
    assert not (final / "big").exists()
    [stage] = stages(final)
    if end == signal.SIGINT:
        assert process.returncode == 130
        assert f"the partial copy is kept in {stage} on " in err
        assert "Traceback" not in err
    before = laptop.line.carried
    document = laptop.json(*words)
    assert (final / "big").read_bytes() == noise(48 * MIB)
    assert document["transferred"] < 24 * MIB
    assert laptop.line.carried - before < 25 * MIB
    assert stages(final) == []


def test_a_lost_connection_is_exit_5_with_the_way_on(laptop: Laptop) -> None:
    (laptop.here / "big").write_bytes(noise(16 * MIB))
    laptop.line.hold_after(8 * MIB)
    with laptop.start("cp", "big", "gpu7:") as process:
        laptop.line.await_hold()
        laptop.line.cut()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "error: the connection to gpu7 was lost" in err
    assert " hint: apexgpu cp big gpu7:" in err
    assert "the partial copy is kept in " in err
