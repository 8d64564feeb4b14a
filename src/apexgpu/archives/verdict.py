"""Whether a snapshot is good: what the server said, and what a container sees. A bad one never costs a whole one."""

from dataclasses import dataclass, replace

from apexgpu.archives import archivehost
from apexgpu.archives.archivehost import Eye
from apexgpu.archives.catalog import UNKNOWN, Manifest, Reading, Saved, name_of, owner, sizes_agree
from apexgpu.archives.journal import Entry
from apexgpu.errors import ApexError, BadSnapshotError, RefusedError
from apexgpu.models import Host


@dataclass(frozen=True, slots=True)
class Written:
    """The server's whole answer to a snapshot: where it says it wrote, the size that it shows, or why it is bad."""

    path: str = ""
    shown: str = ""
    bad: ApexError | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """The server's answer was lost: what was read when the archive stood still, if somebody could look.

    `blind` is that nobody could look before the container was started, `torn` that it ran while tar was writing.
    """

    found: Reading | None = None
    blind: bool = False
    torn: bool = False


def judge(eye: Eye, host: Host, entry: Entry, written: Written | Lost) -> tuple[Saved, bool]:
    """The archive, tested and noted (where it may be); ApexError `snapshot_bad` with the previous one safe."""
    bad = written.bad if isinstance(written, Written) else None
    torn = isinstance(written, Lost) and (written.torn or (written.blind and _grows(eye)))
    found: Reading | None = None
    try:
        found = _reading(eye, written)
    except RefusedError as exc:
        if exc.code != "no_snapshot":
            raise
    trouble = bad.message if bad else _trouble(eye, host, entry, written, found)
    if torn and not trouble:
        trouble = "the container was started while tar was still saving it"
    if trouble or found is None:
        raise _bad(eye, host, entry, trouble or "the server wrote no archive", found)
    manifest = Manifest(
        host.name, entry.details["label"], found.time, found.size, found.sha256, archivehost.now()
    )
    noted = eye.write_note(eye.path, manifest)
    seen = eye.find(eye.path) or Saved(
        host.user, UNKNOWN, "", eye.path, found.size, found.time, found.mode
    )
    name = name_of(host.user, host.name, found.time, manifest.label)
    return replace(
        seen,
        name=name,
        host=host.name,
        label=manifest.label,
        sha256=found.sha256,
        verified=manifest.verified,
    ), noted


def _grows(eye: Eye) -> bool:
    before = eye.standing(eye.path)
    return eye.await_still(eye.path) != before


def _reading(eye: Eye, written: Written | Lost) -> Reading:
    """What the archive is: as it was read already, where it has not changed since, else read now."""
    if isinstance(written, Lost):
        if written.found is not None and eye.standing(eye.path) == written.found.stamp:
            return written.found
        return eye.test(eye.path)
    return eye.test(eye.path, expected=written.bad is None)


def _trouble(
    eye: Eye, host: Host, entry: Entry, written: Written | Lost, found: Reading | None
) -> str | None:
    """Why the archive cannot be trusted, None when it can."""
    if found is None:
        return "the server wrote no archive"
    if found.trouble:
        return found.trouble
    if _is_old(entry, found):
        return "the archive is the old one: the server wrote nothing"
    if isinstance(written, Written) and written.path != eye.path:
        return f"the server says that it wrote {written.path}"
    if isinstance(written, Written) and not sizes_agree(written.shown, found):
        return f"the server shows {written.shown}, but the archive that can be seen has {found.size} bytes"
    of = _owner(eye, host, found)
    if of not in {None, host.name}:
        return f"the archive holds the container of {of}: a snapshot there has overwritten this one"
    return None


def _owner(eye: Eye, host: Host, found: Reading) -> str | None:
    return owner(found, host.user, [one.name for one in eye.means.hosts])


def _is_old(entry: Entry, found: Reading) -> bool:
    """Whether the archive is what was there before: one that could only be copied aside is still there."""
    return bool(entry.details["before"] == list(found.stamp))


def _bad(eye: Eye, host: Host, entry: Entry, trouble: str, found: Reading | None) -> ApexError:
    """The error for a bad snapshot. The previous archive replaces what is damaged, but never what can be read whole."""
    aside, before = entry.details.get("aside"), entry.details["before"]
    whole = (
        found is not None and (found.moved or found.trouble is None) and not _is_old(entry, found)
    )
    kept = (
        "there was no previous one"
        if before is None
        else "the previous one was given up for it (--replace)"
    )
    if aside is None and found is not None and _is_old(entry, found):
        kept = f"the previous one is still in its place: {eye.path}"
    elif aside:
        kept = f"the previous one is still there: {aside}"
        if not whole and eye.put_back(aside):
            kept = f"the previous one is back in its place: {eye.path}"
    eye.means.journal.end(entry)
    words = (
        trouble
        if trouble.startswith("the snapshot on ")
        else f"the snapshot on {host.name} is bad: {trouble}"
    )
    return BadSnapshotError(f"{words}; {kept}", hint="apexgpu snapshots")
