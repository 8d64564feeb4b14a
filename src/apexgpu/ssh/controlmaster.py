"""OpenSSH connections that stay open between runs of apexgpu: the ControlMasters that it starts and uses.

A ControlMaster (ssh_config(5)) is an ssh process that has logged in and lets other processes run commands over its
connection. apexgpu has one started in the background after the first command on a target (`masterstarter`), and it
ends by itself after some idle minutes (ControlPersist). Commands are run over it by `muxclient`. Never on Windows,
whose ssh has none.
"""

import contextlib
import os
import re
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from apexgpu import ownprocesses
from apexgpu.boundedoutput import OutputTaker
from apexgpu.errors import ApexError, ConnectionLostError, DroppedError, UnansweredError
from apexgpu.models import Reply, Target
from apexgpu.ownprocesses import OwnProcess
from apexgpu.platforms import hints, owner
from apexgpu.platforms.system import is_windows
from apexgpu.process import Runner
from apexgpu.ssh import masterstarter, muxclient, sshoptions
from apexgpu.ssh.failures import (
    command_killed_error,
    command_timeout_error,
    too_much_output_error,
)
from apexgpu.ssh.muxclient import MuxConnection, SessionOutput
from apexgpu.ssh.route import config_arguments, target_arguments
from apexgpu.ssh.transport import Limits

_IDLE_SECONDS = 180
_STOP_LIMIT = 0.5  # seconds; see _leave
_END_LIMIT = 2.0  # seconds that a process may take to end when it is asked to
_ANSWER_LIMIT = 3.0  # seconds; a master is local and answers at once, unless its network is gone
_MOST_MASTERS = 32  # each takes about 1.4 MiB and, with a post-quantum exchange, 0.1 s of CPU
# Where a run in another environment (a cron job's, say) may have had its sockets.
_ELSEWHERE = ("/run/user/{uid}/apexgpu", "/tmp/apexgpu-{uid}")  # noqa: S108
# The directory of the sockets of one process, a tunnel's or a copy's.
_OWNED_DIRECTORY = re.compile(r"[a-z]-(\d+)-\w+")
# A socket path has 104 bytes on macOS, and ssh appends 17 characters while it creates the socket. The name has up to 24
# characters of the alias, and 9 of a checksum.
_LONGEST_DIRECTORY = 104 - 17 - len("/") - 24 - 9


class ControlMasters:
    """The ControlMasters of apexgpu: an implementation of transport.OpenConnections."""

    def __init__(
        self,
        config: Path,
        runner: Runner,
        *,
        directory: Path | None = None,
        agent_options: Callable[[Target], Sequence[str]] = lambda _target: (),
    ) -> None:
        """`agent_options` returns the options with which a master leaves out an agent that does not answer."""
        self._config = config
        self._runner = runner
        self._directory = directory or runtime_directory()
        self._config_state = _state_of(config)
        self._agent_options = agent_options
        self._started = 0

    def run(
        self, target: Target, command: str, *, limits: Limits, taker: OutputTaker | None = None
    ) -> Reply | None:
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
                taker = taker or OutputTaker()
                if not connection.open_session(
                    command, time.monotonic() + answer_limit, before_request=taker.starting
                ):
                    return None
                return _finish(connection, path, target, limits, taker)
            except muxclient.ERRORS:
                # The master has lost its network. The next command need not wait for it.
                muxclient.stop_listening(path, timeout=_STOP_LIMIT)
                if connection.session_requested:
                    raise _unanswered_error(target) from None
                return None

    def open_in_background(self, target: Target) -> None:
        """See transport.OpenConnections.open_in_background."""
        if self._directory is None or self._started >= _MOST_MASTERS:
            return
        path = self.path(target)
        if masterstarter.reserve(path):
            self._started += 1
            argv = master_argv(
                target,
                config=self._config.absolute(),
                path=path,
                agent_options=self._agent_options(target),
            )
            self._starter.start(argv, path)

    def socket(self, target: Target) -> Path | None:
        """See transport.OpenConnections.socket."""
        if self._directory is None:
            return None
        path = self.path(target)
        connection = muxclient.connect(path, _STOP_LIMIT)
        if connection is None:
            return None
        with connection:
            return path

    def close(self, target: Target) -> None:
        """See transport.OpenConnections.close."""
        if self._directory is None:
            return
        # Those for an earlier state of the ssh config lead to the same account.
        name = re.compile(re.escape(_name_of(target)) + "-[0-9a-f]{8}")
        for path in _entries(self._directory):
            socket = masterstarter.socket_of(path)
            if name.fullmatch(socket.name):
                # First, so that a master that is being started just now sees it.
                masterstarter.cancel(socket)
                muxclient.stop_listening(socket)

    @cached_property
    def _starter(self) -> masterstarter.MasterStarter:
        assert self._directory is not None  # noqa: S101 - the caller has checked
        return masterstarter.MasterStarter(self._runner, self._directory)

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
        return self._directory / f"{_name_of(target)}-{checksum:08x}"


def _name_of(target: Target) -> str:
    # Short, because the path of a socket has about a hundred bytes at most.
    return target.alias[:24]


def _finish(
    connection: MuxConnection, path: Path, target: Target, limits: Limits, taker: OutputTaker
) -> Reply:
    """Wait for the command to end, and return its reply."""
    deadline = None
    if limits.total is not None:
        deadline = time.monotonic() + limits.total
    output = connection.read_session(
        deadline, limits.output, keeps_reading=limits.keeps_reading, taker=taker
    )
    if output.timed_out:
        raise command_timeout_error(target, output.out)
    if output.too_much:
        raise too_much_output_error(target, limits.output)
    if output.exit_status is None:
        raise _no_status_error(target, output, path)
    return Reply(output.exit_status, output.out, output.err, output.is_cut)


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


