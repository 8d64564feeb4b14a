"""Replacing a container's files by an archive's: test the archive, stop, token, recover, start, log in.

The server deletes first and unpacks second, and calls everything `Done`. So nothing is sent before the archive was
read to its end, and nothing is called done before a login. `rebuild` is the same with the template.
"""

import shlex
from dataclasses import asdict, dataclass
from typing import Any

from apexgpu import archives, containerkeys, forwards, manage, nas
from apexgpu.backup import NEVER_SENT, TOKENS
from apexgpu.containerkeys import Change, Place
from apexgpu.errors import ApexError, DeclinedError, LoginError, RefusedError, UnreachableError
from apexgpu.journal import Entry, Work
from apexgpu.models import Host, PublicKey, Target
from apexgpu.nas import Eye, Means, an_eye
from apexgpu.publickeys import parse_all
from apexgpu.snapshots import SUFFIX, UNKNOWN, Reading, Saved, choose, default
from apexgpu.transport import ChangedHostKeyError, Limits, refused_key

# Answers to `recover TOKEN PATH` after which every file is where it was.
_UNTOUCHED = frozenset({"token", "no_snapshot", "iam_down", "running", "not_registered", *NEVER_SENT})
_AUTHORIZED = 'cat "$HOME/.ssh/authorized_keys" 2>/dev/null; echo; echo end'


@dataclass(frozen=True, slots=True)
class Plan:
    """What would replace the container's files, what the test of it said, and what is there now.

    `doubt` is why the archive cannot be trusted, None when it can. `whole` is whether the container is known to be
    one that is worth a snapshot.
    """

    host: Host
    what: Work
    ran: bool
    whole: bool
    use: manage.Use
    archive: Saved
    tested: Reading | None
    doubt: str | None
    directory: str
    maps: tuple[int, ...] = ()
    authorized: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """A container that was recovered and logged in to, and what had to be changed around it."""

    what: Work
    archive: str
    change: Change | None
    keys_put_back: int
    archive_keys: bool


def plan(means: Means, host: Host, what: Work, wanted: str | None, *, unverified: bool = False) -> Plan:
    """Choose the archive and test it where a running container sees it; RefusedError when it cannot be trusted.

    With `unverified` the doubt is kept in the plan instead.
    """
    found = means.status(host)
    if found.container is None:
        raise refused_key(Target(host, "manage"))
    template = nas.template_path(means.link, host)
    directory = nas.directory_of(template)
    ran = found.container.running
    broken = means.journal.find(host.name)
    tested: Reading | None = None
    authorized: tuple[str, ...] = ()
    own = False
    try:
        with an_eye(means, host, directory, own=broken is None or ran) as eye:
            archive = _archive(eye, host, what, wanted, template)
            means.say(f"testing {archive.name}: gzip -t, tar -t, SHA-256")
            tested = eye.test(archive.path)
            own = eye.host == host
            authorized = _authorized(means, host) if own else ()
    except RefusedError as exc:
        if exc.code != "no_eye":
            raise
        archive = _unseen(host, what, wanted, template, directory)
    doubt = _doubt(archive, tested)
    if doubt and not unverified:
        raise RefusedError(f"{archive.name} cannot be trusted: {doubt}; nothing was changed", code="archive_damaged",
                           hint=f"apexgpu snapshots   (then: apexgpu recover {host.name} --from NAME)")  # fmt: skip
    details = broken.details if broken else {}
    return Plan(
        host, what, ran, own or (broken is None and ran), manage.use(means.link, host) if ran else manage.Use(),
        archive, tested, doubt, directory, forwards.there(means.link, host) if ran else tuple(details.get("maps", ())),
        authorized or tuple(details.get("authorized", ())),
    )  # fmt: skip


def _archive(eye: Eye, host: Host, what: Work, wanted: str | None, template: str) -> Saved:
    if what == "rebuild":
        return _at(template)
    seen = eye.look().archives
    if wanted is None:
        return default(seen, host.name, eye.path)
    if wanted.startswith("/"):
        return next((one for one in seen if one.path == wanted), _at(wanted))
    return choose(seen, wanted, host.name)


