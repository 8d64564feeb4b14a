"""The archives' directory on the NAS, as a running container of the user's sees it: the eye, and how one is found."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from apexgpu import archives, fanout, manage
from apexgpu import archivescripts as scripts
from apexgpu.errors import ApexError, DroppedError, RefusedError, UnreachableError
from apexgpu.journal import Journal
from apexgpu.manage import HostStatus, OnLine, Pause
from apexgpu.models import Host, Reply, Target
from apexgpu.snapshots import SUFFIX, Manifest, Reading, Saved, Sight, name_of
from apexgpu.transport import Limits, Transport

LONG = Limits(total=None, silence=None)
LOOK_EVERY = 5.0
STILL_LOOKS = 4
_RECENT = 120


@dataclass(frozen=True, slots=True)
class Means:
    """What a piece of work has at hand: the link, all the user's hosts, where to note and what to tell.

    `say` takes the newest line of progress, `note` one that stays; `wait` bounds a start, in seconds.
    """

    link: Transport
    hosts: Sequence[Host]
    state_dir: Path
    pause: Pause
    say: OnLine
    note: OnLine
    wait: float = 120
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
        manage.bring_up(self.link, host, on_line=self.say, wait=self.wait, pause=self.pause)

    def stop(self, host: Host) -> None:
        """Stop a container, again once when the connection drops; the host's lock is held by the caller."""
        try:
            manage.halt(self.link, host, on_line=self.say)
        except DroppedError:
            manage.halt(self.link, host, on_line=self.say)


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

    def run(self, script: str, limits: Limits = LONG) -> Reply:
        """Run one of `archivescripts` there; what is cut by a lost connection is run again, once."""
        try:
            return self.means.link.run(Target(self.host, "container"), script, limits=limits)
        except DroppedError:
            return self.means.link.run(Target(self.host, "container"), script, limits=limits, once=True)

    def look(self) -> Sight:
        """Every archive of the user's; RefusedError where the directory is not seen."""
        names = [host.name for host in self.means.hosts]
        reply = self.run(scripts.look(self.directory, self.host.user), Limits(total=60))
        return scripts.saw(reply, self.host.name, directory=self.directory, user=self.host.user, hosts=names)

    def find(self, path: str) -> Saved | None:
        """The archive at a path, where it is the user's."""
        return next((one for one in self.look().archives if one.path == path), None)

    def test(self, path: str) -> Reading:
        """Read an archive from end to end; one that is still being written is waited for, and read again."""
        for _ in range(3):
            found = scripts.tested(self.run(scripts.test(path)), self.host.name, path)
            if found.trouble is None:
                return found
            if self.await_still(path) == (found.size, found.time) and not found.moved:
                return found
        return found

    def standing(self, path: str) -> tuple[int, int] | None:
        """Size and time of a file now, None when it is not there."""
        return scripts.standing(self.run(scripts.stat(path), Limits(total=60)), self.host.name)

    def await_still(self, path: str) -> tuple[int, int] | None:
        """Wait until nobody writes to the file any more; its size and time then."""
        last = self.standing(path)
        same = 0
        while same < STILL_LOOKS:
            self.means.pause(LOOK_EVERY)
            now = self.standing(path)
            same = same + 1 if now == last else 0
            last = now
            if last is not None:
                self.means.say(f"waiting until the archive stands still: {last[0] / 2**20:.1f} MiB")
        return last

    def is_written_to(self, one: Saved, now: int) -> bool:
        """Whether somebody is writing the archive at this moment; an old, or a verified, one is not waited for."""
        if one.verified is not None or now - one.created > _RECENT:
            return False
        self.means.pause(LOOK_EVERY)
        return self.standing(one.path) != (one.size, one.created)

    def set_aside(self, one: Saved) -> Saved:
        """Rename (or copy) an archive to its own name, where no snapshot overwrites it; its new place."""
        name = one.name if one.path != self.path or one.verified else name_of(
            self.host.user, one.host, one.created, one.label)
        taken = {other.path for other in self.look().archives}
        free = (f"{self.directory}/{name}{more}{SUFFIX}" for more in ("", *(f"-{number}" for number in range(2, 100))))
        target = next(path for path in free if path not in taken)
        # "Nothing there" may be the answer to a second asking, after a drop that hid that the first one worked.
        scripts.moved(self.run(scripts.aside(one.path, target)), self.host.name)
        if self.standing(target) != (one.size, one.created):
            raise RefusedError(f"{one.path} was written to while it was set aside", code="busy",
                               hint="wait until the other snapshot has ended; then: apexgpu snapshots")  # fmt: skip
        return self.find(target) or replace(one, name=name, path=target)

    def put_back(self, path: str) -> bool:
        """Rename an archive that was set aside over what the server wrote in its place; False when it cannot be."""
        try:
            return scripts.moved(self.run(scripts.back(path, self.path)), self.host.name) is not None
        except RefusedError:
            return False

    def write_note(self, path: str, manifest: Manifest) -> bool:
        """Put a manifest beside an archive; False where that may not be written."""
        return scripts.did(self.run(scripts.note(path, manifest.text(self.host.user))), self.host.name)

    def remove(self, one: Saved) -> None:
        """Delete an archive and its manifest."""
        if not scripts.did(self.run(scripts.remove(one.path)), self.host.name):
            raise RefusedError(f"{one.path} cannot be removed from the container on {self.host.name}",
                               code="not_writable", hint="ask the administrators to delete it")  # fmt: skip

    def change_mode(self, path: str, bits: str) -> bool:
        """Change who may read an archive; whether that was allowed."""
        return scripts.did(self.run(scripts.mode(path, bits)), self.host.name)


