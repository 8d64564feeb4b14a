"""Where Windows looks for programs. A module of its own: `--version` and Tab import nothing but this and `system`."""

import os

from apexgpu.platforms.system import is_windows


def never_from_current_directory() -> None:
    """Let Windows look for programs in PATH alone: a downloaded directory may contain an ssh.exe."""
    if is_windows():
        os.environ.setdefault("NoDefaultCurrentDirectoryInExePath", "1")
