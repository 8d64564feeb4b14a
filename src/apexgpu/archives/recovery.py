"""Replacing a container's files by an archive's: test the archive, stop, token, recover, start, log in.

The server deletes first and unpacks second, and calls everything `Done`. So nothing is sent before the archive was
read to its end, and nothing is called done before a login. `rebuild` is the same with the template.
"""

import shlex
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from apexgpu.archives import archivehost
from apexgpu.archives.archivehost import Means
from apexgpu.archives.catalog import in_bytes
from apexgpu.archives.findhost import start_for_a_moment
from apexgpu.archives.journal import Entry, Work
from apexgpu.archives.permissions import give_back, lend
from apexgpu.archives.recoverplan import Plan, read_keys
from apexgpu.archives.saving import TOKENS, never_began
from apexgpu.errors import ApexError, DeclinedError, LoginError, RefusedError, UnreachableError
from apexgpu.iam.publickeys import parse_all
from apexgpu.manageshell import manage, portmaps
from apexgpu.models import Host, PublicKey, Target
from apexgpu.remote import remotescript
from apexgpu.ssh.failures import ChangedHostKeyError
from apexgpu.ssh.hostkeys import KeyChange, KnownKeys
from apexgpu.ssh.transport import Limits

_SLOW_UNPACKING = 4 << 20  # bytes a second


@dataclass(frozen=True, slots=True)
class Done:
    """A container that was recovered and logged in to, and what had to be changed around it."""

    what: Work
    archive: str
    change: KeyChange | None
    keys_put_back: int


def execute(means: Means, made: Plan, where: KnownKeys) -> Done:
    """Carry a plan out. When it fails, the error says in which state the container is and what to do."""
    host, tested = made.host, made.tested
    old = means.journal.find(host.name)
    authorized = made.authorized
    if made.what == "rebuild" and not made.ran and old is None:
        authorized = authorized or _keys_of_stopped(means, host)
    # What was interrupted has replaced files already; how far, nobody knows.
    stage = "stop" if old is None or old.stage == "stop" else "unpack"
    entry = means.journal.begin(
        host.name,
        made.what,
        stage=stage,
        path=made.archive.path,
        name=made.archive.name,
        directory=made.directory,
        ran=made.ran,
        maps=list(made.maps),
        authorized=list(authorized),
        server_path=made.server_path,
        seen=list(tested.stamp) if tested else None,
        mode=tested.mode if tested else None,
        keys=[asdict(key) for key in tested.keys] if tested else [],
        lent=old.details.get("lent", []) if old else [],
    )
    return _replace(means, host, entry, where)


def _keys_of_stopped(means: Means, host: Host) -> tuple[str, ...]:
    """The keys in a container that is stopped: only it can tell."""
    with ExitStack() as ending:
        try:
            start_for_a_moment(means, host, ending, why="to keep the keys in it", locked=True)
        except ApexError:
            return ()
        return read_keys(means, host)


def finish(means: Means, host: Host, entry: Entry, where: KnownKeys) -> Done:
    """Take an interrupted recover or rebuild up where it was cut, from the archive that was tested then."""
    if entry.stage == "start":
        return _prove(means, host, entry, where)
    await_unpacked(means, host, entry)
    return _replace(means, host, entry, where)


def undo(means: Means, host: Host, entry: Entry) -> None:
    """Put back what an interrupted recover left; RefusedError where files are gone and only finishing helps."""
    if entry.stage != "stop":
        message = (
            f"the files of the container on {host.name} are replaced already: that cannot be undone"
        )
        finish, other = (
            f"apexgpu {entry.what} {host.name}",
            f"apexgpu recover {host.name} --from NAME",
        )
        hint = f"{finish}   finishes it; {other}   takes another"
        raise RefusedError(message, hint=hint, code="no_undo")
    if entry.details["ran"] and not means.runs(host):
        means.start(host)
        portmaps.map_again(means.link, host, entry.details["maps"], note=means.note)
    give_back(means, host, entry)
    means.journal.end(entry)


def await_unpacked(means: Means, host: Host, entry: Entry) -> None:
    """After a drop the server's tar unpacks on: wait until the root file system stops growing."""
    if entry.stage != "unpack":
        return
    last, same = _rootfs(means, host), 0
    while same < _looks(last):
        means.pause(archivehost.LOOK_EVERY)
        now = _rootfs(means, host)
        same = same + 1 if now == last else 0
        last = now
        means.say(f"waiting until the server has unpacked: {last or 'nothing yet'}")


def _looks(shown: str | None) -> int:
    """How often the same size has to be seen: `12G` stays so until a slow tar has written another whole GiB."""
    if shown is None:
        return archivehost.STILL_LOOKS
    number = shown.rstrip("KMGTP")
    step = (in_bytes(f"1{shown[len(number) :]}") or 0) / (10 if "." in number else 1)
    return max(archivehost.STILL_LOOKS, round(step / _SLOW_UNPACKING / archivehost.LOOK_EVERY))


