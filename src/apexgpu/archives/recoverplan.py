"""What a recover or rebuild would do: which archive, what a check of it found, what is in the
container. Changes nothing.
"""

from dataclasses import dataclass, replace
from posixpath import normpath

from apexgpu.archives import archivehost, scripts, verification
from apexgpu.archives.access import ArchiveChangedError
from apexgpu.archives.archivehost import ArchiveHost
from apexgpu.archives.catalog import SUFFIX, UNKNOWN_HOST, Archive, ArchiveCheck, file_name
from apexgpu.archives.findhost import NoArchiveHostError, archive_host
from apexgpu.archives.journal import JournalEntry, ReplacementEntry, Stage, Work
from apexgpu.archives.selection import choose_archive, default_archive
from apexgpu.archives.workcontext import WorkContext
from apexgpu.errors import ApexError, RefusedError, UnsafeArgumentError
from apexgpu.iam.publickeys import parse_all
from apexgpu.manageshell import containershell, manage, portmaps
from apexgpu.models import Host, Target
from apexgpu.ssh.failures import key_refused_error

# The directories that hosts and containers see under the same name.
_SHARED = frozenset({"NAS", "newNAS"})


@dataclass(frozen=True, slots=True)
class RecoverPlan:
    """What would replace the container's files, and what is in the container now.

    `problem` is why the archive cannot be trusted, None when it can; `check` is None when no
    container could read it. `can_save` is whether a snapshot of the container makes sense first:
    its files are complete, and the snapshot could be checked. `server_path` is the file that every
    snapshot of the user overwrites. `wanted` is what the user named with --from.
    """

    host: Host
    what: Work
    was_running: bool
    can_save: bool
    activity: containershell.Activity
    archive: Archive
    check: ArchiveCheck | None
    problem: str | None
    directory: str
    server_path: str
    port_maps: tuple[int, ...] = ()
    authorized_keys: tuple[str, ...] = ()
    wanted: str | None = None


def plan_recover(
    context: WorkContext,
    host: Host,
    what: Work,
    wanted: str | None,
    *,
    resumed: ReplacementEntry | None = None,
    unverified: bool = False,
) -> RecoverPlan:
    """Choose the archive and check it through a running container.

    `wanted` is a name, label, file or absolute path; None for the default. `resumed` is an
    interrupted recover: its archive is chosen, whatever `wanted` means by now. RefusedError when
    the archive cannot be trusted; with `unverified` the plan names the problem instead.
    """
    container = context.status(host).container
    if container is None:
        raise key_refused_error(Target(host, "manage"))
    is_running = container.running
    template = archivehost.template_path(context.transport, host)
    directory = archivehost.parent_directory(template)
    server_path = f"{directory}/{host.user}{SUFFIX}"
    interrupted = context.journal.find(host.name)
    if interrupted is not None and interrupted.stage is Stage.STOP:
        # Its container was put back as it was: the files are complete.
        interrupted = None
    # A stopped container whose files are incomplete must not be started to look.
    may_use_own = interrupted is None or is_running
    meant = _MeantArchive(
        wanted=wanted,
        template=template if what is Work.REBUILD else None,
        resumed=resumed,
    )
    try:
        looking = archive_host(
            context, host, directory, may_use_own=may_use_own, is_running=is_running
        )
        with looking as archives:
            archive = _find_meant(archives, host, meant)
            choice = _check_choice(context, archives, host, archive)
    except NoArchiveHostError:
        path = _guess_meant_path(host, meant, directory, server_path)
        choice = _Choice(
            _unlisted(path), problem="none of your containers is running and can read it"
        )
    if choice.problem and not unverified:
        message = (
            f"{choice.archive.name} cannot be trusted: {choice.problem}; nothing was changed, name "
            "another snapshot with --from"
        )
        raise RefusedError(message, hint="apexgpu snapshots", code="archive_damaged")
    _require_sendable(choice.archive)
    activity = containershell.Activity()
    if is_running:
        activity = containershell.activity(context.transport, host)
    return RecoverPlan(
        host=host,
        what=what,
        was_running=is_running,
        can_save=interrupted is None and choice.check is not None,
        activity=activity,
        archive=choice.archive,
        check=choice.check,
        problem=choice.problem,
        directory=directory,
        server_path=server_path,
        port_maps=_port_maps(context, host, interrupted, is_running=is_running),
        authorized_keys=choice.authorized_keys or _keys_before(interrupted),
        wanted=resumed.wanted if resumed is not None else wanted,
    )


@dataclass(frozen=True, slots=True)
class _MeantArchive:
    """Which archive the command is about.

    `template` is the path of the template if the container is to be rebuilt from it, `resumed` the
    interrupted recover that goes on. Otherwise it is what the user named (`wanted`), or the default.
    """

    wanted: str | None
    template: str | None
    resumed: ReplacementEntry | None


def _find_meant(archives: ArchiveHost, host: Host, meant: _MeantArchive) -> Archive:
    """The archive that is meant, as a running container sees it."""
    if meant.template is not None:
        return _unlisted(meant.template)
    if meant.resumed is not None:
        return _find_resumed(archives, meant.resumed)
    return _find_archive(archives, host, meant.wanted)


def _guess_meant_path(host: Host, meant: _MeantArchive, directory: str, server_path: str) -> str:
    """The path of the archive that is meant, when no container can look."""
    if meant.template is not None:
        return meant.template
    if meant.resumed is not None:
        return meant.resumed.path
    return _guess_path(host, meant.wanted, directory, server_path)


@dataclass(frozen=True, slots=True)
class _Choice:
    """The chosen archive and what looking at it found; see RecoverPlan."""

    archive: Archive
    check: ArchiveCheck | None = None
    problem: str | None = None
    authorized_keys: tuple[str, ...] = ()


