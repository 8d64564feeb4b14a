"""A running container that sees the archives' directory on the NAS: everything that is done to
archives goes through it.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from apexgpu.archives import scriptreplies, scripts
from apexgpu.archives.catalog import (
    SUFFIX,
    UNKNOWN_HOST,
    Archive,
    ArchiveCheck,
    FileStamp,
    Listing,
    Manifest,
    archive_name,
)
from apexgpu.archives.scriptreplies import NameTakenError
from apexgpu.archives.workcontext import WorkContext
from apexgpu.errors import (
    CommandTimeoutError,
    DroppedError,
    NoSnapshotError,
    RefusedError,
    UnreachableError,
)
from apexgpu.manageshell import archivecommands
from apexgpu.models import Host, Reply, Target
from apexgpu.ssh.transport import Limits, OnLine, Transport
from apexgpu.text import size

# The scripts that read or copy many GB print their progress every few seconds, unless the NAS
# hangs.
_READING = Limits(total=None, silence=600)
_QUICK = Limits(total=60)

CHECK_INTERVAL = 5.0
"""Seconds between two looks at a file that may be growing."""
STABLE_CHECKS = 4
"""How many times in a row a file must look the same to be believed to be complete."""
# What one host writes, another one sees late: the writing system keeps new data in memory for half
# a minute, and the reading one keeps what it knows of a file for as long again.
PATIENT_CHECKS = 14


@dataclass(frozen=True, slots=True)
class ArchiveHost:
    """The container on `host`, which runs and sees the archives in `directory`.

    `first_listing` is what it saw when it was chosen.
    """

    context: WorkContext
    host: Host
    directory: str
    first_listing: Listing | None = None

    @property
    def server_path(self) -> str:
        """The file that the server writes every snapshot of this user to."""
        return f"{self.directory}/{self.host.user}{SUFFIX}"

    def run(self, command: str, limits: Limits = _QUICK, progress_label: str = "") -> Reply:
        """Run one of the commands of `scripts`; again, once, when the connection drops.

        With a `progress_label`, the bytes that the command reports are shown after it.
        UnreachableError `nas_hangs` when the command gets no further.
        """
        target = Target(self.host, "container")
        on_line = self._progress_printer(progress_label) if progress_label else None
        transport = self.context.transport
        try:
            return transport.run(target, command, limits=limits, on_line=on_line)
        except CommandTimeoutError:
            raise self._nas_hangs() from None
        except DroppedError:
            pass
        try:
            return transport.run(target, command, limits=limits, on_line=on_line, once=True)
        except CommandTimeoutError:
            raise self._nas_hangs() from None

    def _progress_printer(self, label: str) -> OnLine:
        def on_line(line: str) -> None:
            position = scriptreplies.parse_progress(line)
            if position is not None:
                self.context.progress(f"{label}: {size(position)}")

        return on_line

    def _nas_hangs(self) -> UnreachableError:
        message = f"the NAS does not answer in the container on {self.host.name}"
        hint = f"apexgpu ssh {self.host.name} -- df -h /NAS"
        return UnreachableError(message, hint=hint, code="nas_hangs")

    def list_archives(self) -> Listing:
        """Every archive of the user's; RefusedError when the container does not see the directory."""
        reply = self.run(scripts.list_archives(self.directory, self.host.user))
        return scriptreplies.parse_listing(
            reply,
            self.host.name,
            directory=self.directory,
            user=self.host.user,
            hosts=[host.name for host in self.context.hosts],
        )

    def listing(self) -> Listing:
        """As `list_archives`; for callers that have just found this container, and changed nothing since."""
        if self.first_listing is not None:
            return self.first_listing
        return self.list_archives()

    def find(self, path: str) -> Archive | None:
        """The archive at a path, None when there is none, or it is not the user's."""
        return self.list_archives().find(path)

    def size_and_mtime(self, path: str) -> FileStamp | None:
        """A file's size and time now, None when it does not exist."""
        return scriptreplies.parse_stamp(self.run(scripts.stat(path)), self.host.name)

    def check(
        self, path: str, *, expected: bool = False, stable_checks: int = STABLE_CHECKS
    ) -> ArchiveCheck:
        """Read an archive from end to end.

        An archive that is bad, but may still be written, is read again when it has stopped
        changing: it must look the same `stable_checks` times. One that does not exist is waited for
        if it is `expected`; otherwise, or if it does not come, NoSnapshotError.
        """
        for _ in range(3):
            try:
                result = self._check_once(path)
            except NoSnapshotError:
                if not expected or self.wait_until_stable(path) is None:
                    raise
                result = self._check_once(path)
            if result.problem is None:
                return result
            stamp = self.wait_until_stable(path, stable_checks)
            if stamp == result.stamp and not result.changed:
                return result
        return result

    def _check_once(self, path: str) -> ArchiveCheck:
        reply = self.run(scripts.check(path), _READING, progress_label="read so far")
        return scriptreplies.parse_check(reply, self.host.name, path)

    def wait_until_stable(self, path: str, stable_checks: int = STABLE_CHECKS) -> FileStamp | None:
        """Wait until nobody writes to a file any more.

        Its size and time then, None if it does not exist then.
        """
        last = self.size_and_mtime(path)
        unchanged = 0
        while True:
            # A file that does not exist may only not be visible yet, so it gets more time.
            needed = stable_checks if last else max(stable_checks, PATIENT_CHECKS)
            if unchanged >= needed:
                return last
            self.context.pause(CHECK_INTERVAL)
            current = self.size_and_mtime(path)
            unchanged = unchanged + 1 if current == last else 0
            last = current
            state = f"{size(last.size)} so far" if last else "it does not exist yet"
            self.context.progress(f"waiting until the archive stops changing: {state}")

    def is_being_written(self, archive: Archive) -> bool:
        """Whether somebody is writing to the archive now.

        A verified one was complete, and has not changed since.

        Times are not compared with a clock: those of this machine, the host and the NAS need not
        agree.
        """
        if archive.verified is not None:
            return False
        for _ in range(2):
            self.context.progress("checking whether another snapshot is being written")
            self.context.pause(CHECK_INTERVAL)
            if self.size_and_mtime(archive.path) != archive.stamp:
                return True
        return False

    def unused_path(self, archive: Archive) -> str:
        """A path for an archive at which no snapshot overwrites it, and where there is no other
        one.
        """
        name = archive.name
        if archive.path == self.server_path and archive.changed:
            # It is another one than its manifest says; whose, nobody knows.
            name = archive_name(self.host.user, UNKNOWN_HOST, archive.created)
        elif archive.path == self.server_path and not archive.verified:
            # Without a manifest, the archive is only known by the server's file name.
            name = archive_name(self.host.user, archive.host, archive.created, archive.label)
        used = {other.path for other in self.list_archives().archives}
        for ending in _endings():
            path = f"{self.directory}/{name}{ending}{SUFFIX}"
            if path not in used:
                return path
        message = f"there are too many archives named {name}"
        raise RefusedError(message, hint="apexgpu snapshots", code="busy")

    def move_away(self, archive: Archive, target: str) -> bool:
        """Rename (or copy) an archive to `target`, an unused path. True if it has certainly left its old path.

        CannotMoveError when it can be neither renamed nor copied; RefusedError when it changed
        meanwhile: then the caller has to call `undo_move`.
        """
        command = scripts.move_away(archive.path, target)
        reply = self.run(
            command, _READING, progress_label="copying the archive that is already there"
        )
        # After a dropped connection the command ran twice: "there is nothing to move" or "the name
        # is taken" is then the answer of the second run, although the first one moved (or copied)
        # the archive. The stamp decides.
        move = None
        with suppress(NameTakenError):
            move = scriptreplies.parse_move(reply, self.host.name)
        if self.size_and_mtime(target) != archive.stamp:
            message = (
                f"{archive.path} was written to while it was being renamed: another snapshot is "
                "running, wait until it has ended"
            )
            raise RefusedError(message, hint="apexgpu snapshots", code="busy")
        return move == "renamed"

    def restore(self, path: str) -> bool:
        """Rename an archive that was moved away over what the server wrote in its place.

        False when that fails.
        """
        stamp = self.size_and_mtime(path)
        if stamp is None:
            return False
        # As in `move_away`, the stamp decides, whatever the command prints.
        with suppress(RefusedError):
            reply = self.run(scripts.restore(path, self.server_path))
            scriptreplies.parse_move(reply, self.host.name)
        return self.size_and_mtime(self.server_path) == stamp

    def undo_move(self, path: str) -> None:
        """Undo a `move_away` to `path`, unless the server has written an archive since."""
        moved = self.size_and_mtime(path)
        current = self.size_and_mtime(self.server_path)
        if moved is None:
            return
        if current is None:
            self.restore(path)
        elif current == moved:
            # It was copied, not renamed: the original is where it was, and the copy is not needed.
            self.run(scripts.remove(path, moved))

    def write_manifest(self, path: str, manifest: Manifest) -> bool:
        """Write the manifest beside an archive; False when that is not permitted."""
        command = scripts.write_manifest(path, manifest.to_line(self.host.user))
        return scriptreplies.parse_done(self.run(command), self.host.name)

    def delete_manifest(self, path: str) -> bool:
        """Delete the manifest beside an archive, because it is no longer true.

        False when that is not permitted.
        """
        return scriptreplies.parse_done(self.run(scripts.delete_manifest(path)), self.host.name)

    def remove(self, archive: Archive) -> None:
        """Delete an archive and its manifest.

        RefusedError when that is not permitted, or it has changed.
        """
        reply = self.run(scripts.remove(archive.path, archive.stamp))
        if not scriptreplies.parse_removal(reply, self.host.name, archive.path):
            message = (
                f"permission denied: {archive.path} cannot be removed from the container on "
                f"{self.host.name}; ask the administrators to delete it"
            )
            raise RefusedError(message, hint="apexgpu snapshots", code="not_writable")

    def set_mode(self, path: str, mode: int) -> int | None:
        """Change who can read an archive, if permitted; its mode now, None when it does not exist."""
        return scriptreplies.parse_mode(self.run(scripts.set_mode(path, mode)), self.host.name)


def _endings() -> Iterator[str]:
    """Yield suffixes that make a name unique: nothing, then `-2`, `-3` …"""
    yield ""
    for number in range(2, 100):
        yield f"-{number}"


def rootfs_size(transport: Transport, host: Host) -> str | None:
    """The size of the container's files as the server's `du -h` shows it.

    The server reads all of them: with millions on a slow disk this takes longer than any other
    command. NoRootfsError when there are none.
    """
    return archivecommands.confirm_snapshot(transport, host).size


def template_path(transport: Transport, host: Host) -> str:
    """The path of the administrators' template, which `rebuild` prints.

    The archives are in the same directory.
    """
    offer = archivecommands.confirm_rebuild(transport, host)
    if not offer.path or not offer.path.startswith("/"):
        message = f"`rebuild` on {host.name} names no template to make a container from"
        raise RefusedError(message, hint=f"ssh {host.manage_name} rebuild", code="unexpected")
    return offer.path


def parent_directory(path: str) -> str:
    """The directory that an archive is in."""
    return str(PurePosixPath(path).parent)
