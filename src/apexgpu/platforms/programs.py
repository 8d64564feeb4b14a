"""Where programs are: on Windows, never in the current directory, and OpenSSH's own ssh before Git's."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import PureWindowsPath

from apexgpu.platforms.system import System, current

_OPENSSH = {"ssh", "ssh-add", "ssh-keygen", "sftp"}
# Git's and Cygwin's ssh write other paths (/c/Users/…) and ask another agent than the service of Windows.
_FOREIGN = re.compile(r"\\(?:git|msys64|cygwin64|cygwin)\\|\\usr\\bin\\?$", re.IGNORECASE)
_ENDINGS = (".exe", ".cmd", ".bat")


def windows_path(
    program: str,
    environment: Mapping[str, str],
    is_file: Callable[[str], bool] = os.path.isfile,
) -> str | None:
    """The full path of a program on Windows, from PATH; None if it is not there.

    For the programs of OpenSSH, those that come with Git or Cygwin are the last choice.
    """
    directories = [entry.strip('"') for entry in environment.get("PATH", "").split(";")]
    directories = [entry for entry in directories if PureWindowsPath(entry).is_absolute()]
    if program in _OPENSSH:
        root = environment.get("SystemRoot", r"C:\Windows")
        directories.append(rf"{root}\System32\OpenSSH")
        directories.sort(key=lambda entry: _FOREIGN.search(entry) is not None)
    has_ending = program.lower().endswith(_ENDINGS)
    for directory in directories:
        for ending in ("",) if has_ending else _ENDINGS:
            path = str(PureWindowsPath(directory, program + ending))
            if is_file(path):
                return path
    return None


def is_foreign_ssh(path: str, system: System) -> bool:
    """Whether this ssh is not Windows' own, but one that came with Git or Cygwin."""
    return system is System.WINDOWS and _FOREIGN.search(path) is not None


def to_start(program: str) -> str:
    """What to start for `program`: its full path on Windows, elsewhere the name, which the system looks up in PATH."""
    if current() is not System.WINDOWS or "\\" in program or "/" in program:
        return program
    return windows_path(program, os.environ) or program


def is_too_long(error: OSError) -> bool:
    """Whether Windows did not start a program because its command line is too long; Python says "not found"."""
    return getattr(error, "winerror", None) == 206  # ERROR_FILENAME_EXCED_RANGE
