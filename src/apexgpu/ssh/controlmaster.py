"""OpenSSH connections that stay open between runs of apexgpu: the ControlMasters that it starts and uses.

A ControlMaster (ssh_config(5)) is an ssh process that has logged in and lets other processes run commands over its
connection. apexgpu starts one in the background after the first command on a target, and it ends by itself after
some idle minutes (ControlPersist). Commands are run over it by `muxclient`. Never on Windows, whose ssh has none.
"""

import contextlib
import os
import stat
import sys
import time
import zlib
from pathlib import Path

from apexgpu.errors import ApexError, ConnectionLostError, DroppedError, UnansweredError
from apexgpu.models import Reply, Target
from apexgpu.process import Runner
from apexgpu.ssh import muxclient, sshoptions
from apexgpu.ssh.failures import command_killed_error, command_timeout_error
from apexgpu.ssh.muxclient import MuxConnection, SessionOutput
from apexgpu.ssh.route import config_arguments, target_arguments
from apexgpu.ssh.transport import Limits

_IDLE_SECONDS = 180
_ANSWER_LIMIT = 3.0  # seconds; a master is local and answers at once, unless its network is gone
_MOST_MASTERS = 32  # each takes about 1.4 MiB and, with a post-quantum exchange, 0.1 s of CPU
# A socket path has 104 bytes on macOS, and ssh appends 17 characters while it creates the socket.
_LONGEST_DIRECTORY = 70


class ControlMasters:
    """The ControlMasters of apexgpu: an implementation of transport.OpenConnections."""

    def __init__(self, config: Path, runner: Runner, *, directory: Path | None = None) -> None:
        self._config = config
        self._runner = runner
        self._directory = directory or runtime_directory()
        self._config_state = _state_of(config)
        self._started = 0

    def run(self, target: Target, command: str, *, limits: Limits) -> Reply | None:
        """See transport.OpenConnections.run."""
        # A shell (no command) is not run over a master: a manage shell starts the container at a login.
        if self._directory is None or not command:
            return None
        path = self.path(target)
        answer_limit = min(limits.connect, _ANSWER_LIMIT)
        connection = muxclient.connect(path, answer_limit)
        if connection is None:
            return None
        with connection:
            try:
                if not connection.open_session(command, time.monotonic() + answer_limit):
                    return None
                return _finish(connection, path, target, limits)
            except muxclient.ERRORS:
                # The master has lost its network. Without its socket, the next command need not wait for it.
                path.unlink(missing_ok=True)
                if connection.session_requested:
                    raise _unanswered_error(target) from None
                return None

    def open_in_background(self, target: Target) -> None:
        """See transport.OpenConnections.open_in_background."""
        if self._directory is None or self._started >= _MOST_MASTERS:
            return
        path = self.path(target)
        if not path.exists():
            self._started += 1
            self._runner.spawn(master_argv(target, config=self._config, path=path))

    def close(self, target: Target) -> None:
        """See transport.OpenConnections.close."""
        if self._directory is not None:
            muxclient.terminate(self.path(target))

    def path(self, target: Target) -> Path:
        """The socket of the master for `target`, whether it exists or not.

        The name contains a checksum of all that decides what the connection is: after a change of the address or of
        the ssh config, an older master is not found any more, and ends when it is idle.
        """
        assert self._directory is not None  # noqa: S101 - the callers have checked
        identity = "\0".join(
            [
                target.alias,
                target.host.address,
                str(target.port),
                target.user,
                str(self._config_state),
            ]
        )
        checksum = zlib.crc32(identity.encode())
        # Short, because the path of a socket has about a hundred bytes at most.
        return self._directory / f"{target.alias[:24]}-{checksum:08x}"


def _finish(connection: MuxConnection, path: Path, target: Target, limits: Limits) -> Reply:
    """Wait for the command to end, and return its reply."""
    deadline = None
    if limits.total is not None:
        deadline = time.monotonic() + limits.total
    output = connection.read_session(deadline)
    if output.timed_out:
        raise command_timeout_error(target, output.out)
    if output.exit_status is None:
        raise _no_status_error(target, output, path)
    return Reply(output.exit_status, output.out, output.err)


def _no_status_error(target: Target, output: SessionOutput, path: Path) -> DroppedError:
    """The error for a command without an exit status: killed by a signal, or the connection was lost."""
    # A master whose connection is lost has ended. A manage shell reports signals as exit statuses.
    if target.role == "container" and muxclient.is_alive(path):
        return command_killed_error(target, output.out, output.err)
    message = f"the connection to {target.alias} was lost while the command ran"
    hint = f"apexgpu status {target.host.name}"
    return ConnectionLostError(message, hint=hint, seen=output.out)


def _unanswered_error(target: Target) -> UnansweredError:
    message = (
        f"the open connection to {target.alias} did not confirm the command, which may have started"
    )
    return UnansweredError(message, hint=f"apexgpu status {target.host.name}")


def master_argv(target: Target, *, config: Path, path: Path) -> list[str]:
    """The command line of a master: in the background, without a session, a terminal or a prompt."""
    argv = ["ssh", *config_arguments(config), "-f", "-N", "-T", *target_arguments(target)]
    options = [
        "ControlMaster=yes",
        f"ControlPath={path}",
        f"ControlPersist={_IDLE_SECONDS}",
        *sshoptions.UNATTENDED,
        *sshoptions.COMMAND_ONLY,
        *sshoptions.NO_FORWARDING,
        *sshoptions.keep_alive(15, 2),
        sshoptions.connect_timeout(10),
        "LogLevel=QUIET",
    ]
    return [*argv, *sshoptions.arguments(options), target.alias]


def sockets() -> list[Path]:
    """The sockets of masters that may be running."""
    directory = _runtime_path()
    if directory is None or not directory.is_dir():
        return []
    masters = []
    for path in sorted(directory.iterdir()):
        mode = path.lstat().st_mode
        if stat.S_ISSOCK(mode):
            masters.append(path)
    return masters


def close_all(runner: Runner) -> None:
    """End every master, and delete the sockets and their directory."""
    for path in sockets():
        # A master that does not answer is left: it ends when it has been idle.
        with contextlib.suppress(ApexError):
            runner.run(
                ["ssh", "-F", os.devnull, "-o", f"ControlPath={path}", "-O", "exit", "apexgpu"],
                timeout=5,
            )
        path.unlink(missing_ok=True)
    directory = _runtime_path()
    if directory is not None:
        with contextlib.suppress(OSError):  # there is none, or it contains something else
            directory.rmdir()


def runtime_directory() -> Path | None:
    """A private directory for sockets, created if needed. None where there can be none.

    That is on Windows, and where the directory belongs to another user or others may enter it.
    """
    path = _runtime_path()
    if path is None:
        return None
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError:
        return None
    is_private = (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.getuid()
        and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    )
    return path if is_private else None


def _runtime_path() -> Path | None:
    """The first directory whose path is short enough for sockets."""
    if sys.platform == "win32":
        return None
    own_name = f"apexgpu-{os.getuid()}"
    candidates = [Path(os.environ.get("TMPDIR") or "/tmp") / own_name, Path("/tmp") / own_name]  # noqa: S108
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base and os.access(base, os.W_OK):
        candidates.insert(0, Path(base) / "apexgpu")
    for path in candidates:
        if len(str(path)) < _LONGEST_DIRECTORY:
            return path
    return None


def _state_of(config: Path) -> str:
    """A text that changes whenever the ssh config changes."""
    try:
        status = config.stat()
    except OSError:
        return f"{config}"
    return f"{config}\0{status.st_mtime_ns}\0{status.st_size}"
