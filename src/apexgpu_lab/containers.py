"""Hosts, accounts and containers of the lab, and the ports that are forwarded to containers."""

import secrets
import string
import time
from dataclasses import dataclass, field
from pathlib import Path

_LETTERS = string.ascii_letters + string.digits
# Host ports that the server's port listing shows by name, so that its own scripts do not recognise them.
NAMED_PORTS = frozenset({11112})


@dataclass(frozen=True)
class PortMap:
    """A forwarded port. `address` is that of the container when the map was made.

    As on the real hosts, nothing else records whose map it is.
    """

    address: str
    host_port: int
    container_port: int

    @property
    def hidden(self) -> bool:
        """Whether the listing shows a service name instead of a number, so that the scripts miss it."""
        return self.host_port in NAMED_PORTS


@dataclass
class Container:
    """A container. Its directory contains `rootfs` and the lab's own notes about it.

    `owned` and `intact` are false while a recover has not restored the files completely.
    """

    user: str
    directory: Path
    state: str = "STOPPED"
    pid: int = 0
    address: str = ""
    link: str = ""
    started: float = 0
    owned: bool = True
    intact: bool = True
    info_count: int = 0

    @property
    def rootfs(self) -> Path:
        """The root file system."""
        return self.directory / "rootfs"

    @property
    def notes(self) -> Path:
        """The files through which the lab and the programs in the container exchange data."""
        return self.directory / "notes"

    @property
    def home(self) -> Path:
        """The user's home in the container."""
        return self.rootfs / "home" / self.user

    @property
    def authorized_keys(self) -> Path:
        """The public keys with which one can log in to the container."""
        return self.home / ".ssh" / "authorized_keys"

    @property
    def running(self) -> bool:
        """Whether it is up."""
        return self.state == "RUNNING"

    @property
    def bootable(self) -> bool:
        """Whether a start succeeds."""
        return self.owned and self.intact and self.rootfs.is_dir()

    def boot(self, pid: int, address: str) -> None:
        """Start it. It keeps the address of an earlier start."""
        self.state = "RUNNING"
        self.pid = pid
        self.started = time.time()
        self.info_count = 0
        self.address = self.address or address
        self.link = f"veth{1000 + pid % 90}_{''.join(secrets.choice(_LETTERS) for _ in range(4))}"

    def next_traffic(self) -> tuple[int, int]:
        """Return the bytes sent and received since the start: a little more at each call."""
        sent = 1208 + 61 * self.info_count
        received = 1608 + 40 * self.info_count
        self.info_count += 1
        return sent, received


@dataclass
class Account:
    """A user's account on a GPU host. A half-made one has an ordinary shell and no container."""

    user: str
    keys: str = ""
    container: Container | None = None
    half_made: bool = False
    last_login: str = ""


@dataclass
class Host:
    """A GPU host. `port_offset` is added to the users' ports if all hosts share one address."""

    name: str
    address: str
    manage_port: int
    port_offset: int = 0
    accounts: dict[str, Account] = field(default_factory=dict)
    register_keys: str = ""
    maps: list[PortMap] = field(default_factory=list)
    key: bytes = b""
    other_key: bytes = b""

    def container_of(self, address: str) -> Container | None:
        """Return the running container that has `address` now, or None."""
        for account in self.accounts.values():
            container = account.container
            if container and container.running and container.address == address:
                return container
        return None


def size_iec(count: float) -> str:
    """Format a number of bytes as lxc-info does."""
    if count < 1024:
        return f"{count:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024 or unit == "GiB":
            break
    return f"{count:.2f} {unit}"


def size_du(count: int) -> str:
    """Format a number of bytes as `du -h` does: rounded up, one decimal below ten, at least a block."""
    blocks = max(1, -(-count // 4096))
    kibibytes = blocks * 4
    scale = 1
    for unit in ("K", "M", "G", "T"):
        if kibibytes < 1024 * scale or unit == "T":
            break
        scale *= 1024
    tenths = -(-kibibytes * 10 // scale)
    if tenths < 100:
        return f"{tenths // 10}.{tenths % 10}{unit}"
    return f"{-(-kibibytes // scale)}{unit}"
