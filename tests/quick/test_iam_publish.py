"""Changing the stored keys: reading, changing, posting and reading back, while others write too."""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests import website
from tests.website import Asked, Website, page

from apexgpu.errors import RefusedError
from apexgpu.iam.client import IamClient
from apexgpu.iam.publickeys import fingerprint, parse_all, remove_key
from apexgpu.iam.publish import KeyPublisher, KeysOverwrittenError

PASSWORD = "pa55-of-alice"
FORM = "GET /manage/ssh-key/alice"
POST = "POST /manage/ssh-key/alice"
KEYS = "GET /user/alice/.ssh/authorized_keys"
LOG = "GET /log/push-keys"
PORT = "GET /user/alice/port"


def key(letter: str) -> str:
    """A line with an ed25519 key that parses: 32 times the same letter."""
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + letter.encode() * 32
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {letter}\n"


MINE, THEIRS = key("m"), key("t")


@pytest.fixture
def site() -> Iterator[Website]:
    with website.serving() as found:
        yield found


@pytest.fixture
def iam(site: Website) -> IamClient:
    return IamClient(site.url, timeout=20)


def stored(site: Website, first: str, *later: str) -> None:
    """IAM keeps `first`; what the n-th POST leaves behind is later[n], or what was posted."""
    keys = first
    after = list(later)

    def post(asked: Asked) -> bytes:
        nonlocal keys
        keys = after.pop(0) if after else asked.form["keys"]
        return page(302, b"", "Location: /log/push-keys")

    site.pages |= {FORM: page(200, b"<form>keys password</form>"), POST: post}
    site.pages[KEYS] = lambda _: page(200, keys.encode())


def posted(site: Website) -> list[str]:
    """The keys of each POST so far."""
    return [asked.form["keys"] for asked in site.asked if asked.method == "POST"]


def mine(text: str) -> str:
    return text if MINE in text else text + MINE


def publish(
    iam: IamClient,
    user: str,
    change: Callable[[str], str],
    password: Callable[[], str],
    wait: Callable[[float], None] = lambda _: None,
) -> bool:
    return KeyPublisher(iam, user, change, password, wait=wait).publish()


class Clock:
    """A clock that only waiting moves; `on_wait` is what others do meanwhile."""

    def __init__(self, on_wait: Callable[[], None] = lambda: None) -> None:
        self.now = 0.0
        self.waited: list[float] = []
        self._on_wait = on_wait

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.waited.append(seconds)
        self._on_wait()


def publisher(iam: IamClient, clock: Clock) -> KeyPublisher:
    return KeyPublisher(iam, "alice", mine, lambda: PASSWORD, wait=clock.wait, clock=clock)


def test_the_page_comes_first_and_the_password_only_when_needed(
    site: Website, iam: IamClient
) -> None:
    stored(site, MINE)
    assert publish(iam, "alice", mine, lambda: pytest.fail("asked for nothing")) is False
    assert site.paths == [FORM, KEYS]


def test_nothing_comes_between_reading_the_keys_and_replacing_them(
    site: Website, iam: IamClient
) -> None:
    """What somebody else posts in between is lost, so it must be one request after the other."""
    stored(site, "")
    publish(iam, "alice", mine, lambda: PASSWORD)
    index = site.paths.index(POST)
    assert site.paths[index - 2 : index + 1] == [LOG, KEYS, POST]


def test_keys_that_cannot_be_read_are_never_taken_for_none(site: Website, iam: IamClient) -> None:
    stored(site, "")
    del site.pages[KEYS]
    with pytest.raises(RefusedError, match="answered 404 for the stored keys"):
        publish(iam, "alice", mine, lambda: PASSWORD)
    assert posted(site) == []


def test_a_user_with_a_port_and_without_keys_is_an_error(site: Website, iam: IamClient) -> None:
    site.pages[PORT] = page(200, b"22001")
    with pytest.raises(RefusedError) as caught:
        iam.keys_text("alice")
    assert caught.value.code == "no_keys_page"
    site.pages[PORT] = page(404)
    assert iam.keys_text("alice") is None


def test_the_lock_is_held_while_keys_are_replaced_and_not_while_a_password_is_typed(
    site: Website, iam: IamClient
) -> None:
    stored(site, "")
    events: list[str] = []

    @contextmanager
    def lock() -> Iterator[None]:
        events.append(f"locked after {len(posted(site))}")
        yield
        events.append(f"released after {len(posted(site))}")

    def password() -> str:
        events.append("password")
        return PASSWORD

    KeyPublisher(iam, "alice", mine, password, lock=lock).publish()
    assert events == ["password", "locked after 0", "released after 1"]


def test_keys_are_sent_again_on_demand_as_they_are_by_then(site: Website, iam: IamClient) -> None:
    stored(site, MINE)

    def password() -> str:
        site.pages[KEYS] = page(200, (MINE + THEIRS).encode())
        return PASSWORD

    sender = KeyPublisher(iam, "alice", lambda text: text, password)
    assert sender.publish(even_if_unchanged=True) is True
    assert posted(site) == [MINE + THEIRS]


