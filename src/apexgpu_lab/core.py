"""A whole lab in one event loop: the world, its sockets, IAM and the files that a client starts from."""

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from apexgpu.files import private_directory, replace_atomically
from apexgpu_lab import standins
from apexgpu_lab.control import Control
from apexgpu_lab.hostkeys import new_key, public_line
from apexgpu_lab.iam import Site, ssh_config
from apexgpu_lab.layout import USER, Layout
from apexgpu_lab.network import LoopbackNetwork
from apexgpu_lab.processes import kill_marked
from apexgpu_lab.pusher import Pusher
from apexgpu_lab.roster import FIRST_PORT
from apexgpu_lab.sockets import Port, find_places
from apexgpu_lab.web import serve
from apexgpu_lab.world import World

_PLAIN_PATH = re.compile(r"[\w@%+=:,./\\-]+")


class Core:
    """The lab: `start` it, use `world`, `stop` it. All in the loop that started it."""

    def __init__(
        self, home: Path, *, hosts: int, registered: bool, pace: float = 1, shared: bool = False
    ) -> None:
        self.layout = Layout(Path(os.path.realpath(private_directory(home))))
        self.registered = registered
        self.iam_url = ""
        self.troubles: list[str] = []
        self.stopping = asyncio.Event()
        self._alias = _plain_alias(self.layout.home)
        iam_address, found = find_places(hosts, shared=shared)
        self._sockets = [sock for _, sock in found]
        self._iam_address = iam_address
        self.world = World(
            self._alias or self.layout.home, [place for place, _ in found], pace=pace
        )
        self.network = LoopbackNetwork(self.world)
        self.pusher = Pusher(self.world)
        self.control = Control(self, secrets.token_urlsafe(24))
        self._control_port: Port | None = None

    async def start(self) -> None:
        """Serve; lab.json is written when everything listens."""
        logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
        asyncio.get_running_loop().set_exception_handler(self._trouble)
        self.layout.marker.write_text(
            "a lab of apexgpu; `apexgpu lab down` deletes it\n", encoding="utf-8"
        )
        standins.install(self.world.directory / "bin")
        self.network.listen(self._sockets)
        site = Site(self.world, self.pusher)
        self.network.iam = Port(self._iam_address, 0, partial(serve, site.answer))
        self.iam_url = f"http://{self._iam_address}:{self.network.iam.number}"
        self._control_port = Port("127.0.0.1", 0, partial(serve, self.control.answer))
        self._write_client_files()
        self._describe(self._control_port.number)

    async def stop(self) -> None:
        """Close every socket and end every process; the files stay, but for lab.json."""
        self.layout.description.unlink(missing_ok=True)
        await self.pusher.stop()
        if self._control_port:
            self._control_port.shut()
        await self.network.close()
        await asyncio.to_thread(kill_marked, f"APEXGPU_LAB_CONTAINER={self.world.directory}/")
        if self._control_port:
            self._control_port.cut()
            await asyncio.gather(*self._control_port.all_tasks, return_exceptions=True)
        if self._alias:
            self._alias.unlink(missing_ok=True)

    def status(self) -> dict[str, Any]:
        """The lab as `lab status --json` shows it."""
        world = self.world
        return {
            "schema": 1,
            "running": True,
            "iam_url": self.iam_url,
            "registered": self.registered,
            "hosts": [
                {
                    "host": host.name,
                    "address": host.address,
                    "port": host.manage_port,
                    "containers": [
                        self._container(host.name, user)
                        for user, account in host.accounts.items()
                        if account.container
                    ],
                }
                for host in world.hosts.values()
            ],
            "users": [
                {"name": one.name, "display_name": one.display_name, "password": one.password}
                for one in world.roster.people.values()
                if one.name not in ("carol", "dave")
            ],
            "faults": world.faults.listed(),
            "nas": str(self.layout.home / "nas"),
            "state": str(self.layout.state),
            "directory": str(self.layout.home),
            "pid": os.getpid(),
        }

    def _container(self, host_name: str, user: str) -> dict[str, Any]:
        host = self.world.hosts[host_name]
        container = host.accounts[user].container
        if container is None:
            return {"user": user}
        return {
            "user": user,
            "state": container.state,
            "pid": container.pid or None,
            "address": container.address or None,
            "port": self.world.port_of(host, user),
            "rootfs": str(container.rootfs),
            "maps": [
                {"host_port": one.host_port, "container_port": one.container_port}
                for one in self.world.maps(host, container)
            ],
        }

    def _write_client_files(self) -> None:
        """An identity, known_hosts and ssh config of the lab's own; with `registered`, a user who is everywhere."""
        layout, world = self.layout, self.world
        key = new_key()
        public = public_line(key, f"{USER}@laptop")
        replace_atomically(layout.identity, key)
        replace_atomically(layout.identity.with_suffix(".pub"), public.encode(), mode=0o644)
        for directory in (layout.config, layout.state):
            private_directory(directory)
        if self.registered:
            world.roster.visit(USER)
            world.roster.keys[USER] = public
            for host in world.hosts.values():
                world.register(host, USER)
                host.register_keys = public
        replace_atomically(layout.known_hosts, self._known_hosts().encode())
        blocks = ssh_config(world, USER) if self.registered else ""
        replace_atomically(layout.ssh_config, (blocks + _global_block(layout)).encode())

    def _known_hosts(self) -> str:
        """Every manage host's key, and the template's for the first two users' ports."""
        template = public_line(self.world.template_key)
        rows = []
        for host in self.world.hosts.values():
            rows.append(f"[{host.address}]:{host.manage_port} {public_line(host.key)}")
            rows += [
                f"[{host.address}]:{port + host.shift} {template}"
                for port in (FIRST_PORT, FIRST_PORT + 1)
            ]
        return "".join(rows)

    def _describe(self, control_port: int) -> None:
        description = {
            "schema": 1,
            "pid": os.getpid(),
            "iam_url": self.iam_url,
            "control": f"http://127.0.0.1:{control_port}",
            "token": self.control.token,
            "hosts": len(self.world.hosts),
            "registered": self.registered,
            "root": str(self.world.directory),
            "alias": str(self._alias) if self._alias else None,
        }
        replace_atomically(self.layout.description, json.dumps(description, indent=1).encode())

    def _trouble(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody awaited went wrong: kept, for the log and the tests, and never printed."""
        error = context.get("exception")
        if not isinstance(error, ConnectionError | BrokenPipeError):
            self.troubles.append(f"{context.get('message')}: {error!r}")


def _global_block(layout: Layout) -> str:
    rows = {
        "IdentityFile": layout.identity,
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": layout.known_hosts,
        "StrictHostKeyChecking": "yes",
    }
    lines = (
        f'    {name} "{value}"' if " " in str(value) else f"    {name} {value}"
        for name, value in rows.items()
    )
    return "Host *\n" + "\n".join(lines) + "\n"


def _plain_alias(home: Path) -> Path | None:
    """A second name without blanks or quotes, for commands in containers to name; None where none is needed."""
    if _PLAIN_PATH.fullmatch(str(home)):
        return None
    alias = Path(tempfile.gettempdir()) / f"apexgpu-lab-{secrets.token_hex(6)}"
    with contextlib.suppress(OSError):
        alias.symlink_to(home)
        return alias
    return None