def _check_choice(
    context: WorkContext, archives: ArchiveHost, host: Host, archive: Archive
) -> _Choice:
    context.progress(f"checking {archive.name}: gzip -t, tar -t, SHA-256")
    check = archives.check(archive.path)
    if not archive.size:
        # It is not in the list of the user's archives: its size and time are known only now.
        archive = replace(archive, size=check.stamp.size, created=check.stamp.mtime)
    problem = _find_problem(archive, check)
    # What is not the user's own has no manifest.
    is_listed = archive.name.startswith(f"{host.user}-")
    if problem and is_listed and archive.damage is None:
        verification.record_damage(archives, archive, check, problem)
    authorized_keys: tuple[str, ...] = ()
    if archives.host == host:
        authorized_keys = read_authorized_keys(context, host)
    return _Choice(archive, check, problem, authorized_keys)


def _port_maps(
    context: WorkContext, host: Host, interrupted: JournalEntry | None, *, is_running: bool
) -> tuple[int, ...]:
    """The ports to map again.

    Those of a stopped container only an interrupted command has recorded.
    """
    if is_running:
        return portmaps.mapped_ports(context.transport, host)
    if interrupted is not None:
        return interrupted.port_maps
    return ()


def _keys_before(interrupted: JournalEntry | None) -> tuple[str, ...]:
    """The keys that an interrupted recover found: the container's files may be deleted since."""
    if isinstance(interrupted, ReplacementEntry):
        return interrupted.authorized_keys
    return ()


def _require_sendable(archive: Archive) -> None:
    if not manage.is_sendable(archive.path):
        message = (
            f"{archive.path!r} cannot be sent to a manage shell: it contains a blank or a special "
            "character; rename the file in a container, for example to mine.tar.gz"
        )
        raise UnsafeArgumentError(message, hint="apexgpu snapshots")


def _find_archive(archives: ArchiveHost, host: Host, wanted: str | None) -> Archive:
    """The archive that the user means, as a container sees it."""
    listing = archives.listing()
    if wanted is None:
        return default_archive(listing.archives, host.name)
    if wanted.startswith("/"):
        path = _normalized(wanted)
        archive = listing.find(path) or _unlisted(path)
    else:
        archive = choose_archive(listing.archives, wanted)
    is_own_name = wanted in {archive.name, archive.label}
    if archive.path == archives.server_path and archive.made_for_undo and not is_own_name:
        # The first time, these words named the archive that was here before.
        message = (
            f"{wanted} is now what was saved {archive.label.replace('-', ' a ')}: {archive.name}"
        )
        hint = f"apexgpu recover {host.name} --from {archive.name}"
        raise RefusedError(message, hint=hint, code="for_undo")
    return archive


def _find_resumed(archives: ArchiveHost, entry: ReplacementEntry) -> Archive:
    """The archive that an interrupted recover began with, wherever it is by now.

    ArchiveChangedError when it is not there any more.
    """
    listing = archives.listing()
    archive = listing.find(entry.path)
    if archive is not None and entry.checked in {None, archive.stamp}:
        return archive
    # One that is not among the user's own, but was named with its path.
    stamp = archives.size_and_mtime(entry.path)
    if stamp is not None and entry.checked in {None, stamp}:
        return replace(_unlisted(entry.path), size=stamp.size, created=stamp.mtime)
    # A snapshot has moved it away: its size and time are the same, and its name, if it had one.
    same = [archive for archive in listing.archives if archive.stamp == entry.checked]
    for archive in same:
        if archive.name == entry.archive_name or len(same) == 1:
            return archive
    message = (
        f"{entry.archive_name}, from which the interrupted recover began, is gone or has changed; "
        "name a snapshot with --from"
    )
    raise ArchiveChangedError(message, hint="apexgpu snapshots")


def _guess_path(host: Host, wanted: str | None, directory: str, server_path: str) -> str:
    """The path of the archive that the user means, when no container can list the archives."""
    if wanted is None:
        # Whose the server's own file is, and whether it is what a recover saved, is not known.
        message = (
            "none of your containers is running and can list the archives, so the default is not "
            "known; name the archive with --from"
        )
        hint = f"apexgpu recover {host.name} --unverified --from {server_path}"
        raise RefusedError(message, hint=hint, code="no_eye")
    if wanted.startswith("/"):
        return _normalized(wanted)
    return f"{directory}/{wanted.removesuffix(SUFFIX)}{SUFFIX}"


def _normalized(path: str) -> str:
    """An absolute path without `.`, `..` and `//`: it can be compared, and `/NAS/..` is not taken
    for the NAS.
    """
    # POSIX gives two slashes at the beginning a meaning of their own, so normpath would keep them.
    return normpath(f"/{path.lstrip('/')}")


def _unlisted(path: str) -> Archive:
    """An archive of which only the path is known."""
    return Archive(
        name=file_name(path),
        host=UNKNOWN_HOST,
        label="",
        path=path,
        size=0,
        created=0,
        mode=0o644,
    )


def _find_problem(archive: Archive, check: ArchiveCheck) -> str | None:
    problem = verification.find_problem(archive, check)
    if problem is not None:
        return problem
    if archive.path.split("/")[1] not in _SHARED:
        return "it is not on the NAS, so the server may see another file under this name"
    return None


def read_authorized_keys(context: WorkContext, host: Host) -> tuple[str, ...]:
    """The lines of authorized_keys in a running container; none where they cannot be read."""
    try:
        reply = containershell.query_running(
            context.transport, host, scripts.print_authorized_keys()
        )
    except ApexError:
        return ()
    return tuple(key.line for key in parse_all(reply.out))
