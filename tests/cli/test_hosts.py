"""register, up, down, status, ssh and exec against the embedded lab, its faults included."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apexgpu import cli
from apexgpu.secret import Secret
from apexgpu.session import Session
from apexgpu.ssh import controlmaster
from apexgpu_lab.inprocess import running
from tests.cli.product import Line, Product, product_of
from tests.waiting import until


@pytest.fixture
def fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """Two hosts; alice has logged in and is registered nowhere."""
    with running(tmp_path / "lab", hosts=2) as lab:
        product = product_of(lab, monkeypatch, capsys)
        monkeypatch.setattr("sys.stdin", Line(lab.password("alice")))
        assert product("login", "--password-stdin", "--yes") == 0, product.err
        yield product


@pytest.fixture
def product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Product]:
    """Three hosts; alice is registered on all of them, with stopped containers."""
    with running(tmp_path / "lab", hosts=3, registered=True) as lab:
        yield product_of(lab, monkeypatch, capsys)


class TestRestart:
    def test_names_no_next_command_for_what_it_does_itself(self, product: Product) -> None:
        assert product("up", "gpu2", "--accept-new") == 0
        assert product("restart", "gpu2", "--yes") == 0
        assert "gpu2 is down.\n" in product.err
        assert "Next: apexgpu up" not in product.err
        assert product("down", "gpu2", "--yes") == 0
        assert "gpu2 is down. Next: apexgpu up gpu2" in product.err

    def test_interrupted_after_the_stop_it_names_what_starts_it_again(
        self, product: Product, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert product("up", "gpu2", "--accept-new") == 0

        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("apexgpu.containers.up", interrupt)
        assert product("restart", "gpu2", "--yes") == 130
        assert (
            "warning: gpu2: stopped, and not started again\n   hint: apexgpu up gpu2\n"
            in product.err
        )


class TestRegister:
    def test_makes_the_container_and_says_what_is_next(self, fresh: Product) -> None:
        assert fresh("register", "gpu2") == 0
        assert "gpu2: registered. Next: apexgpu up gpu2" in fresh.err
        assert fresh.hosts("status")["gpu2"]["registered"]
        assert not fresh.hosts("status")["gpu3"]["registered"]

    def test_twice_is_fine_because_a_login_proves_it(self, fresh: Product) -> None:
        assert fresh("register", "gpu2") == 0
        assert fresh.hosts("register", "gpu2")["gpu2"] == {
            "host": "gpu2",
            "ok": True,
            "error": None,
            "registered": True,
            "changed": False,
        }

    def test_a_half_made_account_is_not_fine(self, fresh: Product) -> None:
        fresh.lab.fault("gpu2", "half-made")
        assert fresh("register", "gpu2") == 6
        assert "half-made" in fresh.err
        assert "ask the administrators to delete your account on gpu2" in fresh.err

    def test_every_command_reports_a_half_made_account(self, product: Product) -> None:
        """A shell of the host answers then: with bash's help, with its message of the day, or with an error."""
        product.lab.call(
            lambda state: setattr(state.hosts["gpu2"].accounts["alice"], "half_made", True)
        )
        for words in (
            ("status", "gpu2"),
            ("up", "gpu2"),
            ("down", "gpu2", "--yes"),
            ("snapshot", "gpu2", "--yes"),
            ("recover", "gpu2", "--yes"),
            ("doctor", "gpu2"),
        ):
            assert product(*words) != 0, words
            shown = product.out + product.err
            assert "on gpu2 the account is half-made" in shown, words
            assert "GNU bash" not in shown
            assert "help.ubuntu.com" not in shown
        assert product.hosts("status")["gpu2"]["error"]["code"] == "half_made"

    def test_a_journal_that_cannot_be_read_hides_no_other_host(self, product: Product) -> None:
        journal = Path(os.environ["APEXGPU_STATE_DIR"]) / "journal" / "gpu3.json"
        journal.parent.mkdir()
        journal.write_text("[" * 100_000)
        assert product("status") == 0, product.err
        assert f"{journal} cannot be read" in product.err
        assert all(name in product.out for name in ("gpu2", "gpu3", "gpu4"))

    def test_an_overwritten_register_key_without_a_password_says_what_to_do(
        self, fresh: Product
    ) -> None:
        fresh.lab.fault("gpu2", "register-overwritten")
        assert fresh("register", "gpu2") == 6
        assert "another user's login replaced it" in fresh.err

    def test_an_overwritten_register_key_is_cured_once_and_said(
        self, fresh: Product, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The keyring is the seam: a password that was kept there is what the cure needs.
        from apexgpu.iam import passwords

        kept = passwords.KeyringResult(Secret(fresh.lab.password("alice")))
        monkeypatch.setattr(passwords.StoredPassword, "load", lambda _: kept)
        fresh.lab.fault("gpu2", "register-overwritten")
        assert fresh("register", "gpu2") == 0
        assert "sending yours to IAM again" in fresh.err


class TestUp:
    def test_shows_the_hosts_lines_and_ends_when_ssh_answers(self, product: Product) -> None:
        assert product("up", "gpu2") == 0
        assert "gpu2: Starting your container..." in product.err
        assert "gpu2 is up. Next: apexgpu ssh gpu2" in product.err
        assert product("up", "gpu2") == 0
        assert "was up already" in product.err

    @pytest.mark.parametrize(
        ("fault", "exit_code", "words"),
        [
            ("start-fails", 6, "does not start"),
            ("no-forward", 6, "its port 22001 is not forwarded"),
            ("iam-down", 6, "cannot ask IAM for your port"),
            ("garble", 6, "something apexgpu does not know"),
            ("denied", 6, "is not registered"),
            ("refuse", 5, "connection refused"),
            ("drop", 5, "was lost"),
        ],
    )
    def test_a_trouble_is_named_with_its_cure(
        self, product: Product, fault: str, exit_code: int, words: str
    ) -> None:
        product.lab.fault("gpu2", fault)
        assert product("up", "gpu2", "--wait", "1") == exit_code
        assert words in product.err
        assert " hint: " in product.err

    def test_a_container_without_an_address_is_named(self, product: Product) -> None:
        product.lab.fault("gpu2", "no-address")
        assert product("up", "gpu2", "--wait", "0.5") == 5
        assert "waiting for the container to get an address" in product.err
        assert "apexgpu restart gpu2" in product.err

    def test_a_missing_driver_installer_is_a_warning(self, product: Product) -> None:
        product.lab.fault("gpu2", "driver-mismatch")
        document = product.hosts("up", "gpu2")
        assert not document["gpu2"]["driver"]["installed"]
        assert "NVIDIA driver" in product.err

    def test_some_fail_others_do_not(self, product: Product) -> None:
        product.lab.fault("gpu3", "start-fails")
        assert product("up", "gpu2", "gpu3") == 3

    def test_a_changed_host_key_ends_in_4_and_both_fingerprints(self, product: Product) -> None:
        product.lab.fault("gpu2", "host-key-changed")
        assert product("up", "gpu2") == 4
        assert product.err.count("SHA256:") == 2

    def test_a_start_before_the_container_was_known_is_still_a_start(
        self, product: Product
    ) -> None:
        product.lab.layout.known_hosts.write_text("")
        said = product.hosts("up", "gpu2", "gpu3", "--accept-new")
        assert [said[host]["changed"] for host in ("gpu2", "gpu3")] == [True, True]
        assert "gpu2 is up" in product.err

    @pytest.mark.parametrize("files", ["none", "a directory"])
    def test_a_config_that_keeps_no_host_keys_is_told_where_to(
        self, product: Product, files: str
    ) -> None:
        # A directory stands for /dev/null, and the system's file is a directory too: a mistake may not write to either.
        here = str(product.lab.layout.home)
        config = product.lab.layout.ssh_config
        kept = f"UserKnownHostsFile {product.lab.layout.known_hosts}"
        lines = f"UserKnownHostsFile {here if files == 'a directory' else files}\n    GlobalKnownHostsFile {here}"
        config.write_text(config.read_text().replace(kept, lines))
        assert product("up", "gpu2", "--accept-new") == 2
        assert "your ssh config keeps no host keys" in product.err
        assert (
            f"into {config}, above that line: UserKnownHostsFile ~/.ssh/known_hosts" in product.err
        )
        checks = product.json("doctor")["checks"]
        assert next(row["verdict"] for row in checks if row["check"] == "known_hosts") == "problem"

    def test_an_unknown_host_is_a_usage_error_with_the_nearest_names(
        self, product: Product
    ) -> None:
        assert product("up", "gpu22") == 2
        assert "did you mean gpu2" in product.err
        assert product("up") == 2
        assert product("up", "abc*") == 2


class TestDown:
    def test_a_running_container_is_asked_about(self, product: Product) -> None:
        product("up", "gpu2")
        assert product("down", "gpu2") == 7
        assert "--yes" in product.err
        assert product.hosts("status")["gpu2"]["running"]

    def test_stops_and_twice_is_nothing_to_do(self, product: Product) -> None:
        product("up", "gpu2")
        assert product.hosts("down", "gpu2", "--yes")["gpu2"]["changed"]
        assert product("down", "gpu2") == 0
        assert "was down already" in product.err

    def test_a_host_without_registration_is_refused(self, fresh: Product) -> None:
        assert fresh("down", "gpu2", "--yes") == 6
        assert "apexgpu register gpu2" in fresh.err


class TestStatus:
    def test_18_hosts_one_refusing_one_silent(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with running(tmp_path / "lab", hosts=18, registered=True) as lab:
            product = product_of(lab, monkeypatch, capsys)
            lab.fault("gpu5", "refuse")
            lab.fault("gpu9", "silent")
            began = time.monotonic()
            document = product.json("status", "--timeout", "10")
            assert time.monotonic() - began < 20  # its time limit is waited for once
        good = [row for row in document["hosts"] if row["ok"]]
        bad = {row["host"]: row["error"]["code"] for row in document["hosts"] if not row["ok"]}
        assert len(good) == 16
        assert bad == {"gpu5": "connection_refused", "gpu9": "timeout"}

    def test_the_same_as_a_table_exits_3(self, product: Product) -> None:
        product.lab.fault("gpu3", "refuse")
        assert product("status") == 3
        assert product.out.splitlines()[0].split() == [
            "HOST",
            "STATE",
            "ADDRESS",
            "PORT",
            "MEMORY",
            "UPTIME",
            "KEY",
        ]
        # In a pipe, the rows come as the hosts answer.
        assert sorted(line.split()[:2] for line in product.out.splitlines()[1:]) == [
            ["gpu2", "stopped"],
            ["gpu3", "connection"],
            ["gpu4", "stopped"],
        ]

    def test_all_hosts_failing_alike_give_their_own_code(self, product: Product) -> None:
        for host in ("gpu2", "gpu3", "gpu4"):
            product.lab.fault(host, "refuse")
        assert product("status") == 5

    def test_a_hanging_manage_shell_ends_in_time(self, product: Product) -> None:
        product.lab.fault("gpu2", "hang")
        assert product("status", "gpu2", "--timeout", "0.5") == 5

    def test_a_glob_chooses(self, product: Product) -> None:
        assert list(product.hosts("status", "gpu[34]")) == ["gpu3", "gpu4"]

    def test_a_named_host_tells_how_long_its_container_has_been_up(self, product: Product) -> None:
        product("up", "gpu2")
        found = product.hosts("status", "gpu2", "gpu3")
        assert 0 <= found["gpu2"]["uptime"] < 60
        assert found["gpu3"]["uptime"] is None

    def test_no_login_yet_asks_iam_for_the_hosts(self, product: Product) -> None:
        assert not (Path(product.lab.environment["APEXGPU_STATE_DIR"]) / "account.json").exists()
        assert len(product.hosts("status")) == 3


class TestExec:
    def test_one_host_passes_output_and_status_through(self, product: Product) -> None:
        product("up", "gpu2")
        assert product("exec", "gpu2", "--", "echo out; echo err >&2; exit 9") == 9
        assert (product.out, product.err) == ("out\n", "err\n")

    def test_words_are_quoted_and_a_single_one_is_a_script(self, product: Product) -> None:
        product("up", "gpu2")
        assert product("exec", "gpu2", "--", "printf", "%s|", "a b", "$HOME", "*") == 0
        assert product.out == "a b|$HOME|*|"

    def test_the_lines_of_many_hosts_have_their_names(self, product: Product) -> None:
        product("up", "gpu2", "gpu3")
        assert product("exec", "gpu3", "gpu2", "--", "hostname") == 0
        lines = sorted(product.out.splitlines())
        assert lines == ["gpu2  gpu2-alice", "gpu3  gpu3-alice"]

    def test_a_stopped_one_among_them_is_3(self, product: Product) -> None:
        product("up", "gpu2")
        assert product("exec", "gpu2", "gpu3", "--", "true") == 3
        assert "apexgpu up gpu3" in product.err

    def test_json_holds_every_answer(self, product: Product) -> None:
        product("up", "gpu2")
        product.capsys.readouterr()
        code = cli.main(
            ["exec", "--json", "gpu2", "--", "echo out; exit 4"], Session(environment=os.environ)
        )
        document = json.loads(product.capsys.readouterr().out)
        assert code == 4
        assert document["hosts"] == [
            {
                "host": "gpu2",
                "ok": True,
                "error": None,
                "exit": 4,
                "stdout": "out\n",
                "stderr": "",
                "truncated": False,
            }
        ]

    def test_control_characters_of_many_hosts_are_escaped(self, product: Product) -> None:
        product("up", "gpu2", "gpu3")
        assert product("exec", "gpu2", "gpu3", "--", r"printf 'a\033[31mb\n'") == 0
        assert "\x1b" not in product.out
        assert "\\x1b[31m" in product.out


class TestSsh:
    def test_passes_the_remote_status_through(self, product: Product) -> None:
        product("up", "gpu2")
        assert product("ssh", "gpu2", "--", "exit 5") == 5
        config = product.lab.layout.ssh_config
        config.write_text(config.read_text() + "Host *\n    RemoteCommand exit 6\n")
        assert product("ssh", "gpu2", "--", "exit 5") == 5

    @pytest.mark.parametrize("path", ["all", "%r-%p"])
    def test_goes_to_the_host_although_the_users_own_connections_cannot_be_told_apart(
        self, product: Product, path: str
    ) -> None:
        product("up", "gpu2", "gpu3")
        config = product.lab.layout.ssh_config
        with tempfile.TemporaryDirectory(prefix="c-") as sockets:
            config.write_text(
                f"{config.read_text()}Host *\n    ControlMaster auto\n    ControlPath {sockets}/{path}\n"
            )
            other = ["ssh", "-F", str(config)]
            subprocess.run([*other, "-f", "-N", "gpu3"], check=True, stderr=subprocess.DEVNULL)
            try:
                assert product("ssh", "gpu2", "--", 'test "$(hostname)" = gpu2-alice') == 0
            finally:
                subprocess.run([*other, "-O", "exit", "gpu3"], check=True, capture_output=True)

    def test_a_stopped_container_without_a_terminal_is_6(self, product: Product) -> None:
        assert product("ssh", "gpu2", "--", "true") == 6
        assert "apexgpu up gpu2" in product.err

    def test_starts_a_stopped_container_when_told_yes(self, product: Product) -> None:
        assert product("ssh", "--yes", "gpu2", "--", "true") == 0
        assert product.hosts("status")["gpu2"]["running"]


class TestOpenConnections:
    """What changes an account or a container ends the open connections to it."""

    @pytest.fixture
    def connected(self, product: Product) -> Product:
        """gpu2's container runs, and connections to its host and to itself are open."""
        settings = Path(product.lab.environment["APEXGPU_CONFIG_DIR"]) / "config.toml"
        settings.write_text("keep_connections = true\n")
        recipes = settings.parent / "recipes"
        recipes.mkdir()
        (recipes / "tool.toml").write_text(
            'summary = "a tool"\n[[steps]]\nname = "one"\ntitle = "one"\ndone = "test -e ~/one"\ndo = "touch ~/one"\n'
        )
        assert product("up", "gpu2", "--accept-new") == 0, product.err
        return product

    @pytest.mark.openssh
    @pytest.mark.parametrize(
        "words",
        [
            ("register", "gpu2"),
            ("recover", "gpu2", "--yes", "--no-snapshot"),
            ("rebuild", "gpu2", "--yes", "--no-snapshot"),
            ("setup", "gpu2", "tool", "--yes"),
        ],
        ids=lambda words: words[0],
    )
    def test_are_ended_by_what_changes_the_account_or_the_container(
        self, connected: Product, words: tuple[str, ...]
    ) -> None:
        if words[0] == "recover":
            assert connected("snapshot", "gpu2", "--yes") == 0, connected.err
            assert connected("up", "gpu2") == 0, connected.err

        def masters() -> set[int]:
            return {one.process.pid for one in controlmaster.list_open() if not one.starts_others}

        def are_open() -> bool:
            connected("status", "gpu2")
            connected("exec", "gpu2", "--", "true")
            return len(masters()) == len(("the host", "the container"))

        until(are_open)
        before = masters()
        assert connected(*words) == 0, connected.err
        until(lambda: masters().isdisjoint(before))  # ssh ends a moment after it was told to
