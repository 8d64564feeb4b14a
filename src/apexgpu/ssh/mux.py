"""Open OpenSSH connections, used without an ssh process: a client of the ControlMaster protocol (version 4).

A master is OpenSSH's own process, started by `keep` after a command went the slow way; it ends itself after
some idle minutes. Source of the protocol: OpenSSH's PROTOCOL.mux. Never on Windows.
"""

import contextlib
import os
import select
import socket
import stat
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from apexgpu.errors import ApexError, ConnectionLostError, UnansweredError
from apexgpu.models import Reply, Target
from apexgpu.process import Runner
from apexgpu.ssh import sshoptions
from apexgpu.ssh.failures import command_killed_error, command_timeout_error
from apexgpu.ssh.route import config_arguments, target_arguments
from apexgpu.ssh.transport import Limits

_HELLO, _NEW_SESSION, _TERMINATE, _FORWARD = 0x00000001, 0x10000002, 0x10000005, 0x10000006
_OK, _EXIT, _OPENED = 0x80000001, 0x80000004, 0x80000006
_LOCAL = 1
_IDLE = 180
_LONGEST = (
    70  # a socket's path has room for 104 bytes on macOS, and ssh adds 17 of its own while it binds
)
_MOST = (
    32  # masters; each costs about 1.4 MiB and, with a post-quantum exchange, 0.1 s of CPU to open
)


class OpenMasters:
    """The warm way of transport.Connections."""

    def __init__(self, config: Path, runner: Runner, *, directory: Path | None = None) -> None:
        self._config = config
        self._runner = runner
        self._directory = directory or runtime_directory()
        self._stamp = _stamp(config)
        self._kept = 0

    def run(self, target: Target, command: str, *, limits: Limits) -> Reply | None:
        """See transport.Warm. Falls back (None) only where the command cannot have begun."""
        if self._directory is None or not command:
            return None
        path = self.path(target)
        connection = _connect(path, min(limits.connect, 3))
        if connection is None:
            return None
        with connection:
            session = _Session(connection)
            try:
                opened = session.open(command, time.monotonic() + min(limits.connect, 3))
                return session.finish(target, limits, lambda: _greets(path)) if opened else None
            except (OSError, struct.error, ValueError):
                # A master whose network is gone: out of the way, so that the next command need not wait.
                path.unlink(missing_ok=True)
                if session.asked:
                    raise _unanswered(target) from None
                return None
            finally:
                session.close()

    def keep(self, target: Target) -> None:
        """See transport.Warm."""
        if self._directory is None or self._kept >= _MOST or self.path(target).exists():
            return
        self._kept += 1
        self._runner.spawn(master_argv(target, config=self._config, path=self.path(target)))

    def forget(self, target: Target) -> None:
        """See transport.Warm."""
        if self._directory is not None:
            terminate(self.path(target))

    def path(self, target: Target) -> Path:
        """The socket of the master for `target`, whether it is there or not."""
        assert self._directory is not None  # noqa: S101 - the callers have looked
        what = f"{target.alias}\0{target.host.address}\0{target.port}\0{target.user}\0{self._stamp}"
        return self._directory / f"{target.alias[:24]}-{zlib.crc32(what.encode()):08x}"


def master_argv(target: Target, *, config: Path, path: Path) -> list[str]:
    """The command line of a master: no session, no forwards, no prompt, the known host keys only."""
    words = ["ssh", *config_arguments(config), "-f", "-N", "-T", *target_arguments(target)]
    words += sshoptions.words(
        [
            "ControlMaster=yes",
            f"ControlPath={path}",
            f"ControlPersist={_IDLE}",
            *sshoptions.UNATTENDED,
            *sshoptions.PLAIN,
            *sshoptions.BARE,
            *sshoptions.alive(15, 2),
            sshoptions.connect_limit(10),
            "LogLevel=QUIET",
        ]
    )
    return [*words, target.alias]