def _at(path: str) -> Saved:
    """An archive of which nothing but its path is known."""
    return Saved(path.rpartition("/")[2].removesuffix(SUFFIX), UNKNOWN, "", path, 0, 0, 0o644)


def _unseen(host: Host, what: Work, wanted: str | None, template: str, directory: str) -> Saved:
    if what == "rebuild":
        return _at(template)
    if wanted is None:
        return _at(f"{directory}/{host.user}{SUFFIX}")
    return _at(wanted if wanted.startswith("/") else f"{directory}/{wanted.removesuffix(SUFFIX)}{SUFFIX}")


def _doubt(archive: Saved, tested: Reading | None) -> str | None:
    if tested is None:
        return "no container of yours is running that could read it"
    if tested.trouble:
        return tested.trouble
    if archive.sha256 and archive.sha256 != tested.sha256:
        return "its SHA-256 is no longer the one that was noted when it was verified"
    return None


def _authorized(means: Means, host: Host) -> tuple[str, ...]:
    try:
        reply = means.link.run(Target(host, "container"), _AUTHORIZED)
    except ApexError:
        return ()
    return tuple(key.line for key in parse_all(reply.out))


def execute(means: Means, made: Plan, where: Place) -> Done:
    """Carry a plan out. When it fails, the error says in which state the container is and what to do."""
    host, tested = made.host, made.tested
    entry = means.journal.begin(
        host.name, made.what, path=made.archive.path, name=made.archive.name, directory=made.directory, ran=made.ran,
        maps=list(made.maps), authorized=list(made.authorized), private=not made.archive.others_can_read,
        keys=[asdict(key) for key in tested.keys] if tested else [], verified=made.doubt is None,
    )  # fmt: skip
    return _replace(means, host, entry, where)


def finish(means: Means, host: Host, entry: Entry, where: Place) -> Done:
    """Take an interrupted recover or rebuild up where it was cut, from the archive that was tested then."""
    if entry.stage == "start":
        return _prove(means, host, entry, where)
    await_unpacked(means, host, entry)
    return _replace(means, host, entry, where)


def undo(means: Means, host: Host, entry: Entry) -> None:
    """Put back what an interrupted recover left; RefusedError where files are gone and only finishing helps."""
    if entry.stage != "stop":
        message = f"the files of the container on {host.name} are replaced already: that cannot be undone"
        hint = f"apexgpu recover {host.name}   finishes it; apexgpu recover {host.name} --from NAME   takes another"
        raise RefusedError(message, hint=hint, code="no_undo")
    if entry.details["ran"] and not means.runs(host):
        means.start(host)
        forwards.put_back(means.link, host, entry.details["maps"], note=means.note)
    _readable(means, host, entry, yes=False)
    means.journal.end(entry)


def await_unpacked(means: Means, host: Host, entry: Entry) -> None:
    """After a drop the server's tar unpacks on: wait until the root file system stops growing."""
    if entry.stage != "unpack":
        return
    last, same = _rootfs(means, host), 0
    while same < nas.STILL_LOOKS:
        means.pause(nas.LOOK_EVERY)
        now = _rootfs(means, host)
        same = same + 1 if now == last else 0
        last = now
        means.say(f"waiting until the server has unpacked: {last or 'nothing yet'}")


def _rootfs(means: Means, host: Host) -> str | None:
    try:
        return archives.snapshot_offer(nas.question(means.link, host, "snapshot"), host.name).size
    except RefusedError as exc:
        if exc.code not in {"no_rootfs", "running"}:
            raise
        return None


def _replace(means: Means, host: Host, entry: Entry, where: Place) -> Done:
    try:
        _readable(means, host, entry, yes=True)
        if means.runs(host):
            means.stop(host)
        entry = _unpack(means, host, entry)
    except ApexError as exc:
        now = means.journal.find(host.name) or entry
        if now.stage == "stop":
            _undo_at_once(means, host, now)
            raise
        raise _in_pieces(host, exc) from None
    return _prove(means, host, entry, where)


def _undo_at_once(means: Means, host: Host, entry: Entry) -> None:
    try:
        undo(means, host, entry)
    except ApexError as exc:
        means.note(f"{host.name} could not be put back as it was (its files are untouched): {exc.message}")


