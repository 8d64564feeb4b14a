"""keys list, add, remove; whoami and logout: what IAM holds, and what is left of a login."""

from pathlib import Path

import pytest

from apexgpu.iam.publickeys import fingerprint, parse_all
from apexgpu.sshfiles.keys import generate
from tests.cli.newcomer import FOREIGN, Newcomer, ended

pytestmark = pytest.mark.openssh


@pytest.fixture
def other(new: Newcomer) -> Path:
    """A public key of another machine."""
    made = generate(new.home / "usb" / "id_other", comment="other@laptop", passphrase=None)
    assert made.path is not None
    made.path.unlink()
    return made.path.with_name("id_other.pub")


def mark(path: Path) -> str:
    return fingerprint(parse_all(path.read_text())[0])


def change(laptop: Newcomer, *words: str) -> tuple[int, str, str]:
    """Run a command of `keys` that may need the password; exit code and both outputs."""
    said = laptop.run("keys", *words, "--password-stdin", stdin=f"{laptop.password()}\n")
    return said.code, said.out, said.err


class TestList:
    def test_before_a_login_it_is_4(self, new: Newcomer) -> None:
        said = new.run("keys", "list")
        assert said.code == 4
        assert "apexgpu login" in said.err

    def test_where_each_key_is_known(self, member: Newcomer) -> None:
        member.store(FOREIGN + member.stored())
        rows = member.run("keys", "list", "--json").json["keys"]
        assert [row["known"] for row in rows] == [["iam"], ["iam", "laptop", "login"]]
        assert rows[0]["comment"] == "other laptop"
        assert rows[1]["path"] == str(member.ssh / "id_ed25519")
        said = member.run("keys", "list")
        assert said.code == 0
        assert said.out.split("\n")[0].split() == ["FINGERPRINT", "TYPE", "KNOWN", "TO", "COMMENT"]
        assert "iam, laptop, login" in said.out

    def test_words_of_iam_cannot_drive_the_terminal(self, member: Newcomer) -> None:
        member.store(FOREIGN.replace("other laptop", "\x1b[2J\x1b]0;owned\x07"))
        said = member.run("keys", "list")
        assert "\x1b" not in said.out
        assert "owned" in said.out

    def test_an_iam_that_is_down_is_5(
        self, member: Newcomer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("APEXGPU_IAM_URL", member.lab.iam_url)
        member.lab.fault("iam", "down")
        for words in (("keys", "list"), ("whoami",), ("keys", "remove", "SHA256:abc")):
            document = member.run(*words, "--json")
            assert document.code == 5
            assert document.json["error"]["hint"]


class TestAdd:
    def test_adds_it_and_a_second_time_posts_nothing(self, member: Newcomer, other: Path) -> None:
        before = member.stored()
        code, out, _ = change(member, "add", str(other))
        assert (code, out) == (0, f"IAM now has {mark(other)}.\n")
        assert member.stored() == before + other.read_text()
        said = member.run("keys", "add", str(other))  # no password is needed for nothing
        assert said.code == 0
        assert "Nothing to do" in said.out
        assert len(member.spy.posts) == 1
        document = member.run("keys", "add", str(other), "--json").json
        assert (document["changed"], document["fingerprint"]) == (False, mark(other))

    def test_a_private_file_sends_its_public_half_only(self, member: Newcomer) -> None:
        made = generate(member.home / "second", comment="second", passphrase=None)
        assert change(member, "add", str(made.path))[0] == 0
        assert member.stored().endswith(f"{made.public.line}\n")
        assert "PRIVATE" not in member.spy.posts[0]["keys"]

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "no such file"),
            ("hello\n", "not an ssh key"),
            (FOREIGN * 2, "2 keys, but exactly one is needed"),
        ],
    )
    def test_what_is_no_key_is_2_and_not_sent(
        self, member: Newcomer, content: str | None, words: str
    ) -> None:
        path = member.home / "file.pub"
        if content is not None:
            path.write_text(content)
        code, _, err = change(member, "add", str(path))
        assert code == 2
        assert words in err
        assert " hint: " in err
        assert member.spy.posts == []

    def test_without_a_terminal_the_option_for_the_password_is_named(
        self, member: Newcomer, other: Path
    ) -> None:
        said = member.run("keys", "add", str(other))
        assert said.code == 7
        assert "--password-stdin" in said.err

    def test_a_wrong_password_is_4(self, member: Newcomer, other: Path) -> None:
        before = member.stored()
        said = member.run("keys", "add", str(other), "--password-stdin", stdin="wrong\n")
        assert said.code == 4
        assert member.stored() == before


