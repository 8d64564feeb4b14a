"""Finds a container through which the archives can be seen: a running one, or one that is started
briefly.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from apexgpu.archives.archivehost import ArchiveHost, parent_directory, template_path
from apexgpu.archives.workcontext import WorkContext
from apexgpu.errors import ApexError, DeclinedError, RefusedError, SameCommand, UnreachableError
from apexgpu.manageshell import hostlock, manage
from apexgpu.manageshell.manage import HostStatus
from apexgpu.models import Host, Outcome
from apexgpu.ssh import fanout


class NoArchiveHostError(RefusedError):
    """No container of the user's can be used to look at the archives.

    `silent` are the hosts that did not answer: one of their containers may be able to.
    """

    code = "no_eye"
    silent: tuple[str, ...] = ()


def no_archive_host(suggested: Host | None, silent: Sequence[str] = ()) -> NoArchiveHostError:
    """The error, with the host on which a container could be started, and those that are silent."""
    message = "none of your containers is running and can see the archives"
    if silent:
        message = (
            f"none of your containers that answer can see the archives; no answer from: "
            f"{', '.join(sorted(silent))}"
        )
    hint = f"apexgpu up {suggested.name}" if suggested else "apexgpu status"
    error = NoArchiveHostError(message, hint=hint)
    error.silent = tuple(sorted(silent))
    return error


@contextmanager
def archive_host(
    context: WorkContext,
    host: Host,
    directory: str,
    *,
    may_use_own: bool,
    is_running: bool | None = None,
) -> Iterator[ArchiveHost]:
    """Yield a running container that sees the archives in `directory`.

    In this order: the container on `host` itself (only if `may_use_own`), another running one, a
    stopped one that is started and stopped again after the block. NoArchiveHostError when there is
    none; DeclinedError when one would have to be started and that is not permitted. `is_running` is
    whether the container on `host` runs, if that has just been asked.
    """
    if may_use_own and is_running is None:
        is_running = context.is_known_to_run(host)
    if may_use_own and is_running:
        candidate = look_at_archives(context, host, directory)
        if candidate is not None:
            yield candidate
            return
    candidates = [other for other in context.hosts if may_use_own or other != host]
    stopped: list[Host] = []
    silent: list[str] = []
    for outcome in _statuses(context, candidates):
        if _is_running(outcome) and outcome.host != host:
            candidate = look_at_archives(context, outcome.host, directory)
            if candidate is not None:
                yield candidate
                return
        if _is_stopped(outcome):
            stopped.append(outcome.host)
        if isinstance(outcome.error, UnreachableError):
            silent.append(outcome.host.name)
    startable = _start_order(context, host, stopped)
    with _started(context, host, directory, startable, silent) as candidate:
        yield candidate


def _start_order(context: WorkContext, host: Host, stopped: list[Host]) -> list[Host]:
    """Return the stopped containers that may be started.

    `host` comes first, the others in the order of the user's hosts.
    """
    startable = []
    if host in stopped:
        startable.append(host)
    for candidate in context.hosts:
        if candidate == host or candidate not in stopped:
            continue
        # Starting a container whose files another command is saving would spoil that archive.
        if context.journal.find(candidate.name) is None:
            startable.append(candidate)
    return startable


@contextmanager
def _started(
    context: WorkContext, host: Host, directory: str, stopped: list[Host], silent: list[str]
) -> Iterator[ArchiveHost]:
    """The first of the stopped containers that starts and sees the archives.

    It is stopped again after the block.
    """
    if stopped and not context.may_start:
        message = (
            "none of your containers is running, so the archives cannot be listed, and starting "
            "one needs your consent"
        )
        raise DeclinedError(message, hint=SameCommand("add --yes", "--yes"), code="no_terminal")
    for candidate in stopped:
        with ExitStack() as cleanup:
            try:
                start_briefly(
                    context,
                    candidate,
                    cleanup,
                    purpose="to see the archives",
                    lock_is_held=candidate == host,
                )
            except ApexError:
                continue  # a broken container, or a host that is in use: the next one may work
            archives = look_at_archives(context, candidate, directory)
            if archives is not None:
                yield archives
                return
    raise no_archive_host(host if host in stopped else None, silent)


def running_archive_host(context: WorkContext) -> ArchiveHost:
    """A container that is already running and sees the archives.

    NoArchiveHostError when there is none.
    """
    stopped = set()
    silent = []
    for outcome in _statuses(context, context.hosts):
        if _is_running(outcome):
            directory = parent_directory(template_path(context.transport, outcome.host))
            candidate = look_at_archives(context, outcome.host, directory)
            if candidate is not None:
                return candidate
        elif _is_stopped(outcome):
            stopped.add(outcome.host)
        if isinstance(outcome.error, UnreachableError):
            silent.append(outcome.host.name)
    for host in context.hosts:
        if host in stopped:
            raise no_archive_host(host, silent)
    raise no_archive_host(None, silent)


def look_at_archives(context: WorkContext, host: Host, directory: str) -> ArchiveHost | None:
    """The running container on `host` with what it sees in the archives' directory.

    None if it does not answer, or does not have that directory.
    """
    archives = ArchiveHost(context, host, directory)
    try:
        return replace(archives, first_listing=archives.list_archives())
    except ApexError:
        return None


def _statuses(context: WorkContext, hosts: Sequence[Host]) -> Iterator[Outcome[HostStatus]]:
    """The hosts' states in the order in which they answer: a dead host does not delay the others."""
    return fanout.arriving(hosts, lambda host: manage.status(context.transport, host))


def _is_running(outcome: Outcome[HostStatus]) -> bool:
    container = outcome.value.container if outcome.value else None
    return container is not None and container.running


def _is_stopped(outcome: Outcome[HostStatus]) -> bool:
    container = outcome.value.container if outcome.value else None
    return container is not None and not container.running


def start_briefly(
    context: WorkContext, host: Host, cleanup: ExitStack, *, purpose: str, lock_is_held: bool
) -> None:
    """Start a stopped container.

    `cleanup` stops it again. `lock_is_held` is whether the caller holds the host's lock.
    """
    if not lock_is_held:
        cleanup.enter_context(hostlock.only_one(context.state_dir, host))
    context.note(f"starting the container on {host.name} briefly, {purpose}")
    cleanup.callback(_stop_again, context, host)
    context.start(host)


def _stop_again(context: WorkContext, host: Host) -> None:
    try:
        context.stop(host)
    except ApexError as exc:
        # Not raised: the work itself is done, or has failed with an error of its own.
        context.note(f"the container on {host.name} could not be stopped again: {exc.message}")