def _unpack(means: Means, host: Host, entry: Entry) -> Entry:
    """Token and recover. The stage is `unpack` from the moment files may be gone."""
    destroyed = entry.stage == "unpack"
    for attempt in range(TOKENS):
        offer = archives.recover_offer(nas.question(means.link, host, "recover"), host.name)
        entry = means.journal.reach(entry, "unpack")
        means.say(f"the server unpacks {entry.details['name']}")
        try:
            reply = manage.ask(means.link, host, "recover", offer.token, entry.details["path"], limits=nas.LONG,
                               once=True)  # fmt: skip
            archives.recover(reply, host.name)
        except ApexError as exc:
            untouched = exc.exit_code in {4, 7} or exc.code in _UNTOUCHED
            if untouched and not destroyed:
                entry = means.journal.reach(entry, "stop")
            if exc.code != "token" or attempt == TOKENS - 1:
                raise
            means.note("the token was no longer valid; asking for a new one")
        else:
            return means.journal.reach(entry, "start")
    raise AssertionError


def _in_pieces(host: Host, exc: ApexError) -> ApexError:
    """The same failure, with the state that the container is in."""
    state = f"the container on {host.name} is stopped, and its files are gone or incomplete"
    hint = f"apexgpu recover {host.name}   finishes it (--from NAME takes another; or: apexgpu rebuild {host.name})"
    return _told(exc, state, hint)


def _told(exc: ApexError, state: str, hint: str) -> ApexError:
    kinds: dict[int, type[ApexError]] = {4: LoginError, 5: UnreachableError, 6: RefusedError, 7: DeclinedError}
    kind = kinds.get(exc.exit_code, ApexError)
    return kind(f"{exc.message}; {state}", hint=hint, code=exc.code)


def _prove(means: Means, host: Host, entry: Entry, where: Place) -> Done:
    """Start, log in, and put back what the archive does not hold."""
    keys = [PublicKey(**key) for key in entry.details["keys"]]
    change = containerkeys.expect(where, keys)
    try:
        try:
            means.start(host)
        except ChangedHostKeyError as exc:
            # Nobody could look into the archive; the change is still of our own making.
            if keys or exc.key is None:
                raise
            change = containerkeys.adopt(where, exc.key)
            means.start(host)
    except ApexError as exc:
        if exc.code == "start_failed":
            means.journal.reach(entry, "unpack")
            raise _in_pieces(host, exc) from None
        state = f"the files on {host.name} are replaced, but no login has proved it yet"
        raise _told(exc, state, exc.hint or f"apexgpu {entry.what} {host.name}") from None
    put_back = _put_keys_back(means, host, entry) if entry.what == "rebuild" else 0
    forwards.put_back(means.link, host, entry.details["maps"], note=means.note)
    _readable(means, host, entry, yes=False)
    means.journal.end(entry)
    return Done(entry.what, entry.details["name"], change, put_back, bool(keys))


def _put_keys_back(means: Means, host: Host, entry: Entry) -> int:
    """Add the keys that were in the container before and that IAM did not send; how many."""
    now = {key.blob for line in _authorized(means, host) for key in parse_all(line)}
    missing: list[Any] = [
        line for line in entry.details["authorized"] if all(key.blob not in now for key in parse_all(line))
    ]
    if missing:
        lines = " ".join(shlex.quote(line) for line in missing)
        script = f'umask 077; mkdir -p "$HOME/.ssh" && printf "%s\\n" {lines} >>"$HOME/.ssh/authorized_keys"'
        means.link.run(Target(host, "container"), script, limits=Limits(total=60), once=True)
    return len(missing)


def _readable(means: Means, host: Host, entry: Entry, *, yes: bool) -> None:
    """A private copy is opened for the server for the time of a recover, and closed again."""
    if not entry.details["private"]:
        return
    try:
        with an_eye(means, host, entry.details["directory"], own=entry.stage != "unpack") as eye:
            eye.change_mode(entry.details["path"], "644" if yes else "600")
    except ApexError as exc:
        means.note(f"who may read {entry.details['path']} could not be changed: {exc.message}")
