"""The ssh connection of a copy: one SFTP session, and the commands that a copy runs."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from apexgpu.errors import ApexError, CommandTimeoutError, ConnectionLostError, RefusedError
from apexgpu.models import Target
from apexgpu.platforms.system import is_windows
from apexgpu.process import Completed, start_async
from apexgpu.ssh import sshoptions
from apexgpu.ssh.controlmaster import runtime_directory
from apexgpu.ssh.failures import HostKeyNotTrustedError, SshFailure, classify, failure_error
from apexgpu.text import last_line
from apexgpu.transfer.sftp import SftpClient
from apexgpu.transfer.sftppackets import NotSftpError, SftpError

_COMMAND_LIMIT = 3600.0  # seconds: a command may have to read a terabyte
_KEPT_STDERR = 8192  # characters of ssh's stderr


class SftpUnavailableError(RefusedError):
    """The login worked, and there is no SFTP behind it."""


def ssh_options(*, connect: float, ask: bool, control: Path | None, master: bool) -> list[str]:
    """The `-o` arguments of every ssh of a copy (ssh_config(5)); `connect` is in seconds.

    Settings of the user that would turn this connection into something else are switched off. ssh
    never asks about a host key or for a password, and asks for a passphrase only if `ask` says that
    somebody can answer. It notices a dead network within 45 s.
    """
    return sshoptions.arguments(
        [
            "BatchMode=no" if ask else sshoptions.NO_PROMPT,
            sshoptions.KNOWN_HOST_KEY,
            "PasswordAuthentication=no",
            "KbdInteractiveAuthentication=no",
            *sshoptions.COMMAND_ONLY,
            *sshoptions.NO_FORWARDING,
            *sshoptions.shared(control, master=master),
            *sshoptions.keep_alive(15, 3),
            sshoptions.connect_timeout(connect),
            "ConnectionAttempts=1",
            "LogLevel=INFO",
        ]
    )


class PreparedCommand:
    """A command that has been started in the container, and waits for a line before it does anything."""

    def __init__(self, process: asyncio.subprocess.Process, connection: "CopyConnection") -> None:
        self._process = process
        self._connection = connection

    async def run(self) -> None:
        """Let it work, and wait for its end. Raises ConnectionLostError if ssh failed."""
        await self._process.communicate(b"go\n")
        if self._process.returncode == 255:
            raise self._connection.lost_error()

    async def kill(self) -> None:
        """End it, whatever it does."""
        await kill(self._process)


class CopyConnection:
    """An ssh connection to the container of `target`, used as `async with`.

    `ssh_arguments` are the options that lead there and, last, the alias. `connect` is in seconds.
    """

    client: SftpClient

    def __init__(
        self, target: Target, ssh_arguments: Sequence[str], *, connect: float, ask: bool
    ) -> None:
        self.host = target.host.name
        self.ask = ask
        *self._route_options, self.alias = ssh_arguments
        self._target = target
        self._connect = connect
        self._socket_directory: Path | None = None
        self._ssh: asyncio.subprocess.Process | None = None
        self._stderr_reader: asyncio.Task[None] | None = None
        self._stderr = ""
        self._prepared: list[PreparedCommand] = []

    async def __aenter__(self) -> "CopyConnection":
        """Log in and start SFTP. Raises the errors of ssh, or RefusedError if there is no SFTP."""
        directory = runtime_directory() if not is_windows() else None
        # Without a directory whose path is short enough for a socket, every ssh logs in by itself.
        if directory is not None:
            # Its name has our process number, so that `uninstall` can tell whether we are gone.
            prefix = f"c-{os.getpid()}-"
            self._socket_directory = Path(tempfile.mkdtemp(prefix=prefix, dir=directory))
        try:
            argv = [*self.ssh_argv(master=True), "-s", self.alias, "sftp"]
            self._ssh = await start_async(argv, own_group=not self.ask)
            self._stderr_reader = asyncio.create_task(self._read_stderr())
            assert self._ssh.stdout is not None  # noqa: S101 - start_async() made it a pipe
            assert self._ssh.stdin is not None  # noqa: S101 - the same
            self.client = SftpClient(self._ssh.stdout, self._ssh.stdin)
            await self._start_sftp()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def ssh_argv(self, *, master: bool = False) -> list[str]:
        """The ssh command line up to its options.

        Others than the master share its connection if they can.
        """
        control = None
        if self._socket_directory is not None:
            control = self._socket_directory / "s"
        options = ssh_options(connect=self._connect, ask=self.ask, control=control, master=master)
        return ["ssh", *self._route_options, "-T", "-a", "-x", *options]

    async def _start_sftp(self) -> None:
        # Nobody knows how long a person needs to type a passphrase.
        limit = None if self.ask else self._connect + 20
        try:
            await asyncio.wait_for(self.client.start(), limit)
        except TimeoutError:
            message = f"{self.alias} accepts the connection but does not answer"
            hint = f"apexgpu status {self.host}"
            raise CommandTimeoutError(message, hint=hint) from None
        except NotSftpError as exc:
            raise self._talking_shell(exc.start) from None
        except SftpError as exc:
            message = f"SFTP in the container on {self.host} finds no home directory: {exc}"
            hint = f"apexgpu ssh {self.host} -- ls -ld ."
            raise SftpUnavailableError(message, hint=hint, code="no_sftp") from None
        except OSError:
            raise await self._login_error() from None

    def _talking_shell(self, output: bytes) -> SftpUnavailableError:
        lines = output.decode("utf-8", "replace").strip().splitlines()
        first = lines[0] if lines else ""
        message = (
            f"the container on {self.host} prints text where files should come: {first} "
            "(~/.bashrc must print nothing unless the shell is interactive)"
        )
        hint = f"apexgpu ssh {self.host} -- cat ~/.bashrc"
        return SftpUnavailableError(message, hint=hint, code="talking_shell")

    async def _login_error(self) -> ApexError:
        """The error for an ssh that ended before SFTP began, from its stderr."""
        if self._stderr_reader is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._stderr_reader), 5)
        if "subsystem request failed" in self._stderr:
            message = f"the ssh server in the container on {self.host} has no SFTP"
            hint = f"apexgpu ssh {self.host} -- sudo apt install openssh-sftp-server"
            return SftpUnavailableError(message, hint=hint, code="no_sftp")
        failure = classify(self._stderr)
        if failure is None:
            return self.lost_error()
        if failure is SshFailure.HOST_KEY_UNKNOWN:
            return HostKeyNotTrustedError(f"the host key of {self.alias} is not known yet")
        return failure_error(self._target, failure, self._stderr)

    def lost_error(self) -> ConnectionLostError:
        """The error for a connection that ended too early."""
        reason = last_line(self._stderr, "")
        because = f" ({reason})" if reason else ""
        return ConnectionLostError(f"the connection to {self.alias} was lost{because}")

    async def _read_stderr(self) -> None:
        assert self._ssh is not None  # noqa: S101 - started before
        assert self._ssh.stderr is not None  # noqa: S101 - start_async() made it a pipe
        while data := await self._ssh.stderr.read(4096):
            self._stderr = (self._stderr + data.decode("utf-8", "replace"))[-_KEPT_STDERR:]

    async def run(self, command: str, *, limit: float = _COMMAND_LIMIT) -> Completed:
        """Run a shell command in the container.

        Raises CommandTimeoutError after `limit` seconds.
        """
        argv = [*self.ssh_argv(), self.alias, command]
        process = await start_async(argv, own_group=not self.ask)
        try:
            out, err = await asyncio.wait_for(process.communicate(), limit)
        except TimeoutError:
            message = f"{self.alias} did not finish in time"
            hint = f"apexgpu status {self.host}"
            raise CommandTimeoutError(message, hint=hint) from None
        finally:
            await kill(process)
        if process.returncode == 255:  # ssh itself failed
            self._stderr += err.decode("utf-8", "replace")
            raise self.lost_error()
        return Completed(tuple(argv), process.returncode or 0, out, err)

    async def prepare(self, command: str) -> PreparedCommand:
        """Start a shell command that waits for a line on its stdin (`read`), so that it begins at once later."""
        argv = [*self.ssh_argv(), self.alias, command]
        prepared = PreparedCommand(await start_async(argv, own_group=not self.ask), self)
        self._prepared.append(prepared)
        return prepared

    async def close(self) -> None:
        """End the session.

        Every request has been answered, or something failed: nobody waits for ssh to say goodbye to
        the server, which would take another round trip. On SIGTERM it removes its socket.
        """
        if hasattr(self, "client"):
            await self.client.close()
        for prepared in self._prepared:
            await prepared.kill()
        if self._ssh is not None:
            if self._ssh.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._ssh.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ssh.wait(), 2)
            await kill(self._ssh)
        if self._stderr_reader is not None:
            self._stderr_reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._stderr_reader
        if self._socket_directory is not None:
            shutil.rmtree(self._socket_directory, ignore_errors=True)


async def kill(process: asyncio.subprocess.Process) -> None:
    """Kill a program unless it has ended, and release its pipes."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.wait()
    # The transport owns the pipes; left to the garbage collector it would warn.
    process._transport.close()  # type: ignore[attr-defined]
