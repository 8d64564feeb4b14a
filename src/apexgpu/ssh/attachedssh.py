"""An `ssh` that has the user's terminal, as plain ssh has it; in addition, its log shows whether the login succeeded.

ssh ends with the status 255 both for its own failures and for a command that ends so. Only its log (`-E FILE`) tells
them apart. What ssh would show on stderr is shown as soon as the login has succeeded. If it fails, the caller decides:
it may know a better explanation.
"""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apexgpu.errors import ApexError
from apexgpu.platforms import hints
from apexgpu.platforms.rights import mode_of_private_directory
from apexgpu.platforms.system import current
from apexgpu.process import Runner

SSH_FAILED = 255
"""The exit status of ssh for its own failures."""

_POLL = 0.02  # seconds between two looks at the log until the login, and after it
_SLOW_POLL = 0.5
_MOST_LOG_BYTES = 1 << 20
_DEBUG = b"debug1: "
# Of a new connection, and of a session over a shared one.
_LOGGED_IN = re.compile(rb"Authenticated to |debug1: \S+: master session id: ")
# What ssh adds to its messages with LogLevel=VERBOSE.
_VERBOSE = re.compile(rb"Authenticated to |Transferred: sent |Bytes per second: ")
_LOG_LEVELS_WITHOUT_MESSAGES = {"QUIET", "FATAL"}


@dataclass(frozen=True, slots=True)
class AttachedSession:
    """How an ssh ended. `messages` is what it reported before a login that failed, and was not shown.

    `log` is the whole log until then. `is_overdue`: it was ended, because the login took too long.
    """

    status: int
    logged_in: bool
    messages: bytes
    log: str
    is_overdue: bool = False

    @property
    def has_failed(self) -> bool:
        """Whether ssh itself failed, before the command could start."""
        return not self.logged_in and (self.status == SSH_FAILED or self.is_overdue)


def run(
    runner: Runner,
    arguments: Sequence[str],
    *,
    env: Mapping[str, str] | None,
    limit: float,
    is_overdue: Callable[[], bool],
    log_level: str = "INFO",
) -> AttachedSession:
    """Run `ssh` with `arguments` at our terminal until it ends.

    If it has not logged in after `limit` seconds, `is_overdue` is asked (in another thread) whether to end it: it may
    be waiting for a passphrase. `log_level` is the user's: with QUIET, ssh shows no messages.
    """
    with _log_file() as file:
        # DEBUG1 tells of sessions over shared connections, too. It goes to the file.
        argv = ["ssh", "-E", str(file), "-o", "LogLevel=DEBUG1", *arguments]
        follower = _LogFollower(file, limit, is_overdue)
        follower.shows_messages = log_level.upper() not in _LOG_LEVELS_WITHOUT_MESSAGES
        status = runner.attach(argv, env=env, watch=follower.follow)
    return AttachedSession(
        status,
        follower.logged_in,
        follower.held_back,
        follower.log.decode("utf-8", "replace"),
        follower.was_overdue,
    )


def show(messages: bytes) -> None:
    """Write messages of ssh to stderr, as ssh itself would."""
    with contextlib.suppress(OSError):
        os.write(2, messages)


class _LogFollower:
    """Reads the log of an ssh while it runs."""

    def __init__(self, file: Path, limit: float, is_overdue: Callable[[], bool]) -> None:
        self.logged_in = False
        self.was_overdue = False
        self.shows_messages = True
        self.held_back = b""
        self.log = b""
        self._file = file
        self._position = 0
        self._limit = limit
        self._is_overdue = is_overdue

    def follow(self, end: Callable[[], None], ended: threading.Event) -> None:
        """Follow the log until `ended` is set. `end` ends ssh."""
        deadline = time.monotonic() + self._limit
        while not ended.wait(_SLOW_POLL if self.logged_in else _POLL):
            self._read_new_lines()
            if not self.logged_in and time.monotonic() >= deadline:
                deadline = float("inf")  # it is asked once
                if self._is_overdue() and not ended.is_set():
                    self.was_overdue = True
                    end()
        self._read_new_lines()

    def _read_new_lines(self) -> None:
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._position)
                data = stream.read()
        except OSError:  # ssh has not created it yet
            return
        complete = data[: data.rfind(b"\n") + 1]
        self._position += len(complete)
        for line in complete.splitlines(keepends=True):
            self._take(line)

    def _take(self, line: bytes) -> None:
        if not self.logged_in and len(self.log) < _MOST_LOG_BYTES:
            self.log += line
        if _LOGGED_IN.match(line):
            self.logged_in = True
            show(self.held_back)
            self.held_back = b""
        if not self.shows_messages or line.startswith(_DEBUG) or _VERBOSE.match(line):
            return
        if self.logged_in:
            show(line)
        else:
            self.held_back += line


@contextlib.contextmanager
def _log_file() -> Iterator[Path]:
    """A path for the log, in a directory that nobody else may enter; both are deleted afterwards."""
    # Not the tempfile module: what it imports takes as long as a command over an open connection.
    base = os.environ.get("TMPDIR") or os.environ.get("TEMP") or "/tmp"  # noqa: S108
    directory = Path(base) / f"apexgpu-{os.urandom(8).hex()}"
    try:
        directory.mkdir(mode=mode_of_private_directory(current()))
    except OSError as exc:
        message = f"cannot make a directory for temporary files: {exc.strerror}: {directory}"
        raise ApexError(
            message, hint=hints.look_at(Path(base)), code="no_temporary_directory"
        ) from None
    file = directory / "log"
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
            directory.rmdir()
