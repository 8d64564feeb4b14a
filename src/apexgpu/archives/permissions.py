"""An archive made ready for the server's recover, and put back afterwards as it was: unchanged, safe, and readable.

The server deletes before it looks whether it can read. So what it is going to read is checked last of all things,
lies where no snapshot overwrites it, and is opened for the moment when it is private.
"""

from apexgpu.archives.archivehost import Eye, Means
from apexgpu.archives.findhost import an_eye
from apexgpu.archives.journal import Entry
from apexgpu.errors import ApexError, RefusedError
from apexgpu.models import Host

_FOR_ALL = 0o004


def lend(means: Means, host: Host, entry: Entry) -> Entry:
    """Make the archive of an entry ready; RefusedError where the server could not be trusted to read what was tested.

    What was tested by nobody (`--unverified`) is sent as it is.
    """
    details = entry.details
    if details["seen"] is None:
        return entry
    try:
        with an_eye(means, host, details["directory"], own=entry.stage != "unpack") as eye:
            entry = _found_again(means, eye, entry)
            _unchanged(eye, host, entry)
            entry = _out_of_the_way(means, eye, entry)
            return _opened(means, eye, entry)
    except RefusedError as exc:
        # Destroyed already, and nobody to look: what was tested and opened then is still the best there is.
        if exc.code != "no_eye" or entry.stage != "unpack":
            raise
        return entry


def _found_again(means: Means, eye: Eye, entry: Entry) -> Entry:
    """Where a cut came between the note that the archive will be moved and the move."""
    home = entry.details.get("home")
    if home and eye.standing(entry.details["path"]) is None and eye.standing(home) is not None:
        return means.journal.reach(entry, entry.stage, path=home, home=None)
    return entry


def _unchanged(eye: Eye, host: Host, entry: Entry) -> None:
    if eye.standing(entry.details["path"]) != tuple(entry.details["seen"]):
        message = f"{entry.details['path']} is another archive by now than the one that was tested"
        hint = f"apexgpu snapshots   (then: apexgpu {entry.what} {host.name} --from NAME)"
        raise RefusedError(message, hint=hint, code="archive_changed")


def _out_of_the_way(means: Means, eye: Eye, entry: Entry) -> Entry:
    """Rename the server's own archive for the time: a snapshot on another host would overwrite it under the recover."""
    path = entry.details["path"]
    if path != entry.details["server_path"] or (found := eye.find(path)) is None:
        return entry
    target = eye.place_for(found)
    moving = means.journal.reach(entry, entry.stage, path=target, home=path)
    try:
        eye.set_aside(found, target)
    except RefusedError as exc:
        if exc.code not in {"not_writable", "no_room"}:
            raise
        return means.journal.reach(entry, entry.stage, home=None)
    return means.journal.reach(moving, moving.stage, mode=0o600)


def _opened(means: Means, eye: Eye, entry: Entry) -> Entry:
    path, mode = entry.details["path"], entry.details["mode"]
    if mode & _FOR_ALL:
        return entry
    lent = [
        *entry.details["lent"],
        *([] if any(one[0] == path for one in entry.details["lent"]) else [[path, mode]]),
    ]
    entry = means.journal.reach(entry, entry.stage, lent=lent)
    if not (eye.change_mode(path, mode | 0o444) or 0) & _FOR_ALL:
        message = f"{path} is private and could not be opened: the server would delete first and fail to read it then"
        hint = (
            f"apexgpu ssh {eye.host.name} -- cp {path} {path.removesuffix('.tar.gz')}-copy.tar.gz"
        )
        raise RefusedError(message, hint=hint, code="private")
    return entry


def give_back(means: Means, host: Host, entry: Entry) -> None:
    """Close what was opened, and rename back what was moved; what cannot be done is said."""
    lent, home = entry.details["lent"], entry.details.get("home")
    if not lent and not home:
        return
    try:
        with an_eye(means, host, entry.details["directory"], own=entry.stage != "unpack") as eye:
            for path, mode in lent:
                eye.change_mode(path, mode)
            if home:
                eye.bring_home(entry.details["path"])
    except ApexError as exc:
        paths = ", ".join([path for path, _ in lent] or [entry.details["path"]])
        means.note(f"who may read {paths} could not be changed back: {exc.message}")
