"""What the arguments of `cp` mean: which side a path is on, and what a copy of it is called.

Pure.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from apexgpu.errors import UsageError

_HOST_AND_PATH = re.compile(r"([A-Za-z0-9][\w.*?\[\]-]*):(.*)", re.DOTALL)
_WILDCARD = re.compile(rb"[*?\[]")
# "Naming Files, Paths, and Namespaces" on learn.microsoft.com: characters and device names.
_FORBIDDEN_ON_WINDOWS = re.compile(rb'[<>:"/\\|?*\x00-\x1f]')
_WINDOWS_DEVICE = re.compile(rb"CON|PRN|AUX|NUL|(?:COM|LPT)[0-9]")


@dataclass(frozen=True, slots=True)
class Location:
    """One argument of `cp`. `host` is None for a path on this laptop; `path` is as it was typed."""

    host: str | None
    path: str


@dataclass(frozen=True, slots=True)
class CopyRoute:
    """What to copy where.

    Paths are as they were typed; an `upload` goes from this laptop to `host`.
    """

    host: str
    upload: bool
    sources: tuple[str, ...]
    target: str


def parse_location(argument: str, platform: str) -> Location:
    r"""Split `HOST:PATH` as scp(1) does: a `/` before the first colon makes it a local path.

    On Windows (`platform` is a `sys.platform` value) a single letter is a drive, as in `C:\x`.

    >>> parse_location("gpu7:data", "linux")
    Location(host='gpu7', path='data')
    >>> parse_location("./a:b", "linux")
    Location(host=None, path='./a:b')
    """
    match = _HOST_AND_PATH.fullmatch(argument)
    if match is None:
        return Location(None, argument)
    host, path = match[1], match[2]
    if platform == "win32" and len(host) == 1:
        return Location(None, argument)
    return Location(host, path)


def parse_route(arguments: Sequence[str], platform: str) -> CopyRoute:
    """Read the arguments of a command line, the target last.

    Raises UsageError unless exactly one side is on a host, and on one host only.
    """
    if len(arguments) < 2:
        message = "cp needs two arguments: what to copy (FILE or HOST:FILE), and where to"
        raise UsageError(message, hint="apexgpu cp --help")
    *sources, target = (parse_location(argument, platform) for argument in arguments)
    source_hosts = {source.host for source in sources}
    if target.host is None and source_hosts == {None}:
        message = "none of these is on a host: write HOST:PATH for the one that is"
        raise UsageError(message, hint=f"apexgpu cp {arguments[0]} gpu7:")
    if target.host is not None and source_hosts != {None}:
        message = (
            "both sides are on a host, and one of them must be on this laptop; "
            f"write a local name that contains a colon as ./{arguments[-1]}"
        )
        raise UsageError(message, hint="apexgpu cp --help")
    if len(source_hosts) > 1:
        message = "the sources must be all on one host, or all on this laptop"
        raise UsageError(message, hint="apexgpu cp --help")
    upload = target.host is not None
    host = target.host or sources[0].host or ""
    return CopyRoute(host, upload, tuple(source.path for source in sources), target.path)


def remote_path(path: str) -> bytes:
    """A path in the container as bytes, relative to the home.

    `~` and the empty path are the home itself.

    Raises UsageError for `~somebody`, which SFTP cannot look up.
    """
    if path == "~" or path.startswith("~/"):
        path = path[2:]
    elif path.startswith("~"):
        message = f"{path} cannot be looked up: write the whole path, such as /home/NAME/file"
        raise UsageError(message, hint="apexgpu cp --help")
    return path.encode("utf-8", "surrogateescape")


def has_wildcard(path: bytes) -> bool:
    """Whether a path contains `*`, `?` or `[`."""
    return _WILDCARD.search(path) is not None


def means_contents(path: bytes) -> bool:
    """Whether a path means what is in it (`.`, `runs/.`, `/`, the home), as with `cp -r`."""
    return base_name(path) in {b"", b".", b".."}


def base_name(path: bytes) -> bytes:
    """The last part of a path."""
    _, _, name = path.rstrip(b"/").rpartition(b"/")
    return name


def parent(path: bytes) -> bytes:
    """The directory that contains an absolute path."""
    directory, _, _ = path.rstrip(b"/").rpartition(b"/")
    return directory or b"/"


def is_windows_name(name: bytes) -> bool:
    """Whether Windows accepts a file name unchanged (a colon would write to a hidden stream)."""
    if _FORBIDDEN_ON_WINDOWS.search(name) or name.endswith((b" ", b".")):
        return False
    stem = name.split(b".")[0].rstrip(b" ").upper()
    return _WINDOWS_DEVICE.fullmatch(stem) is None


def without_dots(path: bytes) -> bytes:
    """A path without its `.` parts; a slash at the end stays."""
    first, *rest = path.split(b"/")
    parts = [first, *(part for part in rest if part != b".")]
    return b"/".join(parts) or b"/"
