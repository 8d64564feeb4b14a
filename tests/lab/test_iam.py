"""IAM's web site, against its recordings and the table of its answers."""

import re
from dataclasses import dataclass

import pytest
from tests.lab.calls import Page, fetch, post_keys, wait_until
from tests.lab.situations import TRANSCRIPTS

from apexgpu_lab.inprocess import Lab
from apexgpu_lab.web import Response, text_response

KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFI3ejlo01kPk+MsgdwAb2xJDPBYsBpWoEBu0NMWG8Xh alice@laptop"
)


@dataclass(frozen=True)
class Recorded:
    """One answer of a recording: status line, headers that matter, body."""

    status: int
    headers: dict[str, str]
    body: str


def recordings() -> dict[str, Recorded]:
    """The answers of iam-http.txt by the names that stand above them."""
    text = (TRANSCRIPTS / "iam-http.txt").read_text(encoding="utf-8")
    # One recorded body ends without a newline, so that the next heading stands on its line.
    sections = re.split(r"(?:^|(?<=laptop))--- (.+)\n", text, flags=re.MULTILINE)[1:]
    return {name: _parsed(rest) for name, rest in zip(sections[::2], sections[1::2], strict=True)}


def _parsed(text: str) -> Recorded:
    if not text.startswith("HTTP/"):
        return Recorded(200, {"content-type": "text/plain"}, text)
    head, _, body = text.partition("\n\n")
    status, *lines = head.strip().split("\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return Recorded(int(status.split()[1]), headers, body)


def _body(text: str) -> str:
    """A body without what differs from lab to lab."""
    text = re.sub(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\]", "[TIME]", text)
    text = re.sub(
        r"10\.77\.0\.(\d)|127\.\d+\.\d+\.(\d)", lambda m: f"HOST{m[1] or int(m[2]) - 1}", text
    )
    text = re.sub(r"gpu(?:7|2)\b", "gpuA", re.sub(r"gpu(?:8|3)\b", "gpuB", text))
    # The lab's one deviation: its manage hosts do not listen on port 22, and its config says so.
    return re.sub(r"(Host \S+-manage\n.*\n.*\n)    Port 2222\n", r"\1", text).rstrip("\n")


def _same(page: Page, recorded: Recorded) -> None:
    assert page.status == recorded.status
    assert page.headers["content-type"] == recorded.headers["content-type"]
    for name in ("location", "refresh"):
        if name in recorded.headers or recorded.status == 200:
            found = re.sub(r"^http://[^/]+", "", page.headers.get(name, ""))
            assert found == recorded.headers.get(name, "")
    if recorded.headers["content-type"] == "text/plain":
        assert _body(page.body) == _body(recorded.body)


def test_iam_answers_as_recorded(new_lab: Lab) -> None:
    seen = recordings()
    url, password = new_lab.iam_url, new_lab.password("alice")
    form = {"keys": KEY, "password": password}
    _same(fetch(url, "/user/alice/.ssh/config"), seen["config before"])
    _same(fetch(url, "/user/alice/port"), seen["port before"])
    _same(fetch(url, "/manage/ssh-key", {"username": "alice"}), seen["POST username"])
    _same(fetch(url, "/manage/ssh-key/nobody"), seen["unknown"])
    _same(fetch(url, "/manage/ssh-key/alice"), seen["GET manage"])
    _same(fetch(url, "/user/alice/port"), seen["port after"])
    _same(fetch(url, "/manage/ssh-key/alice", {**form, "password": "wrong"}), seen["wrong pw"])
    new_lab.fault("iam", "empty-password", 1)
    _same(fetch(url, "/manage/ssh-key/alice", {**form, "password": ""}), seen["empty pw"])
    _same(fetch(url, "/manage/ssh-key/alice", form), seen["right pw"])
    wait_until(lambda: fetch(url, "/log/push-keys").body.endswith("]done\n"), new_lab)
    _same(fetch(url, "/log/push-keys"), seen["log 5"])
    _same(fetch(url, "/user/alice/.ssh/authorized_keys"), seen["keys"])
    _same(fetch(url, "/user/alice/.ssh/config"), seen["config after"])
    _same(fetch(url, "/users"), seen["users"])


def test_every_recorded_answer_is_compared() -> None:
    logs = {
        f"log {number}" for number in (1, 2, 3, 4, 6)
    }  # the states on the way to log 5, and log 5 again
    assert set(recordings()) == logs | {
        "config before",
        "port before",
        "POST username",
        "unknown",
        "GET manage",
        "port after",
        "wrong pw",
        "empty pw",
        "right pw",
        "log 5",
        "keys",
        "config after",
        "users",
    }


def test_a_dead_host_stops_the_pusher_for_good(lab: Lab) -> None:
    recorded = (TRANSCRIPTS / "iam-http-dead-host.txt").read_text(encoding="utf-8")
    lab.fault("gpu3", "dead")
    post_keys(lab, "alice", KEY)
    address = next(one["address"] for one in lab.status()["hosts"] if one["host"] == "gpu3")
    wait_until(lambda: fetch(lab.iam_url, "/log/push-keys").body.endswith(f"]{address}\n"), lab)
    page = fetch(lab.iam_url, "/log/push-keys")
    assert page.headers["refresh"] == "1; url=/log/push-keys"
    assert _body(page.body) == _body(recorded.split("302\n")[1].partition("\n\n")[2])
    lab.clear("gpu3", "dead")
    assert post_keys(lab, "alice", KEY + "2").status == 302
    assert fetch(lab.iam_url, "/log/push-keys").body == page.body
    lab.clear("iam", "stuck-pusher")
    wait_until(lambda: "refresh" not in fetch(lab.iam_url, "/log/push-keys").headers, lab)
    post_keys(lab, "alice", KEY)
    wait_until(lambda: "]done\n" in fetch(lab.iam_url, "/log/push-keys").body, lab)


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        ("/", None, 200),
        ("/user/alice/name", None, 404),
        ("/user/alice/subuid", None, 404),
        ("/user/alice/.ssh/authorized_keys", None, 404),
        ("/user/anybody/.ssh/config", None, 200),
        ("/nothing/here", None, 404),
        ("/manage/ssh-key/dave", None, 500),
        ("/manage/ssh-key", {}, 400),
        ("/manage/ssh-key/alice", {"keys": KEY}, 400),
        ("/manage/ssh-key/alice", {"password": "x"}, 400),
        ("/manage/ssh-key/nobody", {"keys": KEY, "password": "x"}, 401),
    ],
)
def test_status_of(new_lab: Lab, path: str, form: dict[str, str] | None, status: int) -> None:
    assert fetch(new_lab.iam_url, path, form).status == status


