"""login, logout and whoami against the lab: a whole first day, a second one, and which key is taken."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from apexgpu.iam import passwords
from apexgpu.iam.publickeys import parse_all
from apexgpu.sshfiles.configblock import managed_hosts
from apexgpu.sshfiles.keys import generate
from tests.cli.newcomer import FOREIGN, LIMIT, Newcomer, Said, ended

pytestmark = pytest.mark.openssh

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


def key(path: Path, kind: str = "ed25519", comment: str = "") -> str:
    """Make a key pair; the line of its public half."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    size = ["-b", "2048"] if kind == "rsa" else []
    argv = [
        "ssh-keygen",
        "-q",
        "-t",
        kind,
        *size,
        "-N",
        "",
        "-C",
        comment or path.name,
        "-f",
        str(path),
    ]
    subprocess.run(argv, check=True, timeout=LIMIT)
    return path.with_name(path.name + ".pub").read_text().strip()


def blob(line: str) -> str:
    """What identifies a key."""
    return parse_all(line)[0].blob


@dataclass
class Vault:
    """An agent at a socket that only the ssh config names, as those of 1Password and Secretive."""

    process: "subprocess.Popen[bytes]"
    socket: Path
    keys: Path

    def add(self, name: str, kind: str = "ed25519") -> str:
        """Make a key that only this agent has; the line of its public half."""
        line = key(self.keys / name, kind)
        subprocess.run(
            ["ssh-add", "-q", str(self.keys / name)],
            check=True,
            timeout=LIMIT,
            capture_output=True,
            env={**os.environ, "SSH_AUTH_SOCK": str(self.socket)},
        )
        (self.keys / name).unlink()
        return line


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    socket = tmp_path / "Group Containers" / "agent.sock"
    socket.parent.mkdir()
    argv = ["ssh-agent", "-D", "-a", str(socket)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        agent.stdout.readline()
        yield Vault(agent, socket, tmp_path / "vault")
        agent.kill()


class TestTheFirstDay:
    """The real program at a terminal, from an empty HOME."""

    @pytest.fixture
    def session(self, new: Newcomer) -> Newcomer:
        with new.at_terminal("login") as child:
            for question, answer in (
                ("Your domain account: ", "alice"),
                (r"Passphrase for the new key \(empty for none\): ", "a phrase"),
                ("The same passphrase again: ", "a phrase"),
                ("Domain password of alice: ", new.password()),
                (r"Write this into .*config\? \[y/N\]: ", "y"),
                (r"Trust all of them\? \[y/N\]: ", "y"),
            ):
                child.expect(question)
                child.sendline(answer)
            assert ended(child) == 0, new.heard
        return new

    def test_makes_a_key_with_a_passphrase_and_sends_it(self, session: Newcomer) -> None:
        private = session.ssh / "id_ed25519"
        assert private.stat().st_mode & 0o777 == 0o600
        argv = ["ssh-keygen", "-y", "-P", "a phrase", "-f", str(private)]
        public = subprocess.run(
            argv, check=True, capture_output=True, text=True, timeout=LIMIT
        ).stdout
        assert session.stored().count("\n") == 1
        assert blob(session.stored()) == blob(public)

    def test_writes_the_hosts_into_the_ssh_config(self, session: Newcomer) -> None:
        assert [
            (host.name, host.user, host.port) for host in managed_hosts(session.config.read_bytes())
        ] == [
            ("gpu2", "alice", 22001),
            ("gpu3", "alice", 22001),
        ]
        assert session.config.stat().st_mode & 0o777 == 0o600

    def test_asks_for_the_keys_of_all_hosts_in_one_table(self, session: Newcomer) -> None:
        (heard,) = session.heard
        table = heard[heard.index("These hosts show keys") : heard.index("Trust all of them")]
        assert table.count("SHA256:") == 2
        assert heard.count("Trust all of them") == 1
        assert len((session.ssh / "known_hosts").read_text().splitlines()) == 2

    def test_names_the_next_step(self, session: Newcomer) -> None:
        assert "You are logged in." in session.heard[0]
        assert "Next: apexgpu register gpu2" in session.heard[0]

    def test_no_spinner_is_drawn_over_a_question(self, session: Newcomer) -> None:
        for question in ("Domain password of alice: ", "[y/N]: "):
            after = session.heard[0].partition(question)[2]
            # Where IAM answers at once, no spinner is drawn before the change of the ssh config is shown.
            assert after.lstrip("\r\n\f").startswith(("✓", "--- ", *SPINNER)), after[:80]
            assert session.heard[0].partition(question)[0].rpartition("\n")[2].count("…") <= 1

    def test_neither_password_nor_passphrase_is_anywhere(self, session: Newcomer) -> None:
        for secret in (session.password(), "a phrase"):
            assert not [path for path, data in session.files().items() if secret.encode() in data]
            assert secret not in session.heard[0]

    def test_the_second_login_asks_and_changes_nothing(self, session: Newcomer) -> None:
        before = session.files()
        session.spy.posts.clear()
        # The key has a passphrase and no agent holds it: to ask the hosts, it has to be typed.
        with session.at_terminal("login") as child:
            child.expect("Passphrase for .*id_ed25519")
            child.sendline("a phrase")
            assert ended(child) == 0
        assert "Nothing to change: you are logged in" in session.heard[-1]
        assert session.spy.posts == []
        assert session.files() == before


def test_a_second_login_posts_nothing_and_touches_no_file(member: Newcomer) -> None:
    before = {path: Path(path).stat().st_mtime_ns for path in member.files()}
    said = member.run("login")
    assert said.code == 0
    assert "Nothing to change: you are logged in, and your ssh config is up to date." in said.out
    assert member.spy.posts == []
    assert {path: Path(path).stat().st_mtime_ns for path in member.files()} == before
    assert member.run("login", "--json").json["changed"] is False


def test_what_json_tells(new: Newcomer) -> None:
    document = new.log_in("--json").json
    assert document["ok"]
    assert document["changed"]
    assert document["user"] == "alice"
    assert document["key"]["path"] == str(new.ssh / "id_ed25519")
    assert document["key"]["fingerprint"].startswith("SHA256:")
    assert document["hosts"] == [
        {"key_accepted": False, "host": name, "ok": True, "error": None}
        for name in ("gpu2", "gpu3")
    ]


def test_without_a_terminal_the_host_keys_wait(new: Newcomer) -> None:
    said = new.run(
        "login", "alice", "--password-stdin", "--yes", "--json", stdin=f"{new.password()}\n"
    )
    assert said.code == 0
    assert "the host keys of 2 hosts are not confirmed yet" in said.err
    assert "apexgpu login --accept-new" in said.err
    assert not (new.ssh / "known_hosts").exists()
    # IAM's log has told already that neither host has the account.
    assert [row["key_accepted"] for row in said.json["hosts"]] == [False, False]


class TestWhichKey:
    """Agent keys and ~/.ssh/*.pub; ed25519 first, nothing that could not log in, nobody else's."""

    def chosen(self, new: Newcomer, *words: str) -> str:
        said = new.log_in(*words)
        assert said.code == 0, said.err
        return blob(new.stored())

    def test_ed25519_before_others(self, new: Newcomer) -> None:
        key(new.ssh / "id_rsa", "rsa")
        key(new.ssh / "id_ecdsa", "ecdsa")
        line = key(new.ssh / "id_ed25519", "ed25519")
        assert self.chosen(new) == blob(line)

    def test_one_that_ssh_offers_before_a_better_one_that_it_does_not(self, new: Newcomer) -> None:
        line = key(new.ssh / "id_rsa", "rsa")
        key(new.ssh / "work", "ed25519")
        assert self.chosen(new) == blob(line)

    def test_one_in_ssh_s_directory_before_a_new_one(self, new: Newcomer) -> None:
        line = key(new.ssh / "work", "ed25519")
        assert self.chosen(new) == blob(line)
        assert f"IdentityFile {new.ssh / 'work'}" in new.config.read_text()

    def test_the_one_that_the_config_names_before_all(self, new: Newcomer) -> None:
        key(new.ssh / "id_ed25519")
        (new.ssh / "keys").mkdir()
        line = key(new.ssh / "keys" / "my work", "rsa")
        new.configure(f'Host gpu*\n  IdentityFile "{new.ssh}/keys/my work"\n')
        said = new.log_in()
        assert said.code == 0, said.err
        assert "made a new key" not in said.err
        assert blob(new.stored()) == blob(line)

    def test_one_in_an_agent_that_the_config_names(self, new: Newcomer, vault: Vault) -> None:
        line = vault.add("in_vault")
        new.configure(f'Host *\n  IdentityAgent "{vault.socket}"\n')
        with new.at_terminal("login", "alice", "--yes", "--accept-new") as child:
            child.expect("Domain password")
            child.sendline(new.password())
            assert ended(child) == 0
        assert blob(new.stored()) == blob(line)
        rows = new.run("keys", "list", "--json").json["keys"]
        assert [row["known"] for row in rows] == [["iam", "agent", "login"]]
        public = new.home / "in_vault.pub"
        public.write_text(line + "\n")
        with new.at_terminal("login", "--key", str(public), "--yes", "--accept-new") as child:
            assert ended(child) == 0

    @pytest.mark.parametrize("state", ["empty", "gone", "silent"])
    def test_no_key_file_is_made_where_the_keys_are_in_a_vault(
        self, new: Newcomer, vault: Vault, state: str
    ) -> None:
        if state == "gone":
            vault.process.kill()
            vault.process.wait(LIMIT)
        if state == "silent":
            vault.process.send_signal(signal.SIGSTOP)
        new.configure(f'Host *\n  IdentityAgent "{vault.socket}"\n')
        said = new.log_in()
        assert said.code == 7
        assert f"the agent {vault.socket} (IdentityAgent in your ssh config) has no key" in said.err
        assert "hint: ssh-keygen -t ed25519" in said.err
        assert ("does not answer" in said.err) == (state == "silent")
        assert new.spy.posts == []
        assert [path.name for path in new.ssh.iterdir()] == ["config"]

    def test_a_key_file_is_made_beside_a_vault_if_the_user_asks_for_it(
        self, new: Newcomer, vault: Vault
    ) -> None:
        new.configure(f'Host *\n  IdentityAgent "{vault.socket}"\n')
        with new.at_terminal("login", "alice") as child:
            child.expect(r"Make a new key file anyway\? \[y/N\]: ")
            child.sendline("y")
            child.expect("Passphrase for the new key")
            child.sendline("")
            child.expect("Domain password of alice: ")
            child.sendline(new.password())
            child.expect("Write this into")
            child.sendline("n")
            assert ended(child) == 7
        assert (new.ssh / "id_ed25519").exists()

    def test_one_for_another_server_only_if_the_user_agrees(self, new: Newcomer) -> None:
        line = key(new.ssh / "github")
        (new.ssh / "conf.d").mkdir()
        (new.ssh / "conf.d" / "git").write_text(
            f"Host github.com *.github.com\n  IdentityFile {new.ssh}/github\n"
        )
        new.configure(f"Include {new.ssh}/conf.d/*\n")
        said = new.log_in("--json")
        assert said.json["key"]["path"] == str(new.ssh / "id_ed25519")
        assert f"your ssh config uses the key {new.ssh / 'github'} for github.com" in said.err
        assert new.run("logout").code == 0
        (new.ssh / "id_ed25519").unlink()
        new.store("")
        with new.at_terminal("login", "alice") as child:
            child.expect(r"for github.com. Use it for the lab too\? \[y/N\]: ")
            child.sendline("y")
            child.expect("Domain password of alice: ")
            child.sendline(new.password())
            child.expect("Write this into")
            child.sendline("n")
            assert ended(child) == 7
        assert blob(new.stored()) == blob(line)

    def test_the_choice_lasts_until_another_is_made(self, new: Newcomer) -> None:
        key(new.ssh / "id_ed25519")
        line = key(new.ssh / "work", "rsa")
        assert new.log_in("--key", str(new.ssh / "work")).code == 0
        for _ in range(2):
            said = new.log_in("--json")
            assert said.json["key"]["path"] == str(new.ssh / "work")
            assert not said.json["changed"]
        (new.ssh / "work").unlink()
        said = new.log_in("--json")
        assert "the key of your last login" in said.err
        assert said.json["key"]["path"] == str(new.ssh / "id_ed25519")
        assert blob(line) in new.stored()

    def test_a_file_that_this_ssh_cannot_read_is_not_chosen_and_the_way_out_is_shown(
        self, new: Newcomer
    ) -> None:
        new.ssh.mkdir(mode=0o700, exist_ok=True)
        path = new.ssh / "id_ed25519"
        argv = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)]
        subprocess.run(argv, check=True, timeout=LIMIT, capture_output=True)
        path.chmod(0o600)
        argv = ["ssh-keygen", "-y", "-P", "", "-f", str(path)]
        readable = subprocess.run(argv, check=False, capture_output=True, timeout=LIMIT)
        said = new.log_in("--json")
        assert said.code == 0, said.err
        if readable.returncode == 0:  # OpenSSH 10 can
            assert said.json["key"]["path"] == str(path)
            return
        assert said.json["key"]["path"] == str(new.ssh / "id_ed25519_apexgpu")
        hint = re.search(r"hint: (.*convertkey.*)", said.err)
        assert "an ed25519 key in PKCS#8 format" in said.err
        assert hint
        subprocess.run(hint[1], shell=True, check=True, timeout=LIMIT, capture_output=True)
        assert new.log_in("--key", f"{path}_openssh").code == 0

    def test_none_without_its_private_half(self, new: Newcomer) -> None:
        key(new.ssh / "id_ed25519")
        (new.ssh / "id_ed25519").unlink()
        line = key(new.ssh / "id_rsa", "rsa")
        assert self.chosen(new) == blob(line)

    @pytest.mark.skipif(
        os.name != "posix" or os.getuid() != 0, reason="only root can give a file away"
    )
    def test_none_of_another_user(self, new: Newcomer) -> None:
        key(new.ssh / "id_ed25519")
        for name in ("id_ed25519", "id_ed25519.pub"):
            os.chown(new.ssh / name, 12345, 12345)
        line = key(new.ssh / "id_rsa", "rsa")
        assert self.chosen(new) == blob(line)

    def test_one_of_the_agent(
        self, new: Newcomer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        line = key(tmp_path / "elsewhere" / "agent_key")
        key(new.ssh / "id_ed25519")
        socket = tmp_path / "agent"
        argv = ["ssh-agent", "-D", "-a", str(socket)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as agent:
            assert agent.stdout is not None
            agent.stdout.readline()
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
            argv = ["ssh-add", "-q", str(tmp_path / "elsewhere" / "agent_key")]
            subprocess.run(argv, check=True, timeout=LIMIT, capture_output=True)
            with new.at_terminal("login", "alice", "--yes", "--accept-new") as child:
                child.expect("Domain password")
                child.sendline(new.password())
                assert ended(child) == 0
            assert blob(new.stored()) == blob(line)
            assert new.run("keys", "list", "--json").json["keys"][0]["known"] == [
                "iam",
                "agent",
                "login",
            ]
            agent.kill()
        (pinned,) = (new.state / "keys").iterdir()
        assert blob(pinned.read_text()) == blob(line)
        assert (pinned.stat().st_mode & 0o777, pinned.parent.stat().st_mode & 0o777) == (
            0o600,
            0o700,
        )
        assert new.config.read_text().count(f"IdentityFile {pinned}\n    IdentitiesOnly yes") == 4
        assert new.run("logout").code == 0
        assert not pinned.exists()

    def test_the_one_that_iam_has_already(self, new: Newcomer) -> None:
        key(new.ssh / "id_ed25519")
        new.store(FOREIGN + key(new.ssh / "id_rsa", "rsa") + "\n")
        said = new.log_in()
        assert said.code == 0
        assert "IAM had your key" in said.err
        assert new.spy.posts == []

    def test_the_one_that_was_named(self, new: Newcomer) -> None:
        key(new.ssh / "id_ed25519")
        line = key(new.ssh / "id_rsa", "rsa")
        assert self.chosen(new, "--key", str(new.ssh / "id_rsa.pub")) == blob(line)

    def test_its_place_is_remembered_whatever_the_directory(
        self, new: Newcomer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key(new.ssh / "work")
        monkeypatch.chdir(new.ssh)
        assert new.log_in("--key", "work.pub").code == 0
        assert f"IdentityFile {new.ssh / 'work'}" in new.config.read_text()
        monkeypatch.chdir("/")
        assert new.run("register", "gpu2").code == 0

    def test_one_whose_passphrase_nobody_gives_is_named(self, new: Newcomer) -> None:
        made = generate(new.ssh / "id_ed25519", comment="mine", passphrase="a phrase")
        assert new.log_in().code == 0
        new.spy.posts.clear()
        said = new.run("register", "gpu2")
        assert said.code == 7
        assert f"hint: ssh-add {made.path}" in said.err
        assert new.spy.posts == []  # as if the register account had somebody else's key

    def test_a_named_one_without_private_half_is_refused_before_anything_is_sent(
        self, new: Newcomer
    ) -> None:
        key(new.ssh / "id_ed25519")
        (new.ssh / "id_ed25519").unlink()
        said = new.log_in("--key", str(new.ssh / "id_ed25519.pub"))
        assert said.code == 2
        assert "its private key is neither in" in said.err
        assert " hint: " in said.err
        assert (new.spy.posts, new.config.exists()) == ([], False)

    def test_a_new_one_goes_to_a_spare_name_and_overwrites_nothing(self, new: Newcomer) -> None:
        new.ssh.mkdir(mode=0o700)
        (new.ssh / "id_ed25519").write_text("something of the user's\n")
        assert new.log_in().code == 0
        assert (new.ssh / "id_ed25519").read_text() == "something of the user's\n"


class TestWhereTheKeyWorks:
    """ "The key works" is about this key, whatever else logs in."""

    @pytest.fixture
    def registered(self, new: Newcomer) -> Newcomer:
        new.lab.call(
            lambda lab_state: [
                lab_state.register(host, "alice") for host in lab_state.hosts.values()
            ]
        )
        key(new.ssh / "id_ed25519")
        assert "the key works on gpu2, gpu3" in new.log_in().err
        new.spy.posts.clear()
        return new

    def test_another_key_that_logs_in_proves_nothing_for_this_one(
        self, registered: Newcomer
    ) -> None:
        registered.configure(
            registered.config.read_text() + f"\nIdentityFile {registered.ssh}/id_ed25519\n"
        )
        key(registered.ssh / "new")
        registered.lab.fault("iam", "stuck-pusher", 1)  # the new key reaches gpu2 only
        said = registered.log_in("--key", str(registered.ssh / "new"), "--timeout", "2", "--json")
        rows = {row["host"]: row["key_accepted"] for row in said.json["hosts"]}
        assert rows == {"gpu2": True, "gpu3": False}
        assert "another key of yours logs in, but this one does not yet: gpu3" in said.err

    def test_hosts_that_missed_the_push_get_the_key_with_the_next_login_once(
        self, registered: Newcomer
    ) -> None:
        line = key(registered.ssh / "new")
        # IAM has the key, and no host got it: as if all were down during the push.
        registered.store(f"{registered.stored()}{line}\n")
        said = registered.log_in("--key", str(registered.ssh / "new"), "--json")
        assert "You are registered on gpu2, gpu3, but your key is not there" in said.err
        assert "the key works on gpu2, gpu3" in said.err
        assert said.json["changed"]
        assert len(registered.spy.posts) == 1
        said = registered.log_in()
        assert "Nothing to change" in said.out
        assert len(registered.spy.posts) == 1

    def test_hosts_that_a_second_push_did_not_help_are_not_pushed_to_again(
        self, registered: Newcomer
    ) -> None:
        line = key(registered.ssh / "new")
        registered.store(f"{registered.stored()}{line}\n")
        registered.lab.fault("iam", "stuck-pusher", 1)
        words = ("--key", str(registered.ssh / "new"), "--timeout", "2")
        said = registered.log_in(*words)
        assert "sending your keys to IAM again, once" in said.err
        assert "gpu3" in said.err.partition("this one does not yet")[2] or (
            "has not arrived, or not registered yet: gpu3" in said.err
        )
        assert len(registered.spy.posts) == 1
        said = registered.log_in(*words)
        assert "again" not in said.err
        assert len(registered.spy.posts) == 1


class TestOtherKeys:
    """What IAM holds of the user's stays, whoever else writes."""

    def test_every_other_line_survives(self, new: Newcomer) -> None:
        new.store(FOREIGN)
        assert new.log_in().code == 0
        assert new.stored().startswith(FOREIGN)
        assert new.stored().count("\n") == 3

    def test_someone_who_writes_between_read_and_post_is_merged(self, new: Newcomer) -> None:
        other = generate(new.home / "other", comment="other", passphrase=None).public.line + "\n"

        def write() -> None:
            # Once, right after our post: what we read before is old now.
            new.spy.after_post = lambda: None
            new.store(other)

        new.spy.after_post = write
        assert new.log_in().code == 0
        assert len(new.spy.posts) == 2
        assert {one.blob for one in parse_all(new.stored())} >= {blob(other)}
        assert len(parse_all(new.stored())) == 2

    def test_someone_who_never_stops_is_not_fought_for_ever(self, new: Newcomer) -> None:
        new.spy.after_post = lambda: new.store(FOREIGN)
        said = new.log_in()
        assert said.code == 6
        assert "someone else is changing them too" in said.err
        assert len(new.spy.posts) == 5


class TestPassword:
    def test_is_nowhere_but_in_the_form(self, new: Newcomer) -> None:
        password = new.password()
        assert new.log_in("--debug").code == 0
        assert new.log_in("--debug", "--key", "/nowhere").code == 2
        wrong = new.run(
            "login",
            "alice",
            "--password-stdin",
            "--yes",
            "--debug",
            "--key",
            self.other(new),
            stdin="not-the-password\n",
        )
        assert wrong.code == 4
        assert [post["password"] for post in new.spy.posts] == [password, "not-the-password"]
        for secret in (password, "not-the-password"):
            assert not any(secret in text for text in new.heard)
            assert not [path for path, data in new.files().items() if secret.encode() in data]

    def other(self, new: Newcomer) -> str:
        key(new.ssh / "other")
        return str(new.ssh / "other")

    def test_a_wrong_one_is_4_with_a_hint(self, new: Newcomer) -> None:
        new.store(FOREIGN)
        said = new.run("login", "alice", "--password-stdin", "--yes", stdin="wrong\n")
        self.refused(new, said)
        assert len(new.spy.posts) == 1

    @pytest.mark.parametrize("stdin", ["", "\n", "\r\n"])
    def test_an_empty_one_is_never_sent(self, new: Newcomer, stdin: str) -> None:
        new.store(FOREIGN)
        self.refused(new, new.run("login", "alice", "--password-stdin", "--yes", stdin=stdin))
        assert new.spy.posts == []

    def refused(self, new: Newcomer, said: Said) -> None:
        assert said.code == 4
        assert "password" in said.err
        assert " hint: " in said.err
        assert new.stored() == FOREIGN
        assert not new.config.exists()

    def test_without_a_terminal_the_option_is_named(self, new: Newcomer) -> None:
        said = new.run("login", "alice", "--yes")
        assert said.code == 7
        assert "--password-stdin" in said.err
        assert new.run("login", "--yes", "--json").json["error"]["hint"] == "apexgpu login --help"

    def test_one_that_worked_is_kept_in_the_keyring_unless_that_is_not_wanted(
        self, new: Newcomer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ring = Ring()
        monkeypatch.setattr(passwords, "_configured", lambda: ring)
        assert new.log_in("--no-save-password").code == 0
        assert ring.kept == {}
        new.store("")
        assert new.log_in().code == 0
        assert ring.kept == {("apexgpu", f"alice@{new.spy.url}"): new.password()}
        new.store("")
        assert new.run("login", "--yes").code == 0  # nobody was asked
        assert len(new.spy.posts) == 3

    def test_a_stale_one_is_forgotten_and_logout_forgets_a_good_one(
        self, member: Newcomer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entry = ("apexgpu", f"alice@{member.spy.url}")
        ring = Ring({entry: "of last year"})
        monkeypatch.setattr(passwords, "_configured", lambda: ring)
        member.store("")
        assert member.run("login", "--yes").code == 4
        assert ring.kept == {}
        ring.kept[entry] = member.password()
        assert member.run("logout").code == 0
        assert ring.kept == {}


class Ring:
    """A keyring of this test's."""

    def __init__(self, kept: dict[tuple[str, str], str] | None = None) -> None:
        self.kept = kept or {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]
