r"""Paths as on Windows, over the files of Linux: `os.path` is ntpath, `Path` a WindowsPath, `C:\` the root directory.

The functions of `os` and `open` take paths with backslashes and drives, find an `x.exe` where Linux has `x`, and refuse
names that Windows refuses. Programs that tests start get the paths that Linux knows. Not emulated: that the case of letters
makes no difference, links that need a right, files that cannot be deleted while they are open.
"""

import builtins
import errno
import io
import ntpath
import os
import pathlib
import posixpath
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

_DRIVE = re.compile(r"[A-Za-z]:")
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f]')
_ONE_PATH = (
    "access",
    "chdir",
    "chmod",
    "lstat",
    "mkdir",
    "open",
    "remove",
    "rmdir",
    "stat",
    "statvfs",
    "truncate",
    "unlink",
    "utime",
)
_TWO_PATHS = ("rename", "replace", "link")
_MAY_CREATE = {"mkdir", "rename", "replace", "link"}
_real: dict[str, Any] = {}


def to_linux(path: Any) -> Any:
    r"""The path of Linux for a path of Windows: `C:\tmp\a` is `/tmp/a`, and a drive `D:` is nowhere."""
    if isinstance(path, int) or path is None:
        return path
    name = os.fspath(path)
    if isinstance(name, bytes):
        return os.fsencode(_text_to_linux(os.fsdecode(name)))
    return _text_to_linux(name)


def _text_to_linux(name: str) -> str:
    if name.lower() == "nul":
        return "/dev/null"
    name = name.removeprefix("\\\\?\\").removeprefix("\\\\.\\")
    drive = _DRIVE.match(name)
    if drive:
        name = name[2:]
        if drive[0].upper() != "C:":
            name = f"/no drive {drive[0]}/{name}"
    name = name.replace("\\", "/")
    if name.lower().endswith(".exe") and _mode(name) == 0:
        program = name[: -len(".exe")]
        if stat.S_ISREG(_mode(program)) and _mode(program) & 0o111:
            return program
    return name


def _mode(path: str) -> int:
    """The mode of a file, 0 if there is none."""
    try:
        return int(_real["stat"](path).st_mode)
    except (OSError, ValueError):
        return 0


def to_windows(path: str) -> str:
    r"""An absolute path of Linux with `C:` in front and backslashes."""
    if path.startswith("/"):
        return "C:" + path.replace("/", "\\")
    return path


def _refuse_name(path: Any) -> None:
    """Raise what Windows raises for a new file with a character in its name that NTFS does not allow."""
    if isinstance(path, int):
        return
    name = os.fsdecode(os.fspath(path)).removeprefix("\\\\?\\")
    if _DRIVE.match(name):
        name = name[2:]
    if _FORBIDDEN.search(name):
        message = "The filename, directory name, or volume label syntax is incorrect"
        raise OSError(errno.EINVAL, message, os.fspath(path))


class Entry:
    """A DirEntry whose `path` is joined as on Windows."""

    def __init__(self, directory: Any, entry: "os.DirEntry[Any]") -> None:
        self._entry = entry
        self.name = entry.name
        self.path = ntpath.join(directory, entry.name)

    def __fspath__(self) -> Any:
        return self.path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)


class Scan:
    """The entries of a directory, as os.scandir gives them."""

    def __init__(self, directory: Any, real: Any) -> None:
        self._directory = directory
        self._real = real

    def __iter__(self) -> Iterator[Entry]:
        return self

    def __next__(self) -> Entry:
        return Entry(self._directory, next(self._real))

    def __enter__(self) -> "Scan":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._real.close()

    def close(self) -> None:
        self._real.close()


def _scandir(path: Any = ".") -> Any:
    if isinstance(path, int):
        return _real["scandir"](path)
    return Scan(os.fspath(path), _real["scandir"](to_linux(path)))


def _listdir(path: Any = ".") -> Any:
    return _real["listdir"](to_linux(path))


def _readlink(path: Any, **options: Any) -> Any:
    target = _real["readlink"](to_linux(path), **options)
    if isinstance(target, bytes):
        return os.fsencode(to_windows(os.fsdecode(target)))
    return to_windows(target)


def _symlink(source: Any, target: Any, *rest: Any, **options: Any) -> None:
    _refuse_name(target)
    _real["symlink"](to_linux(source), to_linux(target), *rest, **options)


def _getcwd() -> str:
    return to_windows(_real["getcwd"]())


def _getcwdb() -> bytes:
    return os.fsencode(_getcwd())


def _with_one_path(name: str) -> Callable[..., Any]:
    real = _real[name]

    def function(path: Any, *rest: Any, **options: Any) -> Any:
        creates = name in _MAY_CREATE or (name == "open" and rest and rest[0] & os.O_CREAT)
        if creates:
            _refuse_name(path)
        return real(to_linux(path), *rest, **options)

    return function


def _with_two_paths(name: str) -> Callable[..., Any]:
    real = _real[name]

    def function(source: Any, target: Any, *rest: Any, **options: Any) -> Any:
        _refuse_name(target)
        return real(to_linux(source), to_linux(target), *rest, **options)

    return function


