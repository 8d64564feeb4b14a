"""The IAM client against a web server that answers as a test says, also as no IAM would."""

import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import website
from tests.website import Website, page

from apexgpu.errors import (
    ApexError,
    DroppedError,
    LoginError,
    RefusedError,
    UnreachableError,
    UsageError,
)
from apexgpu.iam.client import CONFIG_LIMIT, IamClient, valid_user

CONFIG = "GET /user/alice/.ssh/config"
PORT = "GET /user/alice/port"
KEYS = "GET /user/alice/.ssh/authorized_keys"
FORM = "GET /manage/ssh-key/alice"
POST = "POST /manage/ssh-key/alice"
LOG = "GET /log/push-keys"
SECRET = "correct horse&=%battery ä"
LINE = "ssh-ed25519 AAAA alice@laptop"


@pytest.fixture
def site() -> Iterator[Website]:
    with website.serving() as found:
        yield found


@pytest.fixture
def client(site: Website) -> IamClient:
    return IamClient(site.url, timeout=60)


class TestConfig:
    """The one answer that is always 200: handed on as it came, but never without end."""

    @pytest.mark.parametrize(
        "body", [b"", b"<html>log in to the network</html>", b"\xff\x00Host *\n", b"Host a"]
    )
    def test_it_is_handed_on_unread(self, site: Website, client: IamClient, body: bytes) -> None:
        site.pages[CONFIG] = page(200, body)
        assert client.config("alice") == body

    def test_of_too_much_one_byte_more_is_kept(self, site: Website, client: IamClient) -> None:
        site.pages[CONFIG] = page(200, b"x" * (CONFIG_LIMIT + 5000))
        assert client.config("alice") == b"x" * (CONFIG_LIMIT + 1)

    def test_a_body_without_end_is_cut(self, site: Website, client: IamClient) -> None:
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        site.pages[CONFIG] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 50
        assert len(client.config("alice")) == CONFIG_LIMIT + 1

    @pytest.mark.parametrize(
        "said",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nHost gpu7\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nHost",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"",
            b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X-Much: y\r\n" * 20000,
        ],
        ids=["short", "cut chunk", "cut head", "nothing", "ssh", "endless head"],
    )
    def test_half_an_answer_is_none(self, site: Website, client: IamClient, said: bytes) -> None:
        site.pages[CONFIG] = said
        with pytest.raises(DroppedError, match="before its answer was complete"):
            client.config("alice")

    def test_a_compressed_body_is_not_opened(self, site: Website, client: IamClient) -> None:
        site.pages[CONFIG] = page(200, b"\x1f\x8b bomb", "Content-Encoding: gzip")
        with pytest.raises(RefusedError, match="compressed"):
            client.config("alice")
        assert site.asked[0].headers["Accept-Encoding"] == "identity"

    @pytest.mark.parametrize(
        ("code", "error", "words"),
        [
            (404, RefusedError, "not the lab's IAM"),
            (500, RefusedError, "answered 500"),
            (502, UnreachableError, "not running"),
            (503, UnreachableError, "not running"),
            (504, UnreachableError, "not running"),
            (204, RefusedError, "204"),
        ],
    )
    def test_another_status_is_no_config(
        self, site: Website, client: IamClient, code: int, error: type[ApexError], words: str
    ) -> None:
        site.pages[CONFIG] = page(code)
        with pytest.raises(error, match=words):
            client.config("alice")


class TestConnections:
    """A server that is silent, absent, or not the one that its certificate names."""

    def test_silence_ends_after_the_limit(self, site: Website) -> None:
        site.pages[PORT] = lambda _: None
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=r"did not answer within 0.3 s") as caught:
            IamClient(site.url, timeout=0.3).port("alice")
        assert time.monotonic() - began < 30
        assert caught.value.code == "timeout"

    def test_nobody_listens(self) -> None:
        client = IamClient("http://127.0.0.1:9", timeout=2)
        with pytest.raises(UnreachableError, match="connection refused") as caught:
            client.port("alice")
        assert caught.value.exit_code == 5

    def test_a_certificate_that_nobody_trusts_ends_the_connection(self, tmp_path: Path) -> None:
        with website.serving(website.certificate(tmp_path)) as site:
            client = IamClient(site.url.replace("http:", "https:"), timeout=20)
            with pytest.raises(UnreachableError, match="is not trusted: self") as caught:
                client.port("alice")
            assert caught.value.code == "certificate"
            assert site.asked == []


