"""Wait for what another process or thread does."""

import threading
import time
from collections.abc import Callable

LIMIT = 60.0  # seconds: generous, for a machine that is busy with other things
_PAUSE = 0.01


def until(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Look again and again until `condition` is true; AssertionError after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"it never came to be, in {limit:g} s"
        threading.Event().wait(_PAUSE)
