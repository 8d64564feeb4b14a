"""What the arguments of `cp` mean: which side a path is on, and what a copy of it is called.

Pure.
"""

import ntpath
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apexgpu.errors import UsageError

_HOST_AND_PATH = re.compile(r"([A-Za-z0-9][\w.*?\[\]-]*):(.*)", re.DOTALL)
_WILDCARD = re.compile(rb"[*?\[]")
# "Naming Files, Paths, and Namespaces" on learn.microsoft.com: characters and device names.
_FORBIDDEN_ON_WINDOWS = re.compile(rb'[<>:"/\\|?*\x00-\x1f]')
_WINDOWS_DEVICE = re.compile(rb"CON|PRN|AUX|NUL|(?:COM|LPT)[0-9]")
_DRIVE = re.compile(rb"[A-Za-z]:")
# Put by Windows in front of a path that may be long. Only backslashes are allowed behind it.
_LONG_PATH = b"\\\\?\\"
_LONG_SHARE = b"\\\\?\\UNC\\"


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

    On Windows (`platform` is a `System`) a single letter is a drive, as in `C:\x`.

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
        raise UsageError(message, hint="apexgpu cp --help")
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


def local_path(
    word: str, *, home: str, directory_on_drive: Callable[[str], str], platform: str
) -> bytes:
    r"""The absolute path on this laptop that a word of the command line means, with `/` between its parts.

    `directory_on_drive` returns the working directory, on Windows that of a drive (`D:`): each drive
    has its own, and `D:x` means a file in it. "" is the present drive. `platform` is a `System`
    value.

    >>> local_path(r"..\x", home="", directory_on_drive=lambda _: r"C:\proj", platform="win32")
    b'C:/proj/../x'
    """
    flavour = ntpath if platform == "win32" else posixpath
    separators = "/\\" if platform == "win32" else "/"
    # Only one's own home: a shell has expanded `~bob` if there is a bob.
    if word == "~" or (word.startswith("~") and word[1] in separators):
        word = home + word[1:]
    drive, _ = flavour.splitdrive(word)
    path: str = flavour.join(directory_on_drive(drive), word)
    if platform == "win32":
        # What os.fsencode() does there. A name may have half a character.
        return slashes(path.encode("utf-8", "surrogatepass"))
    return path.encode("utf-8", "surrogateescape")


def slashes(path: bytes) -> bytes:
    """A path of Windows with `/` between its parts, without the prefix for long paths."""
    if path.startswith(_LONG_SHARE):
        path = b"\\\\" + path[len(_LONG_SHARE) :]
    return path.removeprefix(_LONG_PATH).replace(b"\\", b"/")


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
    """Whether a path means what is in it (`.`, `runs/.`, `/`, `C:/`, the home), as with `cp -r`."""
    return base_name(path) in {b"", b".", b".."}


def without_slash(path: bytes) -> bytes:
    """An absolute path without a slash at its end, unless it is a root (`/`, `C:/`)."""
    stripped = path.rstrip(b"/")
    if not stripped or _DRIVE.fullmatch(stripped):
        return stripped + b"/"
    return stripped


def base_name(path: bytes) -> bytes:
    """The last part of a path; that of a root is empty."""
    stripped = path.rstrip(b"/")
    if _DRIVE.fullmatch(stripped):
        return b""
    return stripped.rpartition(b"/")[2]


def parent(path: bytes) -> bytes:
    """The directory that contains an absolute path; a root is its own."""
    path = without_slash(path)
    if path.endswith(b"/"):
        return path
    return without_slash(path.rpartition(b"/")[0])


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
