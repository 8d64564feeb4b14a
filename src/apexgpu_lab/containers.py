"""One user's place on one host: the account, the container, and the ports that lead into it."""

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
    """A forwarded port: `address` is the container's at the time it was made, which is all that says whose it is."""

    address: str
    host_port: int
    container_port: int

    @property
    def hidden(self) -> bool:
        """Whether the listing prints a service name where the scripts look for a number."""
        return self.host_port in NAMED_PORTS


@dataclass
class Container:
    """A container: its directory holds `rootfs` and, beside it, what the lab itself notes."""

    user: str
    directory: Path
    state: str = "STOPPED"
    pid: int = 0
    address: str = ""
    link: str = ""
    started: float = 0
    owned: bool = True
    intact: bool = True
    calls: int = 0

    @property
    def rootfs(self) -> Path:
        """The root file system."""
        return self.directory / "rootfs"

    @property
    def notes(self) -> Path:
        """Where the lab and the stand-in programs leave notes for each other."""
        return self.directory / "notes"

    @property
    def home(self) -> Path:
        """The user's home in the container."""
        return self.rootfs / "home" / self.user

    @property
    def authorized_keys(self) -> Path:
        """The keys that open the container."""
        return self.home / ".ssh" / "authorized_keys"

    @property
    def running(self) -> bool:
        """Whether it is up."""
        return self.state == "RUNNING"

    @property
    def bootable(self) -> bool:
        """Whether a start would bring it up."""
        return self.owned and self.intact and self.rootfs.is_dir()

    def boot(self, pid: int, address: str) -> None:
        """Bring it up, with an address that it keeps over a restart."""
        self.state, self.pid, self.started, self.calls = "RUNNING", pid, time.time(), 0
        self.address = self.address or address
        self.link = f"veth{1000 + pid % 90}_{''.join(secrets.choice(_LETTERS) for _ in range(4))}"

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received since the start: a little more at each look."""
        self.calls += 1
        return 1208 + 61 * (self.calls - 1), 1608 + 40 * (self.calls - 1)


@dataclass
class Account:
    """A user's account on a physical host; a half-made one has an ordinary shell and no container."""

    user: str
    keys: str = ""
    container: Container | None = None
    half_made: bool = False
    last_login: str = ""


@dataclass
class Host:
    """A GPU host. `shift` is added to users' ports where all hosts share one address."""

    name: str
    address: str
    manage_port: int
    shift: int = 0
    accounts: dict[str, Account] = field(default_factory=dict)
    register_keys: str = ""
    maps: list[PortMap] = field(default_factory=list)
    key: bytes = b""
    other_key: bytes = b""

    def container_of(self, address: str) -> Container | None:
        """The running container that has `address` now."""
        for account in self.accounts.values():
            if (
                account.container
                and account.container.running
                and account.container.address == address
            ):
                return account.container
        return None


def size_iec(count: float) -> str:
    """Bytes as lxc-info prints them."""
    if count < 1024:
        return f"{count:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024 or unit == "GiB":
            break
    return f"{count:.2f} {unit}"


def size_du(count: int) -> str:
    """Bytes as `du -h` prints them: rounded up, one decimal below ten, never below a block."""
    kibibytes, scale = max(1, -(-count // 4096)) * 4, 1
    for unit in ("K", "M", "G", "T"):
        if kibibytes < 1024 * scale or unit == "T":
            break
        scale *= 1024
    tenths = -(-kibibytes * 10 // scale)
    return (
        f"{tenths // 10}.{tenths % 10}{unit}" if tenths < 100 else f"{-(-kibibytes // scale)}{unit}"
    )
