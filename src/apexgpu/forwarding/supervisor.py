"""Keeps the ports of a tunnel open: local ports that stay ours, and an ssh that is started again.

While there is no connection, this process listens on the local ports, so that no other program can
take them; a program that connects meanwhile waits and is served once there is a connection. Then
the ports are handed over to ssh: nothing is between a local program and ssh, and nothing is slower
than `ssh -L`. Where that is not possible (ssh on Windows has no control sockets, macOS does not
count what ssh has carried), this process keeps listening and relays the bytes to ssh.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from apexgpu.forwarding import ports, relay, sshconnection
from apexgpu.forwarding.failures import is_final
from apexgpu.forwarding.ports import Destination
from apexgpu.forwarding.records import CONTROL_SOCKET, TunnelState, sockets_prefix
from apexgpu.forwarding.relay import SshListener
from apexgpu.forwarding.sshconnection import SshConnection
from apexgpu.platforms.system import System, current, is_windows
from apexgpu.ssh import controlmaster, muxclient, silentagent, sshoptions
from apexgpu.sshfiles.agentquery import Agents

_PROBE_SOCKET = "p"
_PROBE_PORT = 1
"""A port on which nothing listens (tcpmux, RFC 1078): only sshd's policy decides the answer."""

_FIRST_PAUSE = 0.5
_HAND_OVER_LIMIT = 1.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Time limits of a tunnel in seconds.

    `heartbeat_interval` is the time between two heartbeats of an idle tunnel, `heartbeat_timeout`
    how long one may take to come back: a dead connection is noticed within the two together, and
    replaced in one or two seconds more. `hold` is how long a local program waits for a connection.
    """

    connect: float = 5
    login: float = 20
    heartbeat_interval: float = 3
    heartbeat_timeout: float = 4
    hold: float = 20
    longest_pause: float = 30


@dataclass(slots=True)
class TunnelStatus:
    """How a tunnel is doing. `since` is when `state` began (Unix time)."""

    state: TunnelState = TunnelState.CONNECTING
    since: float = field(default_factory=time.time)
    reconnects: int = 0
    reason: str = ""


def pause_before(attempt: int, longest: float) -> float:
    """Return the seconds to wait before reconnecting attempt number `attempt` (from 0) in a row.

    They double each time: 0.5, 1, 2 … up to `longest`.
    """
    doublings = min(attempt, 10)
    return float(min(longest, _FIRST_PAUSE * 2**doublings))


def port_lost(port: int) -> str:
    """Return the reason of a tunnel that waits for its own local port."""
    return f"another program has taken local port {port}"


@dataclass(slots=True)
class _ForwardedPort:
    """A local port of the tunnel, and who listens on it.

    `listening` is our socket before we serve it, `server` serves it; without both, ssh has the
    port, or another program. `ssh_listener` is where ssh waits for what we relay.
    """

    port: int
    destination: Destination
    listening: socket.socket | None
    server: asyncio.Server | None = None
    ssh_listener: SshListener = 0

    def release(self) -> None:
        """Stop listening."""
        if self.server is not None:
            self.server.close()
        self.server = None


class Supervisor:
    """Keeps the forwards of one container up until `stop` is called."""

    def __init__(
        self,
        ssh_arguments: Sequence[str],
        sockets: Sequence[socket.socket],
        destinations: Sequence[Destination],
        *,
        timing: Timing | None = None,
        once: bool = False,
        agent_socket: str = "",
        hand_over: bool | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep each of `sockets`, which listen, connected to its destination.

        With `once` the tunnel is not connected again. `agent_socket` is that of the agent that ssh
        asks. `hand_over` lets ssh listen on the local
        ports while it is connected. `on_change` is called when `status` has changed.
        """
        self._ssh_arguments = ssh_arguments
        self._forwards = [
            _ForwardedPort(listening.getsockname()[1], destination, listening)
            for listening, destination in zip(sockets, destinations, strict=True)
        ]
        self._timing = timing or Timing()
        self._once = once
        self._agent_socket = agent_socket
        self._hand_over = _can_hand_over() if hand_over is None else hand_over
        self._on_change = on_change
        self.status = TunnelStatus()
        self.traffic = relay.Traffic()
        self._bytes_before = 0  # carried by earlier connections
        self._relayed_before = 0  # the part of it that we relayed
        self._connection: SshConnection | None = None
        self._directory: Path | None = None  # of the sockets
        self._ending: asyncio.Task[None] | None = None
        self._was_up = False
        self._up = asyncio.Event()
        self._wanted = asyncio.Event()  # a local program wants to use the tunnel
        self._stopping = asyncio.Event()

    @property
    def refusal(self) -> str:
        """How the container recently refused a connection to a port; empty if it did not."""
        return self._connection.refusal if self._connection else ""

    @property
    def ssh_pid(self) -> int | None:
        """The process number of the current ssh."""
        return self._connection.pid if self._connection else None

    @property
    def bytes_carried(self) -> int:
        """Bytes carried: counted by us where we relay them, by the system where ssh listens."""
        relayed = self.traffic.total - self._relayed_before
        counted = self._connection.bytes_carried if self._connection else 0
        return self._bytes_before + max(relayed, counted)

    def keep_sockets(self) -> None:
        """Let the sockets look used. Systems delete what nobody touches for some days in a temporary directory."""
        if self._directory is None:
            return
        with contextlib.suppress(OSError):
            for path in (self._directory, *self._directory.iterdir()):
                os.utime(path)

    def _socket_is_missing(self) -> None:
        """Connect again: the heartbeats go through ssh's stdin, and do not notice that its sockets were deleted."""
        connection = self._connection
        if connection is None or not self._up.is_set():
            return
        self._up.clear()
        connection.last_error = "the sockets of ssh were deleted"
        self._ending = asyncio.create_task(connection.kill())

    def stop(self) -> None:
        """Let `run` return. To be called in the thread of the event loop."""
        self._stopping.set()

    async def run(self) -> bool:
        """Keep the tunnel up; return whether it ever was.

        Returns after `stop`, when the first connection fails, when trying again cannot help, or,
        with `once`, at the end of the connection.
        """
        failures = 0
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                came_up = await self._attempt(stopping)
                if self._is_over():
                    break
                failures = 0 if came_up else failures + 1
                await self._pause(pause_before(failures, self._timing.longest_pause))
        finally:
            stopping.cancel()
            for forward in self._forwards:
                forward.release()
            for end in list(self.traffic.ends):
                end.abort()
        return self._was_up

    def _is_over(self) -> bool:
        if self._stopping.is_set() or self._once or not self._was_up:
            return True
        return is_final(self.status.reason)

    async def _attempt(self, stopping: "asyncio.Task[bool]") -> bool:
        """Connect, and wait for the end of the connection or for `stop`. True if it came up."""
        lost = await self._listen()
        if lost is not None:
            self._set_state(TunnelState.WAITING, port_lost(lost))
            return False
        connection = asyncio.create_task(self._connect())
        await asyncio.wait({connection, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return await _result_or_cancel(connection)

    async def _listen(self) -> int | None:
        """Listen on every port that ssh had, or that was lost; return the first that is taken."""
        lost = None
        for forward in self._forwards:
            if not await self._listen_on(forward) and lost is None:
                lost = forward.port
        return lost

    async def _listen_on(self, forward: _ForwardedPort) -> bool:
        if forward.server is not None:
            return True
        listening = forward.listening or ports.listen(forward.port)
        forward.listening = None
        if listening is None:
            return False
        find_listener = partial(self._find_listener, forward)
        forward.server = await relay.serve(
            listening, self.traffic, find_listener, self._socket_is_missing
        )
        return True

    async def _connect(self) -> bool:
        """Run one ssh from its start to its end; return whether it came up."""
        self._set_state(TunnelState.CONNECTING, self.status.reason)
        # In the runtime directory, because the path of a socket must be short. Its name has our process
        # number, so that `tunnels` can remove it after we were killed.
        prefix = sockets_prefix(os.getpid())
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=controlmaster.runtime_directory()))
        self._directory = directory
        control = directory / CONTROL_SOCKET if self._hand_over else None
        probe = _choose_listener(directory, _PROBE_SOCKET)
        for number, forward in enumerate(self._forwards):
            forward.ssh_listener = _choose_listener(directory, str(number))
        argv = self._ssh_argv(probe, control, await self._agent_options())
        connection = SshConnection(argv, progress=lambda: self.bytes_carried)
        self._connection = connection
        came_up = False
        try:
            came_up = await self._open(connection, probe, control)
            if came_up:
                timing = self._timing
                await connection.wait(
                    timing.heartbeat_interval, timing.heartbeat_timeout, self._wanted
                )
        finally:
            await self._end(connection, directory)
        return came_up

    async def _agent_options(self) -> tuple[str, ...]:
        """The options that leave out an agent that does not answer.

        Asked before each connection: a vault may have been locked overnight.
        """
        if not self._agent_socket:
            return ()
        return await asyncio.to_thread(silentagent.options_for, self._agent_socket, Agents())

    def _ssh_argv(
        self, probe: SshListener, control: Path | None, agent_options: Sequence[str]
    ) -> list[str]:
        pairs = [(forward.ssh_listener, forward.destination) for forward in self._forwards]
        pairs.append((probe, Destination(_PROBE_PORT)))
        forwards = []
        for listener, destination in pairs:
            local_end = f"127.0.0.1:{listener}" if isinstance(listener, int) else str(listener)
            forwards.append((local_end, destination.ssh_form))
        ssh_arguments = [*sshoptions.arguments(agent_options), *self._ssh_arguments]
        return sshconnection.argv(
            ssh_arguments,
            forwards,
            connect_timeout=self._timing.connect,
            keep_alive=self._timing.heartbeat_timeout,
            control=control,
        )

    async def _open(
        self, connection: SshConnection, probe: SshListener, control: Path | None
    ) -> bool:
        """Start ssh, and let local programs use it. False if it fails or a port was lost."""
        timeout = self._timing.heartbeat_timeout
        if not await connection.start(self._timing.login):
            return False
        listeners = [forward.ssh_listener for forward in self._forwards]
        if await connection.forwarding_is_forbidden(probe, listeners, timeout):
            return False
        # Only now is it known to work: ssh also runs while its forwards are forbidden.
        if self._was_up:
            self.status.reconnects += 1
        self._was_up = True
        # Where nobody counts what ssh carries, we go on relaying, to count it ourselves.
        if control is not None and await connection.start_counting(timeout):
            lost = await self._hand_ports_over(control)
            if lost is not None:
                connection.last_error = port_lost(lost)
                return False
        self._up.set()
        self._set_state(TunnelState.UP, "")
        return True

    async def _hand_ports_over(self, control: Path) -> int | None:
        """Close our sockets and let ssh open its own, in less than a millisecond.

        What ssh cannot listen on, we go on relaying. Returns a port that another program took in
        that moment; None if there is none.
        """
        for forward in self._forwards:
            handed_over = muxclient.forward(
                control,
                forward.port,
                forward.destination.host,
                forward.destination.port,
                timeout=_HAND_OVER_LIMIT,
                before_request=forward.release,
            )
            if not handed_over and not await self._listen_on(forward):
                return forward.port
        return None

    async def _end(self, connection: SshConnection, directory: Path) -> None:
        """End ssh, remove its sockets and listen on its ports again."""
        self._up.clear()
        await connection.kill()
        lost = None
        if not self._stopping.is_set():
            # At once: the ports are free now, and any program could take them.
            lost = await self._listen()
        await connection.read_to_end()
        self._bytes_before = self.bytes_carried
        self._relayed_before = self.traffic.total
        self._connection = None
        shutil.rmtree(directory, ignore_errors=True)
        if not self._stopping.is_set():
            reason = connection.last_error or "the connection ended"
            if lost is not None:
                reason = port_lost(lost)
            self._set_state(TunnelState.WAITING, reason)

    async def _pause(self, seconds: float) -> None:
        """Wait, but at most half a second if a local program wants to use the tunnel."""
        # A program that came before has had its attempt; only one that comes from now on makes us try
        # again early. Half a second always passes, so that a dead host is not tried without a pause.
        self._wanted.clear()
        await _wait_for_any([self._stopping], min(seconds, _FIRST_PAUSE))
        if seconds > _FIRST_PAUSE:
            await _wait_for_any([self._stopping, self._wanted], seconds - _FIRST_PAUSE)

    async def _find_listener(self, forward: _ForwardedPort) -> SshListener | None:
        """Return where ssh listens for `forward`, once it is known to answer; None after `hold`."""
        deadline = time.monotonic() + self._timing.hold
        while (left := deadline - time.monotonic()) > 0:
            connection = self._connection
            if self._up.is_set() and connection is not None:
                if connection.heard_within(self._timing.heartbeat_interval):
                    return forward.ssh_listener
                # The connection may be dead, and whatever we sent into it would be lost.
                self._wanted.set()
                await connection.wait_for_heartbeat(left)
            else:
                self._wanted.set()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._up.wait(), left)
        return None

    def _set_state(self, state: TunnelState, reason: str) -> None:
        if (state, reason) == (self.status.state, self.status.reason):
            return  # `since` stays what it is
        self.status.state = state
        self.status.reason = reason
        self.status.since = time.time()
        self._on_change()


def _can_hand_over() -> bool:
    """Whether ssh can listen on the local ports itself, while the system counts its bytes for us."""
    return current() is System.LINUX


async def _wait_for_any(events: Sequence[asyncio.Event], limit: float) -> None:
    tasks = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(tasks, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


async def _result_or_cancel(task: "asyncio.Task[bool]") -> bool:
    """Return the task's result; if it is not done, cancel it and return False once it has ended."""
    if not task.done():
        task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return False


def _choose_listener(directory: Path, name: str) -> SshListener:
    """Return where ssh is to listen for us: a socket, or a port on Windows (its ssh has no sockets)."""
    if not is_windows():
        return directory / name
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
