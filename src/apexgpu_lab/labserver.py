"""A whole lab in one event loop: its state, its sockets, IAM, and the files that a client needs."""

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
from apexgpu_lab.iam import IamSite, ssh_config
from apexgpu_lab.keypairs import new_private_key, public_line
from apexgpu_lab.labstate import LabState
from apexgpu_lab.layout import USER, Layout
from apexgpu_lab.listeners import Listener, bind_host_addresses
from apexgpu_lab.network import LoopbackNetwork
from apexgpu_lab.processes import kill_marked
from apexgpu_lab.pusher import Pusher
from apexgpu_lab.users import FIRST_PORT
from apexgpu_lab.web import serve

_PLAIN_PATH = re.compile(r"[\w@%+=:,./\\-]+")


class LabServer:
    """A running lab. Call all methods in the event loop that called `start`.

    `troubles` collects errors in tasks that nobody awaits; it is empty in a healthy lab.
    """

    def __init__(
        self, home: Path, *, hosts: int, registered: bool, pace: float = 1, shared: bool = False
    ) -> None:
        self.layout = Layout(Path(os.path.realpath(private_directory(home))))
        self.registered = registered
        self.iam_url = ""
        self.troubles: list[str] = []
        self.stopping = asyncio.Event()
        self._alias = _alias_without_blanks(self.layout.home)
        iam_address, bound = bind_host_addresses(hosts, shared=shared)
        self._sockets = [sock for _, sock in bound]
        self._iam_address = iam_address
        self.lab_state = LabState(
            self._alias or self.layout.home, [address for address, _ in bound], pace=pace
        )
        self.network = LoopbackNetwork(self.lab_state)
        self.pusher = Pusher(self.lab_state)
        self.control = Control(self, secrets.token_urlsafe(24))
        self._control_listener: Listener | None = None

    async def start(self) -> None:
        """Start to serve; lab.json is written when everything listens."""
        logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
        asyncio.get_running_loop().set_exception_handler(self._note_trouble)
        self.layout.marker.write_text(
            "a lab of apexgpu; `apexgpu lab down` deletes it\n", encoding="utf-8"
        )
        standins.install(self.lab_state.directory / "bin")
        self.network.listen(self._sockets)
        site = IamSite(self.lab_state, self.pusher)
        self.network.iam = Listener(self._iam_address, 0, partial(serve, site.answer))
        self.iam_url = f"http://{self._iam_address}:{self.network.iam.port}"
        self._control_listener = Listener("127.0.0.1", 0, partial(serve, self.control.answer))
        self._write_client_files()
        self._describe(self._control_listener.port)

    async def stop(self) -> None:
        """Close every socket and end every process. The files stay, except lab.json."""
        self.layout.description.unlink(missing_ok=True)
        await self.pusher.stop()
        if self._control_listener:
            self._control_listener.close()
        await self.network.close()
        await asyncio.to_thread(kill_marked, f"APEXGPU_LAB_CONTAINER={self.lab_state.directory}/")
        if self._control_listener:
            self._control_listener.abort()
            await asyncio.gather(*self._control_listener.all_tasks, return_exceptions=True)
        if self._alias:
            self._alias.unlink(missing_ok=True)

    def status(self) -> dict[str, Any]:
        """The lab as `lab status --json` shows it."""
        lab_state = self.lab_state
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
                for host in lab_state.hosts.values()
            ],
            "users": [
                {"name": entry.name, "display_name": entry.display_name, "password": entry.password}
                for entry in lab_state.users.people.values()
                if entry.name not in ("carol", "dave")
            ],
            "faults": lab_state.faults.to_json(),
            "nas": str(self.layout.home / "nas"),
            "state": str(self.layout.state),
            "directory": str(self.layout.home),
            "pid": os.getpid(),
        }

    def _container(self, host_name: str, user: str) -> dict[str, Any]:
        host = self.lab_state.hosts[host_name]
        container = host.accounts[user].container
        if container is None:
            return {"user": user}
        return {
            "user": user,
            "state": container.state,
            "pid": container.pid or None,
            "address": container.address or None,
            "port": self.lab_state.port_of(host, user),
            "rootfs": str(container.rootfs),
            "maps": [
                {"host_port": entry.host_port, "container_port": entry.container_port}
                for entry in self.lab_state.maps(host, container)
            ],
        }

    def _write_client_files(self) -> None:
        """Write a key, known_hosts and ssh config of the lab's own.

        If the lab is `registered`, also register its first user on every host.
        """
        layout, lab_state = self.layout, self.lab_state
        key = new_private_key()
        public = public_line(key, f"{USER}@laptop")
        replace_atomically(layout.identity, key)
        replace_atomically(layout.identity.with_suffix(".pub"), public.encode(), mode=0o644)
        for directory in (layout.config, layout.state):
            private_directory(directory)
        if self.registered:
            lab_state.users.ensure_registered(USER)
            lab_state.users.keys[USER] = public
            for host in lab_state.hosts.values():
                lab_state.register(host, USER)
                host.register_keys = public
        replace_atomically(layout.known_hosts, self._known_hosts().encode())
        blocks = ssh_config(lab_state, USER) if self.registered else ""
        replace_atomically(layout.ssh_config, (blocks + _global_block(layout)).encode())

    def _known_hosts(self) -> str:
        """Return known_hosts: the key of every host, and the template's for the first two users' containers."""
        template = public_line(self.lab_state.template_key)
        rows = []
        for host in self.lab_state.hosts.values():
            rows.append(f"[{host.address}]:{host.manage_port} {public_line(host.key)}")
            rows += [
                f"[{host.address}]:{port + host.port_offset} {template}"
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
            "hosts": len(self.lab_state.hosts),
            "registered": self.registered,
            "root": str(self.lab_state.directory),
            "alias": str(self._alias) if self._alias else None,
        }
        replace_atomically(self.layout.description, json.dumps(description, indent=1).encode())

    def _note_trouble(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Collect an error in a task that nobody awaits, for the log and the tests."""
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


def _alias_without_blanks(home: Path) -> Path | None:
    """Make a symlink without blanks or quotes to the lab's directory; None if its own path has none.

    Paths of the container are replaced in commands by paths below that directory, unquoted.
    """
    if _PLAIN_PATH.fullmatch(str(home)):
        return None
    alias = Path(tempfile.gettempdir()) / f"apexgpu-lab-{secrets.token_hex(6)}"
    with contextlib.suppress(OSError):
        alias.symlink_to(home)
        return alias
    return None
