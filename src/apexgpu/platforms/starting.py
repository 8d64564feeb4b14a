"""How a program is started that outlives us, or that Ctrl-C must not reach."""

import os
from collections.abc import Mapping

from apexgpu.platforms.system import System

# Flags of CreateProcess, which the subprocess module defines on Windows only.
_NEW_GROUP = 0x00000200  # CREATE_NEW_PROCESS_GROUP
# With DETACHED_PROCESS instead, the python.exe of a virtual environment opens a console window for the real
# python.exe that it starts, and whoever closes that window ends the program.
_NO_WINDOW = 0x08000000  # CREATE_NO_WINDOW


def own_group_flags(system: System) -> int:
    """The `creationflags` for a program that Ctrl-C does not reach. Elsewhere, a new session does it."""
    return _NEW_GROUP if system is System.WINDOWS else 0


def background_flags(system: System) -> int:
    """The `creationflags` for a program that outlives us, without a console window."""
    return _NEW_GROUP | _NO_WINDOW if system is System.WINDOWS else 0


def neutral_directory(system: System, environment: Mapping[str, str] = os.environ) -> str:
    """A directory that a program in the background does not keep in use.

    In the directory where it was started, it would keep a USB stick or a mount from being ejected, and on Windows any
    directory from being renamed.
    """
    if system is not System.WINDOWS:
        return "/"
    return environment.get("SystemDrive", "C:") + "\\"
