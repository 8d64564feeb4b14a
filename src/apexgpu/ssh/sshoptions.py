"""The options with which an OpenSSH of ours goes, whatever a config says (ssh_config(5)). Pure.

Whoever starts one picks what it needs; ssh goes by the first value of an option that it is given.
"""

from collections.abc import Iterable
from pathlib import Path

NO_PROMPT = "BatchMode=yes"
KNOWN_KEY = "StrictHostKeyChecking=yes"
"""No host key is taken that is not known: a new one is the user's to confirm, and is confirmed elsewhere."""
UNATTENDED = (NO_PROMPT, KNOWN_KEY)
ALONE = ("ControlMaster=no", "ControlPath=none")
"""No connection that is shared with others: it has their settings, and outlives us."""
PLAIN = ("RemoteCommand=none", "RequestTTY=no", "PermitLocalCommand=no", "Tunnel=no")
"""Nothing of the user's that makes something else of the command or of the connection."""
BARE = ("ForwardAgent=no", "ForwardX11=no", "ClearAllForwardings=yes")
"""Nothing is carried along."""


def connect_limit(seconds: float) -> str:
    """How long connecting may take: whole seconds, one at least."""
    return f"ConnectTimeout={max(1, round(seconds))}"


def alive(seconds: float, times: int) -> tuple[str, str]:
    """Ask the server every so many seconds whether it is there, and end when it was silent so many times."""
    return f"ServerAliveInterval={max(1, round(seconds))}", f"ServerAliveCountMax={times}"


def controlled(socket: Path | None, *, master: bool = True) -> tuple[str, str, str]:
    """Listen to others at `socket`, or without `master` go over the connection of who does; None: ALONE."""
    return (
        f"ControlMaster={'yes' if master and socket else 'no'}",
        f"ControlPath={socket or 'none'}",
        "ControlPersist=no",
    )


def words(options: Iterable[str]) -> list[str]:
    """The options as arguments."""
    return [word for option in options for word in ("-o", option)]
