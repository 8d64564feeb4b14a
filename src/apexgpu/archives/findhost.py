"""Finding a container through which the archives are seen: one that runs, or one that is started for the moment."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from apexgpu.archives.archivehost import Eye, Means, directory_of, template_path
from apexgpu.errors import ApexError, DeclinedError, RefusedError
from apexgpu.manageshell import hostlock, manage
from apexgpu.manageshell.manage import HostStatus
from apexgpu.models import Host, Outcome
from apexgpu.ssh import fanout


@contextmanager
def an_eye(means: Means, host: Host, directory: str, *, own: bool) -> Iterator[Eye]:
    """A container that sees the archives: the host's own where it may be (`own`), another that runs, or one that is
    started for this and stopped again. RefusedError `no_eye` when there is none at all.
    """
    if own and means.runs(host) and sees(eye := Eye(means, host, directory)):
        yield eye
        return
    stopped: list[Host] = []
    for found in _arriving(means, [one for one in means.hosts if own or one != host]):
        if _runs(found) and found.host != host and sees(eye := Eye(means, found.host, directory)):
            yield eye
            return
        if _stopped(found):
            stopped.append(found.host)
    # A start under another host's tar would spoil its archive.
    free = [one for one in stopped if one == host or means.journal.find(one.name) is None]
    order = list(means.hosts)
    with _started(
        means, host, directory, sorted(free, key=lambda one: (one != host, order.index(one)))
    ) as eye:
        yield eye


@contextmanager
def _started(means: Means, host: Host, directory: str, stopped: list[Host]) -> Iterator[Eye]:
    """The first of the stopped containers that starts and sees the archives; it is stopped again at the end."""
    if stopped and not means.answered:
        message = "no container of yours is running that could see the archives, and nobody can be asked to start one"
        raise DeclinedError(message, hint="add --yes", code="no_terminal")
    for place in stopped:
        with ExitStack() as ending:
            try:
                start_for_a_moment(
                    means, place, ending, why="to see the archives", locked=place == host
                )
            except ApexError:
                continue  # a broken container, or a host that is in use: the next one may do
            eye = Eye(means, place, directory)
            if sees(eye):
                yield eye
                return
    raise nobody(host)


def running_eye(means: Means, directory: str | None = None) -> Eye:
    """A container that runs and sees the archives; nothing is started. RefusedError `no_eye` when there is none."""
    stopped: list[Host] = []
    for found in _arriving(means, means.hosts):
        if _runs(found):
            eye = Eye(
                means, found.host, directory or directory_of(template_path(means.link, found.host))
            )
            if sees(eye):
                return eye
        elif _stopped(found):
            stopped.append(found.host)
    raise nobody(next((one for one in means.hosts if one in stopped), None))


def nobody(host: Host | None) -> RefusedError:
    """The error for archives that nobody can see."""
    message = "no container of yours is running that could see the archives"
    return RefusedError(message, hint=f"apexgpu up {host.name if host else 'HOST'}", code="no_eye")


def sees(eye: Eye) -> bool:
    """Whether the container answers and has the archives' directory."""
    try:
        eye.look()
    except ApexError:
        return False
    return True


def _arriving(means: Means, hosts: Sequence[Host]) -> Iterator[Outcome[HostStatus]]:
    """The hosts' states as they come: a dead host delays nobody."""
    return fanout.arriving(hosts, lambda one: manage.status(means.link, one))


def _runs(found: Outcome[HostStatus]) -> bool:
    return bool(found.value and found.value.container and found.value.container.running)


def _stopped(found: Outcome[HostStatus]) -> bool:
    return bool(found.value and found.value.container and not found.value.container.running)


def start_for_a_moment(
    means: Means, host: Host, ending: ExitStack, *, why: str, locked: bool
) -> None:
    """Start a stopped container, which `ending` stops again; `locked` is whether the caller holds the host's lock."""
    if not locked:
        ending.enter_context(hostlock.only_one(means.state_dir, host))
    means.note(f"starting the container on {host.name} for a moment, {why}")
    ending.callback(_stop_again, means, host)
    means.start(host)


def _stop_again(means: Means, host: Host) -> None:
    try:
        means.stop(host)
    except ApexError as exc:  # the work itself is done, or has an error of its own
        means.note(f"the container on {host.name} could not be stopped again: {exc.message}")
