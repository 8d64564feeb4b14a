"""TCP ports of a tunnel: what the user names, which local ones can be used, and how one is taken."""

import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from apexgpu.errors import UsageError
from apexgpu.platforms import sockets
from apexgpu.platforms.system import is_macos, is_windows

# fmt: off
BLOCKED_BY_BROWSERS = frozenset((
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95,
    101, 102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179,
    389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601,
    636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566,
    6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
))
"""Ports that browsers refuse to open ("unsafe port"): the list "bad port" of the Fetch standard."""
# fmt: on

_LAST_PORT = 65535
_FIRST_UNPRIVILEGED_PORT = 1024
_CANDIDATES = 100
_BACKLOG = 256
_ACCESS_DENIED = 10013  # WSAEACCES


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a tunnel leads: a port, on the container itself or on a host that it can reach."""

    port: int
    host: str = "localhost"

    def __str__(self) -> str:
        """As the user writes it: `6006`, or `db:5432`."""
        if self.host == "localhost":
            return str(self.port)
        return f"{self.host}:{self.port}"

    @property
    def ssh_form(self) -> str:
        """As `ssh -L` expects it: HOST:PORT, an IPv6 address in brackets."""
        if ":" in self.host:
            return f"[{self.host}]:{self.port}"
        return f"{self.host}:{self.port}"


def parse_destination(text: str) -> Destination:
    """Read `PORT`, `HOST:PORT` or `[IPv6]:PORT`.

    Raises UsageError for anything else.
    """
    host, _, number = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "localhost"
    if not (_is_port(number) and _is_host(host)):
        message = f"{text!r} is neither a port (1 to {_LAST_PORT}) nor LOCAL:PORT or NAME:PORT"
        raise UsageError(message, hint="apexgpu tunnel --help")
    return Destination(int(number), host)


def split_local(text: str) -> tuple[int | None, str]:
    """Split `LOCAL:PORT` and `LOCAL:NAME:PORT`, as docker and `ssh -L` write it; None without a local port."""
    local, _, remote = text.partition(":")
    name, _, number = remote.rpartition(":")
    is_address = ":" in name and not name.startswith("[")
    if _is_port(local) and _is_port(number) and not is_address:
        return int(local), remote
    return None, text


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text) <= _LAST_PORT


def _is_host(text: str) -> bool:
    # A leading dash would be read as an option of ssh.
    if text.startswith("-"):
        return False
    return all(letter.isalnum() or letter in ".:-_%" for letter in text)


def check_local_port(port: int, command: str) -> None:
    """Raise UsageError if no browser or program could use `port`, which the user chose.

    `command` is the command without `--local`, for the hint.
    """
    if not 1 <= port <= _LAST_PORT:
        message = f"there is no port {port} (a port is a number from 1 to {_LAST_PORT})"
        raise UsageError(message, hint=command)
    if port in BLOCKED_BY_BROWSERS:
        message = f"browsers refuse to open port {port}"
        raise UsageError(message, hint=f"{command} --local {next(local_candidates(port))}")


def local_candidates(port: int) -> Iterator[int]:
    """Yield the local ports to try for the container's `port`: the same one, then those after it.

    Most systems reserve ports below 1024 for the administrator: 80 becomes 8080, 443 becomes 8443.
    """
    first = port if port >= _FIRST_UNPRIVILEGED_PORT else 8000 + port
    count = 0
    for number in (*range(first, _LAST_PORT + 1), *range(_FIRST_UNPRIVILEGED_PORT, first)):
        if number in BLOCKED_BY_BROWSERS:
            continue
        yield number
        count += 1
        if count == _CANDIDATES:
            return


def listen(port: int) -> socket.socket | None:
    """Return a socket that listens on 127.0.0.1:`port`; None if another program has the port.

    Nothing is checked beforehand: a check would leave a moment in which the port could be lost.
    """
    if is_macos() and _accepts_connections(port):
        # macOS would let us bind 127.0.0.1 beside a program that listens on all addresses.
        return None
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if is_windows():
        listening.setsockopt(socket.SOL_SOCKET, sockets.EXCLUSIVE_USE, 1)
    else:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        return None
    return listening


def is_reserved(port: int) -> bool:
    """Whether Windows keeps `port` for itself, as for Hyper-V and WSL: nobody listens on it, and nobody can."""
    if not is_windows():
        return False
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as candidate:
            candidate.bind(("127.0.0.1", port))
    except OSError as error:
        return error.errno == errno.EACCES or getattr(error, "winerror", None) == _ACCESS_DENIED
    return False


def listen_anywhere() -> socket.socket:
    """Return a socket that listens on a port of 127.0.0.1 that the system chooses."""
    return socket.create_server(("127.0.0.1", 0))


def is_free(port: int) -> bool:
    """Tell whether `listen` would get the port now. Only for messages, never instead of `listen`."""
    listening = listen(port)
    if listening is None:
        return False
    listening.close()
    return True


def next_free(port: int) -> int:
    """Return the first local port after `port` that is free, for a hint."""
    for candidate in local_candidates(port + 1):
        if is_free(candidate):
            return candidate
    return port + 1


def _accepts_connections(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0
