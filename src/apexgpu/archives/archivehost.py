"""The archives' directory on the NAS, as a running container of the user's sees it: the eye, and its means."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from apexgpu.archives import answers, scripts
from apexgpu.archives.catalog import SUFFIX, Manifest, Reading, Saved, Sight, name_of
from apexgpu.archives.journal import Journal
from apexgpu.errors import ApexError, DroppedError, RefusedError, UnreachableError
from apexgpu.manageshell import manage, starting
from apexgpu.manageshell.manage import HostStatus
from apexgpu.manageshell.starting import Pause
from apexgpu.models import Host, Reply, Target
from apexgpu.remote import remotescript
from apexgpu.ssh.transport import Limits, OnLine, Transport
from apexgpu.text import size

# Our own scripts tell every few seconds how far they are, unless the NAS hangs.
_READING = Limits(total=None, silence=600)
_QUICK = Limits(total=60)
LOOK_EVERY = 5.0
STILL_LOOKS = 4
# What one host writes another one sees late: a system keeps new data to itself for half a minute, and what is known of
# a file for as long again.
PATIENT_LOOKS = 14


@dataclass(frozen=True, slots=True)
class Means:
    """What a piece of work has at hand: the link, all the user's hosts, where to note and what to tell.

    `say` takes the newest line of progress, `note` one that stays; `wait` bounds a start, in seconds. `answered` is
    whether the user has said yes to everything, or can be asked: else nothing may be started merely to look.
    """

    link: Transport
    hosts: Sequence[Host]
    state_dir: Path
    pause: Pause
    say: OnLine
    note: OnLine
    wait: float = 120
    answered: bool = True
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "journal", Journal(self.state_dir))

    def status(self, host: Host) -> HostStatus:
        """The container's state, asked for again once when the connection drops."""
        try:
            return manage.status(self.link, host)
        except DroppedError:
            return manage.status(self.link, host)

    def runs(self, host: Host) -> bool:
        """Whether the container is known to run; a host that does not answer is not known to."""
        try:
            found = self.status(host).container
        except UnreachableError:
            return False
        return found is not None and found.running

    def start(self, host: Host) -> None:
        """Bring a container up, to a login; the host's lock is held by the caller.

        A start whose connection drops leaves the port without its forward: stopping and starting cures that, once.
        """
        try:
            self._start(host)
        except ApexError as exc:
            if exc.code not in {"dropped", "no_forward"}:
                raise
            self.note(f"{exc.message}; stopping and starting again")
            self.stop(host)
            self._start(host)

    def _start(self, host: Host) -> None:
        starting.start(self.link, host, on_line=self.say, wait=self.wait, pause=self.pause)

    def stop(self, host: Host) -> None:
        """Stop a container, again once when the connection drops; the host's lock is held by the caller."""
        try:
            manage.stop(self.link, host, on_line=self.say)
        except DroppedError:
            manage.stop(self.link, host, on_line=self.say)


