"""The ssh server of a physical host: the manage shell for users, the register account for newcomers."""

import asyncio
import time
from collections.abc import Awaitable, Mapping

import asyncssh

from apexgpu_lab.console import ClientGone, Console
from apexgpu_lab.containers import Account
from apexgpu_lab.shell import run_manage_shell
from apexgpu_lab.shell_register import run_register_shell
from apexgpu_lab.sshd import LabSshServer

# Where "the middle" of a command is: a connection that breaks after one of these lines leaves the
# work half done.
_MIDPOINTS = (
    "Starting your container...",
    "Stopping your container...",
    "Taking a snapshot...",
    "\t/NAS/",
    "\t/newNAS/",
    "Creating user...",
)


class ManageSshServer(LabSshServer):
    """Logins: `register` with the keys that were pushed last, users with their own."""

    def authorized_keys_of(self, user: str) -> str:
        """The keys that were pushed to an account of this host."""
        if user == "register":
            return self.host.register_keys
        account = self.host.accounts.get(user)
        return account.keys if account else ""

    def session_requested(self) -> "ManageSession":
        """Return the session for a command or a shell."""
        return ManageSession(self)


class ManageSession(asyncssh.SSHServerSession[bytes]):
    """One session. Its command runs in a task that outlives the connection, as processes on a server do."""

    def __init__(self, server: ManageSshServer) -> None:
        self._server = server
        self._command: str | None = None
        self._terminal = False
        self._console: ChannelConsole | None = None
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Keep the channel, for the replies."""
        self._channel = chan

    def pty_requested(
        self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Mapping[int, int]
    ) -> bool:
        """Note that there is a terminal: then a lost connection has another effect."""
        self._terminal = True
        return True

    def shell_requested(self) -> bool:
        """Accept a shell request: it starts the container."""
        return True

    def exec_requested(self, command: str) -> bool:
        """Keep the command line."""
        self._command = command
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        """Accept a subsystem: sshd lets the login shell run its program, and the manage shell answers."""
        self._command = "/usr/lib/openssh/sftp-server"
        return True

    def session_started(self) -> None:
        """Run the command."""
        if self._channel is None:
            return
        server = self._server
        reboots_midway = server.lab_state.faults.trigger(server.host.name, "reboot")
        breaks_midway = reboots_midway or server.lab_state.faults.trigger(server.host.name, "drop")
        self._console = ChannelConsole(
            server,
            self._channel,
            tty=self._terminal,
            breaks_midway=breaks_midway,
            reboots_midway=reboots_midway,
        )
        server.start_task(self._answer(self._console, self._channel))

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """The shell reads nothing; Ctrl-C reaches it through a terminal only."""
        if self._console and self._terminal and b"\x03" in data:
            self._console.interrupted.set()

    def eof_received(self) -> bool:
        """Keep the session open when the client closes stdin."""
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the command that the client disconnected."""
        if self._console:
            self._console.disconnected()

    async def _answer(
        self, console: "ChannelConsole", channel: asyncssh.SSHServerChannel[bytes]
    ) -> None:
        try:
            code = await self._work(console)
        except ClientGone:
            return
        if console.breaks_midway:
            console.break_connection()
        elif not console.gone:
            channel.exit(code)

    def _work(self, console: "ChannelConsole") -> Awaitable[int]:
        lab_state, host, user = self._server.lab_state, self._server.host, self._server.user
        if user == "register":
            return run_register_shell(lab_state, host, self._command, console)
        account = host.accounts.get(user) or Account(user, half_made=True)
        if console.tty and self._command is None:
            if account.last_login:
                console.out(f"Last login: {account.last_login}\r\n")
            account.last_login = f"{time.strftime('%a %b %e %H:%M:%S %Y')} from {console.peer}"
        return run_manage_shell(lab_state, host, account, self._command, console)


class ChannelConsole(Console):
    """A console at the end of an ssh channel.

    With `breaks_midway`, the connection breaks in the middle of the command. With `reboots_midway`,
    the whole host goes down at that moment, and the command with it.
    """

    def __init__(
        self,
        server: LabSshServer,
        channel: asyncssh.SSHServerChannel[bytes],
        *,
        tty: bool,
        breaks_midway: bool,
        reboots_midway: bool,
    ) -> None:
        super().__init__(pace=server.lab_state.pace, tty=tty, peer=server.peer)
        self.breaks_midway = breaks_midway
        self._reboots_midway = reboots_midway
        self._server = server
        self._channel = channel

    def send(self, text: str, *, error: bool) -> None:
        """Write to the channel; a terminal has one stream and its own line ends."""
        data = text.encode()
        if self.tty:
            self._channel.write(data.replace(b"\n", b"\r\n"))
        elif error:
            self._channel.write_stderr(data)
        else:
            self._channel.write(data)
        if self.breaks_midway and any(midpoint in text for midpoint in _MIDPOINTS):
            self.breaks_midway = False
            self.disconnected()
            asyncio.get_running_loop().call_soon(self.break_connection)

    def break_connection(self) -> None:
        """Break the connection, or restart the host."""
        self.breaks_midway = False
        if self._reboots_midway:
            self.interrupted.set()
            self._server.lab_state.reboot(self._server.host)
        self._server.disconnect()