class TestRedirects:
    """None is followed; the way out is named only where it is the same host."""

    def test_to_https_of_the_same_host_is_said_how(self, site: Website, client: IamClient) -> None:
        site.pages[CONFIG] = page(
            301, b"", "Location: https://127.0.0.1:8443/user/alice/.ssh/config"
        )
        with pytest.raises(RefusedError, match="not followed") as caught:
            client.config("alice")
        assert caught.value.hint == "apexgpu login --iam-url https://127.0.0.1:8443"

    @pytest.mark.parametrize(
        "location",
        [
            "http://portal.example.org/?back=1",
            "https://portal.example.org/",
            "/elsewhere",
            "",
            "https://$(id)@127.0.0.1/",
            "https://127.0.0.1:99999/",
            "https://127.0.0.1:x$(id)/",
            "http://[",
            "//[::1",
            "https://127.0.0.1;id/",
        ],
    )
    def test_to_anything_else_gives_no_command_made_of_it(
        self, site: Website, client: IamClient, location: str
    ) -> None:
        site.pages[CONFIG] = page(302, b"", f"Location: {location}")
        with pytest.raises(RefusedError) as caught:
            client.config("alice")
        assert caught.value.code == "redirect"
        assert caught.value.hint == f"curl -i {site.url}/"
        assert site.paths == [CONFIG]

    @pytest.mark.parametrize(
        "location", ["http://[", "/login", "", "https://portal.example.org/log", "//[::1"]
    )
    def test_after_a_post_only_the_push_log_will_do(
        self, site: Website, client: IamClient, location: str
    ) -> None:
        site.pages[POST] = page(302, b"", f"Location: {location}")
        with pytest.raises(RefusedError) as caught:
            client.post_keys("alice", LINE, SECRET)
        assert caught.value.code in {"not_iam", "redirect"}

    @pytest.mark.parametrize(
        "location",
        ["/log/push-keys", "../../log/push-keys", "http://iam.example.org/log/push-keys"],
    )
    def test_which_may_be_named_in_any_way(
        self, site: Website, client: IamClient, location: str
    ) -> None:
        site.pages[POST] = page(302, b"", f"Location: {location}")
        client.post_keys("alice", LINE, SECRET)
        assert site.paths == [POST]


class TestText:
    """The plain answers: 404 is a user who is not there, and a page is not text."""

    def test_what_is_asked_comes_back(self, site: Website, client: IamClient) -> None:
        site.pages |= {
            PORT: page(200, b"22001"),
            "GET /user/alice/name": page(200, "愛麗絲, A\n".encode()),
            KEYS: page(200, b"\xff# mine\r\n"),
        }
        assert client.port("alice") == 22001
        assert client.name("alice") == "愛麗絲, A"
        assert client.keys_text("alice") == "\udcff# mine\r\n"
        assert client.push_log_text() == ""  # no push yet: 404

    def test_nobody_has_nothing(self, client: IamClient) -> None:
        assert (client.port("alice"), client.name("alice"), client.keys_text("alice")) == (
            None,
            None,
            None,
        )

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"0",
            b"65536",
            b"22001 22002",
            b"-1",
            b"twenty",
            b"22O01",
            "２２".encode(),
            b"\xd9\xa2",
            b"1" * 9,
            b"1" * 70000,
        ],
    )
    def test_what_is_no_port_is_not_iam(
        self, site: Website, client: IamClient, body: bytes
    ) -> None:
        site.pages[PORT] = page(200, body)
        with pytest.raises(RefusedError) as caught:
            client.port("alice")
        assert caught.value.code == "not_iam"
        assert len(caught.value.message) < 200

    @pytest.mark.parametrize(
        "said",
        [
            page(200, b" \n<!doctype html>"),
            page(200, b"\xef\xbb\xbf<html>"),
            page(200, b"welcome", "Content-Type: text/HTML"),
        ],
    )
    def test_a_web_page_is_never_taken_for_keys(
        self, site: Website, client: IamClient, said: bytes
    ) -> None:
        site.pages[KEYS] = said.replace(b"Content-Type: text/plain\r\n", b"", 1)
        with pytest.raises(RefusedError, match="a web page instead of plain text") as caught:
            client.keys_text("alice")
        assert caught.value.code == "not_iam"
        assert caught.value.hint

    @pytest.mark.parametrize(
        ("answer", "code"),
        [
            (page(200, b"k" * (CONFIG_LIMIT + 10)), "not_iam"),
            (page(302, b"", "Location: http://portal.example/"), "redirect"),
            (page(403), "refused"),
            (page(500), "refused"),
        ],
    )
    def test_other_answers_are_not_taken_for_keys_either(
        self, site: Website, client: IamClient, answer: bytes, code: str
    ) -> None:
        site.pages[KEYS] = answer
        with pytest.raises(RefusedError) as caught:
            client.keys_text("alice")
        assert caught.value.code == code
        assert caught.value.hint

    @pytest.mark.parametrize(
        "user", ["Alice", "a b", "", "../users", "a/b", "a" * 33, "1a", "a\n", "-a", "ä", "a;id"]
    )
    def test_what_is_no_account_is_not_asked_for(
        self, site: Website, client: IamClient, user: str
    ) -> None:
        assert not valid_user(user)
        for ask in (client.port, client.keys_text, client.config, client.open_page):
            with pytest.raises(UsageError):
                ask(user)
        with pytest.raises(UsageError):
            client.post_keys(user, LINE, SECRET)
        assert site.asked == []


