"""Changing the stored keys: reading, changing, posting and reading back, while others write too."""

import base64
from collections.abc import Iterator

import pytest
from tests import website
from tests.website import Asked, Website, page

from apexgpu.errors import RefusedError
from apexgpu.iam.client import IamClient
from apexgpu.iam.publish import publish

PASSWORD = "pa55-of-alice"
FORM = "GET /manage/ssh-key/alice"
POST = "POST /manage/ssh-key/alice"
KEYS = "GET /user/alice/.ssh/authorized_keys"


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


def test_the_page_comes_first_and_the_password_only_when_needed(
    site: Website, iam: IamClient
) -> None:
    stored(site, MINE)
    assert publish(iam, "alice", mine, lambda: pytest.fail("asked for nothing")) is False
    assert site.paths == [FORM, KEYS]


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