@dataclass(frozen=True, slots=True)
class Eye:
    """A running container through which the archives in `directory` are seen."""

    means: Means
    host: Host
    directory: str

    @property
    def path(self) -> str:
        """Where the server writes this user's snapshots."""
        return f"{self.directory}/{self.host.user}{SUFFIX}"

    def run(self, script: str, limits: Limits = _QUICK, what: str = "") -> Reply:
        """Run one of `archivescripts` there; what is cut by a lost connection is run again, once."""
        target, script = Target(self.host, "container"), remotescript.script(script)

        def heard(line: str) -> None:
            if (done := answers.position(line)) is not None:
                self.means.say(f"{what}: {size(done)}")

        on_line = heard if what else None
        try:
            return self.means.link.run(target, script, limits=limits, on_line=on_line)
        except DroppedError as exc:
            if exc.code == "timeout":
                raise self._hangs() from None
        try:
            return self.means.link.run(target, script, limits=limits, on_line=on_line, once=True)
        except DroppedError as exc:
            raise (self._hangs() if exc.code == "timeout" else exc) from None

    def _hangs(self) -> UnreachableError:
        message = f"the NAS does not answer in the container on {self.host.name}"
        return UnreachableError(
            message, hint=f"apexgpu ssh {self.host.name} -- df -h /NAS", code="nas_hangs"
        )

    def look(self) -> Sight:
        """Every archive of the user's; RefusedError where the directory is not seen."""
        names = [host.name for host in self.means.hosts]
        reply = self.run(scripts.look(self.directory, self.host.user))
        return answers.saw(
            reply, self.host.name, directory=self.directory, user=self.host.user, hosts=names
        )

    def find(self, path: str) -> Saved | None:
        """The archive at a path, where it is the user's."""
        return next((one for one in self.look().archives if one.path == path), None)

    def test(self, path: str, *, expected: bool = False, looks: int = STILL_LOOKS) -> Reading:
        """Read an archive from end to end; one that is still being written is waited for, and read again.

        One that is not there is waited for when it is `expected`; else, RefusedError `no_snapshot`. `looks` is how
        long one that is not whole must stand still to be believed to stay so.
        """
        for _ in range(3):
            try:
                found = self._read(path)
            except RefusedError as exc:
                if exc.code != "no_snapshot" or not expected or self.await_still(path) is None:
                    raise
                found = self._read(path)
            if found.trouble is None:
                return found
            if self.await_still(path, looks) == found.stamp and not found.moved:
                return found
        return found

    def _read(self, path: str) -> Reading:
        reply = self.run(scripts.test(path), _READING, "read so far")
        return answers.tested(reply, self.host.name, path)

    def standing(self, path: str) -> tuple[int, int] | None:
        """Size and time of a file now, None when it is not there."""
        return answers.standing(self.run(scripts.stat(path)), self.host.name)

    def await_still(self, path: str, looks: int = STILL_LOOKS) -> tuple[int, int] | None:
        """Wait until nobody writes to the file any more, or it stays away; its size and time then."""
        last = self.standing(path)
        same = 0
        while same < (looks if last else max(looks, PATIENT_LOOKS)):
            self.means.pause(LOOK_EVERY)
            now = self.standing(path)
            same = same + 1 if now == last else 0
            last = now
            there = f"{size(last[0])} so far" if last else "nothing there yet"
            self.means.say(f"waiting until the archive stands still: {there}")
        return last

    def is_written_to(self, one: Saved) -> bool:
        """Whether somebody is writing the archive at this moment; a verified one has been whole and is as it was.

        No clock is asked: this one, the host's and the NAS's need not agree.
        """
        if one.verified is not None:
            return False
        for _ in range(2):
            self.means.say("looking whether somebody is writing the archive that is there")
            self.means.pause(LOOK_EVERY)
            if self.standing(one.path) != one.stamp:
                return True
        return False

    def place_for(self, one: Saved) -> str:
        """A path of an archive's own, where no snapshot overwrites it."""
        name = (
            one.name
            if one.path != self.path or one.verified
            else name_of(self.host.user, one.host, one.created, one.label)
        )
        taken = {other.path for other in self.look().archives}
        free = (
            f"{self.directory}/{name}{more}{SUFFIX}"
            for more in ("", *(f"-{number}" for number in range(2, 100)))
        )
        return next(path for path in free if path not in taken)

    def set_aside(self, one: Saved, target: str) -> None:
        """Rename (or copy) an archive to `target`; RefusedError when that is not allowed, or it changed meanwhile.

        In both cases it is the caller's to bring home what is there then.
        """
        # "Nothing there" may be the answer to a second asking, after a drop that hid that the first one worked.
        # So may "there already" be, where it was copied.
        reply = self.run(
            scripts.aside(one.path, target), _READING, "copying the archive that is there"
        )
        try:
            answers.moved(reply, self.host.name)
        except RefusedError as exc:
            if exc.code != "busy":
                raise
        if self.standing(target) != one.stamp:
            raise RefusedError(
                f"{one.path} was written to while it was set aside",
                code="busy",
                hint="wait until the other snapshot has ended; then: apexgpu snapshots",
            )

    def put_back(self, path: str) -> bool:
        """Rename an archive that was set aside over what the server wrote in its place; False when it cannot be."""
        stamp = self.standing(path)
        if stamp is None:
            return False
        with suppress(RefusedError):
            answers.moved(self.run(scripts.back(path, self.path)), self.host.name)
        return self.standing(self.path) == stamp

    def bring_home(self, path: str) -> None:
        """Undo a `set_aside`, where the server has written nothing since; a copy is not needed any more then."""
        aside, there = self.standing(path), self.standing(self.path)
        if aside is not None and there is None:
            self.put_back(path)
        elif aside is not None and aside == there:
            self.run(scripts.remove(path, aside))

    def write_note(self, path: str, manifest: Manifest) -> bool:
        """Put a manifest beside an archive; False where that may not be written."""
        return answers.did(
            self.run(scripts.note(path, manifest.text(self.host.user))), self.host.name
        )

    def unnote(self, path: str) -> bool:
        """Take the manifest beside an archive away: what it says is not true any more."""
        return answers.did(self.run(scripts.unnote(path)), self.host.name)

    def remove(self, one: Saved) -> None:
        """Delete an archive and its manifest; RefusedError where it may not be, or is another one by now."""
        if not answers.removed(
            self.run(scripts.remove(one.path, one.stamp)), self.host.name, one.path
        ):
            raise RefusedError(
                f"{one.path} cannot be removed from the container on {self.host.name}",
                code="not_writable",
                hint="ask the administrators to delete it",
            )

    def change_mode(self, path: str, bits: int) -> int | None:
        """Change who may read an archive, where that is allowed; its mode now, None when it is not there."""
        return answers.bits(self.run(scripts.mode(path, bits)), self.host.name)


def measured(link: Transport, host: Host) -> str | None:
    """What the server measures the container's files to be, as `du -h` shows it.

    It walks over all of them: with millions on a slow disk that takes longer than any other question. RefusedError
    `no_rootfs` where there are none.
    """
    return manage.confirm_snapshot(link, host).size


def template_path(link: Transport, host: Host) -> str:
    """The administrator's template, as `rebuild` names it; that only prints. The archives lie beside it."""
    offer = manage.confirm_rebuild(link, host)
    if not offer.path or not offer.path.startswith("/"):
        message = f"`rebuild` on {host.name} names no template to make a container from"
        raise RefusedError(message, hint=f"ssh {host.manage_name} rebuild", code="unexpected")
    return offer.path


def directory_of(path: str) -> str:
    """The directory that an archive lies in."""
    return str(PurePosixPath(path).parent)


def now() -> int:
    """The laptop's clock, epoch seconds."""
    return int(time.time())