class TestRemove:
    @pytest.fixture(autouse=True)
    def _stored(self, member: Newcomer, other: Path) -> None:
        member.store(FOREIGN + other.read_text() + member.stored())

    def test_drops_that_line_and_a_second_time_does_nothing(
        self, member: Newcomer, other: Path
    ) -> None:
        before = member.stored()
        code, out, _ = change(member, "remove", mark(other), "--yes")
        assert (code, out) == (0, f"IAM no longer has {mark(other)}.\n")
        assert member.stored() == before.replace(other.read_text(), "")
        said = member.run("keys", "remove", mark(other))
        assert said.code == 0
        assert "Nothing to do" in said.out
        assert len(member.spy.posts) == 1

    def test_the_start_of_a_fingerprint_is_enough(self, member: Newcomer, other: Path) -> None:
        start = mark(other).removeprefix("SHA256:")[:12]
        assert change(member, "remove", start, "--yes")[0] == 0
        assert other.read_text() not in member.stored()

    @pytest.mark.parametrize("text", ["", "SHA256:"])
    def test_a_start_of_all_is_2(self, member: Newcomer, text: str) -> None:
        code, _, err = change(member, "remove", text, "--yes")
        assert code == 2
        assert "apexgpu keys list" in err
        assert member.spy.posts == []

    def test_needs_a_yes(self, member: Newcomer, other: Path) -> None:
        code, _, err = change(member, "remove", mark(other))
        assert code == 7
        assert f"hint: apexgpu keys remove {mark(other)} --yes" in err
        with member.at_terminal("keys", "remove", mark(other)) as child:
            child.expect(r"Remove SHA256:\S+ \(other@laptop\) from IAM\? \[y/N\]: ")
            child.sendline("")
            assert ended(child) == 7
        assert member.spy.posts == []

    def test_for_the_key_of_this_laptop_the_name_has_to_be_typed(self, member: Newcomer) -> None:
        own = mark(member.ssh / "id_ed25519.pub")
        with member.at_terminal("keys", "remove", own) as child:
            child.expect("this laptop logs in with SHA256:")
            child.expect("loses access to every host. Type alice to go ahead")
            child.sendline("y")
            assert ended(child) == 7
        assert f"hint: apexgpu keys remove {own} --yes" in member.heard[-1]
        assert member.spy.posts == []
        said = member.run("keys", "remove", own)
        assert said.code == 7
        assert "loses access to every host: this needs alice to be typed" in said.err

    def test_the_last_key_goes_only_if_the_name_is_typed(
        self, member: Newcomer, other: Path
    ) -> None:
        member.store(other.read_text())
        with member.at_terminal("keys", "remove", mark(other)) as child:
            child.expect("IAM has no other key of yours")
            child.expect("you lose access to every host. Type alice to go ahead")
            child.sendline("alice")
            child.expect("Domain password of alice: ")
            child.sendline(member.password())
            assert ended(child) == 0
        assert member.stored() == ""

    def test_json_tells_what_went(self, member: Newcomer, other: Path) -> None:
        words = ("keys", "remove", mark(other), "--yes", "--password-stdin", "--json")
        document = member.run(*words, stdin=f"{member.password()}\n").json
        assert document == {"schema": 1, "ok": True, "changed": True, "fingerprint": mark(other)}


class TestWhoami:
    def test_tells_user_name_port_and_keys(self, member: Newcomer) -> None:
        said = member.run("whoami")
        assert said.code == 0
        assert "user  alice (王芳)" in said.out
        assert "port  22001 on every host" in said.out
        document = member.run("whoami", "--json").json
        assert (document["user"], document["name"], document["port"]) == ("alice", "王芳", 22001)
        assert document["keys"][0]["known"] == ["iam", "laptop", "login"]

    def test_nobody_is_4(self, new: Newcomer, monkeypatch: pytest.MonkeyPatch) -> None:
        assert new.run("whoami").code == 4
        monkeypatch.setenv("APEXGPU_USER", "bob")
        said = new.run("whoami")
        assert said.code == 4
        assert "IAM does not know bob yet" in said.err
        assert "apexgpu login bob" in said.err


class TestLogout:
    def test_forgets_the_login_and_takes_our_part_out_of_the_config(self, new: Newcomer) -> None:
        mine = b"Host mine\n\tUser me"  # no newline at its end
        new.ssh.mkdir(mode=0o700)
        new.config.write_bytes(mine)
        assert new.log_in().code == 0
        stored = new.stored()
        said = new.run("logout")
        assert said.code == 0
        assert "Logged out." in said.out
        assert new.config.read_bytes() == mine
        assert new.run("whoami").code == 4
        assert new.stored() == stored
        assert (new.ssh / "id_ed25519").exists()
        said = new.run("logout")
        assert said.code == 0
        assert "Nothing to do: there was no login." in said.out
        assert new.run("logout", "--json").json == {"schema": 1, "ok": True, "changed": False}

    def test_a_config_that_we_made_goes_with_it(self, member: Newcomer) -> None:
        assert member.run("logout").code == 0
        assert not member.config.exists()

    def test_keep_config_leaves_it(self, member: Newcomer) -> None:
        before = member.config.read_bytes()
        assert member.run("logout", "--keep-config").code == 0
        assert member.config.read_bytes() == before
        assert member.run("whoami").code == 4

    def test_takes_the_file_to_include_away_too(self, member: Newcomer) -> None:
        assert member.run("config", "sync", "--include", "--yes").code == 0
        assert [path for path in member.files() if path.endswith("ssh_hosts.conf")]
        assert member.run("logout").code == 0
        assert not [path for path in member.files() if path.endswith("ssh_hosts.conf")]

    def test_a_damaged_block_is_named_and_the_login_is_gone_all_the_same(
        self, member: Newcomer
    ) -> None:
        member.config.write_bytes(member.config.read_bytes().replace(b"# <<< apexgpu <<<\n", b""))
        said = member.run("logout")
        assert said.code == 2
        assert "the marks of apexgpu's block are damaged" in said.err
        assert member.run("whoami").code == 4

    def test_and_in_again(self, member: Newcomer) -> None:
        key = (member.ssh / "id_ed25519").read_bytes()
        assert member.run("logout").code == 0
        assert member.run("login", "alice", "--yes").code == 0  # IAM has the key: no password
        assert member.spy.posts == []
        assert (member.ssh / "id_ed25519").read_bytes() == key
