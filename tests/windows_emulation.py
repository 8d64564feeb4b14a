"""A pytest plugin that takes away from Linux what Windows lacks: `scripts/as-windows` loads it.

What is emulated: `sys.platform`, the modules and functions of POSIX that Windows' Python does not have, most of its signals
(Python's own subprocess needs SIGKILL and WNOHANG), sockets with a path, and CreateProcess flags (which are accepted and ignored). What is not: paths with backslashes
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
import ssl
import subprocess
import sys
import tempfile  # noqa: F401
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import emulation, windows_paths

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
OF_SIGNAL = ("SIGHUP", "SIGWINCH", "SIGSTOP", "SIGCONT", "SIGUSR1")
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


def _only_distributes(config: pytest.Config) -> bool:
    """Whether this is the process of pytest-xdist that starts the workers, by means of this system, and runs no test."""
    return bool(config.getoption("numprocesses", None)) and not hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    """Become Windows, once everything that belongs to the real system is there."""
    if _only_distributes(config):
        return
    for name in LIBRARIES:
        importlib.import_module(name)
    _accept_flags()
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, _Missing())
    pair = partial(socket.socketpair, socket.AF_UNIX)
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL), (socket, OF_SOCKET)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    socket.socketpair = pair  # Windows' is over TCP
    # An option that Linux has, in the place of one that it has not.
    socket.SO_EXCLUSIVEADDRUSE = socket.SO_KEEPALIVE  # type: ignore[attr-defined,unused-ignore]
    ssl.enum_certificates = lambda _store: []  # type: ignore[attr-defined,unused-ignore]
    os.environ.setdefault("USERNAME", "alice")
    os.environ["WT_SESSION"] = "1"  # Windows Terminal, whose fonts have all letters
    os.environ["PYTHONIOENCODING"] = "cp936"  # for the programs that tests start
    sys.platform = "win32"


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Change paths when everything is imported: pytest finds the tests by the paths of Linux."""
    if _only_distributes(session.config):
        return
    windows_paths.become_windows()
    # What pytest-xdist gives to its workers.
    temporary = session.config._tmp_path_factory  # type: ignore[attr-defined]
    if temporary._given_basetemp is not None:
        temporary._given_basetemp = Path(windows_paths.to_windows(str(temporary._given_basetemp)))


@pytest.fixture(autouse=True)
def profile(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home, as Windows names it."""
    monkeypatch.setenv("USERPROFILE", str(isolated))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Do not import the files of which no test is left."""
    return True if emulation.is_left_out(collection_path, NOT_EMULATED) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need what cannot be emulated."""
    emulation.leave_out(config, items, NOT_EMULATED)


_NAMES = "makes a file with a name that Windows does not allow"
_MACOS = "is about macOS"
_SH = "runs a program of containers in this machine's sh"
_TEXT = "expects the words for Linux, which test_platforms.py compares for each system"
_MODES = "is about modes, owners and locks of Linux"
_PROCESSES = (
    "starts and ends programs as Linux does, which Python's subprocess needs its own system for"
)
NOT_EMULATED: dict[str, str] = {
    "test_snapshots.py::TestScripts": _SH,
    "test_gpus.py::TestTheScript": _SH,
    "test_compatibility.py::TestDrivers::test_no_gpu": _TEXT,
    "test_iam_client.py::TestRedirects::test_to_anything_else": _TEXT,
    "test_mountview.py::test_a_copy_is_one_line": _TEXT,
    "test_proxies.py::test_a_proxy_that_cannot_be_used": _TEXT,
    "test_render.py::test_a_terminal_that_knows_no_chinese": _TEXT,
    "test_render.py::test_symbols_have_a_letter": _TEXT,
    "test_smi.py::TestRefusals": _TEXT,
    "test_sshlog.py::TestAnAccountWithoutAName": _TEXT,
    "test_files.py::test_a_lock_is_private": _MODES,
    "test_files.py::test_everything_is_private": _MODES,
    "test_files.py::TestLock::test_a_file_system_without_locks": _MODES,
    "test_mounttable.py::test_another_users_mount": _MODES,
    "test_windows.py::test_the_read_only_mark": _MODES,
    "test_windows.py::test_a_mount_": _PROCESSES,
    "test_process.py": _PROCESSES,
    "test_language.py::test_a_program_whose_output": _PROCESSES,
    "test_notification.py": _PROCESSES,
    "test_tunnels.py::test_what_a_killed_one_left": _PROCESSES,
    "test_tunnels.py::test_a_close_returns": _PROCESSES,
    "test_xwire.py": "is about sockets with a path",
    "test_macos.py": _MACOS,
    "test_displayfacts.py::test_macos_": _MACOS,
    "test_displayfacts.py::test_the_xauth_that_ssh": "finds a program without .exe",
    "test_displayfacts.py::test_ssh_is_told_of_an_xauth": "finds a program without .exe",
    "test_rsync.py": "rsync is not used on Windows",
    "test_foldednames.py": "emulates a disk that ignores case; Windows' Path could not look at its two names",
    "test_containerruns.py": _SH,
    "test_facts.py::TestScript": _SH,
    "test_growth.py": _SH,
    "test_serving.py": _SH,
    "test_gitignore.py": "lets Linux' git read the paths of Windows",
    "test_pictures.py": "lets Python import a file by its path",
    "test_docsamples.py::test_a_sample_repeats": _TEXT,
    "test_iam_client.py::TestConnections::test_a_certificate": "lets OpenSSL read a file by its path",
    "test_computetest.py::test_the_look_comes_through": _NAMES,
    "test_remotescript.py::test_arguments_arrive_whole": _NAMES,
    "test_steps.py::TestLoginPath": _SH,
    "test_steps.py::TestLoginVariable": _SH,
    "test_steps.py::TestEnvironments": _SH,
    "test_steps.py::TestGrowth": _SH,
    "test_x11.py::test_the_line_for_sshd": _SH,
    "test_screens.py::test_a_screen_looks_as_it_was_looked_at[config-status": "shows paths of Linux",
    "test_screens.py::test_the_colours_of_our_pictures": "lets Python import a file by its path",
    "test_setuprun.py": _SH,
    "test_transfer.py::test_modes_and_times": _MODES,
    "test_transfer.py::test_directories_that_their_owner": _MODES,
    "test_transfer.py::test_what_cannot_be": _NAMES,
    "test_labcommands.py::test_the_demo_ends": "the lab does not run on Windows",
}
"""Parts of test IDs, and why these tests are left out."""
