"""OpenSSH carrying one SFTP session, and beside it, over the same connection, what a copy has to run there."""

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from apexgpu.errors import (
    ApexError,
    CommandTimeoutError,
    ConnectionLostError,
    DroppedError,
    RefusedError,
)
from apexgpu.models import Target
from apexgpu.process import Completed, child
from apexgpu.ssh import sshoptions
from apexgpu.ssh.failures import SshFailure, classify, failure_error
from apexgpu.ssh.mux import runtime_directory
from apexgpu.text import last_line
from apexgpu.transfer.sftp import Client, NotSftpError

_LIMIT = 1 << 20
_COMMAND = 3600.0  # seconds: a terabyte may have to be read there


def options(*, connect: float, ask: bool, control: Path | None, master: bool) -> list[str]:
    """The `-o` words of every ssh of a copy (ssh_config(5)).

    Nothing of the user's that would turn this connection into something else; nobody is asked for a host key or a
    password, and for a passphrase only where somebody can answer. A network that is gone is found out within 45 s.
    """
    return sshoptions.words(
        [
            "BatchMode=no" if ask else sshoptions.NO_PROMPT,
            sshoptions.KNOWN_KEY,
            "PasswordAuthentication=no",
            "KbdInteractiveAuthentication=no",
            *sshoptions.PLAIN,
            *sshoptions.BARE,
            *sshoptions.controlled(control, master=master),
            *sshoptions.alive(15, 3),
            sshoptions.connect_limit(connect),
            "ConnectionAttempts=1",
            "LogLevel=INFO",
        ]
    )


class Connection:
    """The ssh of a copy. `where` is its config, address and alias; `connect` is in seconds."""

    def __init__(self, target: Target, where: Sequence[str], *, connect: float, ask: bool) -> None:
        self.host = target.host.name
        self._target = target
        *self._where, self.alias = where
        self._connect = connect
        self.ask = ask
        self._sockets: Path | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._said = ""
        self.client: Client

    async def __aenter__(self) -> "Connection":
        """Log in, and greet the SFTP server; the errors of transport, or RefusedError where there is none."""
        directory = runtime_directory() if sys.platform != "win32" else None
        # Without a place that is short enough for a socket, every ssh logs in by itself.
        self._sockets = (
            Path(tempfile.mkdtemp(prefix="c-", dir=directory)) if directory is not None else None
        )
        try:
            self._child = await child(
                [*self.words(master=True), "-s", self.alias, "sftp"], own_group=not self.ask
            )
            self._listening = asyncio.create_task(self._listen())
            assert self._child.stdout is not None  # noqa: S101 - child() made it a pipe
            assert self._child.stdin is not None  # noqa: S101 - the same
            self.client = Client(self._child.stdout, self._child.stdin)
            await self._greet()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def words(self, *, master: bool = False) -> list[str]:
        """The ssh command line without its alias; others than the master go over its connection where they can."""
        control = self._sockets / "s" if self._sockets else None
        return [
            "ssh",
            *self._where,
            "-T",
            "-a",
            "-x",
            *options(connect=self._connect, ask=self.ask, control=control, master=master),
        ]

    async def _greet(self) -> None:
        # With a passphrase to be typed, as long as that takes; else login and all within this.
        limit = None if self.ask else self._connect + 20
        try:
            await asyncio.wait_for(self.client.start(), limit)
        except TimeoutError:
            message = f"{self.alias} takes the connection but does not answer"
            raise CommandTimeoutError(message, hint=f"apexgpu status {self.host}") from None
        except NotSftpError as exc:
            said = exc.seen.decode("utf-8", "replace").strip().splitlines()[:1]
            message = f"the container on {self.host} prints text where files should come: {said[0] if said else ''}"
            hint = (
                "let ~/.bashrc there print only for a terminal: case $- in *i*) ;; *) return;; esac"
            )
            raise RefusedError(message, hint=hint, code="talking_shell") from None
        except OSError:
            raise await self._why() from None

    async def _why(self) -> ApexError:
        if self._listening is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._listening), 5)
        if "subsystem request failed" in self._said:
            message = f"the ssh server in the container on {self.host} has no SFTP"
            hint = f"apexgpu ssh {self.host} -- sudo apt install openssh-sftp-server"
            return RefusedError(message, hint=hint, code="no_sftp")
        failure = classify(self._said)
        if failure is not None and failure is not SshFailure.HOST_KEY_UNKNOWN:
            return failure_error(self._target, failure, self._said)
        return self.lost()

    def lost(self) -> DroppedError:
        """The error for a connection that ended before its time."""
        last = last_line(self._said, "")
        why = f" ({last})" if last else ""
        return ConnectionLostError(
            f"the connection to {self.alias} was lost{why}", hint="run the same line again"
        )

    async def _listen(self) -> None:
        assert self._child is not None  # noqa: S101 - started before
        assert self._child.stderr is not None  # noqa: S101 - child() made it a pipe
        while data := await self._child.stderr.read(4096):
            self._said = (self._said + data.decode("utf-8", "replace"))[-8192:]

    async def command(self, text: str, *, limit: float = _COMMAND) -> Completed:
        """Run a command in the container; DroppedError past `limit` seconds or when the connection ends."""
        words = [*self.words(), self.alias, text]
        running = await child(words, own_group=not self.ask)
        try:
            out, err = await asyncio.wait_for(running.communicate(), limit)
        except TimeoutError:
            message = f"{self.alias} did not finish in time"
            raise CommandTimeoutError(message, hint=f"apexgpu status {self.host}") from None
        finally:
            await end(running)
        if running.returncode == 255:
            self._said += err.decode("utf-8", "replace")
            raise self.lost()
        return Completed(tuple(words), running.returncode or 0, out, err)

    async def close(self) -> None:
        """End the session; a connection that does not end by itself is ended."""
        if hasattr(self, "client"):
            await self.client.close()
        if self._child is not None:
            if self._child.stdin is not None:
                self._child.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._child.wait(), 2)
            await end(self._child)
        if self._listening is not None:
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)


async def end(running: asyncio.subprocess.Process) -> None:
    """Kill what still runs, and collect it and its pipes."""
    if running.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
    await running.wait()
    # Its transport holds the pipes; left to the collector it would warn.
    running._transport.close()  # type: ignore[attr-defined]
