"""What a recover would do: which archive, what reading it to its end says, what is there now. It changes nothing."""

from dataclasses import dataclass, replace
from posixpath import normpath

from apexgpu.archives import archivehost
from apexgpu.archives.archivehost import Eye, Means
from apexgpu.archives.catalog import SUFFIX, UNKNOWN, Reading, Saved, choose, default
from apexgpu.archives.findhost import an_eye
from apexgpu.archives.journal import Work
from apexgpu.errors import ApexError, RefusedError, UnsafeArgumentError
from apexgpu.iam.publickeys import parse_all
from apexgpu.manageshell import containershell, manage, portmaps
from apexgpu.models import Host, Target
from apexgpu.remote import remotescript
from apexgpu.ssh.failures import key_refused_error

_AUTHORIZED = 'cat "$HOME/.ssh/authorized_keys" 2>/dev/null; echo; echo end'
# What the hosts and the containers see under the same name.
_SHARED = frozenset({"NAS", "newNAS"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What would replace the container's files, what the test of it said, and what is there now.

    `doubt` is why the archive cannot be trusted, None when it can. `whole` is whether what is there now is worth a
    snapshot, and somebody could test it. `server_path` is the file that every snapshot of the user's overwrites.
    """

    host: Host
    what: Work
    ran: bool
    whole: bool
    use: containershell.Activity
    archive: Saved
    tested: Reading | None
    doubt: str | None
    directory: str
    server_path: str
    maps: tuple[int, ...] = ()
    authorized: tuple[str, ...] = ()


def plan(
    means: Means, host: Host, what: Work, wanted: str | None, *, unverified: bool = False
) -> Plan:
    """Choose the archive and test it where a running container sees it; RefusedError when it cannot be trusted.

    With `unverified` the doubt is kept in the plan instead.
    """
    found = means.status(host)
    if found.container is None:
        raise key_refused_error(Target(host, "manage"))
    template = archivehost.template_path(means.link, host)
    directory = archivehost.directory_of(template)
    ran = found.container.running
    broken = means.journal.find(host.name)
    tested: Reading | None = None
    authorized: tuple[str, ...] = ()
    try:
        with an_eye(means, host, directory, own=broken is None or ran) as eye:
            archive = _archive(eye, host, what, wanted, template)
            means.say(f"testing {archive.name}: gzip -t, tar -t, SHA-256")
            tested = eye.test(archive.path)
            archive = _as_read(archive, tested)
            doubt = _doubt(archive, tested)
            if archive.verified and doubt:
                eye.unnote(archive.path)
            authorized = read_keys(means, host) if eye.host == host else ()
    except RefusedError as exc:
        if exc.code != "no_eye":
            raise
        archive = _unseen(host, what, wanted, template, directory)
        doubt = "no container of yours is running that could read it"
    if doubt and not unverified:
        raise RefusedError(
            f"{archive.name} cannot be trusted: {doubt}; nothing was changed",
            code="archive_damaged",
            hint=f"apexgpu snapshots   (then: apexgpu recover {host.name} --from NAME)",
        )
    _sendable(archive)
    details = broken.details if broken else {}
    return Plan(
        host,
        what,
        ran,
        broken is None and tested is not None,
        containershell.activity(means.link, host) if ran else containershell.Activity(),
        archive,
        tested,
        doubt,
        directory,
        f"{directory}/{host.user}{SUFFIX}",
        portmaps.mapped_ports(means.link, host) if ran else tuple(details.get("maps", ())),
        authorized or tuple(details.get("authorized", ())),
    )


def _sendable(archive: Saved) -> None:
    if not manage.is_sendable(archive.path):
        message = f"{archive.path!r} cannot be sent to a manage shell: it has a blank or a letter that a shell reads"
        raise UnsafeArgumentError(
            message,
            hint="give the file another name in a container, such as mine.tar.gz",
        )


def _archive(eye: Eye, host: Host, what: Work, wanted: str | None, template: str) -> Saved:
    if what == "rebuild":
        return _at(template)
    seen = eye.look().archives
    if wanted is None:
        return default(seen, host.name, eye.path)
    if wanted.startswith("/"):
        path = _absolute(wanted)
        return next((one for one in seen if one.path == path), _at(path))
    return choose(seen, wanted, host.name)


def _absolute(path: str) -> str:
    """A path by its one name, so that what is compared with it is found, and `/NAS/..` is not taken for the NAS."""
    return normpath(f"/{path.lstrip('/')}")


def _at(path: str) -> Saved:
    """An archive of which nothing but its path is known."""
    return Saved(path.rpartition("/")[2].removesuffix(SUFFIX), UNKNOWN, "", path, 0, 0, 0o644)


def _as_read(archive: Saved, tested: Reading) -> Saved:
    """With the size and time that the test found, for an archive that is none of the user's."""
    return archive if archive.size else replace(archive, size=tested.size, created=tested.time)


def _unseen(host: Host, what: Work, wanted: str | None, template: str, directory: str) -> Saved:
    if what == "rebuild":
        return _at(template)
    if wanted is None:
        return _at(f"{directory}/{host.user}{SUFFIX}")
    return _at(
        _absolute(wanted)
        if wanted.startswith("/")
        else f"{directory}/{wanted.removesuffix(SUFFIX)}{SUFFIX}"
    )


def _doubt(archive: Saved, tested: Reading) -> str | None:
    if tested.trouble:
        return tested.trouble
    if archive.sha256 and archive.sha256 != tested.sha256:
        return "its SHA-256 is no longer the one that was noted when it was verified"
    if archive.path.split("/")[1] not in _SHARED:
        return "it does not lie on the NAS, so the server may see another file under this name"
    return None


def read_keys(means: Means, host: Host) -> tuple[str, ...]:
    """The lines of authorized_keys in a running container; none where they cannot be read."""
    try:
        reply = containershell.query_running(means.link, host, remotescript.script(_AUTHORIZED))
    except ApexError:
        return ()
    return tuple(key.line for key in parse_all(reply.out))
