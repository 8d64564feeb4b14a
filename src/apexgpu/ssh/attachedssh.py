"""An `ssh` that has the user's terminal, as plain ssh has it; in addition, its log shows whether the login succeeded.

ssh ends with the status 255 both for its own failures and for a command that ends so. Only its log (`-E FILE`) tells
them apart. What ssh would show on stderr is shown as soon as the login has succeeded. If it fails, the caller decides:
it may know a better explanation.

ssh itself has a limit until the keys are exchanged (ConnectTimeout), and none until the session is open. Its log shows
whether it waits for the server, which has the same limit, or may be waiting for its user, who has more time.
"""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from apexgpu.errors import ApexError
from apexgpu.platforms import hints
from apexgpu.platforms.rights import mode_of_private_directory
from apexgpu.platforms.system import current
from apexgpu.process import Runner
from apexgpu.ssh import sshlog, sshoptions

SSH_FAILED = 255
"""The exit status of ssh for its own failures."""

_POLL = 0.02  # seconds between two looks at the log until the login, and after it
_SLOW_POLL = 0.5
_USERS_LIMIT = 300.0  # seconds for a passphrase or a touch; sshd's own limit is two minutes
_MOST_LOG_BYTES = 1 << 20
_DEBUG = b"debug1: "
# Of a new connection, and of a session over a shared one.
_LOGGED_IN = re.compile(rb"Authenticated to |debug1: \S+: master session id: ")
# What ssh adds to its messages with LogLevel=VERBOSE.
_VERBOSE = re.compile(rb"Authenticated to |Transferred: sent |Bytes per second: ")
_LOG_LEVELS_WITHOUT_MESSAGES = {"QUIET", "FATAL"}


class _Stage(Enum):
    """How far an ssh has come, as its log says."""

    LOGIN = "it may be waiting for its user"
    SERVERS_TURN = "it waits for the server's next word of the login"
    LOGGED_IN = "it waits for the session"
    SESSION = "the session is open"


@dataclass(frozen=True, slots=True)
class AttachedSession:
    """How an ssh ended. `messages` is what it reported before a login that failed, and was not shown.

    `log` is the whole log until the session. `is_overdue`: it was ended, because it had none in time.
    """

    status: int
    logged_in: bool
    messages: bytes
    log: str
    is_overdue: bool = False

    @property
    def has_failed(self) -> bool:
        """Whether ssh itself failed, before the command could start."""
        return self.is_overdue or (not self.logged_in and self.status == SSH_FAILED)


def run(
    runner: Runner,
    arguments: Sequence[str],
    *,
    env: Mapping[str, str] | None,
    limit: float,
    is_unreachable: Callable[[], bool],
    logs_session: bool = True,
    log_level: str = "INFO",
) -> AttachedSession:
    """Run `ssh` with `arguments` at our terminal until it ends.

    The server has `limit` seconds for the login, and after it for the session. If ssh has not logged in by then, and
    may be waiting for its user, `is_unreachable` is asked once (in another thread) whether to end it all the same.
    Without `logs_session`, its log does not tell when the session is open. `log_level` is the user's: with QUIET, ssh
    shows no messages.
    """
    with _log_file() as file:
        # DEBUG1 tells of sessions over shared connections, too. It goes to the file.
        options = sshoptions.arguments(["LogLevel=DEBUG1", sshoptions.SESSION_IS_LOGGED])
        argv = ["ssh", "-E", str(file), *options, *arguments]
        follower = _LogFollower(file, _Limit(limit, is_unreachable, logs_session))
        follower.shows_messages = log_level.upper() not in _LOG_LEVELS_WITHOUT_MESSAGES
        status = runner.attach(argv, env=env, watch=follower.follow)
    return AttachedSession(
        status,
        follower.logged_in,
        follower.held_back,
        follower.log.decode("utf-8", "replace"),
        follower.was_overdue and not follower.has_session,
    )


def show(messages: bytes) -> None:
    """Write messages of ssh to stderr, as ssh itself would."""
    with contextlib.suppress(OSError):
        os.write(2, messages)


@dataclass
class _Limit:
    """Decides when an ssh without a session has taken too long. The fields are as in `run`."""

    seconds: float
    is_unreachable: Callable[[], bool]
    logs_session: bool
    was_asked: bool = False

    def is_over(self, stage: _Stage, in_stage: float, in_all: float) -> bool:
        """Whether to end ssh, after these seconds in this stage, and since its start."""
        if stage is _Stage.SESSION:
            return False
        if stage is _Stage.LOGGED_IN:
            return in_stage >= self.seconds
        if in_all < self.seconds:
            return False
        if in_all >= max(self.seconds, _USERS_LIMIT):
            return True
        if stage is _Stage.SERVERS_TURN:
            return in_stage >= self.seconds
        if self.was_asked:
            return False
        self.was_asked = True
        return self.is_unreachable()


class _LogFollower:
    """Reads the log of an ssh while it runs."""

    def __init__(self, file: Path, limit: _Limit) -> None:
        self.logged_in = False
        self.was_overdue = False
        self.shows_messages = True
        self.held_back = b""
        self.log = b""
        self._file = file
        self._position = 0
        self._limit = limit
        self._stage = _Stage.LOGIN
        self._stage_began = time.monotonic()

    @property
    def has_session(self) -> bool:
        """Whether the server opened the session, so that the command may have been started."""
        return self._stage is _Stage.SESSION

    def follow(self, end: Callable[[], None], ended: threading.Event) -> None:
        """Follow the log until `ended` is set. `end` ends ssh."""
        began = time.monotonic()
        while not ended.wait(_SLOW_POLL if self.has_session else _POLL):
            self._read_new_lines()
            if self.was_overdue:
                continue
            now = time.monotonic()
            if not self._limit.is_over(self._stage, now - self._stage_began, now - began):
                continue
            # It may have got its session while `is_over` looked whether the server can be reached.
            self._read_new_lines()
            if not self.has_session and not ended.is_set():
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
        if not self.has_session:
            if len(self.log) < _MOST_LOG_BYTES:
                self.log += line
            self._enter_stage(line)
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

    def _enter_stage(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        if sshlog.has_session(text):
            stage = _Stage.SESSION
        elif self.logged_in or sshlog.is_authenticated(text):
            stage = _Stage.LOGGED_IN if self._limit.logs_session else _Stage.SESSION
        elif sshlog.is_servers_turn(text):
            stage = _Stage.SERVERS_TURN
        else:
            stage = _Stage.LOGIN
        # A server that only talks after the login gets no more time for that.
        if stage is _Stage.SERVERS_TURN or stage is not self._stage:
            self._stage_began = time.monotonic()
        self._stage = stage


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
