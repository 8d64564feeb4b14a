"""Fetching the lab's monitor page beside the looks at the hosts: in the background, within limits, never in the way."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from apexgpu.errors import ApexError, ConfigError, RefusedError
from apexgpu.nvidia import monitorpage
from apexgpu.nvidia.monitorpage import Claim

LIMIT = 2 * 1024 * 1024
WAIT = 3.0
"""Seconds that the rows of the table wait for a page that does not come."""

AGAIN = 60.0
"""Seconds after which a page is read again, where somebody watches."""

NAME = "the lab's monitor page"


@dataclass(frozen=True, slots=True)
class Page:
    """What was read: the claims, or why there are none."""

    claims: tuple[Claim, ...] = ()
    error: ApexError | None = None


def read(url: str, hosts: Sequence[str], *, timeout: float) -> Page:
    """The page as it is now; an error is part of what is given back."""
    from apexgpu.iam import httpfetch

    try:
        _check(url)
        answer = httpfetch.fetch("GET", url, timeout=timeout, limit=LIMIT, who=NAME)
        if answer.status != 200:
            raise _unusable(url, f"answers with status {answer.status}")
        if not answer.complete:
            raise _unusable(url, f"is larger than {LIMIT // 1024**2} MiB")
        found = monitorpage.claims(
            answer.body.decode("utf-8", "replace"), hosts, datetime.now(UTC).astimezone()
        )
        return Page(found) if found else Page((), _unusable(url, "holds nothing about these hosts"))
    except ApexError as exc:
        return Page((), exc)


def _check(url: str) -> None:
    """A URL that can be asked; one with a password in it would show that in errors."""
    parts = urlsplit(url)
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or parts.username
        or parts.password
    ):
        hint = (
            'monitor_url = "http://monitor.example.org/gpus"   (in config.toml; no user name in it)'
        )
        raise ConfigError("monitor_url is no plain http or https URL", hint=hint)


def _unusable(url: str, why: str) -> ApexError:
    parts = urlsplit(url)
    hint = f"curl -i {parts.scheme}://{parts.netloc}{parts.path}"
    return RefusedError(f"{NAME} {why}", hint=hint, code="monitor_page")


class Reading:
    """The page, asked for in the background. Rows wait WAIT seconds for the first one, and no longer, all together."""

    def __init__(self, ask: Callable[[], Page]) -> None:
        self._ask = ask
        self._page = Page()
        self._came = threading.Event()
        self._began = time.monotonic()
        self._asking = threading.Lock()
        self._start()

    def _start(self) -> None:
        """Ask, unless that is under way; a daemon, so that Ctrl-C waits for no page."""
        if self._asking.acquire(blocking=False):
            self._began = time.monotonic()
            threading.Thread(target=self._fetch, name="monitor page", daemon=True).start()

    def _fetch(self) -> None:
        try:
            self._page = self._ask()
            self._came.set()
        finally:
            self._asking.release()

    def page(self) -> Page:
        """The newest page; an empty one when none has come in time."""
        self._came.wait(max(0.0, self._began + WAIT - time.monotonic()))
        if time.monotonic() - self._began > AGAIN:
            self._start()
        return self._page

    def late(self) -> bool:
        """Whether no page has come yet."""
        return not self._came.is_set()
