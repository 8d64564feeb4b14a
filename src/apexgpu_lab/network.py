"""The lab's sockets: what listens where, opened and closed as the world and its faults want it."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import asyncssh

from apexgpu_lab.container_sshd import ContainerDoor
from apexgpu_lab.containers import Container, Host, PortMap
from apexgpu_lab.faults import IAM
from apexgpu_lab.manage_sshd import ManageDoor
from apexgpu_lab.processes import kill_marked
from apexgpu_lab.sockets import Port, pump, reset
from apexgpu_lab.sshd import admitted, options, talk
from apexgpu_lab.world import World

_CLOSING = {"refuse", "dead"}


class LoopbackNetwork:
    """The real sockets of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tasks: set[asyncio.Task[None]] = set()
        self.iam: Port | None = None
        self._manage: dict[str, Port] = {}
        self._mapped: dict[tuple[str, int], Port] = {}
        self._inside: dict[
            Path, set[asyncio.Task[None]]
        ] = {}  # the connections that lead into each container
        self._options: dict[tuple[str, object], asyncssh.SSHServerConnectionOptions] = {}
        world.network = self

    def listen(self, sockets: list[socket.socket]) -> None:
        """Open the manage ports of all hosts on the sockets that were bound for them."""
        for host, sock in zip(self.world.hosts.values(), sockets, strict=True):
            port = Port(host.address, host.manage_port, partial(self._manage_login, host), sock)
            self._manage[host.name] = port

    def forward(self, host: Host, mapping: PortMap) -> None:
        """Open a forwarded port; a number that something else on this machine has stays closed."""
        place = (host.name, mapping.host_port)
        if place in self._mapped or self.world.faults.active(host.name, "dead"):
            return
        with contextlib.suppress(OSError):
            serve = partial(self._mapped_login, host, mapping.host_port)
            self._mapped[place] = Port(host.address, mapping.host_port, serve)

    def unforward(self, host: Host, host_port: int) -> None:
        """Close a forwarded port; connections that are open stay so, as in a connection table."""
        if port := self._mapped.pop((host.name, host_port), None):
            port.shut()
            self._await_at_end(port)

    def container_down(self, host: Host, container: Container) -> None:
        """End what runs in a container and cut its connections."""
        for place in list(self._mapped):
            owner = self._owner(host, place[1])
            if place[0] == host.name and (owner is None or owner is container):
                self._cut(place)
        for task in self._inside.pop(container.directory, ()):
            task.cancel()
        kill_marked(f"APEXGPU_LAB_CONTAINER={container.directory}/")

    def fault_changed(self, where: str, kind: str) -> None:
        """Open or close listeners as the faults now in force want it."""
        if where == IAM:
            if kind == "down" and self.iam:
                self._set(self.iam, up=not self.world.faults.active(IAM, "down"))
        elif kind in _CLOSING and where in self._manage:
            self._settle(self.world.host(where))
        elif kind == "host-key-changed":
            self._options.pop((where, "manage"), None)

    async def close(self) -> None:
        """Close everything and wait until it is closed: connections, and sessions that began meanwhile."""
        ports = [*self._manage.values(), *self._mapped.values(), *([self.iam] if self.iam else [])]
        for port in ports:
            port.cut()
        tasks = {task for port in ports for task in port.all_tasks}
        while waiting := {task for task in self.tasks | tasks if not task.done()}:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

    def _settle(self, host: Host) -> None:
        """Bring a host's listeners into the state that `refuse` and `dead` want."""
        faults = self.world.faults
        dead = faults.active(host.name, "dead")
        refusing = faults.active(host.name, "refuse") and not faults.counted(host.name, "refuse")
        manage = self._manage[host.name]
        self._set(manage, up=not (dead or refusing))
        if not dead:
            for mapping in host.maps:
                if host.container_of(mapping.address):
                    self.forward(host, mapping)
            return
        manage.cut()
        for place in [place for place in self._mapped if place[0] == host.name]:
            self._cut(place)

    def _cut(self, place: tuple[str, int]) -> None:
        port = self._mapped.pop(place)
        port.cut()
        self._await_at_end(port)

    def _await_at_end(self, port: Port) -> None:
        for task in port.serving:
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def _set(self, port: Port, *, up: bool) -> None:
        if up:
            port.reopen()
        else:
            port.shut()

    async def _manage_login(self, host: Host, client: socket.socket, _peer: str) -> None:
        if self.world.faults.take(host.name, "refuse"):
            reset(client)
        elif await admitted(self.world, host, client):
            changed = self.world.faults.take(host.name, "host-key-changed")
            prepared = self._prepared(host.name, changed, [host.other_key if changed else host.key])
            await talk(client, prepared, partial(ManageDoor, self.world, host, self.tasks))

    async def _mapped_login(
        self, host: Host, host_port: int, client: socket.socket, _peer: str
    ) -> None:
        """Lead a connection where the first map of the port says; a stale map leads nowhere."""
        mapping = next((one for one in host.maps if one.host_port == host_port), None)
        container = host.container_of(mapping.address) if mapping else None
        if mapping is None or container is None:
            reset(client)
            return
        with self._counted(container):
            await self._enter(host, container, mapping.container_port, client)

    @contextlib.contextmanager
    def _counted(self, container: Container) -> Iterator[None]:
        """The task at work is one that ends with the container, even when its port was unmapped before."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for mypy
        inside = self._inside.setdefault(container.directory, set())
        inside.add(task)
        try:
            yield
        finally:
            inside.discard(task)

    async def _enter(
        self, host: Host, container: Container, port: int, client: socket.socket
    ) -> None:
        if port != 22:
            await pump(client, "127.0.0.1", port)
        elif await admitted(self.world, host, client):
            if prepared := self._container_options(host, container):
                await talk(
                    client,
                    prepared,
                    partial(ContainerDoor, self.world, host, container, self.tasks),
                )
            else:
                reset(client)

    def _container_options(
        self, host: Host, container: Container
    ) -> asyncssh.SSHServerConnectionOptions | None:
        """The container's sshd has the keys, and the say on X11, that were there when it was started last."""
        place = f"{host.name}/{container.user}"
        restart = container.notes / "sshd-restart"
        generation = (container.started, restart.stat().st_mtime_ns if restart.exists() else 0)
        if (place, generation) not in self._options:
            keys = host_keys(container.rootfs)
            if not keys:
                return None
            for old in [known for known in self._options if known[0] == place]:
                del self._options[old]
            self._options[place, generation] = options(
                keys,
                x11_forwarding=forwards_x11(container.rootfs),
                x11_auth_path=str(container.home / ".Xauthority"),
            )
        return self._options[place, generation]

    def _prepared(
        self, place: str, generation: object, keys: list[bytes]
    ) -> asyncssh.SSHServerConnectionOptions:
        if (place, generation) not in self._options:
            self._options[place, generation] = options(keys)
        return self._options[place, generation]

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
