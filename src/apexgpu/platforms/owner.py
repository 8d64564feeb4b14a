"""Which user this process runs as. Windows has no numbers for users."""

import os


def user_id() -> int | None:
    """The number of the user; None on Windows."""
    get = getattr(os, "getuid", None)
    return get() if get is not None else None


def effective_user_id() -> int | None:
    """The number of the user whose rights this process has; None on Windows."""
    get = getattr(os, "geteuid", None)
    return get() if get is not None else None


def belongs_to_user(owner: int, *, root: bool = True) -> bool:
    """Whether a file with this owner belongs to the user, or with `root`, to the administrator. Always on Windows."""
    user = user_id()
    return user is None or owner == user or (root and owner == 0)
