"""Ports of a tunnel: what the user names, which local ones are fit for use, and taking one for good."""

import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from apexgpu.errors import UsageError

# Ports that browsers refuse to open ("unsafe port"): the list of the Fetch standard, "bad port".
BLOCKED = frozenset(
    (
        0,
        1,
        7,
        9,
        11,
        13,
        15,
        17,
        19,
        20,
        21,
        22,
        23,
        25,
        37,
        42,
        43,
        53,
        69,
        77,
        79,
        87,
        95,
        101,
        102,
        103,
        104,
        109,
        110,
        111,
        113,
        115,
        117,
        119,
        123,
        135,
        137,
        139,
        143,
        161,
        179,
        389,
        427,
        465,
        512,
        513,
        514,
        515,
        526,
        530,
        531,
        532,
        540,
        548,
        554,
        556,
        563,
        587,
        601,
        636,
        989,
        990,
        993,
        995,
        1719,
        1720,
        1723,
        2049,
        3659,
        4045,
        4190,
        5060,
        5061,
        6000,
        6566,
        6665,
        6666,
        6667,
        6668,
        6669,
        6679,
        6697,
        10080,
    )
)
_LAST = 65535
_TRIES = 100


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a tunnel ends: a port, and the name the container knows its machine by (itself by default)."""

    port: int
    name: str = "localhost"

    def __str__(self) -> str:
        """As the user writes it: `6006`, or `db:5432`."""
        return str(self.port) if self.name == "localhost" else f"{self.name}:{self.port}"

    @property
    def target(self) -> str:
        """As `ssh -L` wants it, an IPv6 address in brackets."""
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


def remote(word: str) -> Remote:
    """What `PORT` or `NAME:PORT` (`[IPv6]:PORT`) stands for; UsageError when it is neither."""
    name, _, number = word.rpartition(":")
    name = name.removeprefix("[").removesuffix("]") or "localhost"
    letters_fit = all(
        letter.isalnum() or letter in ".:-_%" for letter in name
    ) and not name.startswith("-")
    if not (number.isascii() and number.isdigit() and letters_fit and 1 <= int(number) <= _LAST):
        message = f"{word!r} is neither a port (1 to {_LAST}) nor NAME:PORT"
        raise UsageError(message, hint="apexgpu tunnel gpu7 6006")
    return Remote(int(number), name)


# The local ends of the container's listening sockets, one a line (proc(5), /proc/net/tcp: 0A is TCP_LISTEN). No
# redirection: a login shell there may be csh.
LISTENERS = "awk '$4==\"0A\"{print $2}' /proc/net/tcp /proc/net/tcp6"
_SIX = "00000000000000000000000001000000"  # ::1


def nobody(said: str, remote: Remote) -> str:
    """Why a connection to `remote` would come to nothing by what LISTENERS `said`; empty when nothing is known."""
    ends = re.findall(r"^([0-9A-F]{8,32}):([0-9A-F]{4})$", said, re.MULTILINE)
    there = {address for address, port in ends if port == f"{remote.port:04X}"}
    if not ends or remote.name != "localhost":
        return ""
    if not there:
        return f"nothing listens on port {remote.port} there yet"
    return f"port {remote.port} there listens on ::1 alone" if there == {_SIX} else ""


def local_wanted(port: int) -> int:
    """The checked local port that a user asked for by number; UsageError when it is of no use."""
    if not 1 <= port <= _LAST:
        message = f"there is no port {port}"
        raise UsageError(message, hint=f"a port is a number from 1 to {_LAST}")
    if port in BLOCKED:
        message = f"browsers refuse to open port {port}"
        raise UsageError(message, hint=f"--local {next(candidates(port))}")
    return port


def candidates(port: int) -> Iterator[int]:
    """Local ports to try for a remote `port`, the best first: the same one, then the ones after it.

    Ports below 1024 are the administrator's on most systems: 80 becomes 8080, 443 becomes 8443.
    """
    first = port if port >= 1024 else 8000 + port
    found = (
        number
        for number in (*range(first, _LAST + 1), *range(1024, first))
        if number not in BLOCKED
    )
    for _, number in zip(range(_TRIES), found, strict=False):
        yield number


def take(port: int) -> socket.socket | None:
    """A socket that listens on 127.0.0.1:`port`; None when somebody has it.

    Nothing is checked before: whoever binds, has it, so there is no moment in which it could be lost.
    """
    if sys.platform == "darwin" and _answers(port):
        return None  # macOS lets 127.0.0.1 be bound beside a program that listens everywhere
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform == "win32":
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind(("127.0.0.1", port))
        holder.listen(256)
    except OSError:
        holder.close()
        return None
    return holder


def free(port: int) -> bool:
    """Whether `take` would get the port now; only for a message, never instead of taking it."""
    holder = take(port)
    if holder is None:
        return False
    holder.close()
    return True


def _answers(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as caller:
        caller.settimeout(1)
        return caller.connect_ex(("127.0.0.1", port)) == 0
