"""Which archive a user means, which one is the default, and which ones a rotation removes. Pure."""

from collections.abc import Sequence

from apexgpu.archives.catalog import SUFFIX, UNKNOWN_HOST, Archive, file_name
from apexgpu.errors import NoSnapshotError, RefusedError, UsageError


def choose_archive(archives: Sequence[Archive], wanted: str, host: str) -> Archive:
    """The archive with the name, label, file name or path `wanted`.

    RefusedError for none, or several.

    A name, a file or a path counts before a label that has the same text. `host` is for the hint.
    """
    matches = [archive for archive in archives if wanted in _names(archive)]
    if not matches:
        matches = [archive for archive in archives if archive.label == wanted]
    if not matches:
        message = f"there is no snapshot {wanted}"
        raise NoSnapshotError(message, hint="apexgpu snapshots")
    if len(matches) > 1:
        names = ", ".join(archive.name for archive in matches)
        message = f"{wanted} is the name of {len(matches)} snapshots: {names}"
        hint = f"apexgpu recover {host} --from {matches[0].name}"
        raise RefusedError(message, hint=hint, code="several_snapshots")
    return matches[0]


def _names(archive: Archive) -> set[str]:
    stem = file_name(archive.path)
    return {archive.name, archive.path, stem, f"{stem}{SUFFIX}"}


def default_archive(archives: Sequence[Archive], host: str, server_path: str) -> Archive:
    """The archive that `recover HOST` uses: the one at `server_path` if it is this host's, else the
    host's newest.
    """
    newest = None
    of_server = None
    for archive in archives:
        if archive.path == server_path:
            of_server = archive
        if archive.host == host and (newest is None or archive.created >= newest.created):
            newest = archive
    if of_server is not None and of_server.host in {host, UNKNOWN_HOST}:
        return of_server
    if newest is not None:
        return newest
    if of_server is not None:
        message = (
            f"no snapshot of {host} found; the newest archive is of {of_server.host} "
            f"({of_server.name})"
        )
        hint = f"apexgpu recover {host} --from {of_server.name}"
        raise NoSnapshotError(message, hint=hint)
    raise NoSnapshotError("no snapshot found", hint=f"apexgpu snapshot {host}")


def archives_to_remove(archives: Sequence[Archive], keep: int) -> list[Archive]:
    """All archives but the newest `keep` of each host; each host's last verified one is kept too."""
    if keep < 1:
        raise UsageError("at least one snapshot must be kept", hint="apexgpu snapshots keep 3")
    by_host: dict[str, list[Archive]] = {}
    for archive in archives:
        by_host.setdefault(archive.host, []).append(archive)
    removed: list[Archive] = []
    for of_host in by_host.values():
        newest_first = sorted(of_host, key=lambda archive: -archive.created)
        verified_is_kept = any(archive.verified for archive in newest_first[:keep])
        for archive in newest_first[keep:]:
            if archive.verified and not verified_is_kept:
                verified_is_kept = True
            else:
                removed.append(archive)
    return removed
