"""The IAM client against a web server that answers what it is told to, also what no IAM would."""

import base64
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, NoReturn
from urllib.parse import parse_qs

import pytest

from apexgpu.errors import (
    ApexError,
    DeclinedError,
    LoginError,
    RefusedError,
    UnreachableError,
    UsageError,
)
from apexgpu.iam.client import CONFIG_LIMIT, IamClient, valid_user
from apexgpu.iam.finding import find_iam
from apexgpu.iam.publish import publish
from apexgpu.iam.pushlog import PushedHost, PushLog, follow_push, parse_push_log
from apexgpu.iam.urls import candidate_urls, is_loopback

PASSWORD = "pa55-of-alice"
FORM = b"<form>keys password</form>"
PAGE, KEYS, LOG = "/manage/ssh-key/alice", "/user/alice/.ssh/authorized_keys", "/log/push-keys"


def key(letter: str) -> str:
    """A line with an ed25519 key that parses: 32 times the same letter."""
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + letter.encode() * 32
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {letter}\n"


MINE, THEIRS = key("m"), key("t")


class Said(NamedTuple):
    """One scripted answer; `wait` is waited for before it is given."""

    code: int = 200
    body: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    wait: threading.Event | None = None


class Site:
    """A server on loopback: (method, path) -> what it says, and a record of the requests."""

    def __init__(self) -> None:
        self.says: dict[tuple[str, str], Said | Callable[[str], Said]] = {}
        self.asked: list[tuple[str, str, str]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length).decode()
                site.asked.append((self.command, self.path, body))
                said = site.says.get((self.command, self.path), Said(404, b"<h1>Not Found</h1>"))
                answer = said(body) if callable(said) else said
                if answer.wait:
                    answer.wait.wait(20)
                try:
                    self.send_response(answer.code)
                    for name, value in {
                        "Content-Length": str(len(answer.body)),
                        **answer.headers,
                    }.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(answer.body)
                except OSError:
                    self.close_connection = True  # the client had enough

            do_POST = do_GET  # noqa: N815 - its name there

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def get(self, path: str, body: bytes = b"", code: int = 200, **more: Any) -> None:
        self.says["GET", path] = Said(code, body, **more)

    def post(self, code: int, location: str = "") -> None:
        self.says["POST", PAGE] = Said(code, b"", {"Location": location} if location else {})

    @property
    def posts(self) -> list[dict[str, list[str]]]:
        return [
            parse_qs(body, keep_blank_values=True)
            for method, _, body in self.asked
            if method == "POST"
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def iam(site: Site) -> IamClient:
    return IamClient(site.url, timeout=5)


class TestAnswers:
    """One request each: what IAM says, and what only something else would say."""

    def test_what_iam_says(self, site: Site, iam: IamClient) -> None:
        site.get("/user/alice/port", b"22001\n")
        site.get("/user/alice/name", "爱丽丝\n".encode())
        site.get(KEYS, b"ssh-ed25519 AAAA caf\xe9\n")
        assert iam.port("alice") == 22001
        assert iam.name("alice") == "爱丽丝"
        assert (iam.keys_text("alice") or "").encode(
            "utf-8", "surrogateescape"
        ) == b"ssh-ed25519 AAAA caf\xe9\n"

    def test_what_iam_says_of_nobody(self, iam: IamClient) -> None:
        assert (iam.port("alice"), iam.name("alice"), iam.keys_text("alice")) == (None, None, None)

    @pytest.mark.parametrize(
        "text", [b"", b"0", b"65536", b"22001 22002", b"-1", b"22O01", b"\xd9\xa2", b"1" * 9]
    )
    def test_a_port_that_is_none(self, text: bytes, site: Site, iam: IamClient) -> None:
        site.get("/user/alice/port", text)
        with pytest.raises(RefusedError, match="not the lab's IAM") as caught:
            iam.port("alice")
        assert caught.value.code == "not_iam"

    @pytest.mark.parametrize(
        ("said", "code"),
        [
            (Said(200, b"<html>Welcome to the airport</html>"), "not_iam"),
            (Said(200, b"hello", {"Content-Type": "text/html"}), "not_iam"),
            (Said(200, b"\xef\xbb\xbf  <!doctype html>"), "not_iam"),
            (Said(200, b"k" * (CONFIG_LIMIT + 10)), "not_iam"),
            (Said(302, b"", {"Location": "http://portal.example/"}), "redirect"),
            (Said(403), "refused"),
            (Said(500), "refused"),
        ],
    )
    def test_something_else_in_the_place_of_keys(
        self, said: Said, code: str, site: Site, iam: IamClient
    ) -> None:
        site.says["GET", KEYS] = said
        with pytest.raises(RefusedError) as caught:
            iam.keys_text("alice")
        assert caught.value.code == code
        assert caught.value.hint

    @pytest.mark.parametrize("code", [502, 503, 504])
    def test_a_proxy_before_an_iam_that_is_down(
        self, code: int, site: Site, iam: IamClient
    ) -> None:
        site.get(KEYS, code=code)
        with pytest.raises(UnreachableError):
            iam.keys_text("alice")

    def test_a_redirect_is_not_followed_and_https_is_named(
        self, site: Site, iam: IamClient
    ) -> None:
        site.get(
            "/user/alice/.ssh/config",
            code=301,
            headers={"Location": "https://127.0.0.1/user/alice/.ssh/config"},
        )
        with pytest.raises(RefusedError) as caught:
            iam.config("alice")
        assert "--iam-url https://127.0.0.1" in str(caught.value.hint)
        assert len(site.asked) == 1

    def test_a_config_that_never_ends_is_cut(self, site: Site, iam: IamClient) -> None:
        site.get("/user/alice/.ssh/config", b"#" * 1_000_000)
        assert len(iam.config("alice")) == CONFIG_LIMIT + 1

    def test_a_body_that_was_cut_is_no_answer(self, site: Site, iam: IamClient) -> None:
        site.get("/user/alice/.ssh/config", b"Host gpu2", headers={"Content-Length": "900"})
        with pytest.raises(ApexError):
            IamClient(site.url, timeout=1).config("alice")

    def test_silence_ends_after_the_limit(self, site: Site) -> None:
        never = threading.Event()
        site.get("/user/alice/port", wait=never)
        began = time.monotonic()
        with pytest.raises(UnreachableError):
            IamClient(site.url, timeout=0.3).port("alice")
        never.set()
        assert time.monotonic() - began < 10

    def test_nobody_listens(self, site: Site) -> None:
        client = IamClient("http://127.0.0.1:9", timeout=2)
        with pytest.raises(UnreachableError) as caught:
            client.port("alice")
        assert caught.value.exit_code == 5

    @pytest.mark.parametrize(
        "name", ["Alice", "a b", "../x", "a/b", "", "a" * 33, "1a", "a\n", "ä"]
    )
    def test_a_name_that_is_none_goes_nowhere(self, name: str, site: Site, iam: IamClient) -> None:
        assert not valid_user(name)
        with pytest.raises(UsageError):
            iam.port(name)
        assert site.asked == []


class TestPosting:
    """Keys on their way to IAM, and the password with them."""

    def test_what_is_sent(self, site: Site, iam: IamClient) -> None:
        site.post(302, LOG)
        iam.post_keys("alice", "ssh-ed25519 AAAA x\r\nssh-rsa BBBB 键\r\n\r\n", PASSWORD)
        assert site.posts == [
            {"keys": ["ssh-ed25519 AAAA x\nssh-rsa BBBB 键\n"], "password": [PASSWORD]}
        ]

    @pytest.mark.parametrize(
        ("code", "location", "kind", "word"),
        [
            (401, "", LoginError, "password"),
            (500, "", RefusedError, "locked"),
            (400, "", RefusedError, "bad_form"),
            (302, "/login", RefusedError, "not_iam"),
            (302, "http://evil.example/", RefusedError, "not_iam"),
            (200, "", RefusedError, "refused"),
        ],
    )
    def test_what_comes_back(
        self, code: int, location: str, kind: type[ApexError], word: str, site: Site, iam: IamClient
    ) -> None:
        site.post(code, location)
        with pytest.raises(kind) as caught:
            iam.post_keys("alice", "ssh-ed25519 AAAA", PASSWORD)
        assert caught.value.code == word
        assert (
            PASSWORD
            not in f"{caught.value}{caught.value.hint}{caught.value.__cause__}{caught.value.__context__}"
        )

    @pytest.mark.parametrize("password", ["", "a\0b"])
    def test_an_empty_password_is_never_sent(
        self, password: str, site: Site, iam: IamClient
    ) -> None:
        with pytest.raises(LoginError):
            iam.post_keys("alice", "ssh-ed25519 AAAA", password)
        assert site.asked == []

    def test_the_page_of_somebody_without_a_name(self, site: Site, iam: IamClient) -> None:
        site.get(PAGE, code=500)
        with pytest.raises(RefusedError) as caught:
            iam.open_page("alice")
        assert caught.value.code == "no_display_name"

    @pytest.mark.parametrize("port", [(b"22001\n", 200), (b"Internal Server Error", 500)])
    def test_a_page_that_fails_for_somebody_it_knows_or_with_everything_else(
        self, site: Site, iam: IamClient, port: tuple[bytes, int]
    ) -> None:
        site.get(PAGE, code=500)
        site.get("/user/alice/port", *port)
        with pytest.raises(RefusedError, match="answered 500") as caught:
            iam.open_page("alice")
        assert caught.value.code != "no_display_name"


class TestPublish:
    """Reading, changing, posting, and reading back, while others write too."""

    @staticmethod
    def stored(site: Site, first: bytes, *later: bytes) -> None:
        """IAM keeps `first`; what the n-th POST leaves behind is later[n], or what was posted."""
        state = {"keys": first}
        after = list(later)

        def post(body: str) -> Said:
            state["keys"] = after.pop(0) if after else parse_qs(body)["keys"][0].encode()
            return Said(302, b"", {"Location": LOG})

        site.get(PAGE, FORM)
        site.says["GET", KEYS] = lambda _: Said(200, state["keys"])
        site.says["POST", PAGE] = post

    @staticmethod
    def mine(text: str) -> str:
        return text if MINE in text else text + MINE

    def test_the_page_comes_first_and_the_password_only_when_needed(
        self, site: Site, iam: IamClient
    ) -> None:
        self.stored(site, MINE.encode())
        assert publish(iam, "alice", self.mine, lambda: pytest.fail("asked for nothing")) is False
        assert [path for _, path, _ in site.asked] == [PAGE, KEYS]

    def test_other_keys_stay(self, site: Site, iam: IamClient) -> None:
        self.stored(site, b"ssh-rsa OTHER\n")
        assert publish(iam, "alice", self.mine, lambda: PASSWORD) is True
        assert site.posts[0]["keys"] == [f"ssh-rsa OTHER\n{MINE}"]

    def test_what_was_written_while_the_password_was_typed_stays(
        self, site: Site, iam: IamClient
    ) -> None:
        self.stored(site, b"")

        def password() -> str:
            site.says["GET", KEYS] = lambda _: Said(
                200, b"ssh-rsa NEW\n" + MINE.encode() * bool(site.posts)
            )
            return PASSWORD

        publish(iam, "alice", self.mine, password)
        assert site.posts[0]["keys"] == [f"ssh-rsa NEW\n{MINE}"]

    def test_what_somebody_wrote_over_ours_is_merged(self, site: Site, iam: IamClient) -> None:
        self.stored(site, b"", THEIRS.encode())
        publish(iam, "alice", self.mine, lambda: PASSWORD)
        assert [post["keys"] for post in site.posts] == [[MINE], [THEIRS + MINE]]

    def test_somebody_who_always_wins_ends_it(self, site: Site, iam: IamClient) -> None:
        self.stored(site, b"", *[THEIRS.encode()] * 20)
        with pytest.raises(RefusedError) as caught:
            publish(iam, "alice", self.mine, lambda: PASSWORD)
        assert caught.value.code == "busy"
        assert len(site.posts) == 5

    def test_a_locked_database_is_waited_for(self, site: Site, iam: IamClient) -> None:
        self.stored(site, b"")
        taken = site.says["POST", PAGE]
        site.post(500)
        waits: list[float] = []

        def wait(seconds: float) -> None:
            waits.append(seconds)
            site.says["POST", PAGE] = taken

        assert publish(iam, "alice", self.mine, lambda: PASSWORD, wait=wait) is True
        assert waits == [1.0]
        assert len(site.posts) == 2

    def test_another_refusal_is_not_tried_again(self, site: Site, iam: IamClient) -> None:
        self.stored(site, b"")
        site.post(400)
        with pytest.raises(RefusedError) as caught:
            publish(iam, "alice", self.mine, lambda: PASSWORD, wait=lambda _: pytest.fail("waited"))
        assert caught.value.code == "bad_form"
        assert len(site.posts) == 1


class TestPushLog:
    """The log of a push, which anybody may start, and which may never end."""

    DONE = (
        "[2026-01-02 03:04:05.678]task started by alice\n[2026-01-02 03:04:05]10.77.0.2\n"
        "alice [user OK] [lxc FAIL]\n[2026-01-02 03:04:06]10.77.0.3\n[2026-01-02 03:04:09]done\n"
    )

    def test_a_whole_one(self) -> None:
        assert parse_push_log(self.DONE) == PushLog(
            "alice",
            (PushedHost("10.77.0.2", account_ok=True, container_ok=False), PushedHost("10.77.0.3")),
            done=True,
        )

    def test_what_it_says_of_others_is_not_taken_for_ours(self) -> None:
        text = self.DONE.replace("[lxc FAIL]\n", "[lxc FAIL]\nbob [user FAIL] [lxc OK]\n")
        assert parse_push_log(text).hosts[0] == PushedHost(
            "10.77.0.2", account_ok=True, container_ok=False
        )

    @pytest.mark.parametrize(
        "text", ["", "done", "[2026-01-02 03:04:05]not done\n", "<html>", "\0\n\n", "[]done"]
    )
    def test_what_has_no_end_is_not_done(self, text: str) -> None:
        assert not parse_push_log(text).done

    def follow(
        self, site: Site, iam: IamClient, *texts: str, before: str = ""
    ) -> tuple[PushLog, int]:
        """Follow with a clock that moves a second a look; the log and the number of looks."""
        iam.log_before_post = before
        pending, now = list(texts), [0.0]

        def log(_: str) -> Said:
            return Said(200, (pending.pop(0) if len(pending) > 1 else pending[0]).encode())

        def wait(_: float) -> None:
            now[0] += 1

        site.says["GET", LOG] = log
        found = follow_push(
            iam, "alice", limit=5, on_log=lambda _: None, wait=wait, clock=lambda: now[0]
        )
        return found, len(site.asked)

    def test_to_its_end(self, site: Site, iam: IamClient) -> None:
        begun = self.DONE[: self.DONE.index("[2026-01-02 03:04:06]")]
        log, _ = self.follow(site, iam, "", begun, self.DONE)
        assert log.done
        assert len(log.hosts) == 2

    def test_the_last_ones_done_is_not_ours(self, site: Site, iam: IamClient) -> None:
        log, looks = self.follow(site, iam, self.DONE, before=self.DONE)
        assert not log.done
        assert looks < 10

    def test_a_stuck_one_is_left(self, site: Site, iam: IamClient) -> None:
        log, looks = self.follow(site, iam, self.DONE[: self.DONE.index("[2026-01-02 03:04:09]")])
        assert not log.done
        assert [host.address for host in log.hosts] == ["10.77.0.2", "10.77.0.3"]
        assert looks < 10

    def test_others_that_never_end_are_not_waited_for_for_ever(
        self, site: Site, iam: IamClient
    ) -> None:
        others = [
            f"[2026-01-02 03:04:05]task started by bob\n[2026-01-02 03:04:06]10.77.0.{n}\n"
            for n in range(300)
        ]
        log, looks = self.follow(site, iam, *others, self.DONE)
        assert not log.done
        assert looks == 101

    def test_one_look_that_fails_is_not_the_end(self, site: Site, iam: IamClient) -> None:
        answers = [Said(500), Said(200, b"<html>wait"), Said(502), Said(200, self.DONE.encode())]
        site.says["GET", LOG] = lambda _: answers.pop(0)
        assert follow_push(iam, "alice", limit=5, on_log=lambda _: None, wait=lambda _: None).done

    def test_another_ones_push_in_front_is_waited_for(self, site: Site, iam: IamClient) -> None:
        others = self.DONE.replace("alice", "bob")
        log, _ = self.follow(site, iam, others, self.DONE)
        assert (log.started_by, log.done) == ("alice", True)


class TestReach:
    """From what a user types to a URL that may see a password."""

    def test_of_a_bare_name_tls_is_tried_first(self) -> None:
        assert candidate_urls(" iam.lab ") == ["https://iam.lab", "http://iam.lab"]
        assert candidate_urls("HTTP://IAM.lab:8080/x/") == ["http://iam.lab:8080/x"]

    def test_plain_http_beyond_this_machine_has_to_be_allowed(self) -> None:
        with pytest.raises(DeclinedError) as caught:
            find_iam("http://iam.lab", lambda _: False)
        assert caught.value.exit_code == 7
        assert "--allow-http" in str(caught.value.hint)
        assert find_iam("http://iam.lab", lambda _: True) == "http://iam.lab"

    def test_loopback_needs_no_question(self, site: Site) -> None:
        assert find_iam(site.url, lambda _: pytest.fail("asked")) == site.url
        site.get("/user/nobody/.ssh/config", b"Host gpu2-manage\n")
        assert (
            find_iam(site.url.removeprefix("http://"), lambda _: pytest.fail("asked"), timeout=2)
            == site.url
        )

    def test_what_may_not_be_there_is_given_seconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A firewall that swallows https must not cost the whole of a long --timeout."""
        limits: list[float] = []

        def nobody(_method: str, _url: str, *, timeout: float, **_: object) -> NoReturn:
            limits.append(timeout)
            raise UnreachableError("nobody answers")

        monkeypatch.setattr("apexgpu.iam.client.fetch", nobody)
        with pytest.raises(UnreachableError):
            find_iam("iam.lab", lambda _: True, timeout=60)
        assert limits == [3, 3]

    def test_a_web_site_that_is_no_iam(self, site: Site) -> None:
        site.get("/user/nobody/.ssh/config", b"<html>hello")
        with pytest.raises(UnreachableError) as caught:
            find_iam(site.url.removeprefix("http://"), lambda _: True, timeout=2)
        assert caught.value.code == "no_iam"

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://iam.lab",
            "http://",
            "http://u:secret@iam.lab",
            "http://iam.lab/?x=1",
            "http://iam.lab:0",
            "http://[::1",
            "http://a b",
            "http://iam.lab:99999",
        ],
    )
    def test_what_is_no_address_of_an_iam(self, url: str) -> None:
        with pytest.raises(UsageError) as caught:
            IamClient(url)
        assert "secret" not in f"{caught.value}{caught.value.hint}"

    @pytest.mark.parametrize(
        ("url", "here"),
        [
            ("http://127.0.0.1:1", True),
            ("http://[::1]", True),
            ("http://localhost", True),
            ("http://127.1.2.3", True),
            ("http://localhost.evil.example", False),
            ("http://127.0.0.1.nip.io", False),
            ("http://10.0.0.1", False),
        ],
    )
    def test_which_hosts_are_this_machine(self, url: str, here: bool) -> None:
        assert is_loopback(url) is here
