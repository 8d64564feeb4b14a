"""What the two ssh servers of the lab have in common: the login, and how a connection is served."""

import asyncio
import contextlib
import socket
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any

import asyncssh

from apexgpu_lab.containers import Host
from apexgpu_lab.keypairs import public_key_blobs
from apexgpu_lab.labstate import LabState
from apexgpu_lab.listeners import read_until_closed

_MAX_AUTH_TRIES = 6  # sshd_config(5)


class LabSshServer(asyncssh.SSHServer):
    """The ssh server's side of one connection: login by public key only, and the faults of the host.

    Sessions are added to `tasks`, because they outlive the connection: the lab waits for them when it
    ends.
    """

    def __init__(self, lab_state: LabState, host: Host, tasks: set[asyncio.Task[None]]) -> None:
        self.lab_state = lab_state
        self.host = host
        self.connection: asyncssh.SSHServerConnection | None = None
        self.user = ""
        self._denied = False
        self._refused_keys = 0
        self._tasks = tasks

    @abstractmethod
    def authorized_keys_of(self, user: str) -> str:
        """Return the authorized_keys of `user`; empty if there is no such account."""

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Keep the connection: sessions need it, and faults break it."""
        self.connection = conn

    def begin_auth(self, username: str) -> bool:
        """Every login needs a key."""
        self.user = username
        self._denied = self.lab_state.faults.trigger(self.host.name, "denied")
        return True

    def public_key_auth_supported(self) -> bool:
        """Public keys, and nothing else."""
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Whether the key is among those of the account. After six that are not, disconnect."""
        if not self._denied and key.public_data in public_key_blobs(
            self.authorized_keys_of(username)
        ):
            return True
        self._refused_keys += 1
        if self._refused_keys >= _MAX_AUTH_TRIES:
            # As OpenSSH's sshd does: an agent with many keys may never get to the right one.
            raise asyncssh.ProtocolError("Too many authentication failures")
        return False

    @property
    def peer(self) -> str:
        """The client's address."""
        peer = self.connection.get_extra_info("peername") if self.connection else None
        return str(peer[0]) if peer else ""

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a session's work in a task. An error in it is reported as the lab's, and ends the connection."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            task.get_loop().call_exception_handler(
                {"message": "a session failed", "exception": error}
            )
            self.disconnect()

    def disconnect(self) -> None:
        """Break the connection without a message."""
        if self.connection:
            self.connection.abort()


def server_options(host_keys: list[bytes], **more: object) -> asyncssh.SSHServerConnectionOptions:
    """Return asyncssh's options for an ssh server. Keep them: to make them takes milliseconds."""
    keys = [asyncssh.import_private_key(key) for key in host_keys]
    return asyncssh.SSHServerConnectionOptions(
        server_host_keys=keys, encoding=None, line_editor=False, agent_forwarding=False, **more
    )


async def serve_ssh(
    client: socket.socket,
    options: asyncssh.SSHServerConnectionOptions,
    server: Callable[[], asyncssh.SSHServer],
) -> None:
    """Serve ssh on an accepted socket until one side ends the connection."""
    loop = asyncio.get_running_loop()
    options.protocol_factory = server
    connection = asyncssh.SSHServerConnection(loop, options, error_handler=_ignore)
    await loop.create_connection(lambda: connection, sock=client)
    try:
        await connection.wait_closed()
    except asyncio.CancelledError:
        connection.abort()
        with contextlib.suppress(asyncio.CancelledError):
            await connection.wait_closed()
        raise


async def apply_connection_faults(lab_state: LabState, host: Host, client: socket.socket) -> bool:
    """Apply the host's faults to a new connection; return whether ssh is to be served on it."""
    if lab_state.faults.trigger(host.name, "silent"):
        await read_until_closed(client)
        return False
    if lab_state.faults.trigger(host.name, "slow"):
        await asyncio.sleep(lab_state.slow_seconds)
    return True


def _ignore(_connection: object, _error: Exception | None) -> None:
    """Report nothing: a client may disconnect at any time, or not be an ssh client."""
