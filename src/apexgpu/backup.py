"""Taking a snapshot that can be trusted: set the old one aside, stop, token, tar, start, test. And taking it up again.

Every stage is noted in the journal before it begins. What comes before `tar` is undone at once when it fails;
from `tar` on, the work is finished, now or by the next command.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from apexgpu import archives, forwards, manage, nas
from apexgpu.errors import ApexError, DeclinedError, LoginError, RefusedError, UnreachableError
from apexgpu.files import locked
from apexgpu.journal import Entry
from apexgpu.models import Host, Target
from apexgpu.nas import Eye, Means, an_eye
from apexgpu.snapshots import UNKNOWN, Manifest, Reading, Saved, name_of, owner, sizes_agree
from apexgpu.transport import refused_key

TOKENS = 3
NEVER_SENT = frozenset({"connection_refused", "no_route", "no_name", "no_network"})
# How long a tar that nobody can see may be running before the container is started to look (seconds).
_PATIENCE = 600


@dataclass(frozen=True, slots=True)
class Plan:
    """What a snapshot would do: whether the container runs, who uses it, what would be replaced, what room there is."""

    host: Host
    ran: bool
    use: manage.Use
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
    with only_archive(state_dir), manage.only_one(state_dir, host):
        yield


def only_archive(state_dir: Path) -> AbstractContextManager[None]:
    """One apexgpu at a time on the archives."""
    return locked(state_dir / "locks" / "+archive.lock", what="your archive on the NAS", timeout=5)


@contextmanager
def planned(means: Means, host: Host) -> Iterator[Plan]:
    """Look before anything is changed. What has to be started to look is stopped again at the end."""
    found = means.status(host)
    if found.container is None:
        raise refused_key(Target(host, "manage"))
    directory = nas.directory_of(nas.template_path(means.link, host))
    ran = found.container.running
    with an_eye(means, host, directory, own=True) as eye:
        sight = eye.look()
        previous = next((one for one in sight.archives if one.path == eye.path), None)
        if previous and eye.is_written_to(previous, sight.now):
            hint = f"wait until that snapshot has ended; then: apexgpu snapshot {host.name}"
            raise RefusedError(f"somebody is writing {eye.path} at this moment", hint=hint, code="busy")
        use = manage.use(means.link, host) if ran else manage.Use()
        maps = forwards.there(means.link, host) if ran else ()
        yield Plan(host, ran, use, eye, previous, sight.free, sight.writable, maps)


def take(means: Means, plan: Plan, *, label: str = "", restart: bool = True, replace_previous: bool = False) -> Taken:
    """Take the snapshot of a plan; ApexError `snapshot_bad` when it is none, with the previous one still there.

    `replace_previous` lets the server overwrite an archive that cannot be set aside.
    """
    host = plan.host
    entry = means.journal.begin(
        host.name, "snapshot", directory=plan.eye.directory, path=plan.eye.path, ran=plan.ran, restart=restart,
        label=label, maps=list(plan.maps), before=_mark(plan.previous),
    )  # fmt: skip
    try:
        previous = _keep(plan, allow_loss=replace_previous)
        if previous is not None:
            entry = means.journal.reach(entry, "stop", aside=previous.path)
        if means.runs(host):
            means.stop(host)
        entry, shown, bad = _tar(means, host, entry)
    except ApexError:
        _undo_at_once(means, host, entry)
        raise
    return complete(means, host, entry, shown=shown, bad=bad)


def _mark(one: Saved | None) -> list[int] | None:
    return None if one is None else [one.size, one.created]


def _keep(plan: Plan, *, allow_loss: bool) -> Saved | None:
    if plan.previous is None:
        return None
    try:
        return plan.eye.set_aside(plan.previous)
    except RefusedError as exc:
        if exc.code != "not_writable" or not allow_loss:
            raise
        return None


def _tar(means: Means, host: Host, entry: Entry) -> tuple[Entry, str | None, ApexError | None]:
    """Token and tar: the entry, the size that the server shows, and why its answer says that it is bad.

    An error that is raised means that no tar was started. A dropped connection is waited out.
    """
    for attempt in range(TOKENS):
        offer = archives.snapshot_offer(nas.question(means.link, host, "snapshot"), host.name)
        entry = means.journal.reach(entry, "tar", rootfs=offer.size)
        means.say(f"tar is writing; the files take {offer.size or '?'}{_last_time(entry)}")
        try:
            reply = manage.ask(means.link, host, "snapshot", offer.token, limits=nas.LONG, once=True)
            return entry, archives.snapshot(reply, host.name).size, None
        except UnreachableError as exc:
            if exc.code in NEVER_SENT:
                means.journal.reach(entry, "stop")
                raise
            means.note(f"{exc.message}; the server's tar goes on without us")
            return entry, None, None
        except (RefusedError, LoginError, DeclinedError) as exc:
            means.journal.reach(entry, "stop")
            if exc.code != "token" or attempt == TOKENS - 1:
                raise
            means.note("the token was no longer valid; asking for a new one")
        except ApexError as exc:
            return entry, None, exc
    raise AssertionError


def _last_time(entry: Entry) -> str:
    before = entry.details["before"]
    return f", the last archive took {before[0] / 2**20:.1f} MiB" if before else ""


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
        forwards.put_back(means.link, host, details["maps"], note=means.note)
    aside = details.get("aside")
    if aside and entry.stage == "stop":
        with an_eye(means, host, details["directory"], own=True) as eye:
            if eye.standing(eye.path) is None:
                eye.put_back(aside)
    means.journal.end(entry)


def finish(means: Means, host: Host, entry: Entry) -> Taken:
    """Take an interrupted snapshot up where it was cut: wait for its tar, start, test."""
    if entry.stage == "tar":
        _await_tar(means, host, entry)
    return complete(means, host, entry, waited=True)


def _await_tar(means: Means, host: Host, entry: Entry) -> None:
    """Wait until the archive stands still. Starting the container under a tar would make the archive worthless."""
    try:
        with an_eye(means, host, entry.details["directory"], own=means.runs(host)) as eye:
            eye.await_still(entry.details["path"])
    except RefusedError as exc:
        if exc.code != "no_eye":
            raise
        if nas.now() - entry.began < _PATIENCE:
            message = f"tar may still be writing the snapshot of {host.name}, and no other container can see it"
            hint = f"wait 10 minutes (do not start the container); then: apexgpu snapshot {host.name}"
            raise UnreachableError(message, hint=hint, code="dropped") from None


def complete(
    means: Means, host: Host, entry: Entry, *, shown: str | None = None, bad: ApexError | None = None,
    waited: bool = False,
) -> Taken:  # fmt: skip
    """From a written archive to the verdict: start what ran, test the archive, note what it is.

    `shown` is the size that the server showed; without it, and without `bad`, the answer was lost: what writes is
    waited for.
    """
    if shown is None and bad is None and not waited:
        _await_tar(means, host, entry)
    entry = means.journal.reach(entry, "test")
    details = entry.details
    start_error = _start_again(means, host, entry) if details["ran"] and details["restart"] else None
    with ExitStack() as ending:
        eye = _tester(means, host, entry, ending, start_error)
        means.say("testing the archive: gzip -t, tar -t, SHA-256")
        saved, noted = _judge(means, eye, host, entry, shown=shown, bad=bad)
        aside = details.get("aside")
        previous = eye.find(aside) if aside else None
    means.journal.end(entry)
    return Taken(saved, previous, bool(details["ran"] and details["restart"]) and start_error is None, noted,
                 start_error)  # fmt: skip


def _tester(means: Means, host: Host, entry: Entry, ending: ExitStack, start_error: ApexError | None) -> Eye:
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
        forwards.put_back(means.link, host, entry.details["maps"], note=means.note)
    except ApexError as exc:
        return exc
    return None


def _judge(
    means: Means, eye: Eye, host: Host, entry: Entry, *, shown: str | None, bad: ApexError | None
) -> tuple[Saved, bool]:
    """The archive, tested and noted; ApexError `snapshot_bad` after the previous one is back in its place."""
    found: Reading | None = None
    try:
        found = eye.test(eye.path)
        trouble = bad.message if bad else found.trouble or _mismatch(found, entry, shown)
    except RefusedError as exc:
        if exc.code != "no_snapshot":
            raise
        trouble = bad.message if bad else "the server wrote no archive"
    names = [one.name for one in means.hosts]
    of = owner(found, host.user, names) if found else None
    if found and not trouble and of not in {None, host.name}:
        trouble = f"the archive holds the container of {of}: a snapshot there has overwritten this one"
    if trouble or found is None:
        whole = found is not None and (found.moved or (found.trouble is None and of not in {None, host.name}))
        raise _bad(means, eye, host, entry, trouble or "", whole=whole)
    manifest = Manifest(host.name, entry.details["label"], found.time, found.size, found.sha256, nas.now())
    noted = eye.write_note(eye.path, manifest)
    seen = eye.find(eye.path) or Saved(host.user, UNKNOWN, "", eye.path, found.size, found.time, 0o644)
    name = name_of(host.user, host.name, found.time, manifest.label)
    return replace(seen, name=name, host=host.name, label=manifest.label, sha256=found.sha256,
                   verified=manifest.verified), noted  # fmt: skip


def _mismatch(found: Reading, entry: Entry, shown: str | None) -> str | None:
    if entry.details.get("aside") is None and entry.details["before"] == [found.size, found.time]:
        return "the archive is the old one: the server wrote nothing"
    if shown is not None and not sizes_agree(shown, found.size):
        return f"the server shows {shown}, but the archive that can be seen has {found.size} bytes"
    return None


def _bad(means: Means, eye: Eye, host: Host, entry: Entry, trouble: str, *, whole: bool) -> ApexError:
    """The error for a bad snapshot. The previous archive replaces what is damaged, but never what is whole."""
    aside = entry.details.get("aside")
    kept = "there was no previous one"
    if aside:
        kept = f"the previous one is still there: {aside}"
        if not whole and eye.put_back(aside):
            kept = f"the previous one is back in its place: {eye.path}"
    means.journal.end(entry)
    words = trouble if trouble.startswith("the snapshot on ") else f"the snapshot on {host.name} is bad: {trouble}"
    return ApexError(f"{words}; {kept}", hint="apexgpu snapshots", code="snapshot_bad")
