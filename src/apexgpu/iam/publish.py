"""Change the keys that IAM stores. IAM can only replace all of them, and others may write too.

IAM has no way to say "replace this text, if it is still the one that I read". A POST therefore
undoes every change that was made after the text before it was read. Three things keep keys from
being lost: one laptop changes them once at a time (`lock`), the text is read immediately before it
is posted, and after the push has ended it is read again (`KeyPublisher.confirm`).
"""

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from apexgpu.errors import RefusedError
from apexgpu.iam.client import DatabaseLockedError, IamClient
from apexgpu.iam.publickeys import fingerprint, key_set, parse_all

_ATTEMPTS = 5  # POSTs in a row
_ROUNDS = 8  # how often keys that were overwritten later are merged again
_PAUSE = 1.0  # seconds before a locked database is tried again
_LEAST_SETTLE = 1.0  # seconds
_MOST_SETTLE = 20.0
_WINDOWS = 4  # another computer may be this much slower than this one
_LOOK_AGAIN = 0.5  # seconds between two looks while others may be writing


class KeysOverwrittenError(RefusedError):
    """Someone else replaces the stored keys faster than they can be merged."""

    code = "busy"


class KeyPublisher:
    """One change of the keys that IAM stores for a user.

    `change` takes and returns authorized_keys text. `password` is called only if there is something
    to send, and before the lock is taken: a person may take a minute to type it. `lock` returns the
    lock that keeps other processes of this laptop from changing the same keys.
    """

    def __init__(
        self,
        client: IamClient,
        user: str,
        change: Callable[[str], str],
        password: Callable[[], str],
        *,
        lock: Callable[[], AbstractContextManager[None]] = nullcontext,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._user = user
        self._change = change
        self._password = password
        self._lock = lock
        self._wait = wait
        self._clock = clock
        self._last_post = clock()
        self._settle = _LEAST_SETTLE

    def publish(self, *, even_if_unchanged: bool = False) -> bool:
        """Make IAM store `change(what it stores now)`; return False if it stores that already.

        With `even_if_unchanged`, the keys are sent once in any case, so that IAM pushes them again.

        After each POST the keys are read back, and changed again if someone else wrote in between.
        Raises PasswordError for a refused password, and DatabaseLockedError or KeysOverwrittenError
        if five attempts were not enough.
        """
        self._client.open_page(self._user)  # this registers a new user
        stored = self._client.stored_keys(self._user)
        if self._change(stored) == stored and not even_if_unchanged:
            return False
        password = self._password()
        with self._lock():
            return self._post_until_kept(password, even_if_unchanged=even_if_unchanged)

    def confirm(self, follow: Callable[[], object]) -> None:
        """Wait until the change has held for a while, and make it again if it was overwritten.

        `follow` returns when the push that the last POST started has ended. Call this after a
        `publish` that returned True.

        Raises KeysOverwrittenError, which names what is missing, if the change does not hold.
        """
        for _ in range(_ROUNDS):
            follow()
            if self._holds():
                return
            # At random, so that two computers do not overwrite each other in step for ever.
            self._wait(random.uniform(0, _LEAST_SETTLE))  # noqa: S311 - no secret
            try:
                self.publish()
            except KeysOverwrittenError:
                continue  # the next round looks again
        follow()
        if not self._holds():
            raise self._overwritten()

    def _post_until_kept(self, password: str, *, even_if_unchanged: bool) -> bool:
        """Return False if another process of this laptop has made the change meanwhile."""
        locked: DatabaseLockedError | None = None
        for attempt in range(_ATTEMPTS):
            # The log is requested first: nothing may come between reading the keys and the POST.
            self._client.note_push_log()
            start = self._clock()
            stored = self._client.stored_keys(self._user)
            text = self._change(stored)
            if text == stored and not even_if_unchanged:
                return attempt > 0
            try:
                self._client.post_keys(self._user, text, password)
            except DatabaseLockedError as error:
                locked = error
                self._wait(_PAUSE)
                continue
            self._note_post(start)
            locked = None
            if self._is_kept(self._client.stored_keys(self._user)):
                return True
            # At random, so that two computers do not overwrite each other in step for ever.
            self._wait(random.uniform(0, 0.25 * attempt))  # noqa: S311 - no secret
        if locked is not None:
            raise locked
        raise self._overwritten()

    def _note_post(self, start: float) -> None:
        """Remember when the last POST ended, and how long its answer may be undone by others.

        Whoever read the keys before our POST posts them within about the time that we needed.
        """
        self._last_post = self._clock()
        window = self._last_post - start
        self._settle = min(max(_LEAST_SETTLE, _WINDOWS * window), _MOST_SETTLE)

    def _is_kept(self, stored: str) -> bool:
        # IAM may store another comment or line end than was posted; only the keys matter.
        return key_set(self._change(stored)) == key_set(stored)

    def _holds(self) -> bool:
        """Tell whether the change is still there once nobody can overwrite it unknowingly."""
        left = self._last_post + self._settle - self._clock()
        waited = 0.0
        stored = self._client.stored_keys(self._user)
        while self._is_kept(stored):
            if left <= 0 or waited >= _MOST_SETTLE:
                return True
            self._wait(_LOOK_AGAIN)
            left -= _LOOK_AGAIN
            waited += _LOOK_AGAIN
            latest = self._client.stored_keys(self._user)
            if latest != stored:
                # Others are writing at this moment, so more of them may have read an old text.
                left = self._settle
            stored = latest
        return False

    def _overwritten(self) -> KeysOverwrittenError:
        stored = self._client.stored_keys(self._user)
        before = {fingerprint(key) for key in parse_all(stored)}
        after = {fingerprint(key) for key in parse_all(self._change(stored))}
        facts = []
        if after - before:
            facts.append(f"it does not have {', '.join(sorted(after - before))}")
        if before - after:
            facts.append(f"it still has {', '.join(sorted(before - after))}")
        fact = " and ".join(facts) or "it may lose them again"
        return KeysOverwrittenError(
            f"IAM does not keep the keys sent for {self._user}: {fact}, because someone else is"
            " changing them too",
            hint="apexgpu keys list",
        )