def forward(
    path: Path,
    port: int,
    name: str,
    there: int,
    *,
    timeout: float = 3,
    ready: Callable[[], None] = lambda: None,
) -> bool:
    """Let the master at `path` listen on 127.0.0.1:`port` for `name`:`there`; whether it does now.

    `ready` is called when the master listens to us, right before it is asked: the time to let go of the port.
    """
    head = struct.pack(">III", _FORWARD, 0, _LOCAL)
    ends = (
        _string(b"127.0.0.1")
        + struct.pack(">I", port)
        + _string(name.encode())
        + struct.pack(">I", there)
    )
    return _asked(path, head + ends, timeout, ready)[:4] == struct.pack(">I", _OK)


def terminate(path: Path, *, timeout: float = 3) -> None:
    """End the master at `path` and all that it carries; nothing when there is none."""
    _asked(path, struct.pack(">II", _TERMINATE, 0), timeout, lambda: None)


def _asked(path: Path, request: bytes, timeout: float, ready: Callable[[], None]) -> bytes:
    """What the master answers to one request; nothing when it does not."""
    connection = _connect(path, timeout)
    if connection is None:
        return b""
    with connection:
        session = _Session(connection)
        try:
            return session.ask(request, time.monotonic() + timeout, ready)
        except (OSError, struct.error, ValueError):
            return b""
        finally:
            session.close()


def open_masters() -> list[Path]:
    """The sockets of masters that may be open."""
    directory = _runtime_path()
    if directory is None or not directory.is_dir():
        return []
    return [path for path in sorted(directory.iterdir()) if stat.S_ISSOCK(path.lstat().st_mode)]


def close_masters(runner: Runner) -> None:
    """End every master, and take its socket and their directory away."""
    for path in open_masters():
        with contextlib.suppress(ApexError):  # one that hangs ends itself when it has been idle
            runner.run(
                ["ssh", "-F", os.devnull, "-o", f"ControlPath={path}", "-O", "exit", "apexgpu"],
                timeout=5,
            )
        path.unlink(missing_ok=True)
    directory = _runtime_path()
    if directory is not None:
        with contextlib.suppress(OSError):  # not there, or something else in it
            directory.rmdir()


def runtime_directory() -> Path | None:
    """A short private directory for sockets, None where masters cannot be (Windows, or a foreign directory)."""
    path = _runtime_path()
    if path is None:
        return None
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError:
        return None
    mine = found.st_uid == os.getuid() and stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    return path if mine else None


def _runtime_path() -> Path | None:
    if sys.platform == "win32":
        return None
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    own = f"apexgpu-{os.getuid()}"
    rooms = [Path(base) / "apexgpu"] if base and os.access(base, os.W_OK) else []
    rooms += [Path(os.environ.get("TMPDIR") or "/tmp") / own, Path("/tmp") / own]  # noqa: S108
    return next((room for room in rooms if len(str(room)) < _LONGEST), None)


def _stamp(config: Path) -> str:
    """What changes with the ssh configuration, so that a connection made under an older one is not used."""
    try:
        found = config.stat()
    except OSError:
        return f"{config}"
    return f"{config}\0{found.st_mtime_ns}\0{found.st_size}"


def _greets(path: Path) -> bool:
    """Whether a master is at `path`: one whose network is gone has ended."""
    connection = _connect(path, 1)
    if connection is None:
        return False
    with connection:
        try:
            return _Session(connection).greet(time.monotonic() + 1)
        except (OSError, struct.error, ValueError):
            return False


def _connect(path: Path, timeout: float) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(str(path))
    except FileNotFoundError:
        connection.close()
        return None
    except OSError:
        connection.close()
        # Nobody listens: a master that was killed left its socket behind.
        path.unlink(missing_ok=True)
        return None
    return connection


