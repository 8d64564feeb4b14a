"""Change the keys that IAM stores. IAM can only replace all of them, and others may write too."""

import time
from collections.abc import Callable

from apexgpu.errors import RefusedError
from apexgpu.iam.client import DatabaseLockedError, IamClient
from apexgpu.iam.publickeys import key_set

_ATTEMPTS = 5
_PAUSE = 1.0  # seconds before a locked database is tried again


def publish(
    client: IamClient,
    user: str,
    change: Callable[[str], str],
    password: Callable[[], str],
    *,
    wait: Callable[[float], None] = time.sleep,
) -> bool:
    """Make IAM store `change(what it stores now)`; return False if it stores that already.

    `change` takes and returns authorized_keys text. `password` is called only if there is something
    to send. After each POST the keys are read back, and changed again if someone else wrote in
    between. Raises PasswordError for a refused password, and DatabaseLockedError or RefusedError if
    five attempts were not enough.
    """
    client.open_page(user)  # this registers a new user
    stored = client.keys_text(user) or ""
    if change(stored) == stored:
        return False
    secret = password()
    posted = False
    locked: DatabaseLockedError | None = None
    for _ in range(_ATTEMPTS):
        # The stored keys are read again: the user may have taken a minute to type the password.
        text = _text_to_post(client, user, change, posted=posted)
        if text is None:
            return posted
        try:
            client.post_keys(user, text, secret)
        except DatabaseLockedError as error:
            locked = error
            wait(_PAUSE)
        else:
            locked = None
            posted = True
    if _text_to_post(client, user, change, posted=posted) is None:
        return posted
    if locked is not None:
        raise locked
    raise RefusedError(
        f"IAM does not keep the keys sent for {user}: someone else is changing them too",
        hint="apexgpu keys list",
        code="busy",
    )


def _text_to_post(
    client: IamClient, user: str, change: Callable[[str], str], *, posted: bool
) -> str | None:
    """Return the text that IAM should store, or None if it stores these keys already."""
    stored = client.keys_text(user) or ""
    wanted = change(stored)
    if wanted == stored:
        return None
    # IAM may store another comment or line end than was posted; only the keys matter then.
    if posted and key_set(wanted) == key_set(stored):
        return None
    return wanted