class TestForm:
    """The page that registers, and the post that replaces."""

    @pytest.mark.parametrize(
        ("said", "error", "code"),
        [
            (page(404), LoginError, "unknown_user"),
            (page(500), RefusedError, "no_display_name"),
            (page(200, b"<html>keys, and nothing else"), RefusedError, "not_iam"),
            (page(303), RefusedError, "redirect"),
        ],
    )
    def test_a_page_that_is_not_the_form(
        self, site: Website, client: IamClient, said: bytes, error: type[ApexError], code: str
    ) -> None:
        site.pages |= {
            FORM: said.replace(b"\r\n\r\n", b"\r\nLocation: /\r\n\r\n", 1),
            CONFIG: page(200),
        }
        with pytest.raises(error) as caught:
            client.open_page("alice")
        assert caught.value.code == code

    @pytest.mark.parametrize("port", [page(200, b"22001\n"), page(500)])
    def test_a_page_that_fails_for_a_known_user_or_with_every_other_page(
        self, site: Website, client: IamClient, port: bytes
    ) -> None:
        site.pages |= {FORM: page(500), PORT: port}
        with pytest.raises(RefusedError, match="answered 500") as caught:
            client.open_page("alice")
        assert caught.value.code != "no_display_name"

    def test_404_of_a_server_that_is_no_iam_blames_no_user(self, client: IamClient) -> None:
        with pytest.raises(RefusedError, match="not the lab's IAM"):
            client.open_page("alice")

    @pytest.mark.parametrize(
        ("code", "error", "said"),
        [
            (401, LoginError, "password"),
            (400, RefusedError, "bad_form"),
            (500, RefusedError, "locked"),
            (200, RefusedError, "refused"),
            (503, UnreachableError, "unreachable"),
        ],
    )
    def test_a_refused_post_says_why_and_never_the_password(
        self, site: Website, client: IamClient, code: int, error: type[ApexError], said: str
    ) -> None:
        site.pages[POST] = lambda asked: page(code, str(asked.form).encode())
        with pytest.raises(error) as caught:
            client.post_keys("alice", LINE, SECRET)
        assert caught.value.code == said
        assert_silent(caught.value)

    @pytest.mark.parametrize(
        ("text", "sent"),
        [
            ("", ""),
            ("\n", ""),
            (LINE, f"{LINE}\n"),
            (f"{LINE}\r\n# b\r\n\r\n", f"{LINE}\n# b\n"),
            ("a\n\nb", "a\n\nb\n"),
            ("\udcff ä", "\udcff ä\n"),
        ],
    )
    def test_keys_are_sent_a_line_each_with_every_byte(
        self, site: Website, client: IamClient, text: str, sent: str
    ) -> None:
        site.pages |= {POST: page(302, b"", "Location: /log/push-keys"), LOG: page(200, b"old")}
        client.note_push_log()
        client.post_keys("alice", text, SECRET)
        assert site.asked[-1].form == {"keys": sent, "password": SECRET}
        assert SECRET not in str(site.asked[-1].headers)
        assert client.log_before_post == "old"

    @pytest.mark.parametrize("password", ["", "\0", "a\0b"])
    def test_an_empty_password_is_not_sent(
        self, site: Website, client: IamClient, password: str
    ) -> None:
        with pytest.raises(LoginError, match="never sent"):
            client.post_keys("alice", LINE, password)
        assert site.asked == []


def assert_silent(error: BaseException) -> None:
    """Nothing of the password in the error, in what led to it, or in what a log would make of both."""
    told = "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))
    assert "horse" not in told
    assert "battery" not in told
