"""Completion of paths in a container, over a connection that is open already.

A Tab must not wait: without an open connection, or without an answer in LIMIT seconds, nothing is offered.
"""

import shlex
import time
from collections.abc import Mapping

LIMIT = 0.3
"""Seconds that a Tab may wait for a container."""

_MOST = 500


def paths(
    host: str, word: str, environment: Mapping[str, str], *, only_directories: bool
) -> list[str]:
    """The paths in the container that begin with `word`; those of directories end in a slash."""
    began = time.monotonic()
    directory, slash, start = word.rpartition("/")
    # `cd` alone is the home directory, and `ls -p` puts a slash behind directories, also behind links to them.
    place = shlex.quote(directory + slash)
    change = f"cd -- {place}" if directory + slash else "cd"
    listing = f"echo apexgpu-starts; {change} && ls -1ALp 2>/dev/null | head -n {_MOST}"
    output = _run(host, f"sh -c {shlex.quote(listing)}", environment, began + LIMIT)
    found = []
    for name in output.partition("apexgpu-starts\n")[2].splitlines():
        is_hidden = name.startswith(".") and not start.startswith(".")
        if not name.startswith(start) or is_hidden or not name.isprintable():
            continue
        if only_directories and not name.endswith("/"):
            continue
        found.append(f"{directory}{slash}{name}")
    return found


def _run(host: str, command: str, environment: Mapping[str, str], deadline: float) -> str:
    """The output of a command in the container; "" if there is no open connection, or no answer in time."""
    from apexgpu.errors import ApexError
    from apexgpu.models import Target
    from apexgpu.session import Session
    from apexgpu.ssh.transport import Limits

    try:
        session = Session(environment=environment)
        open_connections = session.transport.open_connections
        for known in session.account.hosts:
            if known.name == host and open_connections is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return ""
                limits = Limits(connect=left, total=left, output=1 << 16)
                reply = open_connections.run(Target(known, "container"), command, limits=limits)
                return reply.out if reply is not None else ""
    except ApexError:
        pass
    return ""
