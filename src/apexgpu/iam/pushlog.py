"""Follow IAM's key push: after a change of keys, IAM copies them to all hosts, one after the other.

IAM runs one push at a time, for any user, and shows the log of the newest one.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from apexgpu.errors import RefusedError, UnreachableError
from apexgpu.iam.client import IamClient

_INTERVAL = 0.5  # seconds between two requests for the log
_OTHER_USERS = 20  # times the limit: how long other users' pushes may keep ours waiting

_STAMPED = re.compile(
    r"\[[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?\](.*)"
)
_STARTED = re.compile(r"task started by (\S+)")
_ADDRESS = re.compile(r"[0-9A-Za-z._:%-]+")
_RESULT = re.compile(r"(\S+)\s+\[user\s+(OK|FAIL)\s*\]\s+\[lxc\s+(OK|FAIL)\s*\]")


@dataclass(frozen=True, slots=True)
class PushedHost:
    """What a push did on one host: whether the account and the container accepted the keys.

    None: the log does not say.
    """

    address: str
    account_ok: bool | None = None
    container_ok: bool | None = None


@dataclass(frozen=True, slots=True)
class PushLog:
    """The log of one push: who started it, the hosts in its order, and whether it is `done`."""

    started_by: str | None = None
    hosts: tuple[PushedHost, ...] = ()
    done: bool = False


def parse_push_log(text: str) -> PushLog:
    """Parse IAM's log of the newest push. Only a line `[time]done` ends it.

    >>> parse_push_log("[2026-01-02 03:04:05]task started by alice").started_by
    'alice'
    """
    started_by: str | None = None
    hosts: list[PushedHost] = []
    done = False
    for line in text.split("\n"):
        stamped = _STAMPED.fullmatch(line.strip())
        if stamped is None:
            _add_result(hosts, line.strip(), started_by)
            continue
        event = stamped[1].strip()
        start = _STARTED.fullmatch(event)
        if start is not None:
            started_by = start[1]
        elif event == "done":
            done = True
        elif _ADDRESS.fullmatch(event):
            hosts.append(PushedHost(event))
    return PushLog(started_by, tuple(hosts), done)


def _add_result(hosts: list[PushedHost], line: str, started_by: str | None) -> None:
    """Add a line such as `alice [user OK] [lxc FAIL]` to the host whose address came before it."""
    result = _RESULT.fullmatch(line)
    if result is None or not hosts:
        return
    user, account, container = result.groups()
    if started_by is not None and user != started_by:
        return  # a stray line about another user
    hosts[-1] = replace(hosts[-1], account_ok=account == "OK", container_ok=container == "OK")


def follow_push(
    client: IamClient,
    user: str,
    *,
    limit: float,
    on_log: Callable[[PushLog], None],
    wait: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> PushLog:
    """Follow the push of the keys that `client` posted last, and return the last log of it.

    Ends when the push is done, when another push has replaced it in the log, or after `limit`
    seconds without progress. `on_log` is called with each new log. In the result, `done` is False if
    the end of the push was not seen; `started_by` is another user if only his push was seen.
    """
    follower = _Follower(user, client.log_before_post, on_log)
    start = clock()
    last_progress = start
    while True:
        text = _read_log(client)
        now = clock()
        if text is not None and follower.read(text):
            last_progress = now
        stuck = now - last_progress >= limit or now - start >= _OTHER_USERS * limit
        if follower.ended or stuck:
            return follower.result
        wait(_INTERVAL)


class _Follower:
    """What the log has shown about one user's newest push."""

    def __init__(self, user: str, log_before: str, on_log: Callable[[PushLog], None]) -> None:
        self._user = user
        self._log_before = log_before  # about an earlier push, perhaps this user's own
        self._on_log = on_log
        self._text: str | None = None
        self._own: PushLog | None = None
        self._other = PushLog()
        self.ended = False

    @property
    def result(self) -> PushLog:
        if self._own is not None:
            return self._own
        return replace(self._other, done=False)

    def read(self, text: str) -> bool:
        """Take note of the log's text; return whether it has changed."""
        if text == self._text:
            return False
        self._text = text
        if self._log_before and text.startswith(self._log_before):
            return True  # the earlier push is still the newest
        self._log_before = ""
        log = parse_push_log(text)
        if log.started_by == self._user:
            self._own = log
            self.ended = log.done
        elif self._own is not None:
            # Ours has left the log. The log is empty for a moment between two pushes.
            self.ended = log.started_by is not None
            return True
        else:
            self._other = log
        self._on_log(log)
        return True


def _read_log(client: IamClient) -> str | None:
    # A failed request does not end the wait: the push continues without us.
    try:
        return client.push_log_text()
    except (UnreachableError, RefusedError):
        return None
