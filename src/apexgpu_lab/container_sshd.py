"""The ssh server inside a container: a real shell, SFTP, SCP and forwarding, as the user who owns it."""

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import Awaitable, Iterator, Mapping
from functools import partial
from typing import cast

import asyncssh
from asyncssh.stream import SSHServerStreamSession

from apexgpu.platforms.system import is_windows
from apexgpu_lab import socketowners
from apexgpu_lab.containers import Container, Host
from apexgpu_lab.labstate import LabState
from apexgpu_lab.pathtranslation import READS_COMMANDS, OutputTranslator, PathTranslator
from apexgpu_lab.programs import (
    RunningProgram,
    TerminalSize,
    start_with_pipes,
    start_with_terminal,
    wait_for_end,
)
from apexgpu_lab.sftp import ContainerSftp
from apexgpu_lab.sshd import LabSshServer

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0", ""})  # noqa: S104 - a name to recognise
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ContainerSshServer(LabSshServer):
    """The ssh server of one container; its authorized_keys file is read at every login."""

    def __init__(
        self, lab_state: LabState, host: Host, container: Container, tasks: set[asyncio.Task[None]]
    ) -> None:
        super().__init__(lab_state, host, tasks)
        self.container = container
        # Found when the first forwarded connection is requested: most logins request none.
        self._client_processes: frozenset[int] | None = None

    def authorized_keys_of(self, user: str) -> str:
        """Return the container's authorized_keys; only its user has an account."""
        if user != self.container.user:
            return ""
        try:
            return self.container.authorized_keys.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def session_requested(self) -> "ContainerSession":
        """Return the session for a shell, a command or a file transfer."""
        return ContainerSession(self)

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Awaitable[asyncssh.SSHTCPSession[bytes]]:
        """Forward a connection to the container itself; nothing else can be reached.

        The container's ports are those of this machine: there are no network namespaces here.
        """
        if self.lab_state.faults.trigger(self.host.name, "drop"):
            asyncio.get_running_loop().call_soon(self.disconnect)
        if dest_host not in {
            *_LOCAL,
            f"{self.host.name}-{self.container.user}",
            self.container.address,
        }:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "No route to host")
        return self._connect(dest_port)

    async def _connect(self, port: int) -> asyncssh.SSHTCPSession[bytes]:
        try:
            return await self._connect_to("127.0.0.1", port)
        except asyncssh.ChannelOpenError:
            return await self._connect_to("::1", port)

    async def _connect_to(self, address: str, port: int) -> asyncssh.SSHTCPSession[bytes]:
        connection = self.connection
        if connection is None or await asyncio.to_thread(self._client_listens, address, port):
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "Connection refused")
        forwarder = await connection.forward_connection(address, port)
        return cast("asyncssh.SSHTCPSession[bytes]", forwarder)  # as asyncssh itself does with it

    def _client_listens(self, address: str, port: int) -> bool:
        """Tell whether the client itself has this port, as the local end of its tunnel.

        A port of a container is not a port of the laptop. Here both are ports of this machine, and
        a tunnel with the same number at both ends would lead to itself.
        """
        if self._client_processes is None and self.connection is not None:
            self._client_processes = socketowners.client_processes(
                client=self.connection.get_extra_info("peername")[:2],
                server=self.connection.get_extra_info("sockname")[:2],
            )
        return socketowners.listens(self._client_processes or (), address, port)


