"""The commands of the manage shell that save a container to the NAS and restore it: one function for each.

They are apart from `manage`, because most commands of apexgpu do without them and have to start fast.
"""

from apexgpu.manageshell import archivereplies, manage
from apexgpu.manageshell.archivereplies import ArchiveReport, Confirmation
from apexgpu.models import Host
from apexgpu.ssh.transport import Limits, Transport

# `snapshot` runs `du` over all files of the container: with millions on a slow disk that takes
# hours.
_MEASURE_LIMITS = Limits(total=4 * 3600)
# The server's tar prints nothing while it runs, and nobody knows how long it takes.
_NO_LIMITS = Limits(total=None, silence=None)


def confirm_snapshot(transport: Transport, host: Host) -> Confirmation:
    """Ask for the token of a snapshot. The reply also contains the size of the files.

    This may take hours: the server measures all files. NoRootfsError when there are none.
    """
    reply = manage.query(transport, host, "snapshot", limits=_MEASURE_LIMITS)
    return archivereplies.parse_snapshot_confirmation(reply, host.name)


def confirm_recover(transport: Transport, host: Host) -> Confirmation:
    """Ask for the token of a recover and the path of the archive.

    The token is valid for a snapshot too.
    """
    return archivereplies.parse_recover_confirmation(
        manage.query(transport, host, "recover"), host.name
    )


def confirm_rebuild(transport: Transport, host: Host) -> Confirmation:
    """Ask for the token of a recover from the administrators' template, and the template's path."""
    return archivereplies.parse_recover_confirmation(
        manage.query(transport, host, "rebuild"), host.name
    )


def snapshot(transport: Transport, host: Host, token: str) -> ArchiveReport:
    """Write the container's files to its archive on the NAS. There is no time limit.

    BadSnapshotError when the server reports success although tar failed. After a DroppedError the
    server's tar may still be running.
    """
    reply = manage.send(transport, host, "snapshot", token, limits=_NO_LIMITS)
    return archivereplies.parse_snapshot(reply, host.name)


def recover(transport: Transport, host: Host, token: str, path: str) -> ArchiveReport:
    """Replace the container's files with those of the archive at `path`. There is no time limit."""
    reply = manage.send(transport, host, "recover", token, path, limits=_NO_LIMITS)
    return archivereplies.parse_recover(reply, host.name)
