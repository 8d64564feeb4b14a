"""Sending keys to IAM safely, and following the push that carries them to the hosts.

Both speak to IAM through `iam.IamClient` alone; `iam` offers these names too.
"""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from apexgpu.errors import RefusedError, UnreachableError
from apexgpu.iam.publickeys import identities
from apexgpu.models import HostLine, PushLog

if TYPE_CHECKING:
    from apexgpu.iam.client import IamClient

ROUNDS = 5
POLL = 0.5
_OTHERS = 20  # so many times the limit, when other users' pushes keep going before ours

_STAMPED = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?\](.*)")
_STARTED = re.compile(r"task started by (\S+)")
_ADDRESS = re.compile(r"[0-9A-Za-z._:%-]+")
_RESULT = re.compile(r"(\S+)\s+\[user\s+(OK|FAIL)\s*\]\s+\[lxc\s+(OK|FAIL)\s*\]")


def parse_push_log(text: str) -> PushLog:
    """IAM's log of the newest push. Only a line `[time]done` ends it; an empty log is one not begun."""
    started: str | None = None
    hosts: list[HostLine] = []
    done = False
    for line in text.split("\n"):
        stamped = _STAMPED.fullmatch(line.strip())
        if stamped is None:
            result = _RESULT.fullmatch(line.strip())
            if result is not None and hosts and result[1] == (started or result[1]):
                hosts[-1] = replace(hosts[-1], user=result[2] == "OK", container=result[3] == "OK")
            continue
        said = stamped[1].strip()
        begun = _STARTED.fullmatch(said)
        if begun is not None:
            started = begun[1]
        elif said == "done":
            done = True
        elif _ADDRESS.fullmatch(said):
            hosts.append(HostLine(said))
    return PushLog(started, tuple(hosts), done)


def publish(
    client: "IamClient",
    user: str,
    change: Callable[[str], str],
    password: Callable[[], str],
    *,
    wait: Callable[[float], None] = time.sleep,
) -> bool:
    """Have IAM store `change(what it stores)`; False when that is what it stores already (no password asked).

    The manage page is opened first, for that is what registers a user. Afterwards the keys are read back, and
    changed again when someone else wrote in between. LoginError for a refused password, RefusedError when the
    keys do not settle within five rounds or the database stays locked.
    """
    client.open_page(user)
    stored = client.keys_text(user) or ""
    if change(stored) == stored:
        return False
    secret = password()  # a person may take a minute here, so what is stored is read once more
    posted, locked = False, None
    for attempt in range(ROUNDS + 1):
        stored = client.keys_text(user) or ""
        wanted = change(stored)
        if wanted == stored or (posted and identities(wanted) == identities(stored)):
            return posted
        if attempt == ROUNDS:
            break
        try:
            client.post_keys(user, wanted, secret)
            posted, locked = True, None
        except RefusedError as error:
            if error.code != "locked":
                raise
            locked = error
            wait(1.0)
    raise locked or RefusedError(
        f"IAM does not keep the keys sent for {user}: someone else is changing them too",
        hint="apexgpu keys list",
        code="busy",
    )


def follow_push(
    client: "IamClient",
    user: str,
    *,
    limit: float,
    on_log: Callable[[PushLog], None],
    wait: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> PushLog:
    """Follow the push of `user`'s keys that `client` posted last, to its end or for `limit` s without progress.

    Returns the last log of that push; `done` False: stuck, or overtaken by another push before its end was
    seen. Without a line of ours: the log of whoever holds the pusher, never `done`, or an empty one.
    """
    followed = _Followed(user, client.log_before_post, on_log)
    start = progress = clock()
    while True:
        text = _log_text(client)
        now = clock()
        if text is not None and followed.take(text):
            progress = now
        if followed.ended or now - progress >= limit or now - start >= _OTHERS * limit:
            return followed.result
        wait(POLL)


class _Followed:
    """What the log has said so far about one user's newest push."""

    def __init__(self, user: str, before: str, on_log: Callable[[PushLog], None]) -> None:
        self._user = user
        self._before = (
            before  # the log of an earlier push, perhaps this user's own, and perhaps done
        )
        self._on_log = on_log
        self._text: str | None = None
        self._mine: PushLog | None = None
        self._other = PushLog()
        self.ended = False

    @property
    def result(self) -> PushLog:
        return self._mine or replace(self._other, done=False)

    def take(self, text: str) -> bool:
        """Take note of the log; whether it has moved."""
        if text == self._text:
            return False
        self._text = text
        if self._before and text.startswith(self._before):
            return True
        self._before = ""
        log = parse_push_log(text)
        if log.started_by == self._user:
            self._mine, self.ended = log, log.done
        elif self._mine is not None:
            # An emptied log is only a moment between two pushes.
            self.ended = log.started_by is not None
            return True
        else:
            self._other = log
        self._on_log(log)
        return True


def _log_text(client: "IamClient") -> str | None:
    # One failed look is no progress, and no reason to give up: the push goes on by itself.
    try:
        return client.push_log_text()
    except (UnreachableError, RefusedError):
        return None
