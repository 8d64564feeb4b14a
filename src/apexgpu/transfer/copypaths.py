"""What the words of `cp` mean: which side a path is on, and what a copy of it would be called. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from apexgpu.errors import UsageError

_HOST = re.compile(r"([A-Za-z0-9][\w.*?\[\]-]*):(.*)", re.DOTALL)
_UNFIT = re.compile(rb'[<>:"/\\|?*\x00-\x1f]')
_DEVICE = re.compile(rb"CON|PRN|AUX|NUL|(?:COM|LPT)[0-9]")
_GLOB = re.compile(rb"[*?\[]")


@dataclass(frozen=True, slots=True)
class Place:
    """A word of the command line. `host` None: this laptop. `path` as it was typed."""

    host: str | None
    path: str


@dataclass(frozen=True, slots=True)
class Route:
    """A copy: from where to where. Paths as they were typed; `upload` is from this laptop."""

    host: str
    upload: bool
    sources: tuple[str, ...]
    target: str


def place(word: str, platform: str) -> Place:
    r"""`HOST:PATH` or a path here, as scp(1) tells them apart: a `/` before the first colon makes it a path.

    On Windows a single letter is a drive (`C:\x`), and a backslash divides too.
    """
    found = _HOST.fullmatch(word)
    if found is None or "/" in found[1] or (platform == "win32" and len(found[1]) == 1):
        return Place(None, word)
    return Place(found[1], found[2])


def route(words: Sequence[str], platform: str) -> Route:
    """The copy that the words of a command line mean; UsageError where they mean none."""
    if len(words) < 2:
        message = "cp needs two things: what to copy, and where to"
        raise UsageError(message, hint="apexgpu cp FILE gpu7:   or   apexgpu cp gpu7:FILE .")
    *sources, target = (place(word, platform) for word in words)
    hosts = {one.host for one in sources}
    if target.host is None and hosts == {None}:
        message = "none of these is on a host: write HOST:PATH for the one that is"
        raise UsageError(message, hint=f"apexgpu cp {words[0]} gpu7:")
    if target.host is not None and hosts != {None}:
        message = "both sides are on a host, and one of them must be on this laptop"
        raise UsageError(
            message, hint=f"copy to this laptop first; a local name with a colon: ./{words[-1]}"
        )
    if len(hosts) > 1:
        raise UsageError(
            "what is copied must be all on one host, or all on this laptop",
            hint="one line for each host",
        )
    host = target.host or next(iter(hosts)) or ""
    return Route(host, target.host is not None, tuple(one.path for one in sources), target.path)


def remote(path: str) -> bytes:
    """A path there as bytes, relative to the home: `~` and nothing are the home itself."""
    if path == "~" or path.startswith("~/"):
        path = path[2:]
    elif path.startswith("~"):
        message = f"{path} cannot be looked up"
        raise UsageError(message, hint="write the whole path, such as gpu7:/home/NAME/file")
    return path.encode("utf-8", "surrogateescape")


def is_glob(path: bytes) -> bool:
    """Whether a path has wildcards in it."""
    return _GLOB.search(path) is not None


def takes_contents(path: bytes) -> bool:
    """Whether a path, as typed, means what is in it (`.`, `runs/.`, `/`, the home), as with `cp -r`."""
    return path.rstrip(b"/").rpartition(b"/")[2] in {b"", b".", b".."}


def name(path: bytes) -> bytes:
    """The last part of a path."""
    return path.rstrip(b"/").rpartition(b"/")[2]


def parent(path: bytes) -> bytes:
    """The directory of an absolute path."""
    return path.rstrip(b"/").rpartition(b"/")[0] or b"/"


def fits_windows(name: bytes) -> bool:
    """Whether Windows takes a name as it is; a colon would hide what is written ("Naming Files, Paths, Namespaces")."""
    stem = name.split(b".")[0].rstrip(b" ").upper()
    return not (_UNFIT.search(name) or name.endswith((b" ", b".")) or _DEVICE.fullmatch(stem))


def tidy(path: bytes) -> bytes:
    """A path without `.` parts; a slash at its end stays."""
    first, *rest = path.split(b"/")
    return b"/".join([first, *(part for part in rest if part != b".")]) or b"/"