def test_keys_posted_before_the_visit_belong_to_nobody_with_a_port(new_lab: Lab) -> None:
    form = {"keys": KEY, "password": new_lab.password("alice")}
    assert fetch(new_lab.iam_url, "/manage/ssh-key/alice", form).status == 302
    assert fetch(new_lab.iam_url, "/user/alice/port").status == 404
    fetch(new_lab.iam_url, "/manage/ssh-key/alice")
    assert fetch(new_lab.iam_url, "/user/alice/.ssh/authorized_keys").body == KEY


def test_the_directory_ignores_case_and_iam_does_not(new_lab: Lab) -> None:
    for name in ("alice", "Alice"):
        assert fetch(new_lab.iam_url, f"/manage/ssh-key/{name}").status == 200
    assert [row.split(",")[0] for row in fetch(new_lab.iam_url, "/users").body.splitlines()] == [
        "alice",
        "Alice",
    ]
    assert fetch(new_lab.iam_url, "/user/Alice/port").body == "22002"
    assert fetch(new_lab.iam_url, "/user/Alice/subuid").body == str(10065536 + 65536)


def test_a_name_with_a_comma_stands_in_users_as_it_is(new_lab: Lab) -> None:
    fetch(new_lab.iam_url, "/manage/ssh-key/bob")
    assert fetch(new_lab.iam_url, "/users").body == "bob,Li, Bob,22001,10065536\n"
    assert fetch(new_lab.iam_url, "/user/bob/name").body == "Li, Bob"


def test_pages_escape_what_users_stored(new_lab: Lab) -> None:
    post_keys(new_lab, "alice", "</textarea><script>")
    page = fetch(new_lab.iam_url, "/manage/ssh-key/alice").body
    assert "&lt;/textarea&gt;&lt;script&gt;" in page
    assert "alice" in fetch(new_lab.iam_url, "/").body


def test_keys_are_stored_as_posted(new_lab: Lab) -> None:
    keys = f'from="10.0.0.0/8" {KEY}\r\n\r\n# a comment\r\n'
    post_keys(new_lab, "alice", keys)
    assert fetch(new_lab.iam_url, "/user/alice/.ssh/authorized_keys").body == keys


def test_plain_text_names_no_charset() -> None:
    assert text_response("x").kind == "text/plain"
    assert Response(200).kind == "text/html; charset=utf-8"


class TestFaults:
    def test_down(self, lab: Lab) -> None:
        lab.fault("iam", "down")
        with pytest.raises(ConnectionRefusedError):
            fetch(lab.iam_url, "/users")
        lab.clear("iam", "down")
        assert fetch(lab.iam_url, "/users").status == 200

    def test_hang(self, lab: Lab) -> None:
        lab.fault("iam", "hang", 1)
        with pytest.raises(TimeoutError):
            fetch(lab.iam_url, "/users", timeout=0.3)
        assert fetch(lab.iam_url, "/users").status == 200

    def test_slow(self, lab: Lab) -> None:
        lab.call(lambda lab_state: setattr(lab_state, "slow_seconds", 0.4))
        lab.fault("iam", "slow")
        with pytest.raises(TimeoutError):
            fetch(lab.iam_url, "/users", timeout=0.1)
        assert fetch(lab.iam_url, "/users").status == 200

    def test_html(self, lab: Lab) -> None:
        lab.fault("iam", "html")
        assert (
            fetch(lab.iam_url, "/user/alice/.ssh/config")
            .headers["content-type"]
            .startswith("text/html")
        )

    def test_garbled_config(self, lab: Lab) -> None:
        lab.fault("iam", "garbled-config", 1)
        assert "ProxyCommand" in fetch(lab.iam_url, "/user/alice/.ssh/config").body
        assert "ProxyCommand" not in fetch(lab.iam_url, "/user/alice/.ssh/config").body

    def test_db_locked(self, lab: Lab) -> None:
        lab.fault("iam", "db-locked", 1)
        before = fetch(lab.iam_url, "/user/alice/.ssh/authorized_keys").body
        assert post_keys(lab, "alice", KEY).status == 500
        assert fetch(lab.iam_url, "/user/alice/.ssh/authorized_keys").body == before
        assert post_keys(lab, "alice", KEY).status == 302

    def test_stuck_pusher(self, lab: Lab) -> None:
        lab.fault("iam", "stuck-pusher")
        post_keys(lab, "alice", KEY)
        wait_until(lambda: "register" in fetch(lab.iam_url, "/log/push-keys").body, lab)
        log = fetch(lab.iam_url, "/log/push-keys")
        assert "task started by alice" in log.body
        assert "done" not in log.body
        assert "refresh" in log.headers
