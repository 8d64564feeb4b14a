"""What a piece of work on archives needs: connections, hosts, the journal, progress.

And the container's own steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apexgpu.archives.journal import Journal
from apexgpu.errors import ConnectionLostError, DroppedError, NoForwardError, UnreachableError
from apexgpu.manageshell import manage, starting
from apexgpu.manageshell.manage import HostStatus
from apexgpu.manageshell.starting import Pause
from apexgpu.models import Host
from apexgpu.ssh.transport import OnLine, Transport


@dataclass(frozen=True, slots=True)
class WorkContext:
    """What the steps of a snapshot or a recover share.

    `hosts` are all hosts of the user. `progress` shows a line in place of the last one, `note`
    prints one that stays. `start_timeout` is in seconds. `may_start` is whether a stopped container
    may be started merely to look at the archives: only when the user has said yes to everything, or
    can be asked.
    """

    transport: Transport
    hosts: Sequence[Host]
    state_dir: Path
    pause: Pause
    progress: OnLine
    note: OnLine
    start_timeout: float = 120
    may_start: bool = True
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "journal", Journal(self.state_dir))

    def status(self, host: Host) -> HostStatus:
        """The container's state; asked again once when the connection drops."""
        try:
            return manage.status(self.transport, host)
        except DroppedError:
            return manage.status(self.transport, host)

    def is_running(self, host: Host) -> bool:
        """Whether the container runs; an error when the host does not answer."""
        container = self.status(host).container
        return container is not None and container.running

    def is_known_to_run(self, host: Host) -> bool:
        """As `is_running`, but False when the host does not answer."""
        try:
            return self.is_running(host)
        except UnreachableError:
            return False

    def start(self, host: Host) -> bool | None:
        """Start a container and wait until a login works. The caller holds the host's lock.

        Whether it ran already; None when that is not known.
        """
        try:
            return self._start(host)
        except (ConnectionLostError, NoForwardError) as exc:
            # A start whose connection drops leaves the container's port unforwarded until the next
            # start.
            self.note(f"{exc.message}; stopping and starting again")
            self.stop(host)
            self._start(host)
            return None

    def _start(self, host: Host) -> bool:
        started = starting.start(
            self.transport,
            host,
            on_line=self.progress,
            wait=self.start_timeout,
            pause=self.pause,
        )
        return started.was_running

    def stop(self, host: Host) -> None:
        """Stop a container; tried again once when the connection drops.

        The caller holds the host's lock.
        """
        try:
            manage.stop(self.transport, host, on_line=self.progress)
        except DroppedError:
            manage.stop(self.transport, host, on_line=self.progress)
