"""The state of a lab: users, hosts, accounts, containers and faults.

It belongs to one thread and has no locks.
"""

import asyncio
import hashlib
import itertools
import json
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from apexgpu.errors import UnknownHostError
from apexgpu_lab import rootfs
from apexgpu_lab.containers import Account, Container, Host, PortMap
from apexgpu_lab.faults import IAM, ActiveFaults
from apexgpu_lab.keypairs import new_private_key, public_line
from apexgpu_lab.users import UserDatabase

WINDOW = 300
_BOOT = 5
PACKAGE_FAULTS = frozenset({"apt-locked", "no-internet"})
"""Faults that the package tools in containers look for, as files."""

MAPPED_PORTS = range(11001, 12000)


@dataclass(frozen=True)
class HostAddress:
    """The address of a host, and the port of its manage shell."""

    address: str
    manage_port: int
    port_offset: int = 0


class Network(Protocol):
    """The sockets of the lab, as the lab's state uses them."""

    def forward(self, host: Host, mapping: PortMap) -> None:
        """Open a forwarded port."""

    def unforward(self, host: Host, host_port: int) -> None:
        """Close a forwarded port."""

    def container_down(self, host: Host, container: Container) -> None:
        """End the programs in a container and break its connections."""

    def fault_changed(self, where: str, kind: str) -> None:
        """Open or close listening sockets as the faults that are set now demand."""


class NoSockets:
    """No sockets: for tests of what the manage shell prints."""

    def forward(self, host: Host, mapping: PortMap) -> None:
        """Nothing to open."""

    def unforward(self, host: Host, host_port: int) -> None:
        """Nothing to close."""

    def container_down(self, host: Host, container: Container) -> None:
        """Nothing to end."""

    def fault_changed(self, where: str, kind: str) -> None:
        """Nothing to change."""