class TestConfirm:
    def test_a_key_that_stays_is_waited_for_once(self, site: Website, iam: IamClient) -> None:
        stored(site, "")
        clock = Clock()
        sender = publisher(iam, clock)
        sender.publish()
        sender.confirm(lambda: None)
        assert len(posted(site)) == 1
        assert 1.0 <= clock.now <= 1.5

    def test_after_a_long_push_nothing_is_waited_for(self, site: Website, iam: IamClient) -> None:
        stored(site, "")
        clock = Clock()
        sender = publisher(iam, clock)
        sender.publish()
        sender.confirm(lambda: clock.wait(30))
        assert clock.waited == [30]

    def test_a_key_that_was_overwritten_during_the_push_is_merged_again(
        self, site: Website, iam: IamClient
    ) -> None:
        stored(site, "")
        sender = publisher(iam, Clock())
        sender.publish()
        followed: list[int] = []

        def follow() -> None:
            followed.append(len(posted(site)))
            if len(followed) == 1:
                stored(site, THEIRS)

        sender.confirm(follow)
        assert posted(site) == [MINE, THEIRS + MINE]
        assert followed == [1, 2]  # the second push is followed too

    def test_a_key_that_is_overwritten_while_we_watch_is_merged_again(
        self, site: Website, iam: IamClient
    ) -> None:
        stored(site, "")
        overwritten: list[bool] = []

        def overwrite() -> None:
            if not overwritten:
                overwritten.append(True)
                stored(site, THEIRS)

        sender = publisher(iam, Clock(overwrite))
        sender.publish()
        sender.confirm(lambda: None)
        assert posted(site) == [MINE, THEIRS + MINE]

    def test_while_others_write_the_watch_goes_on(self, site: Website, iam: IamClient) -> None:
        stored(site, "")
        changes = [f"{MINE}# {number}\n".encode() for number in range(5)]

        def others() -> None:
            if changes:
                site.pages[KEYS] = page(200, changes.pop())

        clock = Clock(others)
        sender = publisher(iam, clock)
        sender.publish()
        sender.confirm(lambda: None)
        assert len(posted(site)) == 1
        assert clock.now >= 5 * 0.5 + 1.0

    def test_a_key_that_is_always_lost_is_named(self, site: Website, iam: IamClient) -> None:
        stored(site, "")
        sender = publisher(iam, Clock())
        sender.publish()
        with pytest.raises(KeysOverwrittenError) as caught:
            sender.confirm(lambda: stored(site, THEIRS))
        [key] = parse_all(MINE)
        assert f"it does not have {fingerprint(key)}" in caught.value.message
        assert len(posted(site)) <= 20

    def test_a_key_that_comes_back_is_named(self, site: Website, iam: IamClient) -> None:
        stored(site, MINE + THEIRS)
        [key] = parse_all(MINE)
        clock = Clock()
        sender = KeyPublisher(
            iam,
            "alice",
            lambda text: remove_key(text, fingerprint(key)),
            lambda: PASSWORD,
            wait=clock.wait,
            clock=clock,
        )
        sender.publish()
        with pytest.raises(KeysOverwrittenError, match="it still has SHA256:"):
            sender.confirm(lambda: stored(site, MINE + THEIRS))


def test_other_keys_stay(site: Website, iam: IamClient) -> None:
    stored(site, "ssh-rsa OTHER\n")
    assert publish(iam, "alice", mine, lambda: PASSWORD) is True
    assert posted(site) == [f"ssh-rsa OTHER\n{MINE}"]


def test_what_was_written_while_the_password_was_typed_stays(site: Website, iam: IamClient) -> None:
    stored(site, "")

    def password() -> str:
        site.pages[KEYS] = lambda _: page(
            200, b"ssh-rsa NEW\n" + MINE.encode() * bool(posted(site))
        )
        return PASSWORD

    publish(iam, "alice", mine, password)
    assert posted(site) == [f"ssh-rsa NEW\n{MINE}"]


def test_what_somebody_wrote_over_ours_is_merged(site: Website, iam: IamClient) -> None:
    stored(site, "", THEIRS)
    publish(iam, "alice", mine, lambda: PASSWORD)
    assert posted(site) == [MINE, THEIRS + MINE]


def test_somebody_who_always_wins_ends_it(site: Website, iam: IamClient) -> None:
    stored(site, "", *[THEIRS] * 20)
    with pytest.raises(RefusedError) as caught:
        publish(iam, "alice", mine, lambda: PASSWORD)
    assert caught.value.code == "busy"
    assert len(posted(site)) == 5


def test_a_locked_database_is_waited_for(site: Website, iam: IamClient) -> None:
    stored(site, "")
    accepted = site.pages[POST]
    site.pages[POST] = page(500)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        site.pages[POST] = accepted

    assert publish(iam, "alice", mine, lambda: PASSWORD, wait=wait) is True
    assert waits == [1.0]
    assert len(posted(site)) == 2


def test_another_refusal_is_not_tried_again(site: Website, iam: IamClient) -> None:
    stored(site, "")
    site.pages[POST] = page(400)
    with pytest.raises(RefusedError) as caught:
        publish(iam, "alice", mine, lambda: PASSWORD, wait=lambda _: pytest.fail("waited"))
    assert caught.value.code == "bad_form"
    assert len(posted(site)) == 1
