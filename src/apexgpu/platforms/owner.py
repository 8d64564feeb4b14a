"""Which user this process runs as, and whose a file is. Windows has no numbers for users."""

import os
import sys
from pathlib import Path


def user_id() -> int | None:
    """The number of the user; None on Windows."""
    if sys.platform == "win32" or not hasattr(os, "getuid"):
        return None
    return os.getuid()


def effective_user_id() -> int | None:
    """The number of the user whose rights this process has; None on Windows."""
    if sys.platform == "win32" or not hasattr(os, "geteuid"):
        return None
    return os.geteuid()


def is_users_own(status: os.stat_result, *, or_roots: bool = True) -> bool:
    """Whether a file belongs to the user, or to the administrator. On Windows, only an access list could tell."""
    user = user_id()
    if user is None:
        return True
    return status.st_uid == user or (or_roots and status.st_uid == 0)


def others_may_read(status: os.stat_result) -> bool:
    """Whether the mode lets others than the owner read or write a file. Windows' modes say nothing about that."""
    return user_id() is not None and bool(status.st_mode & 0o077)


def others_may_write(status: os.stat_result) -> bool:
    """Whether the mode lets others than the owner write a file. Windows' modes say nothing about that."""
    return user_id() is not None and bool(status.st_mode & 0o022)


def name_of(uid: int | None) -> str:
    """The name of a user, or `uid 1234` if it has none; `this user` on Windows."""
    if sys.platform == "win32" or uid is None:
        return "this user"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def is_in_database() -> bool:
    """Whether the system's database has an entry for this account, without which ssh does not run."""
    uid = user_id()
    if sys.platform == "win32" or uid is None:
        return True
    import pwd

    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def home_in_database() -> str:
    """The home directory as ssh determines it: from the system's database, not from $HOME. On Windows, the profile."""
    uid = user_id()
    if sys.platform == "win32" or uid is None:
        return str(Path.home())
    import pwd

    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return str(Path.home())


def give_to(path: Path, status: os.stat_result) -> None:
    """Give a file the owner that `status` has. Nothing happens on Windows."""
    if sys.platform == "win32" or not hasattr(os, "chown"):
        return
    os.chown(path, status.st_uid, status.st_gid)