class LabState:
    """The state, and the changes to it that more than one server makes."""

    def __init__(self, directory: Path, places: Sequence[HostAddress], *, pace: float = 1) -> None:
        self.directory = directory
        self.nas = directory / "nas"
        self.new_nas = _make_alias(self.nas, directory / "newNAS")
        self.pace = pace
        self.slow_seconds = 3.0
        self.clock: Callable[[], float] = time.time
        self.network: Network = NoSockets()
        self.users = UserDatabase()
        self.faults = ActiveFaults(self._fault_changed)
        self.template_key = new_private_key()
        self.hosts = {
            f"gpu{number}": Host(
                f"gpu{number}",
                place.address,
                place.manage_port,
                place.port_offset,
                key=new_private_key(),
            )
            for number, place in enumerate(places, start=2)
        }
        self._secret = secrets.token_hex(8)
        self._pids = itertools.count(random.randint(2000, 9000), 37)  # noqa: S311 - a number to show
        rootfs.make_template(directory, self.template_key)

    def host(self, name: str) -> Host:
        """Return the host called `name`; raises UnknownHostError."""
        if name not in self.hosts:
            raise UnknownHostError(f"the lab has no host {name}", hint="apexgpu lab status")
        return self.hosts[name]

    def token(self, *, windows_ago: int = 0) -> str:
        """Return the token that confirms a snapshot or recover.

        As on the real servers it is the same for all users, and changes every five minutes.
        """
        window = int(self.clock() // WINDOW) - windows_ago
        return hashlib.sha256(f"{self._secret}{window}".encode()).hexdigest()[:8]

    def token_to_print(self, host: Host) -> str:
        """Return the token that the shell prints: an expired one if that fault is set."""
        expired = self.faults.trigger(host.name, "expired-token")
        return self.token(windows_ago=int(expired))

    def port_of(self, host: Host, user: str) -> int:
        """Return the user's ssh port on a host."""
        return self.users.ensure_registered(user).port + host.port_offset

    # -- keys -------------------------------------------------------------------------------------------------

    def push(self, host: Host, user: str) -> tuple[bool, bool]:
        """Write a user's keys to a host as IAM's pusher does; return whether account and container exist."""
        keys = self.users.keys.get(user, "")
        host.register_keys = keys
        if self.faults.trigger(host.name, "register-overwritten"):
            host.register_keys = public_line(new_private_key())
        account = host.accounts.get(user)
        if account is None:
            return False, False
        account.keys = keys
        container = account.container
        if container is None or not container.home.is_dir():
            return True, False
        rootfs.write_keys(container.home, keys)
        return True, True

    # -- accounts ---------------------------------------------------------------------------------------------

    def add_container(self, host: Host, account: Account) -> Container:
        """Create the container of a new account: a clone of the template, with the user in it."""
        directory = self.directory / "hosts" / host.name / account.user
        container = Container(account.user, directory)
        container.notes.mkdir(parents=True, exist_ok=True)
        rootfs.clone_template(self.directory, container.rootfs)
        rootfs.configure(container.rootfs, host.name, account.user)
        rootfs.add_user(container.rootfs, account.user)
        rootfs.write_keys(container.home, self.users.keys.get(account.user, ""))
        account.container = container
        return container

    def register(self, host: Host, user: str) -> Account:
        """Create an account and its container at once, as a completed `register` does."""
        account = Account(user, self.users.keys.get(user, ""))
        host.accounts[user] = account
        self.add_container(host, account)
        return account

    # -- containers -------------------------------------------------------------------------------------------

    def boot(self, host: Host, container: Container) -> None:
        """Start a container; its ssh port is not forwarded yet."""
        taken = {
            account.container.address for account in host.accounts.values() if account.container
        }
        free = [number for number in range(2, 255) if f"10.0.3.{number}" not in taken]
        container.boot(next(self._pids), f"10.0.3.{random.choice(free)}")  # noqa: S311 - an address to show
        rootfs.set_started(container)
        for mapping in host.maps:
            if mapping.address == container.address:
                self.network.forward(host, mapping)

    def addresses(self, host: Host, container: Container) -> list[str]:
        """Return the container's addresses as lxc-info prints them."""
        if self.faults.is_active(host.name, "no-address"):
            return []
        second = self.faults.is_active(host.name, "two-addresses")
        return [container.address, *(["172.17.0.1"] if second else [])]

    def maps(self, host: Host, container: Container) -> list[PortMap]:
        """Return the port maps of a container that the host's scripts can see, oldest first."""
        return [
            port_map
            for port_map in host.maps
            if port_map.address == container.address and not port_map.hidden
        ]

    def forward(
        self, host: Host, container: Container, container_port: int, host_port: int
    ) -> None:
        """Forward a port of the host to one of the container."""
        mapping = PortMap(container.address, host_port, container_port)
        host.maps.append(mapping)
        self.network.forward(host, mapping)

    def next_port(self, host: Host) -> int:
        """Return the host port that the scripts use next: one above the highest that they see."""
        used = [
            port_map.host_port
            for port_map in host.maps
            if not port_map.hidden and port_map.host_port in MAPPED_PORTS
        ]
        # Where hosts share an address, each begins elsewhere.
        first = MAPPED_PORTS.start + host.port_offset // 10 % (len(MAPPED_PORTS) - 100)
        above = max(used, default=first - 1) + 1
        return above if above in MAPPED_PORTS else min(set(MAPPED_PORTS) - set(used))

    def unforward(self, host: Host, mapping: PortMap) -> None:
        """Remove a port map; its port is closed unless another map uses it too."""
        host.maps.remove(mapping)
        if all(port_map.host_port != mapping.host_port for port_map in host.maps):
            self.network.unforward(host, mapping.host_port)

    def halt(self, host: Host, container: Container) -> None:
        """Stop a container. Port maps that the scripts did not remove stay, and lead nowhere."""
        container.state, container.pid = "STOPPED", 0
        self.network.container_down(host, container)
        for mapping in host.maps:
            if mapping.address == container.address:
                self.network.unforward(host, mapping.host_port)

    def reboot(self, host: Host) -> None:
        """Restart a host. Port maps are lost and containers stay stopped; it is dead for some seconds."""
        for mapping in list(host.maps):
            self.unforward(host, mapping)
        for account in host.accounts.values():
            if account.container and account.container.running:
                self.halt(host, account.container)
        self.faults.set(host.name, "dead")
        asyncio.get_running_loop().call_later(
            _BOOT * self.pace, self.faults.clear, host.name, "dead"
        )

    # -- faults -----------------------------------------------------------------------------------------------

    def _fault_changed(self, where: str, kind: str) -> None:
        if where != IAM:
            self._apply_fault(self.host(where), kind, on=self.faults.is_active(where, kind))
        self.network.fault_changed(where, kind)

    def _apply_fault(self, host: Host, kind: str, *, on: bool) -> None:
        """Do what setting or clearing a fault changes on the host at once."""
        if kind == "no-forward" and on and host.maps:
            for mapping in list(host.maps):
                self.unforward(host, mapping)
            self.faults.trigger(host.name, kind)
        elif kind == "register-overwritten" and on:
            host.register_keys = public_line(new_private_key())
            self.faults.trigger(host.name, kind)
        elif kind == "half-made":
            self._set_half_made(host, on=on)
        elif kind == "host-key-changed" and on:
            host.other_key = new_private_key()
        elif kind in PACKAGE_FAULTS:
            note = self.directory / "hosts" / host.name / kind
            note.parent.mkdir(parents=True, exist_ok=True)
            if on:
                note.touch()
            else:
                note.unlink(missing_ok=True)
        elif kind.startswith("gpu-"):
            self._write_gpu_note(host, "gpu-fault", kind if on else "")

    def set_gpus(self, host: Host, cards: Sequence[Mapping[str, Any]]) -> None:
        """Give the host these GPUs instead of the default ones, whose load changes with the clock.

        Each has `name`, `mode`, `own` (a list of [pid, name, MiB], the container's programs), `total`
        and `used` in MiB, and `load` in percent. A list in place of a number is repeated for ever,
        one element for each call of nvidia-smi.
        """
        self._write_gpu_note(host, "gpus.json", json.dumps(list(cards)))
        self._write_gpu_note(host, "gpus.calls", "")

    def _write_gpu_note(self, host: Host, name: str, text: str) -> None:
        (self.directory / "hosts" / host.name).mkdir(parents=True, exist_ok=True)
        (self.directory / "hosts" / host.name / name).write_text(text, encoding="utf-8")

    def _set_half_made(self, host: Host, *, on: bool) -> None:
        for account in list(host.accounts.values()):
            if on and account.container:
                if account.container.running:
                    self.halt(host, account.container)
                account.container = None
            account.half_made = account.half_made or on
            if not on and account.half_made:
                del host.accounts[account.user]


def _make_alias(target: Path, name: Path) -> Path:
    """Make a symlink `name` to `target`; return `target` itself where symlinks are not allowed."""
    try:
        name.symlink_to(target)
    except FileExistsError:
        return name
    except OSError:
        return target
    return name
