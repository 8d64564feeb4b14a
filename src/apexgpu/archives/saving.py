"""Taking a snapshot that can be trusted: set the old one aside, stop, token, tar, start, test. And taking it up again.

Every stage is noted in the journal before it begins. What comes before `tar` is undone at once when it fails;
from `tar` on, the work is finished, now or by the next command.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from apexgpu.archives import archivehost
from apexgpu.archives.archivehost import Eye, Means
from apexgpu.archives.catalog import Saved, in_bytes
from apexgpu.archives.findhost import an_eye
from apexgpu.archives.journal import Entry
from apexgpu.archives.verdict import Lost, Written, judge
from apexgpu.errors import ApexError, RefusedError, UnreachableError
from apexgpu.files import locked
from apexgpu.manageshell import containershell, hostlock, manage, portmaps
from apexgpu.models import Host, Target
from apexgpu.ssh.failures import key_refused_error
from apexgpu.text import size

TOKENS = 3
# The failures of a command that certainly changed nothing: it was not sent, or refused before it began.
NOT_BEGUN = frozenset(
    {
        "connection_refused",
        "no_route",
        "no_name",
        "no_network",
        "token",
        "running",
        "iam_down",
        "not_registered",
        "no_rootfs",
        "no_snapshot",
        "unknown_command",
        "word",
    }
)
# A tar that nobody can see is waited for as long as a slow one takes, and ten minutes at least.
_SLOW_TAR = 4 << 20  # bytes a second
_PATIENCE = 600


@dataclass(frozen=True, slots=True)
class Plan:
    """What a snapshot would do: whether the container runs, who uses it, what would be replaced, what room there is."""

    host: Host
    ran: bool
    use: containershell.Activity
    eye: Eye
    previous: Saved | None
    free: int | None
    writable: bool
    maps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Taken:
    """A good snapshot, where the previous one is now, and what went wrong with the start afterwards, if anything."""

    saved: Saved
    previous: Saved | None
    restarted: bool
    noted: bool = True
    start_error: ApexError | None = None


@contextmanager
def alone(state_dir: Path, host: Host) -> Iterator[None]:
    """One piece of work at a time on the host, and on the one archive that all hosts share."""
    with only_archive(state_dir), hostlock.only_one(state_dir, host):
        yield


def only_archive(state_dir: Path) -> AbstractContextManager[None]:
    """One apexgpu at a time on the archives."""
    return locked(state_dir / "locks" / "+archive.lock", what="your archive on the NAS", timeout=5)


@contextmanager
def planned(means: Means, host: Host) -> Iterator[Plan]:
    """Look before anything is changed. What has to be started to look is stopped again at the end."""
    found = means.status(host)
    if found.container is None:
        raise key_refused_error(Target(host, "manage"))
    directory = archivehost.directory_of(archivehost.template_path(means.link, host))
    ran = found.container.running
    with an_eye(means, host, directory, own=True) as eye:
        sight = eye.look()
        previous = next((one for one in sight.archives if one.path == eye.path), None)
        if previous and eye.is_written_to(previous):
            hint = f"wait until that snapshot has ended; then: apexgpu snapshot {host.name}"
            raise RefusedError(
                f"somebody is writing {eye.path} at this moment", hint=hint, code="busy"
            )
        use = containershell.activity(means.link, host) if ran else containershell.Activity()
        maps = portmaps.mapped_ports(means.link, host) if ran else ()
        yield Plan(host, ran, use, eye, previous, sight.free, sight.writable, maps)


def take(
    means: Means,
    plan: Plan,
    *,
    label: str = "",
    restart: bool = True,
    replace_previous: bool = False,
) -> Taken:
    """Take the snapshot of a plan; ApexError `snapshot_bad` when it is none, with the previous one still there.

    `replace_previous` lets the server overwrite an archive that cannot be set aside.
    """
    host = plan.host
    entry = means.journal.begin(
        host.name,
        "snapshot",
        directory=plan.eye.directory,
        path=plan.eye.path,
        ran=plan.ran,
        restart=restart,
        label=label,
        maps=list(plan.maps),
        before=_mark(plan.previous),
    )
    try:
        entry = _keep(means, plan, entry, allow_loss=replace_previous)
        if _running(means, host):
            means.stop(host)
        entry, written = _tar(means, host, entry)
    except ApexError:
        _undo_at_once(means, host, entry)
        raise
    return complete(means, host, entry, written)


def _mark(one: Saved | None) -> list[int] | None:
    return None if one is None else list(one.stamp)


def _running(means: Means, host: Host) -> bool:
    """Whether the container runs now; unlike `Means.runs`, with an error where nobody knows."""
    found = means.status(host).container
    return found is not None and found.running


def _keep(means: Means, plan: Plan, entry: Entry, *, allow_loss: bool) -> Entry:
    """Set the previous archive aside. Where to is noted first: whatever happens then, it is known where it is."""
    if plan.previous is None:
        return entry
    target = plan.eye.place_for(plan.previous)
    noted = means.journal.reach(entry, "stop", aside=target)
    means.say(f"setting {plan.previous.name} aside")
    try:
        plan.eye.set_aside(plan.previous, target)
    except RefusedError as exc:
        if exc.code not in {"not_writable", "no_room"} or not allow_loss:
            raise
        return means.journal.reach(entry, "stop", aside=None)
    return noted


def _tar(means: Means, host: Host, entry: Entry) -> tuple[Entry, Written | Lost]:
    """Token and tar, and what became of it. An error that is raised means that no tar was started."""
    means.say("the server measures the files")
    entry = means.journal.reach(entry, "stop", rootfs=archivehost.measured(means.link, host))
    for attempt in range(TOKENS):
        token = _token(means, host, entry)
        entry = means.journal.reach(entry, "tar", sent=archivehost.now())
        means.say(
            f"tar is writing; the files take {entry.details['rootfs'] or '?'}{_last_time(entry)}"
        )
        try:
            found = manage.snapshot(means.link, host, token)
            return entry, Written(found.path, found.size)
        except ApexError as exc:
            if not never_began(exc):
                return entry, _came_of_it(means, exc)
            entry = means.journal.reach(entry, "stop")
            if exc.code != "token" or attempt == TOKENS - 1:
                raise
            means.note("the token was no longer valid; asking for a new one")
    raise AssertionError


def never_began(exc: ApexError) -> bool:
    """Whether a failure proves that the command changed nothing. A lost connection, or unknown words, do not."""
    return exc.code in NOT_BEGUN or exc.exit_code in {4, 7}


def _came_of_it(means: Means, exc: ApexError) -> Written | Lost:
    if exc.code == "snapshot_bad":
        return Written(bad=exc)
    means.note(
        f"{exc.message}; the server's tar goes on without us"
        if isinstance(exc, UnreachableError)
        else exc.message
    )
    return Lost()


def _token(means: Means, host: Host, entry: Entry) -> str:
    """A token that is seconds old: `recover` prints the same one as `snapshot`, but measures nothing before.

    It also names the file that is concerned, which must be the one that was set aside.
    """
    offer = manage.confirm_recover(means.link, host)
    if offer.path not in {None, entry.details["path"]}:
        message = f"{host.name} would write {offer.path}, but {entry.details['path']} is what was looked at"
        raise RefusedError(message, hint=f"ssh {host.manage_name} recover", code="other_path")
    return offer.token


def _last_time(entry: Entry) -> str:
    before = entry.details["before"]
    return f", the last archive took {size(before[0])}" if before else ""


def _undo_at_once(means: Means, host: Host, entry: Entry) -> None:
    """Nothing was written: the container and the previous archive go back to where they were."""
    try:
        undo(means, host, means.journal.find(host.name) or entry)
    except ApexError as exc:
        means.note(f"{host.name} could not be put back as it was: {exc.message}")


def undo(means: Means, host: Host, entry: Entry) -> None:
    """Put things back as they were before an interrupted snapshot; a tar that runs is waited for first.

    The new archive, if there is one, stays where it is. ApexError when it cannot be done now; the journal stays.
    """
    details = entry.details
    if entry.stage == "tar":
        _await_tar(means, host, entry)
    if details["ran"] and not means.runs(host):
        means.start(host)
        portmaps.map_again(means.link, host, details["maps"], note=means.note)
    aside = details.get("aside")
    if aside:
        with an_eye(means, host, details["directory"], own=True) as eye:
            eye.bring_home(aside)
    means.journal.end(entry)


def finish(means: Means, host: Host, entry: Entry) -> Taken:
    """Take an interrupted snapshot up where it was cut: wait for its tar, start, test."""
    return complete(means, host, entry, Lost())


def _await_tar(means: Means, host: Host, entry: Entry) -> Lost:
    """Wait until the archive is whole, or stands still for so long that its tar must be dead.

    Starting the container under a tar would make the archive worthless: where it runs all the same, or where nobody
    could look, that is said.
    """
    details = entry.details
    runs = means.runs(host)
    try:
        with an_eye(means, host, details["directory"], own=runs) as eye:
            before = eye.standing(details["path"])
            if eye.await_still(details["path"]) is None:
                return Lost()
            if runs:
                means.note(
                    f"the container on {host.name} was started before anybody knew that its tar had ended"
                )
            found = eye.test(details["path"], looks=archivehost.PATIENT_LOOKS)
            return Lost(found, torn=runs and before != found.stamp)
    except RefusedError as exc:
        if exc.code not in {"no_eye", "no_snapshot"}:
            raise
        if (
            exc.code == "no_eye"
            and (left := _patience(entry) - (archivehost.now() - details.get("sent", entry.began)))
            > 0
        ):
            minutes = max(1, round(left / 60))
            message = f"tar may still be writing the snapshot of {host.name}, and no other container can see it"
            hint = f"wait {minutes} minutes (do not start the container); then: apexgpu snapshot {host.name}"
            raise UnreachableError(message, hint=hint, code="dropped") from None
        return Lost(blind=exc.code == "no_eye")


def _patience(entry: Entry) -> float:
    return max(_PATIENCE, (in_bytes(entry.details.get("rootfs") or "") or 0) / _SLOW_TAR)


def complete(means: Means, host: Host, entry: Entry, written: Written | Lost) -> Taken:
    """From an archive that was written, or may be, to the verdict: start what ran, test it, note what it is."""
    if isinstance(written, Lost) and entry.stage == "tar":
        written = _await_tar(means, host, entry)
    entry = means.journal.reach(entry, "test")
    details = entry.details
    start_error = (
        _start_again(means, host, entry) if details["ran"] and details["restart"] else None
    )
    with ExitStack() as ending:
        eye = _tester(means, host, entry, ending, start_error)
        means.say("testing the archive: gzip -t, tar -t, SHA-256")
        saved, noted = judge(eye, host, entry, written)
        aside = details.get("aside")
        previous = eye.find(aside) if aside else None
    means.journal.end(entry)
    return Taken(
        saved,
        previous,
        bool(details["ran"] and details["restart"]) and start_error is None,
        noted,
        start_error,
    )


def _tester(
    means: Means, host: Host, entry: Entry, ending: ExitStack, start_error: ApexError | None
) -> Eye:
    try:
        return ending.enter_context(an_eye(means, host, entry.details["directory"], own=True))
    except RefusedError as exc:
        why = start_error.message if start_error else exc.message
        message = f"the snapshot on {host.name} is written, but could not be tested yet: {why}"
        hint = f"apexgpu snapshot {host.name}   (tests it; then: is the previous one still needed?)"
        raise ApexError(message, hint=hint, code="not_tested") from None


def _start_again(means: Means, host: Host, entry: Entry) -> ApexError | None:
    try:
        means.start(host)
        portmaps.map_again(means.link, host, entry.details["maps"], note=means.note)
    except ApexError as exc:
        return exc
    return None
