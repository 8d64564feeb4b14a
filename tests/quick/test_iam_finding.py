"""From what a user types to a URL that may receive a password."""

from collections.abc import Iterator
from typing import NoReturn

import pytest
from tests import website
from tests.website import Website, page

from apexgpu.errors import DeclinedError, UnreachableError, UsageError
from apexgpu.iam.client import IamClient
from apexgpu.iam.finding import find_iam
from apexgpu.iam.urls import candidate_urls, is_loopback

CONFIG = "GET /user/nobody/.ssh/config"


@pytest.fixture
def site() -> Iterator[Website]:
    with website.serving() as found:
        yield found


def test_of_a_bare_name_tls_is_tried_first() -> None:
    assert candidate_urls(" iam.lab ") == ["https://iam.lab", "http://iam.lab"]
    assert candidate_urls("HTTP://IAM.lab:8080/x/") == ["http://iam.lab:8080/x"]


def test_plain_http_beyond_this_machine_has_to_be_allowed() -> None:
    with pytest.raises(DeclinedError) as caught:
        find_iam("http://iam.lab", lambda _: False)
    assert caught.value.exit_code == 7
    assert "--allow-http" in str(caught.value.hint)
    assert find_iam("http://iam.lab", lambda _: True) == "http://iam.lab"


def test_loopback_needs_no_question(site: Website) -> None:
    assert find_iam(site.url, lambda _: pytest.fail("asked")) == site.url
    site.pages[CONFIG] = page(200, b"Host gpu2-manage\n")
    assert (
        find_iam(site.url.removeprefix("http://"), lambda _: pytest.fail("asked"), timeout=60)
        == site.url
    )


def test_what_may_not_be_there_is_given_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall that swallows https must not cost the whole of a long --timeout."""
    limits: list[float] = []

    def nobody(_method: str, _url: str, *, timeout: float, **_: object) -> NoReturn:
        limits.append(timeout)
        raise UnreachableError("nobody answers")

    monkeypatch.setattr("apexgpu.iam.client.fetch", nobody)
    with pytest.raises(UnreachableError):
        find_iam("iam.lab", lambda _: True, timeout=60)
    assert limits == [3, 3]


def test_a_web_site_that_is_no_iam(site: Website) -> None:
    site.pages[CONFIG] = page(200, b"<html>hello")
    with pytest.raises(UnreachableError) as caught:
        find_iam(site.url.removeprefix("http://"), lambda _: True, timeout=60)
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
def test_what_is_no_address_of_an_iam(url: str) -> None:
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
def test_which_hosts_are_this_machine(url: str, here: bool) -> None:
    assert is_loopback(url) is here
