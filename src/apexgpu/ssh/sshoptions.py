"""The ssh options (ssh_config(5)) that apexgpu's own ssh processes are given, whatever the user's config says. Pure.

ssh uses the first value that it finds for an option, and those on the command line come first. Each caller combines the
groups that it needs and passes them to `arguments`.
"""

from collections.abc import Iterable
from pathlib import Path

NO_PROMPT = "BatchMode=yes"

KNOWN_HOST_KEY = "StrictHostKeyChecking=yes"
"""Refuse host keys that are not known. A new key is shown to the user, and added by `ssh.hostkeys`."""

UNATTENDED = (NO_PROMPT, KNOWN_HOST_KEY)

NOT_SHARED = ("ControlMaster=no", "ControlPath=none")
"""Use no shared connection: it was made with other options, and it outlives this process."""

COMMAND_ONLY = ("RemoteCommand=none", "RequestTTY=no", "PermitLocalCommand=no", "Tunnel=no")
"""Nothing in the user's config may replace our command or run another program."""

NO_FORWARDING = ("ForwardAgent=no", "ForwardX11=no", "ClearAllForwardings=yes")


NAMELESS_VARIABLE = "APEXGPU_NO_SUCH_VARIABLE"

SESSION_IS_LOGGED = f"SendEnv={NAMELESS_VARIABLE}"
"""With a variable to send, even one that is not set, ssh logs when the server has opened the session."""

NO_AGENT = "IdentityAgent=none"
"""Log in without an agent. See `silentagent`."""


def connect_timeout(seconds: float) -> str:
    """The time limit for connecting. ssh takes whole seconds, and 0 would mean no limit."""
    return f"ConnectTimeout={max(1, round(seconds))}"


def keep_alive(seconds: float, count: int) -> tuple[str, str]:
    """Ask the server every `seconds` whether it is there, and disconnect after `count` missing replies."""
    return f"ServerAliveInterval={max(1, round(seconds))}", f"ServerAliveCountMax={count}"


def shared(socket: Path | None, *, master: bool = True) -> tuple[str, str, str]:
    """Share a connection at `socket`: as its master, or without `master` as its client. None: share nothing."""
    return (
        f"ControlMaster={'yes' if master and socket else 'no'}",
        f"ControlPath={socket or 'none'}",
        "ControlPersist=no",
    )


def arguments(options: Iterable[str]) -> list[str]:
    """The options as arguments of ssh: `-o NAME=VALUE` for each."""
    argv: list[str] = []
    for option in options:
        argv += ["-o", option]
    return argv