class _Session:
    """One command over one connection to a master."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._pipes: list[int] = []
        self.asked = False

    def open(self, command: str, deadline: float) -> bool:
        """Ask for the session; whether the server opened it. Without an answer (OSError) nobody knows."""
        if not self.greet(deadline):
            return False
        text = command.encode()
        flags = struct.pack(
            ">IIIII", 0, 0, 0, 0, 0xFFFFFFFF
        )  # tty, X11, agent, subsystem, escape character
        head = struct.pack(">II", _NEW_SESSION, 0) + _string(b"") + flags
        self.asked = True
        self._send(head + _string(b"") + _string(text))
        self._send_streams()
        answer = self._receive(deadline)
        return answer[:4] == struct.pack(">I", _OPENED)

    def ask(self, request: bytes, deadline: float, ready: Callable[[], None]) -> bytes:
        """The answer to a request that opens no session; nothing from a stranger."""
        if not self.greet(deadline):
            return b""
        ready()
        self._send(request)
        return self._receive(deadline)

    def greet(self, deadline: float) -> bool:
        """Whether a master is at the other end."""
        self._send(struct.pack(">II", _HELLO, 4))
        return self._receive(deadline)[:8] == struct.pack(">II", _HELLO, 4)

    def _send_streams(self) -> None:
        stdin = os.open(os.devnull, os.O_RDONLY)
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        self._pipes = [out, err]
        for descriptor in (stdin, out_end, err_end):
            socket.send_fds(self._connection, [b"\0"], [descriptor])
            os.close(descriptor)

    def finish(self, target: Target, limits: Limits, alive: Callable[[], bool]) -> Reply:
        """Read both streams and the exit status to their end; `alive` is whether the master is there after that."""
        end = None if limits.total is None else time.monotonic() + limits.total
        kept = {number: bytearray() for number in self._pipes}
        code: int | None = None
        waiting = {*self._pipes, self._connection.fileno()}
        poll = select.poll()
        for number in waiting:
            poll.register(number, select.POLLIN)
        while waiting:
            left = None if end is None else max(0.0, end - time.monotonic()) * 1000
            ready = poll.poll(left)
            if not ready:
                raise command_timeout_error(target, kept[self._pipes[0]].decode("utf-8", "replace"))
            for number, _ in ready:
                data = _read(number)
                if number in kept:
                    kept[number] += data
                elif data[4:8] == struct.pack(">I", _EXIT):
                    code = struct.unpack(">I", data[12:16])[0]
                if not data:
                    poll.unregister(number)
                    waiting.discard(number)
        out, err = (bytes(part).decode("utf-8", "replace") for part in kept.values())
        if code is None and target.role == "container" and alive():
            raise command_killed_error(target, out, err)
        if code is None:
            raise _lost(target, out)
        return Reply(code, out, err)

    def close(self) -> None:
        """Give the pipes back."""
        for number in self._pipes:
            with contextlib.suppress(OSError):
                os.close(number)

    def _send(self, payload: bytes) -> None:
        self._connection.sendall(struct.pack(">I", len(payload)) + payload)

    def _receive(self, deadline: float) -> bytes:
        (length,) = struct.unpack(">I", self._exactly(4, deadline))
        if length > 1 << 18:
            message = "not a master"
            raise ValueError(message)
        return self._exactly(length, deadline)

    def _exactly(self, size: int, deadline: float) -> bytes:
        data = b""
        while len(data) < size:
            self._connection.settimeout(max(0.001, deadline - time.monotonic()))
            more = self._connection.recv(size - len(data))
            if not more:
                message = "the master closed"
                raise ValueError(message)
            data += more
        return data


def _read(descriptor: int) -> bytes:
    """What is there; a connection that was reset has ended."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _unanswered(target: Target) -> UnansweredError:
    message = f"the command on {target.alias} was not answered by the open connection"
    hint = f"apexgpu status {target.host.name}   (nobody knows whether it began; then run it again)"
    return UnansweredError(message, hint=hint)


def _lost(target: Target, out: str) -> ConnectionLostError:
    message = f"the command on {target.alias} was lost in the middle"
    return ConnectionLostError(message, hint=f"apexgpu status {target.host.name}", seen=out)
