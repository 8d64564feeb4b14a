"""login when something is wrong: IAM down, hanging, hostile or stuck; plain http; a no at a prompt; register."""

import os
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pexpect
import pytest

from tests.cli.newcomer import FOREIGN, Newcomer, Spy, ended

pytestmark = pytest.mark.openssh


def assert_nothing_changed(new: Newcomer, before: dict[str, bytes]) -> None:
    assert new.spy.posts == []
    assert new.stored() == FOREIGN
    assert new.files() == before


@pytest.fixture
def before(new: Newcomer) -> dict[str, bytes]:
    """IAM knows the user; every file as it is before the program runs."""
    new.store(FOREIGN)
    return new.files()


class TestIamInTrouble:
    """The right exit code, a hint, and nothing made, sent or written."""

    @pytest.mark.parametrize(
        ("fault", "code", "words"),
        [
            ("down", 5, "refused"),
            ("hang", 5, "did not answer within 0.3 s"),
            ("html", 2, "IAM's .ssh/config line 1"),
            ("garbled-config", 2, "not printable ASCII"),
        ],
    )
    def test_nothing_is_changed(
        self,
        new: Newcomer,
        before: dict[str, bytes],
        monkeypatch: pytest.MonkeyPatch,
        fault: str,
        code: int,
        words: str,
    ) -> None:
        monkeypatch.setenv("APEXGPU_IAM_URL", new.lab.iam_url)
        new.lab.fault("iam", fault)
        said = new.log_in("--timeout", "0.3" if fault == "hang" else "5")
        assert said.code == code
        assert words in said.err
        assert " hint: " in said.err
        assert_nothing_changed(new, before)
        new.lab.clear("iam", fault)
        assert new.log_in().code == 0

    @pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
    def test_a_config_that_is_no_file_costs_no_key(
        self, new: Newcomer, make: Callable[[Path], None]
    ) -> None:
        new.ssh.mkdir(exist_ok=True)
        make(new.config)
        said = new.log_in()
        assert (said.code, said.err.count(f"{new.config} is not a regular file")) == (2, 1)
        assert new.spy.posts == []
        assert [path.name for path in new.ssh.iterdir()] == [new.config.name]

    def test_a_locked_database_is_tried_again(self, new: Newcomer) -> None:
        new.lab.fault("iam", "db-locked", 1)
        assert new.log_in().code == 0
        assert len(new.spy.posts) == 2

    def test_a_database_that_stays_locked_is_6(self, new: Newcomer) -> None:
        new.store(FOREIGN)
        new.lab.fault("iam", "db-locked")
        said = new.log_in()
        assert said.code == 6
        assert "its database is locked" in said.err
        assert new.stored() == FOREIGN
        assert not new.config.exists()

    def test_an_answer_in_the_place_of_the_form_gets_no_password(
        self, new: Newcomer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # What a captive portal does: every address answers with its own page.
        monkeypatch.setattr(new.spy, "forward", lambda handler, _body: _portal(handler))
        said = new.log_in()
        assert said.code == 6
        assert "this is not the lab's IAM" in said.err
        assert new.spy.posts == []

    def test_somebody_unknown_in_the_domain(self, new: Newcomer) -> None:
        said = new.run("login", "mallory", "--password-stdin", "--yes", stdin="something\n")
        assert said.code == 4
        assert "mallory is unknown in the domain" in said.err
        assert not new.ssh.exists()  # no key was made for nobody

    def test_somebody_without_a_display_name(self, new: Newcomer) -> None:
        said = new.run("login", "dave", "--password-stdin", "--yes", stdin="something\n")
        assert said.code == 6
        assert "no display name" in said.err

    def test_capital_letters_are_said_and_not_sent(self, new: Newcomer) -> None:
        said = new.run("login", "ALICE", "--password-stdin", "--yes", stdin=f"{new.password()}\n")
        assert said.code == 0
        assert "Using alice: for IAM, ALICE is another user" in said.err
        assert new.stored("ALICE") == ""

    def test_a_name_that_is_none(self, new: Newcomer) -> None:
        assert new.run("login", "a/b", "--password-stdin", stdin="x\n").code == 2
        assert new.spy.gets == []


def _portal(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    handler.wfile.write(b"<html>Welcome! Please log in.</html>")


class TestStuckPusher:
    """IAM 11: the wait is bounded, and the hosts themselves are asked."""

    def test_each_host_tells_whether_it_has_the_key(self, new: Newcomer) -> None:
        new.lab.call(
            lambda lab_state: [
                lab_state.register(host, "alice") for host in lab_state.hosts.values()
            ]
        )
        new.lab.fault("iam", "stuck-pusher")  # dies at the second host
        said = new.log_in("--timeout", "5", "--json")
        assert said.code == 0
        assert "IAM's pusher looks stuck" in said.err
        assert "An administrator can restart IAM" in said.err
        assert "the key works on gpu2" in said.err
        assert "the key has not arrived, or not registered yet: gpu3" in said.err
        assert [row["key_accepted"] for row in said.json["hosts"]] == [True, False]

    def test_one_that_never_began_on_this_key(self, new: Newcomer) -> None:
        new.lab.fault("iam", "stuck-pusher")
        assert new.log_in("--timeout", "3", user="bob").code == 0
        said = new.log_in("--timeout", "3")
        assert said.code == 0
        assert "IAM did not start on your keys; its pusher may be stuck on another one" in said.err

    def test_a_silent_host_that_stops_the_pusher_costs_its_own_row_only(
        self, new: Newcomer
    ) -> None:
        new.lab.fault("gpu2", "silent")
        said = new.log_in("--timeout", "5", "--json")
        assert said.code == 0
        assert "IAM's pusher looks stuck" in said.err
        rows = {row["host"]: row for row in said.json["hosts"]}
        assert rows["gpu2"]["error"]["code"] == "timeout"
        assert rows["gpu3"]["ok"]


class TestPlainHttp:
    """An IAM beyond this machine, reached through a proxy that is the spy: nothing leaves the loopback."""

    URL = "http://iam.apexlab.org"

    @pytest.fixture(autouse=True)
    def _proxy(self, new: Newcomer, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, new.spy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "")
        monkeypatch.delenv("APEXGPU_IAM_URL")  # the default is plain http

    def test_without_a_terminal_it_is_7_and_names_the_option(self, new: Newcomer) -> None:
        said = new.log_in()
        assert said.code == 7
        assert f"{self.URL} is plain http" in said.err
        assert "--allow-http" in said.err
        assert new.spy.gets == []

    def test_the_option_allows_it_once_and_for_all(self, new: Newcomer) -> None:
        assert new.log_in("--allow-http").code == 0
        new.store("")
        assert new.log_in().code == 0
        assert len(new.spy.posts) == 2

    def test_another_url_is_another_question(self, new: Newcomer) -> None:
        assert new.log_in("--allow-http").code == 0
        assert new.log_in("--iam-url", "http://iam.example.org").code == 7

    def test_another_proxy_is_another_question(
        self, new: Newcomer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert new.log_in("--allow-http").code == 0
        with Spy(new.lab.iam_url).serving() as other:
            monkeypatch.setenv("http_proxy", other.url)
            monkeypatch.setenv("HTTP_PROXY", other.url)
            said = new.log_in()
            assert said.code == 7
            assert f"through the proxy {other.url}" in said.err
            assert other.gets == []
            assert new.log_in("--allow-http").code == 0
            assert other.gets != []

    def test_a_bare_name_is_tried_with_tls_first(self, new: Newcomer) -> None:
        said = new.log_in("--iam-url", "iam.apexlab.org")
        assert said.code == 7
        assert f"{self.URL} is plain http" in said.err
        assert new.spy.connects == ["iam.apexlab.org:443"]
        assert new.log_in("--iam-url", "iam.apexlab.org", "--allow-http").code == 0

    def test_a_person_is_asked_once_and_may_say_no(self, new: Newcomer) -> None:
        with new.at_terminal("login", "alice") as child:
            child.expect(
                r"would be sent unencrypted.*Send the password anyway, now and every time\? \[y/N\]: "
            )
            child.sendline("n")
            assert ended(child) == 7
        assert new.spy.gets == ["/user/nobody/.ssh/config"], "only that IAM answers is known"
        with new.at_terminal("login", "alice", "--accept-new") as child:
            self.answer(child, r"Send the password anyway.*: ", "y")
            self.answer(child, "Passphrase for the new key.*: ", "")
            self.answer(child, "Domain password of alice: ", new.password())
            self.answer(child, r"Write this into .*\[y/N\]: ", "y")
            assert ended(child) == 0
        assert new.run("login").code == 0

    def answer(self, child: "pexpect.spawn[str]", question: str, answer: str) -> None:
        child.expect(question)
        child.sendline(answer)


class TestPrompts:
    """What is asked at a terminal, and that a no changes nothing more."""

    def test_a_wrong_password_is_said_and_asked_for_again_twice(self, new: Newcomer) -> None:
        with new.at_terminal("login", "alice", "--yes", "--accept-new") as child:
            for password in ("wrong", "wrong again", new.password()):
                child.expect("Domain password of alice: ")
                child.sendline(password)
            assert ended(child) == 0
        assert new.heard[-1].count("IAM refused the password of alice") == 2
        assert [post["password"] for post in new.spy.posts] == [
            "wrong",
            "wrong again",
            new.password(),
        ]

    def test_three_wrong_ones_end_in_4(self, new: Newcomer) -> None:
        with new.at_terminal("login", "alice", "--yes") as child:
            for password in ("a", "", "c"):
                child.expect("Domain password of alice: ")
                child.sendline(password)
            assert ended(child) == 4
        assert len(new.spy.posts) == 2  # the empty one was not sent

    def test_two_passphrases_that_differ_make_no_key(self, new: Newcomer) -> None:
        with new.at_terminal("login", "alice") as child:
            for answer in ("one", "two"):
                child.expect("[Pp]assphrase.*: ")
                child.sendline(answer)
            assert ended(child) == 2
        assert not new.ssh.exists()

    def test_a_no_to_the_ssh_config_leaves_it_alone(self, new: Newcomer) -> None:
        new.ssh.mkdir(mode=0o700)
        new.config.write_text("Host mine\n    User me\n")
        with new.at_terminal("login", "alice", "--accept-new") as child:
            for question, answer in (
                ("Passphrase for the new key.*: ", ""),
                ("Domain password of alice: ", new.password()),
                (r"\+Host gpu2-manage.*Write this into .*\[y/N\]: ", "n"),
            ):
                child.expect(question)
                child.sendline(answer)
            assert ended(child) == 7
        said = " ".join(new.heard[-1].split())
        assert f"but {new.config} was not changed" in said
        assert "error: IAM has your key and this laptop remembers the login" in said
        assert "hint: apexgpu config sync" in said
        assert "nothing was changed" not in said
        assert new.config.read_text() == "Host mine\n    User me\n"

    def test_a_no_to_the_host_keys_trusts_none(self, new: Newcomer) -> None:
        with new.at_terminal("login", "alice", "--yes") as child:
            child.expect("Domain password of alice: ")
            child.sendline(new.password())
            child.expect(r"Trust all of them\? \[y/N\]: ")
            child.sendline("n")
            assert ended(child) == 7
        assert not (new.ssh / "known_hosts").exists()

    @pytest.mark.parametrize(
        "question", ["Passphrase for the new key", "Domain password", "Write this into"]
    )
    def test_ctrl_c_is_130_and_leaves_nothing_half_done(self, new: Newcomer, question: str) -> None:
        answers: dict[str, Callable[[], str]] = {
            "Passphrase for the new key": lambda: "",
            "Domain password": new.password,
            "Write this into": lambda: "y",
        }
        with new.at_terminal("login", "alice", "--accept-new") as child:
            for asked, answer in answers.items():
                child.expect(asked)
                if asked == question:
                    child.sendintr()
                    break
                child.sendline(answer())
            assert ended(child) == 130
        assert "Traceback" not in new.heard[-1]
        assert not new.config.exists()
        assert new.log_in().code == 0

    def test_without_a_terminal_a_first_write_needs_yes(self, new: Newcomer) -> None:
        said = new.run("login", "alice", "--password-stdin", stdin=f"{new.password()}\n")
        assert said.code == 7
        assert "apexgpu config sync --yes" in said.err
        assert not new.config.exists()


class TestRegister:
    def test_one_host(self, new: Newcomer) -> None:
        said = new.log_in("--register", "gpu3", "--json")
        assert said.code == 0
        rows = {row["host"]: row for row in said.json["hosts"]}
        assert rows["gpu3"]["registered"]
        assert "registered" not in rows["gpu2"]
        assert new.run("status", "gpu3", "--json").json["hosts"][0]["registered"]

    def test_all_of_them_and_again(self, new: Newcomer) -> None:
        said = new.log_in("--register-all")
        assert said.code == 0
        assert "Next: apexgpu up gpu2" in said.out
        said = new.log_in("--register-all")
        assert said.code == 0
        assert "Nothing to change" in said.out
        assert "the key works on gpu2, gpu3" in said.err

    def test_a_name_that_is_none_is_refused_before_anything_is_sent(
        self, new: Newcomer, before: dict[str, bytes]
    ) -> None:
        said = new.log_in("--register", "gpu33")
        assert said.code == 2
        assert "did you mean gpu3" in said.err
        assert_nothing_changed(new, before)

    def test_a_host_that_fails_among_them_is_3(self, new: Newcomer) -> None:
        new.lab.fault("gpu3", "iam-down")
        said = new.log_in("--register-all", "--json")
        assert said.code == 3
        assert [row["ok"] for row in said.json["hosts"]] == [True, False]
        assert not said.json["ok"]
