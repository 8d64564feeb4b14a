"""The sockets of the lab: opened and closed as its state and its faults demand."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import asyncssh

from apexgpu_lab.container_sshd import ContainerSshServer
from apexgpu_lab.containers import Container, Host, PortMap
from apexgpu_lab.faults import IAM
from apexgpu_lab.labstate import LabState
from apexgpu_lab.listeners import Listener, relay, reset_connection
from apexgpu_lab.manage_sshd import ManageSshServer
from apexgpu_lab.processes import kill_marked
from apexgpu_lab.sshd import apply_connection_faults, serve_ssh, server_options

_CLOSING = {"refuse", "dead"}


class LoopbackNetwork:
    """The real sockets of a lab."""

    def __init__(self, lab_state: LabState) -> None:
        self.lab_state = lab_state
        self.tasks: set[asyncio.Task[None]] = set()
        self.iam: Listener | None = None
        self._manage: dict[str, Listener] = {}
        self._mapped: dict[tuple[str, int], Listener] = {}
        self._connections_into: dict[
            Path, set[asyncio.Task[None]]
        ] = {}  # the connections that lead into each container
        self._options: dict[tuple[str, object], asyncssh.SSHServerConnectionOptions] = {}
        lab_state.network = self

    def listen(self, sockets: list[socket.socket]) -> None:
        """Open the manage ports of all hosts on the sockets that were bound for them."""
        for host, sock in zip(self.lab_state.hosts.values(), sockets, strict=True):
            listener = Listener(
                host.address, host.manage_port, partial(self._manage_login, host), sock
            )
            self._manage[host.name] = listener

    def forward(self, host: Host, mapping: PortMap) -> None:
        """Open a forwarded listener; a number that something else on this machine has stays closed."""
        key = (host.name, mapping.host_port)
        if key in self._mapped or self.lab_state.faults.is_active(host.name, "dead"):
            return
        with contextlib.suppress(OSError):
            serve = partial(self._mapped_login, host, mapping.host_port)
            self._mapped[key] = Listener(host.address, mapping.host_port, serve)

    def unforward(self, host: Host, host_port: int) -> None:
        """Close a forwarded listener; connections that are open stay so, as in a connection table."""
        if listener := self._mapped.pop((host.name, host_port), None):
            listener.close()
            self._wait_at_end(listener)

    def container_down(self, host: Host, container: Container) -> None:
        """End what runs in a container and cut its connections."""
        for key in list(self._mapped):
            owner = self._owner(host, key[1])
            if key[0] == host.name and (owner is None or owner is container):
                self._abort_mapped(key)
        for task in self._connections_into.pop(container.directory, ()):
            task.cancel()
        kill_marked(f"APEXGPU_LAB_CONTAINER={container.directory}/")

    def fault_changed(self, where: str, kind: str) -> None:
        """Open or close listeners as the faults now in force want it."""
        if where == IAM:
            if kind == "down" and self.iam:
                self._set_open(self.iam, up=not self.lab_state.faults.is_active(IAM, "down"))
        elif kind in _CLOSING and where in self._manage:
            self._apply_listener_faults(self.lab_state.host(where))
        elif kind == "host-key-changed":
            self._options.pop((where, "manage"), None)

    async def close(self) -> None:
        """Close everything and wait until it is closed: connections, and sessions that began meanwhile."""
        ports = [*self._manage.values(), *self._mapped.values(), *([self.iam] if self.iam else [])]
        for listener in ports:
            listener.abort()
        tasks = {task for listener in ports for task in listener.all_tasks}
        while waiting := {task for task in self.tasks | tasks if not task.done()}:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

    def _apply_listener_faults(self, host: Host) -> None:
        """Bring a host's listeners into the state that `refuse` and `dead` want."""
        faults = self.lab_state.faults
        dead = faults.is_active(host.name, "dead")
        refusing = faults.is_active(host.name, "refuse") and not faults.is_counted(
            host.name, "refuse"
        )
        manage = self._manage[host.name]
        self._set_open(manage, up=not (dead or refusing))
        if not dead:
            for mapping in host.maps:
                if host.container_of(mapping.address):
                    self.forward(host, mapping)
            return
        manage.abort()
        for key in [key for key in self._mapped if key[0] == host.name]:
            self._abort_mapped(key)

    def _abort_mapped(self, key: tuple[str, int]) -> None:
        listener = self._mapped.pop(key)
        listener.abort()
        self._wait_at_end(listener)

    def _wait_at_end(self, listener: Listener) -> None:
        for task in listener.serving:
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def _set_open(self, listener: Listener, *, up: bool) -> None:
        if up:
            listener.reopen()
        else:
            listener.close()

    async def _manage_login(self, host: Host, client: socket.socket, _peer: str) -> None:
        if self.lab_state.faults.trigger(host.name, "refuse"):
            reset_connection(client)
        elif await apply_connection_faults(self.lab_state, host, client):
            changed = self.lab_state.faults.trigger(host.name, "host-key-changed")
            options = self._options_for(
                host.name, changed, [host.other_key if changed else host.key]
            )
            await serve_ssh(
                client, options, partial(ManageSshServer, self.lab_state, host, self.tasks)
            )

    async def _mapped_login(
        self, host: Host, host_port: int, client: socket.socket, _peer: str
    ) -> None:
        """Lead a connection where the first map of the listener says; a stale map leads nowhere."""
        mapping = next((one for one in host.maps if one.host_port == host_port), None)
        container = host.container_of(mapping.address) if mapping else None
        if mapping is None or container is None:
            reset_connection(client)
            return
        with self._tracked(container):
            await self._enter(host, container, mapping.container_port, client)

    @contextlib.contextmanager
    def _tracked(self, container: Container) -> Iterator[None]:
        """The task at work is one that ends with the container, even when its listener was unmapped before."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for mypy
        inside = self._connections_into.setdefault(container.directory, set())
        inside.add(task)
        try:
            yield
        finally:
            inside.discard(task)

    async def _enter(
        self, host: Host, container: Container, listener: int, client: socket.socket
    ) -> None:
        if listener != 22:
            await relay(client, "127.0.0.1", listener)
        elif await apply_connection_faults(self.lab_state, host, client):
            if options := self._container_options(host, container):
                await serve_ssh(
                    client,
                    options,
                    partial(ContainerSshServer, self.lab_state, host, container, self.tasks),
                )
            else:
                reset_connection(client)

    def _container_options(
        self, host: Host, container: Container
    ) -> asyncssh.SSHServerConnectionOptions | None:
        """The container's sshd has the keys, and the say on X11, that were there when it was started last."""
        key = f"{host.name}/{container.user}"
        restart = container.notes / "sshd-restart"
        generation = (container.started, restart.stat().st_mtime_ns if restart.exists() else 0)
        if (key, generation) not in self._options:
            keys = host_keys(container.rootfs)
            if not keys:
                return None
            for old in [known for known in self._options if known[0] == key]:
                del self._options[old]
            self._options[key, generation] = server_options(
                keys,
                x11_forwarding=forwards_x11(container.rootfs),
                x11_auth_path=str(container.home / ".Xauthority"),
            )
        return self._options[key, generation]

    def _options_for(
        self, key: str, generation: object, keys: list[bytes]
    ) -> asyncssh.SSHServerConnectionOptions:
        if (key, generation) not in self._options:
            self._options[key, generation] = server_options(keys)
        return self._options[key, generation]

    def _owner(self, host: Host, host_port: int) -> Container | None:
        address = next((one.address for one in host.maps if one.host_port == host_port), "")
        return next(
            (
                account.container
                for account in host.accounts.values()
                if account.container and account.container.address == address
            ),
            None,
        )


def host_keys(rootfs: Path) -> list[bytes]:
    """The private host keys in a tree that can be read."""
    found = []
    for path in sorted((rootfs / "etc" / "ssh").glob("ssh_host_*_key")):
        with contextlib.suppress(OSError, asyncssh.KeyImportError):
            asyncssh.import_private_key(path.read_bytes())
            found.append(path.read_bytes())
    return found


def forwards_x11(rootfs: Path) -> bool:
    """What the sshd_config in a tree says of X11: its first word on it counts, and no word is no."""
    try:
        lines = (
            (rootfs / "etc" / "ssh" / "sshd_config")
            .read_text(encoding="utf-8", errors="replace")
            .splitlines()
        )
    except OSError:
        return False
    told = [line.split() for line in lines if line.lower().lstrip().startswith("x11forwarding")]
    return bool(told) and told[0][1:] == ["yes"]