def question(link: Transport, host: Host, *words: str) -> Reply:
    """A manage command that changes nothing, asked again once when the connection drops."""
    try:
        return manage.ask(link, host, *words, limits=Limits(total=120), once=True)
    except DroppedError:
        return manage.ask(link, host, *words, limits=Limits(total=120), once=True)


def template_path(link: Transport, host: Host) -> str:
    """The administrator's template, as `rebuild` names it; that only prints. The archives lie beside it."""
    offer = archives.recover_offer(question(link, host, "rebuild"), host.name)
    if not offer.path or not offer.path.startswith("/"):
        raise RefusedError(f"{host.name} names no template", hint=f"ssh {host.manage_name} rebuild", code="unexpected")
    return offer.path


def directory_of(path: str) -> str:
    """The directory that an archive lies in."""
    return str(PurePosixPath(path).parent)


@contextmanager
def an_eye(means: Means, host: Host, directory: str, *, own: bool) -> Iterator[Eye]:
    """A container that sees the archives: the host's own where it may be (`own`), another that runs, or one that is
    started for this and stopped again. RefusedError `no_eye` when there is none at all.
    """
    if own and means.runs(host) and _sees(eye := Eye(means, host, directory)):
        yield eye
        return
    running, stopped = _places(means, host, own=own)
    for place in running:
        eye = Eye(means, place, directory)
        if _sees(eye):
            yield eye
            return
    for place in stopped:
        with ExitStack() as ending:
            try:
                _start_for_a_moment(means, place, ending, locked=place == host)
            except ApexError:
                continue  # a broken container, or a host that is in use: the next one may do
            yield Eye(means, place, directory)
            return
    message = "no container of yours is running that could see the archives"
    raise RefusedError(message, hint=f"apexgpu up {host.name}", code="no_eye")


def running_eye(means: Means, directory: str | None = None) -> Eye:
    """A container that runs and sees the archives; nothing is started."""
    running, _ = _places(means, None, own=False)
    for place in running:
        eye = Eye(means, place, directory or directory_of(template_path(means.link, place)))
        if _sees(eye):
            return eye
    message = "no container of yours is running that could see the archives"
    hint = f"apexgpu up {means.hosts[0].name}" if means.hosts else "apexgpu status"
    raise RefusedError(message, hint=hint, code="no_eye")


def _sees(eye: Eye) -> bool:
    try:
        eye.look()
    except ApexError:
        return False
    return True


def _places(means: Means, host: Host | None, *, own: bool) -> tuple[list[Host], list[Host]]:
    """Hosts with a running container, and with a stopped one; the host itself comes first, where it counts."""
    asked = sorted((one for one in means.hosts if own or one != host), key=lambda one: one != host)
    found = fanout.each(asked, lambda one: manage.status(means.link, one)) if asked else []
    there = [(one.host, one.value.container) for one in found if one.value and one.value.container]
    return [one for one, state in there if state.running], [one for one, state in there if not state.running]


def _start_for_a_moment(means: Means, host: Host, ending: ExitStack, *, locked: bool) -> None:
    if not locked:
        ending.enter_context(manage.only_one(means.state_dir, host))
    means.note(f"starting the container on {host.name} for a moment, to see the archives")
    ending.callback(_stop_again, means, host)
    means.start(host)


def _stop_again(means: Means, host: Host) -> None:
    try:
        means.stop(host)
    except ApexError as exc:  # the work itself is done, or has an error of its own
        means.note(f"the container on {host.name} could not be stopped again: {exc.message}")


def now() -> int:
    """The laptop's clock, epoch seconds."""
    return int(time.time())
