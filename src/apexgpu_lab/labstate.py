"""All state of a lab: who exists, which hosts, accounts and containers, what is broken. One thread, no locks."""

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
MAPPED_PORTS = range(11001, 12000)


@dataclass(frozen=True)
class HostAddress:
    """Where a host listens."""

    address: str
    manage_port: int
    shift: int = 0


class Network(Protocol):
    """The sockets of the lab, as the lab's state uses them."""

    def forward(self, host: Host, mapping: PortMap) -> None:
        """Open a forwarded port."""

    def unforward(self, host: Host, host_port: int) -> None:
        """Close a forwarded port."""

    def container_down(self, host: Host, container: Container) -> None:
        """End what runs in a container and cut its connections."""

    def fault_changed(self, where: str, kind: str) -> None:
        """Open or close listeners as the faults now in force want it."""


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
    """The state, and the few changes that more than one server makes to it."""

    def __init__(self, directory: Path, places: Sequence[HostAddress], *, pace: float = 1) -> None:
        self.directory = directory
        self.nas = directory / "nas"
        self.new_nas = _second_name(self.nas, directory / "newNAS")
        self.pace = pace
        self.slow_seconds = 3.0
        self.clock: Callable[[], float] = time.time
        self.network: Network = NoSockets()
        self.users = UserDatabase()
        self.faults = ActiveFaults(self._fault_changed)
        self.template_key = new_private_key()
        self.hosts = {
            f"gpu{number}": Host(
                f"gpu{number}", place.address, place.manage_port, place.shift, key=new_private_key()
            )
            for number, place in enumerate(places, start=2)
        }
        self._secret = secrets.token_hex(8)
        self._pids = itertools.count(random.randint(2000, 9000), 37)  # noqa: S311 - a number to show
        rootfs.make_template(directory, self.template_key)

    def host(self, name: str) -> Host:
        """The host called `name`; UnknownHostError."""
        if name not in self.hosts:
            raise UnknownHostError(f"the lab has no host {name}", hint="apexgpu lab status")
        return self.hosts[name]

    def token(self, *, windows_ago: int = 0) -> str:
        """The word that confirms a snapshot or a recover: one for everybody in a clock window."""
        window = int(self.clock() // WINDOW) - windows_ago
        return hashlib.sha256(f"{self._secret}{window}".encode()).hexdigest()[:8]

    def token_to_print(self, host: Host) -> str:
        """The token as the shell shows it."""
        return self.token(windows_ago=1 if self.faults.trigger(host.name, "expired-token") else 0)

    def port_of(self, host: Host, user: str) -> int:
        """The user's ssh port on a host."""
        return self.users.ensure_registered(user).port + host.shift

    # -- keys -------------------------------------------------------------------------------------------------

    def push(self, host: Host, user: str) -> tuple[bool, bool]:
        """Write a user's keys on a host as IAM's pusher does: (is there an account, is there a container)."""
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
        """Clone the template for a new account and make its user there."""
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
        """Make an account with its container at once, as a finished register leaves it."""
        account = Account(user, self.users.keys.get(user, ""))
        host.accounts[user] = account
        self.add_container(host, account)
        return account

    # -- containers -------------------------------------------------------------------------------------------

    def boot(self, host: Host, container: Container) -> None:
        """Bring a container up, without its ports."""
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
        """The container's addresses as lxc-info sees them."""
        if self.faults.is_active(host.name, "no-address"):
            return []
        second = self.faults.is_active(host.name, "two-addresses")
        return [container.address, *(["172.17.0.1"] if second else [])]

    def maps(self, host: Host, container: Container) -> list[PortMap]:
        """The maps that the host's scripts can see of a container, in the order they were made."""
        return [one for one in host.maps if one.address == container.address and not one.hidden]

    def forward(
        self, host: Host, container: Container, container_port: int, host_port: int
    ) -> None:
        """Make a map and open its port."""
        mapping = PortMap(container.address, host_port, container_port)
        host.maps.append(mapping)
        self.network.forward(host, mapping)

    def next_port(self, host: Host) -> int:
        """The host port that the scripts would take next: one above the highest that they see."""
        used = [
            one.host_port for one in host.maps if not one.hidden and one.host_port in MAPPED_PORTS
        ]
        above = max(used, default=MAPPED_PORTS.start - 1) + 1
        return above if above in MAPPED_PORTS else min(set(MAPPED_PORTS) - set(used))

    def unforward(self, host: Host, mapping: PortMap) -> None:
        """Drop a map, and close its port when no other map is on it."""
        host.maps.remove(mapping)
        if all(one.host_port != mapping.host_port for one in host.maps):
            self.network.unforward(host, mapping.host_port)

    def halt(self, host: Host, container: Container) -> None:
        """Take a container down; maps that the scripts did not drop stay behind, leading nowhere."""
        container.state, container.pid = "STOPPED", 0
        self.network.container_down(host, container)
        for mapping in host.maps:
            if mapping.address == container.address:
                self.network.unforward(host, mapping.host_port)

    def reboot(self, host: Host) -> None:
        """Take a host down, and up again after some seconds of its own: maps are gone, containers stay stopped."""
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
            self._mark(self.host(where), kind, on=self.faults.is_active(where, kind))
        self.network.fault_changed(where, kind)

    def _mark(self, host: Host, kind: str, *, on: bool) -> None:
        """What setting or clearing a fault does to the host there and then."""
        if kind == "no-forward" and on and host.maps:
            for mapping in list(host.maps):
                self.unforward(host, mapping)
            self.faults.trigger(host.name, kind)
        elif kind == "register-overwritten" and on:
            host.register_keys = public_line(new_private_key())
            self.faults.trigger(host.name, kind)
        elif kind == "half-made":
            self._half_made(host, on=on)
        elif kind == "host-key-changed" and on:
            host.other_key = new_private_key()
        elif kind.startswith("gpu-"):
            self._tell_gpus(host, "gpu-fault", kind if on else "")

    def set_gpus(self, host: Host, cards: Sequence[Mapping[str, Any]]) -> None:
        """Let the host have these GPUs, instead of some whose load changes by the clock.

        Each has `name`, `mode`, `own` ([pid, name, MiB] of the container's programs), and `total` and `used` in MiB
        and `load` in percent, of which a list goes round, a step with every call of nvidia-smi.
        """
        self._tell_gpus(host, "gpus.json", json.dumps(list(cards)))
        self._tell_gpus(host, "gpus.calls", "")

    def _tell_gpus(self, host: Host, name: str, text: str) -> None:
        (self.directory / "hosts" / host.name).mkdir(parents=True, exist_ok=True)
        (self.directory / "hosts" / host.name / name).write_text(text, encoding="utf-8")

    def _half_made(self, host: Host, *, on: bool) -> None:
        for account in list(host.accounts.values()):
            if on and account.container:
                if account.container.running:
                    self.halt(host, account.container)
                account.container = None
            account.half_made = account.half_made or on
            if not on and account.half_made:
                del host.accounts[account.user]


def _second_name(target: Path, name: Path) -> Path:
    """Another name for a directory, where this machine lets us make one."""
    try:
        name.symlink_to(target)
    except FileExistsError:
        return name
    except OSError:
        return target
    return name