def _open(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
    if not set(mode).isdisjoint("wxa") and not isinstance(file, int):
        _refuse_name(file)
    return _real["io.open"](to_linux(file), mode, *rest, **options)


def _abspath(path: Any) -> Any:
    path = os.fspath(path)
    current = _getcwdb() if isinstance(path, bytes) else _getcwd()
    return ntpath.normpath(ntpath.join(current, path))


def _realpath(path: Any, *, strict: bool = False) -> Any:
    real = posixpath.realpath(to_linux(_abspath(path)), strict=strict)
    if isinstance(real, bytes):
        return os.fsencode(to_windows(os.fsdecode(real)))
    return to_windows(real)


def _get_exec_path(env: Any = None) -> list[str]:
    environment: Any = os.environ if env is None else env
    path = environment.get("PATH") or environment.get(b"PATH") or ""
    return _list_to_linux(os.fsdecode(path)).split(":")


def _list_to_linux(path: str) -> str:
    # A test may have put a directory before PATH with Linux' colon. That of a drive has a backslash behind it.
    parts = re.split(r";|:(?!\\)", path)
    return ":".join(_text_to_linux(part) for part in parts)


def _executable(program: str, environment: dict[Any, Any]) -> str | None:
    """What exec() is to run for a name that PATH has to find: subprocess would join the parts as Windows does."""
    if "/" in program or "\\" in program:
        return None
    for directory in str(environment.get("PATH", "")).split(":"):
        path = posixpath.join(directory, program)
        if stat.S_ISREG(_mode(path)) and _real["access"](path, os.X_OK):
            return path
    return None


def _word_to_linux(word: Any) -> Any:
    """A word of a command line: only a whole path is one of Windows'."""
    if isinstance(word, os.PathLike):
        word = os.fspath(word)
    if isinstance(word, str) and (word == "nul" or re.match(r"C:[\\/]", word)):
        return _text_to_linux(word)
    # A path without a drive, of a module that was imported before.
    if isinstance(word, str) and re.match(r"\\[^\\]+\\", word) and _mode(_text_to_linux(word)):
        return _text_to_linux(word)
    return word


def _environment_to_linux(environment: Any) -> dict[Any, Any]:
    words = {}
    for name, value in (os.environ if environment is None else environment).items():
        words[name] = _list_to_linux(value) if name == "PATH" else _word_to_linux(value)
    return words


def _start_with_paths_of_linux() -> None:
    original = subprocess.Popen.__init__

    def init(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        if not isinstance(args, str | bytes):
            args = [_word_to_linux(word) for word in args]
        options["env"] = _environment_to_linux(options.get("env"))
        program = args if isinstance(args, str | bytes) else args[0]
        executable = _executable(os.fsdecode(program), options["env"])
        if executable is not None and not options.get("shell"):
            options["executable"] = executable
        if options.get("cwd") is not None:
            options["cwd"] = to_linux(options["cwd"])
        original(self, args, *rest, **options)

    subprocess.Popen.__init__ = init  # type: ignore[method-assign]


def _let_path_be_windows() -> None:
    windows, path = pathlib.WindowsPath, pathlib.Path
    original = path.__new__
    flavour = getattr(windows, "_flavour", None)
    if flavour is not None and hasattr(flavour, "is_supported"):
        flavour.is_supported = True  # Python 3.11
    elif "__new__" in vars(windows):
        del windows.__new__

    def new(cls: Any, *arguments: Any, **options: Any) -> Any:
        return original(windows if cls is path else cls, *arguments, **options)

    path.__new__ = new  # type: ignore[method-assign]


def become_windows() -> None:
    """Replace them; what was made of paths before keeps the form of Linux."""
    for name in (*_ONE_PATH, *_TWO_PATHS, "scandir", "listdir", "readlink", "symlink"):
        if hasattr(os, name):
            _real[name] = getattr(os, name)
    _real["getcwd"] = os.getcwd
    _real["io.open"] = io.open
    for name in _ONE_PATH:
        if name in _real:
            setattr(os, name, _with_one_path(name))
    for name in _TWO_PATHS:
        setattr(os, name, _with_two_paths(name))
    changed: dict[str, Any] = {
        "scandir": _scandir,
        "listdir": _listdir,
        "readlink": _readlink,
        "symlink": _symlink,
        "getcwd": _getcwd,
        "getcwdb": _getcwdb,
        "get_exec_path": _get_exec_path,
        "path": ntpath,
        "sep": "\\",
        "altsep": "/",
        "pathsep": ";",
        "devnull": "nul",
    }
    for name, value in changed.items():
        setattr(os, name, value)
    sys.modules["os.path"] = ntpath
    # filelock has taken this function from Linux when it was imported.
    sys.modules["filelock._core._registry"]._RESOLVE_DIR = _abspath  # type: ignore[attr-defined]
    ntpath.abspath = _abspath
    ntpath.realpath = _realpath
    builtins.open = io.open = _open
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    _let_path_be_windows()
    _start_with_paths_of_linux()
    tempfile.tempdir = to_windows(tempfile.gettempdir())
    os.environ["PATH"] = ";".join(map(to_windows, os.environ["PATH"].split(":")))
