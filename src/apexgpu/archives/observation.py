"""Finds out whether anybody used the container while the server's tar was saving it.

Nothing on the server prevents a start: a plain `ssh HOST-manage`, an editor or a second laptop
starts the container under a running tar. The archive then contains some files from before the start
and some from after it, and the server reports it as saved. Such a start is looked for while tar
runs and after it has ended. What cannot be found out does not count as good.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from apexgpu.archives import scripts
from apexgpu.archives.scriptreplies import parse_ages
from apexgpu.archives.workcontext import WorkContext
from apexgpu.errors import ApexError
from apexgpu.models import Host, Target
from apexgpu.ssh.transport import Limits

WATCH_INTERVAL = 15.0
"""Seconds between two looks at the container while tar runs."""
_SHORTEST_WATCH = 5.0
"""Seconds that the last look may take when tar has ended."""

STARTED_MEANWHILE = "the container was started while tar was still saving it"
_NOT_KNOWN = "the container runs, and it is not known whether it was started before tar had ended"


class ContainerWatch:
    """Whether the container was seen running while it was watched."""

    def __init__(self) -> None:
        self.seen_running = False


@contextmanager
def watching(context: WorkContext, host: Host) -> Iterator[ContainerWatch]:
    """Look at the container now and then while the block runs, over a connection of its own.

    A look that fails says nothing: the one after the block decides.
    """
    watch = ContainerWatch()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(WATCH_INTERVAL):
            with suppress(ApexError):
                watch.seen_running |= context.is_running(host)

    thread = threading.Thread(target=look, name=f"watch {host.name}", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join(_SHORTEST_WATCH)


def find_disturbance(context: WorkContext, host: Host, path: str) -> str | None:
    """Why the archive at `path` cannot be trusted, now that its tar has ended; None when it can.

    To be called before the container is started again. ApexError when the host does not tell.
    """
    if not context.is_running(host):
        return None
    return why_running(context, host, path)


def why_running(context: WorkContext, host: Host, path: str) -> str | None:
    """As `find_disturbance`, for a container that was found running, and that we did not start.

    It is harmless if it was started after the archive was written for the last time. Two periods are
    compared, never two clocks: the age of the container's first process by its own clock, and that
    of the archive by the clock of the NAS.
    """
    try:
        reply = context.transport.run(
            Target(host, "container"), scripts.ages(path), limits=Limits(total=60)
        )
        ages = parse_ages(reply, host.name)
    except ApexError:
        return _NOT_KNOWN
    if ages is None:
        return _NOT_KNOWN
    # Both are rounded to seconds.
    if ages.container + 2 <= ages.archive:
        return None
    return STARTED_MEANWHILE