def _rootfs(means: Means, host: Host) -> str | None:
    try:
        return archivehost.measured(means.link, host)
    except RefusedError as exc:
        if exc.code not in {"no_rootfs", "running"}:
            raise
        return None


def _replace(means: Means, host: Host, entry: Entry, where: KnownKeys) -> Done:
    try:
        entry = lend(means, host, entry)
        if means.runs(host):
            means.stop(host)
        entry = _unpack(means, host, entry)
    except ApexError as exc:
        now = means.journal.find(host.name) or entry
        if now.stage == "stop":
            _undo_at_once(means, host, now)
            raise
        raise _in_pieces(host, entry, exc) from None
    return _prove(means, host, entry, where)


def _undo_at_once(means: Means, host: Host, entry: Entry) -> None:
    try:
        undo(means, host, entry)
    except ApexError as exc:
        means.note(
            f"{host.name} could not be put back as it was (its files are untouched): {exc.message}"
        )


def _unpack(means: Means, host: Host, entry: Entry) -> Entry:
    """Token and recover. The stage is `unpack` from the moment files may be gone."""
    destroyed = entry.stage == "unpack"
    for attempt in range(TOKENS):
        offer = manage.confirm_recover(means.link, host)
        entry = means.journal.reach(entry, "unpack")
        means.say(f"the server unpacks {entry.details['name']}")
        try:
            manage.recover(means.link, host, offer.token, entry.details["path"])
        except ApexError as exc:
            if never_began(exc) and not destroyed:
                entry = means.journal.reach(entry, "stop")
            if exc.code != "token" or attempt == TOKENS - 1:
                raise
            means.note("the token was no longer valid; asking for a new one")
        else:
            return means.journal.reach(entry, "start")
    raise AssertionError


def _in_pieces(host: Host, entry: Entry, exc: ApexError) -> ApexError:
    """The same failure, with the state that the container is in."""
    state = f"the container on {host.name} is stopped, and its files are gone or incomplete"
    other = {
        "recover": f"--from NAME takes another; or: apexgpu rebuild {host.name}",
        "rebuild": f"or: apexgpu recover {host.name} --from NAME",
    }
    hint = f"apexgpu {entry.what} {host.name}   finishes it ({other[entry.what]})"
    return _told(exc, state, hint)


def _told(exc: ApexError, state: str, hint: str) -> ApexError:
    kinds: dict[int, type[ApexError]] = {
        4: LoginError,
        5: UnreachableError,
        6: RefusedError,
        7: DeclinedError,
    }
    kind = kinds.get(exc.exit_code, ApexError)
    return kind(f"{exc.message}; {state}", hint=hint, code=exc.code)


def _prove(means: Means, host: Host, entry: Entry, where: KnownKeys) -> Done:
    """Start, log in, and put back what the archive does not hold."""
    keys = [PublicKey(**key) for key in entry.details["keys"]]
    change = where.expect_one_of(keys)
    try:
        try:
            means.start(host)
        except ChangedHostKeyError as exc:
            # Nobody could look into the archive; the change is still of our own making.
            if keys or exc.key is None:
                raise
            change = where.replace(exc.key)
            means.start(host)
    except ApexError as exc:
        if exc.code == "start_failed":
            means.journal.reach(entry, "unpack")
            raise _in_pieces(host, entry, exc) from None
        state = f"the files on {host.name} are replaced, but no login has proved it yet"
        raise _told(exc, state, exc.hint or f"apexgpu {entry.what} {host.name}") from None
    put_back = _put_keys_back(means, host, entry) if entry.what == "rebuild" else 0
    portmaps.map_again(means.link, host, entry.details["maps"], note=means.note)
    give_back(means, host, entry)
    means.journal.end(entry)
    return Done(entry.what, entry.details["name"], change, put_back)


def _put_keys_back(means: Means, host: Host, entry: Entry) -> int:
    """Add the keys that were in the container before and that IAM did not send; how many."""
    now = {key.blob for line in read_keys(means, host) for key in parse_all(line)}
    missing: list[Any] = [
        line
        for line in entry.details["authorized"]
        if all(key.blob not in now for key in parse_all(line))
    ]
    if missing:
        lines = " ".join(shlex.quote(line) for line in missing)
        # The empty line: the file's last one may lack its end.
        script = f'umask 077; mkdir -p "$HOME/.ssh" && printf "%s\\n" "" {lines} >>"$HOME/.ssh/authorized_keys"'
        means.link.run(
            Target(host, "container"),
            remotescript.script(script),
            limits=Limits(total=60),
            once=True,
        )
    return len(missing)
