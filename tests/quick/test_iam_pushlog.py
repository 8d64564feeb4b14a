"""The log of a push, which anybody may start, and which may never end."""

from collections.abc import Iterator

import pytest
from tests import website
from tests.website import Asked, Website, page

from apexgpu.iam.client import IamClient
from apexgpu.iam.pushlog import PushedHost, PushLog, follow_push, parse_push_log

LOG = "GET /log/push-keys"
DONE = (
    "[2026-01-02 03:04:05.678]task started by alice\n[2026-01-02 03:04:05]10.77.0.2\n"
    "alice [user OK] [lxc FAIL]\n[2026-01-02 03:04:06]10.77.0.3\n[2026-01-02 03:04:09]done\n"
)


@pytest.fixture
def site() -> Iterator[Website]:
    with website.serving() as found:
        yield found


@pytest.fixture
def iam(site: Website) -> IamClient:
    return IamClient(site.url, timeout=20)


def test_a_whole_one() -> None:
    assert parse_push_log(DONE) == PushLog(
        "alice",
        (PushedHost("10.77.0.2", account_ok=True, container_ok=False), PushedHost("10.77.0.3")),
        done=True,
    )


def test_what_it_says_of_others_is_not_taken_for_ours() -> None:
    text = DONE.replace("[lxc FAIL]\n", "[lxc FAIL]\nbob [user FAIL] [lxc OK]\n")
    assert parse_push_log(text).hosts[0] == PushedHost(
        "10.77.0.2", account_ok=True, container_ok=False
    )


@pytest.mark.parametrize(
    "text", ["", "done", "[2026-01-02 03:04:05]not done\n", "<html>", "\0\n\n", "[]done"]
)
def test_what_has_no_end_is_not_done(text: str) -> None:
    assert not parse_push_log(text).done


def follow(site: Website, iam: IamClient, *texts: str, before: str = "") -> tuple[PushLog, int]:
    """Follow with a clock that moves a second a look; the log and the number of looks."""
    iam.log_before_post = before
    pending, now = list(texts), [0.0]

    def log(_: Asked) -> bytes:
        text = pending.pop(0) if len(pending) > 1 else pending[0]
        return page(200, text.encode())

    def wait(_: float) -> None:
        now[0] += 1

    site.pages[LOG] = log
    found = follow_push(
        iam, "alice", limit=5, on_log=lambda _: None, wait=wait, clock=lambda: now[0]
    )
    return found, len(site.asked)


def test_to_its_end(site: Website, iam: IamClient) -> None:
    begun = DONE[: DONE.index("[2026-01-02 03:04:06]")]
    log, _ = follow(site, iam, "", begun, DONE)
    assert log.done
    assert len(log.hosts) == 2


def test_the_last_ones_done_is_not_ours(site: Website, iam: IamClient) -> None:
    log, looks = follow(site, iam, DONE, before=DONE)
    assert not log.done
    assert looks < 10


def test_a_stuck_one_is_left(site: Website, iam: IamClient) -> None:
    log, looks = follow(site, iam, DONE[: DONE.index("[2026-01-02 03:04:09]")])
    assert not log.done
    assert [host.address for host in log.hosts] == ["10.77.0.2", "10.77.0.3"]
    assert looks < 10


def test_others_that_never_end_are_not_waited_for_for_ever(site: Website, iam: IamClient) -> None:
    others = [
        f"[2026-01-02 03:04:05]task started by bob\n[2026-01-02 03:04:06]10.77.0.{n}\n"
        for n in range(300)
    ]
    log, looks = follow(site, iam, *others, DONE)
    assert not log.done
    assert looks == 101


def test_one_look_that_fails_is_not_the_end(site: Website, iam: IamClient) -> None:
    answers = [page(500), page(200, b"<html>wait"), page(502), page(200, DONE.encode())]
    site.pages[LOG] = lambda _: answers.pop(0)
    assert follow_push(iam, "alice", limit=5, on_log=lambda _: None, wait=lambda _: None).done


def test_another_ones_push_in_front_is_waited_for(site: Website, iam: IamClient) -> None:
    others = DONE.replace("alice", "bob")
    log, _ = follow(site, iam, others, DONE)
    assert (log.started_by, log.done) == ("alice", True)
