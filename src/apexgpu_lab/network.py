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
        self._forwarded: dict[tuple[str, int], Listener] = {}
        self._connections_into: dict[
            Path, set[asyncio.Task[None]]
        ] = {}  # the connections that lead into each container
        self._options: dict[tuple[str, object], asyncssh.SSHServerConnectionOptions] = {}
        lab_state.network = self

    def listen(self, sockets: list[socket.socket]) -> None:
        """Open the manage ports of all hosts on the sockets that were bound for them."""
        for host, sock in zip(self.lab_state.hosts.values(), sockets, strict=True):
            listener = Listener(
                host.address, host.manage_port, partial(self._serve_manage, host), sock
            )
            self._manage[host.name] = listener

    def forward(self, host: Host, mapping: PortMap) -> None:
        """Open a forwarded port; one that another program on this machine uses stays closed."""
        key = (host.name, mapping.host_port)
        if key in self._forwarded or self.lab_state.faults.is_active(host.name, "dead"):
            return
        with contextlib.suppress(OSError):
            serve = partial(self._serve_forwarded, host, mapping.host_port)
            self._forwarded[key] = Listener(host.address, mapping.host_port, serve)

    def unforward(self, host: Host, host_port: int) -> None:
        """Close a forwarded port. Open connections continue, as they do in the kernel's connection table."""
        if listener := self._forwarded.pop((host.name, host_port), None):
            listener.close()
            self._wait_at_end(listener)

    def container_down(self, host: Host, container: Container) -> None:
        """End the programs in a container and break its connections."""
        for key in list(self._forwarded):
            owner = self._container_behind(host, key[1])
            if key[0] == host.name and (owner is None or owner is container):
                self._abort_forwarded(key)
        for task in self._connections_into.pop(container.directory, ()):
            task.cancel()
        kill_marked(f"APEXGPU_LAB_CONTAINER={container.directory}/")

    def fault_changed(self, where: str, kind: str) -> None:
        """Open or close listening sockets as the faults that are set now demand."""
        if where == IAM:
            if kind == "down" and self.iam:
                self._set_open(self.iam, up=not self.lab_state.faults.is_active(IAM, "down"))
        elif kind in _CLOSING and where in self._manage:
            self._apply_listener_faults(self.lab_state.host(where))
        elif kind == "host-key-changed":
            self._options.pop((where, "manage"), None)

    async def close(self) -> None:
        """Close everything, and wait until connections and sessions have ended.

        Loops because a session may begin while the others end.
        """
        ports = [
            *self._manage.values(),
            *self._forwarded.values(),
            *([self.iam] if self.iam else []),
        ]
        for listener in ports:
            listener.abort()
        tasks = {task for listener in ports for task in listener.all_tasks}
        while waiting := {task for task in self.tasks | tasks if not task.done()}:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

    def _apply_listener_faults(self, host: Host) -> None:
        """Open or close a host's listening sockets as its faults `refuse` and `dead` demand."""
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
        for key in [key for key in self._forwarded if key[0] == host.name]:
            self._abort_forwarded(key)

    def _abort_forwarded(self, key: tuple[str, int]) -> None:
        listener = self._forwarded.pop(key)
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

    async def _serve_manage(self, host: Host, client: socket.socket, _peer: str) -> None:
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

    async def _serve_forwarded(
        self, host: Host, host_port: int, client: socket.socket, _peer: str
    ) -> None:
        """Connect a client with the container of the first map of this port; reset it if there is none."""
        mapping = next((one for one in host.maps if one.host_port == host_port), None)
        container = host.container_of(mapping.address) if mapping else None
        if mapping is None or container is None:
            reset_connection(client)
            return
        with self._tracked(container):
            await self._connect_to_container(host, container, mapping.container_port, client)

    @contextlib.contextmanager
    def _tracked(self, container: Container) -> Iterator[None]:
        """Let the current task end with the container, even if its port is unmapped before that."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for mypy
        inside = self._connections_into.setdefault(container.directory, set())
        inside.add(task)
        try:
            yield
        finally:
            inside.discard(task)

    async def _connect_to_container(
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
        """Return the options of a container's sshd, or None if it has no host key.

        As a real sshd, it keeps the host keys and X11 setting that it had when it was last started.
        """
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

    def _container_behind(self, host: Host, host_port: int) -> Container | None:
        for mapping in host.maps:
            if mapping.host_port == host_port:
                break
        else:
            return None
        for account in host.accounts.values():
            if account.container and account.container.address == mapping.address:
                return account.container
        return None


def host_keys(rootfs: Path) -> list[bytes]:
    """Return the readable private host keys of a root file system."""
    found = []
    for path in sorted((rootfs / "etc" / "ssh").glob("ssh_host_*_key")):
        with contextlib.suppress(OSError, asyncssh.KeyImportError):
            asyncssh.import_private_key(path.read_bytes())
            found.append(path.read_bytes())
    return found


def forwards_x11(rootfs: Path) -> bool:
    """Tell whether sshd_config allows X11 forwarding: the first such line counts, the default is no."""
    try:
        lines = (
            (rootfs / "etc" / "ssh" / "sshd_config")
            .read_text(encoding="utf-8", errors="replace")
            .splitlines()
        )
    except OSError:
        return False
    for line in lines:
        keyword, *values = line.split() or [""]
        if keyword.lower() == "x11forwarding":
            return values == ["yes"]
    return False
