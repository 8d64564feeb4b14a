"""A pytest plugin that takes away from Linux what Windows lacks: `scripts/as-windows` loads it.

What is emulated: `sys.platform`, the modules and functions of POSIX that Windows' Python does not have, its signals,
sockets with a path, and CreateProcess flags (which are accepted and ignored). What is not: paths with backslashes
(`os.path` stays that of Linux), access lists, a console, and Windows' own programs. Python's own modules, pytest and the
libraries are imported before, because they choose their parts by the real system.
"""

import asyncio  # noqa: F401 - before the emulation
import getpass  # noqa: F401
import importlib
import importlib.abc
import importlib.machinery
import os
import shutil  # noqa: F401
import signal
import socket
import subprocess
import sys
import tempfile  # noqa: F401
from collections.abc import Sequence
from typing import Any

import pytest

LIBRARIES = (
    "asyncssh",
    "cryptography.hazmat.primitives.serialization",
    "filelock",
    "httpx",
    "hypothesis",
    "keyring",
    "paramiko",
    "platformdirs",
    "rich.live",
    "rich.spinner",
    "shellingham",
    "sshconf",
    "typer",
)
MODULES = {"fcntl", "pwd", "grp", "termios", "tty", "resource", "pty", "readline", "syslog"}
OF_OS = [
    "WNOHANG",
    "chown",
    "fchown",
    "fork",
    "forkpty",
    "getegid",
    "geteuid",
    "getgid",
    "getgroups",
    "getpgid",
    "getpgrp",
    "getsid",
    "getuid",
    "killpg",
    "mkfifo",
    "openpty",
    "setegid",
    "seteuid",
    "setgid",
    "setsid",
    "setuid",
    "sync",
    "sysconf",
    "tcgetpgrp",
    "uname",
]
OF_SIGNAL = ("SIGKILL", "SIGHUP", "SIGWINCH", "SIGSTOP", "SIGCONT", "SIGALRM", "SIGUSR1", "alarm")
OF_SOCKET = ("AF_UNIX", "send_fds", "recv_fds")


class _Missing(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in MODULES:
            message = f"No module named {fullname!r}"
            raise ModuleNotFoundError(message, name=fullname)
        return None


def _accept_flags() -> None:
    """Let subprocess take Windows' flags, which Linux' refuses, and a drive as the directory."""
    original = subprocess.Popen.__init__

    def init(self: Any, *arguments: Any, **options: Any) -> None:
        options.pop("creationflags", None)
        if str(options.get("cwd") or "").startswith("C:"):
            options["cwd"] = "/"
        original(self, *arguments, **options)

    subprocess.Popen.__init__ = init  # type: ignore[method-assign]


def pytest_configure(config: pytest.Config) -> None:
    """Become Windows, once everything that belongs to the real system is there."""
    for name in LIBRARIES:
        importlib.import_module(name)
    _accept_flags()
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, _Missing())
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL), (socket, OF_SOCKET)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    os.environ.setdefault("USERNAME", "alice")
    os.environ["PYTHONIOENCODING"] = "cp936"  # for the programs that tests start
    sys.platform = "win32"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests that need what cannot be emulated."""
    for item in items:
        for part, reason in NOT_EMULATED.items():
            if part in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=reason))


NOT_EMULATED: dict[str, str] = {}
"""Parts of test IDs, and why these tests say nothing here."""