class ContainerSession(SSHServerStreamSession[bytes]):
    """One session: asyncssh serves SFTP and SCP, we run the commands."""

    def __init__(self, server: ContainerSshServer) -> None:
        self.paths = container_paths(server.lab_state, server.host, server.container)
        super().__init__(self._begin, partial(ContainerSftp, paths=self.paths), 3, True)
        self._server = server
        self._program: RunningProgram | None = None
        self._gone = asyncio.Event()

    def pty_requested(
        self, term_type: str, term_size: TerminalSize, term_modes: Mapping[int, int]
    ) -> bool:
        """Give the session a terminal, except on Windows."""
        return not is_windows()

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        """Pass a new window size on."""
        if self._program:
            self._program.resize((width, height, pixwidth, pixheight))

    def signal_received(self, signal: str) -> None:
        """Pass a signal on."""
        if self._program:
            self._program.signal(signal)

    def break_received(self, msec: int) -> bool:
        """A break is an interrupt."""
        self.signal_received("INT")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the client disconnected."""
        super().connection_lost(exc)
        self._gone.set()

    def _begin(
        self,
        stdin: asyncssh.SSHReader[bytes],
        stdout: asyncssh.SSHWriter[bytes],
        stderr: asyncssh.SSHWriter[bytes],
    ) -> None:
        """Start the session's task. asyncssh's own would not be waited for when the lab ends."""
        self._server.start_task(self._serve(stdin, stdout, stderr))

    async def _serve(
        self,
        stdin: asyncssh.SSHReader[bytes],
        stdout: asyncssh.SSHWriter[bytes],
        stderr: asyncssh.SSHWriter[bytes],
    ) -> None:
        channel: asyncssh.SSHServerChannel[bytes] = stdout.channel  # type: ignore[assignment]  # of a server
        if channel.get_extra_info("peername") is None:
            return  # the client went between its request and this task's first turn
        command = channel.get_command()
        program = self._program = await self._start(channel, command)
        drop = self._server.lab_state.faults.trigger(self._server.host.name, "drop")
        translate = (
            command is not None
            and READS_COMMANDS.fullmatch(command) is not None
            and not program.terminal
        )
        feeding = asyncio.ensure_future(self._feed(stdin, program, translate=translate))
        pumps = [
            asyncio.ensure_future(
                _deliver(reader, writer, self.paths.output_translator(command), self._gone)
            )
            for reader, writer in ((program.stdout, stdout), (program.stderr, stderr))
            if reader
        ]
        try:
            with _logged_in(self._server, channel.get_terminal_type()):
                code = await self._until_end(program, pumps, drop=drop)
        finally:
            for task in (feeding, *pumps):
                task.cancel()
            await asyncio.gather(feeding, *pumps, return_exceptions=True)
            await program.close()
        if code is not None and not self._gone.is_set():
            _send_exit_status(channel, code)

    async def _start(
        self, channel: "asyncssh.SSHServerChannel[bytes]", command: str | None
    ) -> RunningProgram:
        shell = shutil.which("bash") or shutil.which("sh") or os.environ.get("COMSPEC", "cmd.exe")
        flag = "/c" if shell.lower().endswith("cmd.exe") else "-c"
        terminal = channel.get_terminal_type()
        argv = (
            [shell, flag, self.paths.translate_input(command)]
            if command is not None
            else [shell, *(["-i"] if terminal else [])]
        )
        env = environment(self._server, channel, shell)
        home = self._server.container.home
        if terminal:
            return await start_with_terminal(argv, env, home, channel.get_terminal_size())
        return await start_with_pipes(argv, env, home)

    async def _feed(
        self, stdin: asyncssh.SSHReader[bytes], program: RunningProgram, *, translate: bool
    ) -> None:
        """Copy the client's input to the program; translate paths in it, line by line, if it is commands."""
        if program.stdin is None:
            return
        with contextlib.suppress(OSError, asyncssh.Error):
            while data := await (stdin.readline() if translate else stdin.read(65536)):
                if translate:
                    data = self.paths.translate_input(
                        data.decode("utf-8", "surrogateescape")
                    ).encode("utf-8", "surrogateescape")
                program.stdin.write(data)
                await program.stdin.drain()
        program.end_input()

    async def _until_end(
        self, program: RunningProgram, pumps: list[asyncio.Task[None]], *, drop: bool
    ) -> int | None:
        """Return the exit status, or None if the client disconnected first."""
        ending = asyncio.ensure_future(wait_for_end(program, pumps))
        leaving = asyncio.ensure_future(self._gone.wait())
        if drop:
            await asyncio.wait([ending], timeout=0.1)
            self._server.disconnect()
        try:
            await asyncio.wait([ending, leaving], return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                return ending.result()
            await program.hang_up()
        finally:
            leaving.cancel()
            ending.cancel()
            await asyncio.gather(leaving, ending, return_exceptions=True)
        return None


def container_paths(lab_state: LabState, host: Host, container: Container) -> PathTranslator:
    """Return the translation of a container's paths."""
    ssd = lab_state.directory / "hosts" / host.name / "ssd"
    ssd.mkdir(parents=True, exist_ok=True)
    return PathTranslator(
        container, {"NAS": lab_state.nas, "newNAS": lab_state.new_nas, "SSD": ssd}
    )


def environment(
    server: ContainerSshServer, channel: "asyncssh.SSHServerChannel[bytes]", shell: str
) -> dict[str, str]:
    """Return the environment of a login: nothing of this process's, and the stand-in programs first."""
    container = server.container
    tools = server.lab_state.directory / "bin"
    sent = {
        os.fsdecode(name): os.fsdecode(value)
        for name, value in channel.get_environment_bytes().items()
    }
    system = _SYSTEM_PATH if not is_windows() else os.environ.get("PATH", "")
    peer, port = channel.get_extra_info("peername")[:2]
    own, own_port = channel.get_extra_info("sockname")[:2]
    # The programs that apt has installed in the container are in its own tree.
    programs = container.rootfs / "usr" / "bin"
    variables = login_variables(container)
    # So is what /etc/environment adds to the PATH (nvcc), of which this machine may have another.
    own_directories = [
        directory
        for directory in variables.pop("PATH", "").split(os.pathsep)
        if directory.startswith(f"{container.rootfs}{os.sep}")
    ]
    env = {
        "HOME": str(container.home),
        "USER": container.user,
        "LOGNAME": container.user,
        "SHELL": shell,
        "PATH": os.pathsep.join([str(tools), str(programs), *own_directories, system]),
        "LANG": "C.UTF-8",
        "TMPDIR": str(container.rootfs / "tmp"),
        "SSH_CLIENT": f"{peer} {port} {own_port}",
        "SSH_CONNECTION": f"{peer} {port} {own} {own_port}",
        "APEXGPU_LAB_BIN": str(tools),
        "APEXGPU_LAB_HOST": server.host.name,
        "APEXGPU_LAB_CONTAINER": f"{container.directory}/",
        **{name: value for name, value in sent.items() if name == "LANG" or name.startswith("LC_")},
    }
    for name, value in variables.items():
        env.setdefault(name, value)
    # For ~/.profile: a login shell reads this machine's /etc/profile, which sets another PATH.
    env["APEXGPU_LAB_PATH"] = env["PATH"]
    if is_windows():
        env["SYSTEMROOT"] = os.environ.get("SYSTEMROOT", "")
    if terminal := channel.get_terminal_type():
        env["TERM"] = terminal
    if display := channel.get_x11_display():
        env.update(DISPLAY=display, XAUTHORITY=str(container.home / ".Xauthority"))
    return env


def login_variables(container: Container) -> dict[str, str]:
    """Return the variables of the container's /etc/environment, as pam_env reads it."""
    try:
        lines = (
            (container.rootfs / "etc" / "environment")
            .read_text(encoding="utf-8", errors="replace")
            .splitlines()
        )
    except OSError:
        return {}
    pairs = [line.strip().removeprefix("export ").partition("=") for line in lines if "=" in line]
    return {name: value.strip("\"'") for name, _, value in pairs if name.isidentifier()}


async def _deliver(
    reader: asyncio.StreamReader,
    writer: asyncssh.SSHWriter[bytes],
    outward: OutputTranslator,
    gone: asyncio.Event,
) -> None:
    """Copy a program's output to the client, with the container's paths in it.

    The end of a chunk may be the first part of a path: it is kept back for a moment.
    """
    reading: asyncio.Task[bytes] | None = None
    try:
        while not gone.is_set():
            reading = reading or asyncio.ensure_future(reader.read(65536))
            done, _ = await asyncio.wait([reading], timeout=0.05 if outward.has_pending else None)
            if not done:
                writer.write(outward.flush())
                continue
            data, reading = reading.result(), None
            writer.write(outward.feed(data) if data else outward.flush())
            if not data:
                return
            await writer.drain()
    except (OSError, asyncssh.Error):
        return  # the client has gone
    finally:
        if reading:
            reading.cancel()


def _send_exit_status(channel: "asyncssh.SSHServerChannel[bytes]", code: int) -> None:
    if code >= 0:
        channel.exit(code)
        return
    names = {
        1: "HUP",
        2: "INT",
        3: "QUIT",
        6: "ABRT",
        9: "KILL",
        11: "SEGV",
        13: "PIPE",
        14: "ALRM",
        15: "TERM",
    }
    channel.exit_with_signal(names.get(-code, "TERM"))


@contextlib.contextmanager
def _logged_in(server: ContainerSshServer, terminal: str | None) -> Iterator[None]:
    """List a session with a terminal in `who` while it lasts."""
    if not terminal:
        yield
        return
    notes = server.container.notes
    path = notes / f"session-{id(server):x}-{time.monotonic_ns()}.json"
    path.write_text(
        json.dumps({"user": server.user, "from": server.peer, "since": time.time()}),
        encoding="utf-8",
    )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
