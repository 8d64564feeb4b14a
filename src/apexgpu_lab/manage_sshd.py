"""The ssh server of a physical host: the manage shell for users, the register account for newcomers."""

import asyncio
import time
from collections.abc import Awaitable, Mapping

import asyncssh

from apexgpu_lab.console import ClientGone, Console
from apexgpu_lab.containers import Account
from apexgpu_lab.register import register
from apexgpu_lab.shell import manage
from apexgpu_lab.sshd import Door

# Where "the middle" of a command is: the line after which a cut leaves the work half done.
_MIDDLES = (
    "Starting your container...",
    "Stopping your container...",
    "Taking a snapshot...",
    "\t/NAS/",
    "\t/newNAS/",
    "Creating user...",
)


class ManageDoor(Door):
    """Who gets in: `register` with the keys of the newest push, users with theirs."""

    def keys_of(self, user: str) -> str:
        """The keys that were pushed to an account of this host."""
        if user == "register":
            return self.host.register_keys
        account = self.host.accounts.get(user)
        return account.keys if account else ""

    def session_requested(self) -> "ManageSession":
        """One command, or a shell request."""
        return ManageSession(self)


class ManageSession(asyncssh.SSHServerSession[bytes]):
    """A login: the command runs in a task that outlives the connection, as a server's processes do."""

    def __init__(self, door: ManageDoor) -> None:
        self._door = door
        self._command: str | None = None
        self._terminal = False
        self._console: ChannelConsole | None = None
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """The channel to answer on."""
        self._channel = chan

    def pty_requested(
        self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Mapping[int, int]
    ) -> bool:
        """A terminal changes what a lost connection does."""
        self._terminal = True
        return True

    def shell_requested(self) -> bool:
        """The shell request is the start command."""
        return True

    def exec_requested(self, command: str) -> bool:
        """The words to obey."""
        self._command = command
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        """The login shell is asked to run the SFTP server, and talks instead."""
        self._command = "/usr/lib/openssh/sftp-server"
        return True

    def session_started(self) -> None:
        """Begin to answer."""
        if self._channel is None:
            return
        door = self._door
        reboot = door.world.faults.take(door.host.name, "reboot")
        cut = reboot or door.world.faults.take(door.host.name, "drop")
        self._console = ChannelConsole(
            door, self._channel, tty=self._terminal, cut=cut, reboot=reboot
        )
        door.spawn(self._answer(self._console, self._channel))

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """The shell reads nothing; Ctrl-C reaches it through a terminal only."""
        if self._console and self._terminal and b"\x03" in data:
            self._console.interrupted.set()

    def eof_received(self) -> bool:
        """A closed stdin is no reason to close the session."""
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The client went."""
        if self._console:
            self._console.lose()

    async def _answer(
        self, console: "ChannelConsole", channel: asyncssh.SSHServerChannel[bytes]
    ) -> None:
        try:
            code = await self._work(console)
        except ClientGone:
            return
        if console.cutting:
            console.strike()
        elif not console.gone:
            channel.exit(code)

    def _work(self, console: "ChannelConsole") -> Awaitable[int]:
        world, host, user = self._door.world, self._door.host, self._door.user
        if user == "register":
            return register(world, host, self._command, console)
        account = host.accounts.get(user) or Account(user, half_made=True)
        if console.tty and self._command is None:
            if account.last_login:
                console.out(f"Last login: {account.last_login}\r\n")
            account.last_login = f"{time.strftime('%a %b %e %H:%M:%S %Y')} from {console.peer}"
        return manage(world, host, account, self._command, console)


class ChannelConsole(Console):
    """A console at the end of an ssh channel; with `cut` the connection ends in the middle of the command.

    With `reboot` the whole host goes down then, and what the command was doing with it.
    """

    def __init__(
        self,
        door: Door,
        channel: asyncssh.SSHServerChannel[bytes],
        *,
        tty: bool,
        cut: bool,
        reboot: bool,
    ) -> None:
        super().__init__(pace=door.world.pace, tty=tty, peer=door.peer)
        self.cutting = cut
        self._reboot = reboot
        self._door = door
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
        if self.cutting and any(middle in text for middle in _MIDDLES):
            self.cutting = False
            self.lose()
            asyncio.get_running_loop().call_soon(self.strike)

    def strike(self) -> None:
        """Cut the connection, or take the host down."""
        self.cutting = False
        if self._reboot:
            self.interrupted.set()
            self._door.world.reboot(self._door.host)
        self._door.cut()
