"""config sync, status, print, remove and restore end to end, on the user's own bytes."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from apexgpu.sshfiles.configblock import BEGIN, END, managed_hosts
from tests.cli.newcomer import LIMIT, Newcomer, ended

pytestmark = pytest.mark.openssh

MINE = b"# mine\r\nHost mine\r\n\tUser me\r\n\r\nHost *\r\n\tServerAliveInterval 7"
"""CRLF, a tab, and no newline at the end."""


@pytest.fixture
def owner(new: Newcomer, monkeypatch: pytest.MonkeyPatch) -> Newcomer:
    """Somebody with an ssh config of their own and an account name, who has not logged in."""
    monkeypatch.setenv("APEXGPU_USER", "alice")
    new.store("")
    new.ssh.mkdir(mode=0o700)
    new.config.write_bytes(MINE)
    return new


def asked(laptop: Newcomer, name: str) -> dict[str, str]:
    """What plain ssh makes of a name."""
    argv = ["ssh", "-G", "-F", str(laptop.config), name]
    text = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=LIMIT).stdout
    return dict(line.partition(" ")[::2] for line in reversed(text.splitlines()))


def move(laptop: Newcomer, host: str, address: str) -> None:
    """Let IAM tell another address for a host."""

    def change(lab_state: Any) -> None:
        lab_state.hosts[host].address = address

    laptop.lab.call(change)


class TestSync:
    def test_merges_the_hosts_in_front_and_keeps_every_other_byte(self, owner: Newcomer) -> None:
        said = owner.run("config", "sync", "--yes")
        assert said.code == 0
        text = owner.config.read_bytes()
        assert text.startswith(f"{BEGIN}\r\n".encode())
        assert text.endswith(f"{END}\r\n".encode() + MINE)
        assert asked(owner, "gpu3")["port"] == "22001"
        assert asked(owner, "gpu3")["user"] == "alice"
        assert asked(owner, "gpu3")["serveraliveinterval"] == "7"
        assert asked(owner, "mine")["user"] == "me"

    def test_a_second_time_writes_nothing(self, owner: Newcomer) -> None:
        assert owner.run("config", "sync", "--yes").code == 0
        before = {path: Path(path).stat().st_mtime_ns for path in owner.files()}
        said = owner.run("config", "sync")
        assert said.code == 0
        assert "Nothing to do." in said.out
        assert {path: Path(path).stat().st_mtime_ns for path in owner.files()} == before
        assert owner.run("config", "sync", "--json").json["changed"] is False

    def test_shows_the_difference_and_asks_before_the_first_change(self, owner: Newcomer) -> None:
        said = owner.run("config", "sync")
        assert said.code == 7
        assert "+Host gpu2-manage" in said.err
        assert " hint: apexgpu config sync --yes\n" in said.err
        assert owner.config.read_bytes() == MINE
        with owner.at_terminal("config", "sync") as child:
            child.expect(r"\+Host gpu2-manage.*Write this into .*\[y/N\]: ")
            child.sendline("y")
            assert ended(child) == 0
        assert managed_hosts(owner.config.read_bytes())

    def test_a_dry_run_writes_nothing_at_all(self, owner: Newcomer) -> None:
        before = owner.files()
        for words in ((), ("--except", "gpu2"), ("--include",)):
            said = owner.run("config", "sync", "--dry-run", *words)
            assert said.code == 0
            assert "+Host gpu3-manage" in said.err
            assert ("+Host gpu2-manage" in said.err) == ("gpu2" not in words)
            assert owner.files() == before
        document = owner.run("config", "sync", "--dry-run", "--json").json
        assert (document["changed"], document["would_change"]) == (False, True)
        assert [host["host"] for host in document["hosts"]] == ["gpu2", "gpu3"]
        assert owner.run("config", "sync", "--yes").code == 0
        before = owner.files()
        assert owner.run("config", "sync", "--dry-run").code == 0
        assert owner.files() == before

    def test_an_address_that_changes_is_shown_and_asked_about(self, owner: Newcomer) -> None:
        assert owner.run("config", "sync", "--yes").code == 0
        before = owner.config.read_bytes()
        old = managed_hosts(before)[0].address
        move(owner, "gpu2", "127.9.9.9")
        said = owner.run("config", "sync")
        assert said.code == 7
        assert f"gpu2 moves from {old} to 127.9.9.9" in said.err
        assert owner.config.read_bytes() == before
        assert owner.run("config", "sync", "--yes").code == 0
        assert owner.config.read_bytes() == before.replace(old.encode(), b"127.9.9.9")

    def test_a_name_that_means_something_else_is_asked_about(self, owner: Newcomer) -> None:
        mine = b"Host gpu2\n    HostName www.example.org\n"
        owner.config.write_bytes(mine)
        said = owner.run("config", "sync")
        assert said.code == 7
        assert "gpu2 already means" in said.err
        assert "apexgpu config sync --except gpu2" in said.err
        assert owner.run("config", "sync", "--except", "gpu2", "--yes").code == 0
        assert asked(owner, "gpu2")["hostname"] == "www.example.org"
        assert asked(owner, "gpu3")["port"] == "22001"

    def test_a_host_left_out_stays_so_until_it_is_taken_back(self, owner: Newcomer) -> None:
        assert owner.run("config", "sync", "--except", "gpu2-manage", "--yes").code == 0
        assert [host.name for host in managed_hosts(owner.config.read_bytes())] == ["gpu3"]
        said = owner.run("config", "sync")
        assert said.code == 0
        assert "Nothing to do" in said.out
        assert "Left out: gpu2" in said.err
        assert owner.run("config", "status", "--json").json["left_out"] == ["gpu2"]
        assert "Host gpu2\n" not in owner.run("config", "print").out
        assert owner.log_in().code == 0  # so does a login
        assert [host.name for host in managed_hosts(owner.config.read_bytes())] == ["gpu3"]
        assert owner.run("config", "sync", "--no-except", "--yes").code == 0
        assert len(managed_hosts(owner.config.read_bytes())) == 2

    def test_an_unknown_host_cannot_be_left_out(self, owner: Newcomer) -> None:
        said = owner.run("config", "sync", "--except", "gpu33", "--yes")
        assert said.code == 2
        assert "did you mean gpu3" in said.err
        assert owner.config.read_bytes() == MINE

    def test_another_file(self, owner: Newcomer, tmp_path: Path) -> None:
        other = tmp_path / "other" / "config"
        assert owner.run("config", "sync", "--ssh-config", str(other), "--yes").code == 0
        assert len(managed_hosts(other.read_bytes())) == 2
        assert owner.config.read_bytes() == MINE
        assert owner.run("config", "remove", "--ssh-config", str(other)).code == 0
        assert not other.exists()

    @pytest.mark.parametrize("fault", ["html", "garbled-config"])
    def test_a_hostile_answer_changes_nothing(self, owner: Newcomer, fault: str) -> None:
        assert owner.run("config", "sync", "--yes").code == 0
        before = owner.files()
        owner.lab.fault("iam", fault)
        said = owner.run("config", "sync", "--yes", "--json")
        assert said.code == 2
        assert said.json["error"]["hint"]
        assert owner.files() == before

    def test_an_iam_that_is_down_or_hangs_is_5(
        self, owner: Newcomer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("APEXGPU_IAM_URL", owner.lab.iam_url)
        for fault in ("hang", "down"):
            owner.lab.fault("iam", fault)
            assert owner.run("config", "sync", "--yes", "--timeout", "0.3").code == 5
        assert owner.config.read_bytes() == MINE

    def test_without_a_login_it_is_4(self, new: Newcomer) -> None:
        said = new.run("config", "sync", "--yes")
        assert said.code == 4
        assert "apexgpu login" in said.err

    def test_a_config_that_ssh_cannot_read_is_2_with_its_words(self, owner: Newcomer) -> None:
        owner.config.write_bytes(b"Nonsense yes\n")
        said = owner.run("config", "sync", "--yes")
        assert said.code == 2
        assert "nonsense" in said.err.lower()
        assert owner.config.read_bytes() == b"Nonsense yes\n"

    def test_damaged_marks_are_2_with_their_lines(self, owner: Newcomer) -> None:
        owner.config.write_bytes(f"{END}\n".encode() + MINE)
        said = owner.run("config", "sync", "--yes")
        assert said.code == 2
        assert "line 1 closes" in said.err


class TestInclude:
    """A config that must not be written: an own file, and one line to paste."""

    @pytest.fixture
    def read_only(self, owner: Newcomer) -> Newcomer:
        owner.config.chmod(0o444)
        return owner

    def test_a_read_only_file_is_refused_with_the_way_out(self, read_only: Newcomer) -> None:
        said = read_only.run("config", "sync", "--yes")
        assert said.code == 2
        assert "is read-only" in said.err
        assert " hint: apexgpu config sync --include" in said.err
        assert read_only.config.read_bytes() == MINE

    def test_the_line_is_printed_until_it_works(self, read_only: Newcomer) -> None:
        said = read_only.run("config", "sync", "--include", "--yes")
        assert said.code == 0
        (line,) = (line for line in said.out.splitlines() if line.startswith("Include "))
        assert read_only.run("config", "sync").out.startswith(line)  # not pasted yet
        read_only.config.chmod(0o600)
        read_only.config.write_bytes(f"{line}\n".encode() + MINE)
        read_only.config.chmod(0o444)
        said = read_only.run("config", "sync")
        assert (said.code, said.out) == (0, "Nothing to do.\n")
        assert asked(read_only, "gpu3")["port"] == "22001"
        assert asked(read_only, "mine")["user"] == "me"

    def test_a_login_goes_on_with_it(self, read_only: Newcomer) -> None:
        assert read_only.log_in().code == 2
        assert read_only.run("config", "sync", "--include", "--yes").code == 0
        said = read_only.log_in()
        assert said.code == 0
        assert "ssh does not read it yet" in said.err
        assert read_only.config.read_bytes() == MINE

    def test_remove_takes_the_file_away_and_names_the_line(self, read_only: Newcomer) -> None:
        assert read_only.run("config", "sync", "--include", "--yes").code == 0
        said = read_only.run("config", "remove")
        assert said.code == 0
        assert "Include" in said.err
        assert not [path for path in read_only.files() if "ssh_hosts" in path]
        assert "Nothing to do" in read_only.run("config", "remove").out
        assert read_only.run("config", "restore", "--json").json["backups"] == []


class TestStatus:
    def test_each_setting_with_where_it_came_from(self, owner: Newcomer) -> None:
        said = owner.run("config", "status", "--timeout", "4")
        assert said.code == 0
        rows = {line.split()[0]: line.split() for line in said.out.splitlines() if line.strip()}
        assert rows["user"][1:] == ["alice", "environment"]
        assert rows["timeout"][1:] == ["4", "flag"]
        assert rows["keep_connections"][1:] == ["false", "file"]
        assert rows["ssh_config"][-1] == "default"
        assert "no hosts of the lab yet" in said.out

    def test_what_is_ours_and_what_gets_in_the_way(self, owner: Newcomer) -> None:
        owner.config.write_bytes(b"Host mine\nHost *\n  ProxyJump jump\n")
        assert owner.run("config", "sync", "--yes").code == 0
        owner.config.write_bytes(owner.config.read_bytes().replace(b"User alice", b"User eve", 1))
        document = owner.run("config", "status", "--json").json
        assert [host["host"] for host in document["managed"]] == ["gpu2", "gpu3"]
        assert document["own"] == ["mine"]
        assert any("ProxyJump jump" in text for text in document["warnings"])
        assert any("edited or moved by hand" in text for text in document["warnings"])
        assert [copy["n"] for copy in document["backups"]] == [1]


class TestPrint:
    def test_prints_the_block_and_changes_nothing(self, owner: Newcomer) -> None:
        before = owner.files()
        said = owner.run("config", "print")
        assert said.code == 0
        assert said.out.startswith(f"{BEGIN}\n")
        assert said.out.endswith(f"{END}\n")
        assert owner.run("config", "print", "--json").json["text"] == said.out
        assert owner.files() == before

    def test_prints_the_hosts_in_other_formats(self, owner: Newcomer) -> None:
        before = owner.files()
        said = owner.run("config", "print", "--format", "csv")
        titles, *rows = [line.split(",") for line in said.out.splitlines()]
        assert titles == ["host", "address", "user", "port", "manage_host", "manage_port"]
        assert [(row[0], row[2], row[4]) for row in rows] == [
            ("gpu2", "alice", "gpu2-manage"),
            ("gpu3", "alice", "gpu3-manage"),
        ]
        hosts = json.loads(owner.run("config", "print", "--format", "json").out)["hosts"]
        assert [list(map(str, host.values())) for host in hosts] == rows
        assert owner.run("config", "print", "--format", "csv", "--json").json["text"] == said.out
        assert owner.run("config", "print", "--format", "xml").code == 2
        assert owner.files() == before


class TestRemoveAndRestore:
    @pytest.fixture(autouse=True)
    def _synced(self, owner: Newcomer) -> None:
        assert owner.run("config", "sync", "--yes").code == 0

    def test_remove_gives_the_bytes_back(self, owner: Newcomer) -> None:
        said = owner.run("config", "remove")
        assert (said.code, said.out) == (0, f"{owner.config}: apexgpu's block is removed.\n")
        assert owner.config.read_bytes() == MINE
        said = owner.run("config", "remove")
        assert said.code == 0
        assert "Nothing to do" in said.out
        assert owner.run("config", "remove", "--json").json["changed"] is False

    def test_restore_lists_the_copies(self, owner: Newcomer) -> None:
        said = owner.run("config", "restore")
        assert said.code == 0
        assert said.out.splitlines()[0].split() == ["N", "TAKEN", "BYTES"]
        (copy,) = owner.run("config", "restore", "--json").json["backups"]
        assert (copy["n"], copy["bytes"]) == (1, len(MINE))
        assert copy["taken"].endswith("+00:00")
        assert Path(copy["path"]).read_bytes() == MINE

    def test_restore_puts_a_copy_back_once_and_can_be_taken_back(self, owner: Newcomer) -> None:
        written = owner.config.read_bytes()
        assert owner.run("config", "restore", "1").code == 7
        assert owner.config.read_bytes() == written
        said = owner.run("config", "restore", "1", "--yes")
        assert said.code == 0
        assert "apexgpu config restore 0" in said.out
        assert owner.config.read_bytes() == MINE
        said = owner.run("config", "restore", "1")
        assert (said.code, said.out) == (0, "Nothing to do: it is the same.\n")
        assert owner.run("config", "restore", "0", "--yes").code == 0
        assert owner.config.read_bytes() == written

    def test_restore_after_remove(self, owner: Newcomer) -> None:
        written = owner.config.read_bytes()
        assert owner.run("config", "remove").code == 0
        assert owner.run("config", "restore", "1", "--yes", "--json").json["changed"]
        assert owner.config.read_bytes() == written
        assert owner.run("config", "restore", "2", "--yes").code == 0
        assert owner.config.read_bytes() == MINE

    def test_restore_shows_what_would_change_and_asks(self, owner: Newcomer) -> None:
        with owner.at_terminal("config", "restore", "1") as child:
            child.expect(r"-Host gpu2-manage.*Put copy 1 in the place of .*\[y/N\]: ")
            child.sendline("y")
            assert ended(child) == 0
        assert owner.config.read_bytes() == MINE

    @pytest.mark.parametrize("number", ["0", "2", "99", "-1", "x"])
    def test_a_number_that_is_none_is_2(self, owner: Newcomer, number: str) -> None:
        said = owner.run("config", "restore", "--yes", "--", number)
        assert said.code == 2
        assert " hint: " in said.err