def master_argv(
    target: Target, *, config: Path, path: Path, agent_options: Sequence[str] = ()
) -> list[str]:
    """The command line of a master: without a session, a terminal or a prompt.

    With ControlPersist, ssh goes to the background when it has its socket. It is not told to do so anyway (-f), so that
    one without a socket stays where it can be killed.
    """
    argv = ["ssh", *config_arguments(config), "-N", "-T", *target_arguments(target)]
    options = [
        *agent_options,
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


@dataclass(frozen=True, slots=True)
class ConnectionProcess:
    """What `list_open` finds: a process of ours that holds a connection open, or starts one."""

    process: OwnProcess
    starts_others: bool


def list_open() -> list[ConnectionProcess]:
    """The processes of this user that hold connections of apexgpu open, whether they have a socket or not.

    They are known by their command lines, which contain a path in the directory of our sockets. The ssh of a tunnel or
    a copy is among them if it has outlived the process that started it.
    """
    directories = _possible_directories()
    connections = []
    for process in ownprocesses.list_processes():
        for directory in directories:
            starts_others = masterstarter.is_starter(process.argv, directory)
            if starts_others or _is_left_behind(_socket_in(process.argv, directory)):
                connections.append(ConnectionProcess(process, starts_others))
    return connections


def _socket_in(argv: Sequence[str], directory: Path) -> str:
    """The control socket in `directory` of the ssh with this command line, relative to it; "" if it has none there."""
    if not argv:
        return ""
    if argv[0] == "ssh:":  # as a master calls itself where that is possible: "ssh: SOCKET [mux]"
        words = argv[1:2]
        option = f"{directory}/"
    elif Path(argv[0]).name == "ssh":
        words = argv[1:]
        option = f"ControlPath={directory}/"
    else:
        return ""
    for word in words:
        if word.startswith(option):
            return word.removeprefix(option)
    return ""


def _is_left_behind(socket: str) -> bool:
    """Whether the ssh with this control socket is a master of ours, or its owner has ended."""
    directory, _, _ = socket.rpartition("/")
    if not directory:
        return socket != ""
    owner = _OWNED_DIRECTORY.fullmatch(directory)
    return owner is not None and not ownprocesses.is_running(int(owner[1]))


def sockets() -> list[Path]:
    """The sockets of masters that may be running."""
    masters = []
    for directory in _possible_directories():
        for path in _entries(directory):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(path.lstat().st_mode):
                    masters.append(path)
    return masters


def close_all() -> None:
    """End every process that holds a connection of apexgpu open, and delete the sockets with their directories.

    Raises ApexError for a process that does not end.
    """
    connections = list_open()
    # First those that start others.
    left = ownprocesses.end(
        [connection.process for connection in connections if connection.starts_others],
        grace=_END_LIMIT,
    )
    left += ownprocesses.end(
        [connection.process for connection in connections if not connection.starts_others],
        grace=_END_LIMIT,
    )
    for socket in sockets():
        # Its process was not found in the list.
        muxclient.terminate(socket)
    for directory in _possible_directories():
        if _is_private(directory):
            _delete_files(directory)
    if left:
        numbers = " ".join(str(process.pid) for process in left)
        message = f"some ssh processes do not end: {numbers}"
        raise ApexError(
            message, hint=hints.kill(*(process.pid for process in left)), code="still_running"
        )


def _delete_files(directory: Path) -> None:
    """Delete what is left of ended processes, and the directory if nothing else is in it."""
    import shutil  # imports three compressors; every command imports this module

    for path in _entries(directory):
        owner = _OWNED_DIRECTORY.fullmatch(path.name)
        with contextlib.suppress(OSError):
            if owner is None:
                path.unlink()
            elif not ownprocesses.is_running(int(owner[1])):
                shutil.rmtree(path)
    with contextlib.suppress(OSError):
        directory.rmdir()


def runtime_directory() -> Path | None:
    """A private directory for sockets, created if needed. None where there can be none.

    That is on Windows, and where the directory belongs to another user or others may enter it.
    """
    path = _runtime_path()
    if path is None:
        return None
    with contextlib.suppress(OSError):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path if _is_private(path) else None


def _is_private(path: Path) -> bool:
    """Whether this is a directory of this user's that nobody else may enter."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and owner.is_users_own(status, or_roots=False)
        and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    )


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _runtime_path() -> Path | None:
    """The first directory whose path is short enough for sockets."""
    if is_windows():
        return None
    for path in _candidates():
        if len(str(path)) < _LONGEST_DIRECTORY:
            return path
    return None


def _candidates() -> Iterator[Path]:
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base and os.access(base, os.W_OK):
        yield Path(base) / "apexgpu"
    own_name = f"apexgpu-{owner.user_id()}"
    if os.environ.get("TMPDIR"):
        yield Path(os.environ["TMPDIR"]) / own_name
    yield Path("/tmp") / own_name  # noqa: S108


def _possible_directories() -> list[Path]:
    """Where sockets of ours may be: another run may have had another environment."""
    if is_windows():
        return []
    directories = [Path(name.format(uid=owner.user_id())) for name in _ELSEWHERE]
    own = _runtime_path()
    if own is not None:
        directories.insert(0, own)
    return list(dict.fromkeys(directories))


def _state_of(config: Path) -> str:
    """A text that changes whenever the ssh config changes."""
    try:
        status = config.stat()
    except OSError:
        return f"{config}"
    return f"{config}\0{status.st_mtime_ns}\0{status.st_size}"
