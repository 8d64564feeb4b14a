"""Starts ControlMasters in the background: the process that does so, and how a run of apexgpu asks it.

ssh goes to the background by itself once a master has its socket. If the socket exists already, ssh says "disabling
multiplexing" and runs on without one, forever, as a login that nobody can use or end. Therefore a process of ours
starts each ssh, and kills those that have not got their socket in time.

Beside a socket there may be a file that says that somebody is starting its master, or that a start has failed a moment
ago. Each start is a login, so one that fails is not repeated at once: servers count failed logins
(PerSourcePenalties in sshd_config(5)).
"""

import contextlib
import json
import os
import select
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from apexgpu.process import Runner, TimedCommand, run_all
from apexgpu.ssh import muxclient

START_LIMIT = 30.0
"""Seconds that a master may take until it has its socket."""

PAUSE_AFTER_FAILURE = 300.0
"""Seconds in which no master is started where one has failed."""

_STARTING = ".starting"
_FAILED = ".failed"
_STALE_AFTER = 2 * START_LIMIT  # seconds: a process that was killed leaves its file behind
_IDLE_LIMIT = 2.0  # seconds that the process waits for another request
_LONGEST_REQUEST = 1 << 16


class MasterStarter:
    """Asks a process in the background to start masters. Safe for several threads."""

    def __init__(self, runner: Runner, directory: Path) -> None:
        """`directory` is that of the sockets. The process has it in its command line, where it can be found."""
        self._runner = runner
        self._directory = directory
        self._lock = threading.Lock()
        self._requests: int | None = None  # the pipe to the process

    def __del__(self) -> None:
        """Let the process end, which it does at the end of its stdin."""
        self._close()

    def start(self, argv: Sequence[str], socket: Path) -> None:
        """Start the master `argv`, which is going to listen at `socket`. A failure is not reported."""
        line = json.dumps({"argv": list(argv), "socket": str(socket)}).encode() + b"\n"
        with self._lock:
            if self._requests is not None and self._send(line):
                return
            # None has been started yet, or it has ended because it had nothing to do.
            self._requests = self._runner.spawn_reader(self._command())
            if self._requests is not None:
                self._send(line)

    def _command(self) -> list[str]:
        # -P: do not import from the current directory, where the user may have a json.py.
        return [sys.executable, "-P", "-m", "apexgpu.ssh.masterstarter", str(self._directory)]

    def _send(self, line: bytes) -> bool:
        """Send a request, which is short enough to be written at once; whether the process still reads."""
        assert self._requests is not None  # noqa: S101 - the callers have checked
        try:
            os.write(self._requests, line)
        except OSError:
            self._close()
            return False
        return True

    def _close(self) -> None:
        if self._requests is not None:
            os.close(self._requests)
            self._requests = None


def is_starter(argv: Sequence[str], directory: Path) -> bool:
    """Whether this is the command line of a process that starts masters in `directory`."""
    return list(argv[-3:]) == ["-m", "apexgpu.ssh.masterstarter", str(directory)]


def reserve(socket: Path) -> bool:
    """Announce that a master for `socket` is about to be started; False if it need not or should not be.

    That is so if it runs, if another process is starting it, and after a failure.
    """
    failed = _beside(socket, _FAILED)
    if socket.exists() or _age(failed) < PAUSE_AFTER_FAILURE:
        return False
    starting = _beside(socket, _STARTING)
    try:
        os.close(os.open(starting, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        if _age(starting) < _STALE_AFTER:
            return False
        with contextlib.suppress(OSError):
            os.utime(starting)
    except OSError:
        return False
    # Another process may have started it between the first look and the announcement.
    if socket.exists():
        starting.unlink(missing_ok=True)
        return False
    return True


def cancel(socket: Path) -> None:
    """Let a master that is being started for `socket` end as soon as it has started; forget failures, too."""
    _beside(socket, _STARTING).unlink(missing_ok=True)
    _beside(socket, _FAILED).unlink(missing_ok=True)


def socket_of(path: Path) -> Path:
    """The socket that a file in the directory of the sockets is, or belongs to."""
    return path.with_name(path.name.removesuffix(_STARTING).removesuffix(_FAILED))


def _start(argv: Sequence[str], socket: Path) -> None:
    """Start one master, wait until it has its socket, and kill it if it does not get one."""
    starting = _beside(socket, _STARTING)
    (ended,) = run_all([TimedCommand(tuple(argv), START_LIMIT)])
    if ended.timed_out or ended.code != 0:
        with contextlib.suppress(OSError):
            starting.rename(_beside(socket, _FAILED))
        return
    if starting.exists():
        starting.unlink(missing_ok=True)
    else:
        # It was cancelled in the meantime: what a login gets on this host may have changed.
        muxclient.stop_listening(socket)


def _run(directory: Path) -> None:
    """What the process does: read requests until there are no more, and start a master for each."""
    # A process in the background must not keep a directory of the user's in use.
    os.chdir("/")
    for line in _read_lines(sys.stdin.fileno()):
        request = json.loads(line)
        socket = Path(request["socket"])
        if socket.parent == directory:
            # Not a daemon thread: the program ends after the last of them.
            threading.Thread(target=_start, args=(request["argv"], socket)).start()


def _read_lines(stdin: int) -> Iterator[bytes]:
    data = b""
    while select.select([stdin], [], [], _IDLE_LIMIT)[0]:
        more = os.read(stdin, _LONGEST_REQUEST)
        if not more:
            return
        *lines, data = (data + more).split(b"\n")
        yield from lines


def _beside(socket: Path, suffix: str) -> Path:
    return socket.with_name(socket.name + suffix)


def _age(path: Path) -> float:
    """The seconds since a file was written; infinite if there is none."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")


if __name__ == "__main__":
    _run(Path(sys.argv[1]))
