"""Which processes have which TCP sockets, as /proc on Linux tells it.

Containers of the lab share the ports of this machine. So `ssh -L 6006:localhost:6006` would connect
to its own listening socket, and then again, without end: on a real host, port 6006 of the container
is another port than that of the laptop. The ssh server of a container uses this module to refuse
such a connection.

It also tells whose a connection is: nobody but the user who runs the lab may use it.

Where there is no /proc, nothing is found, and nothing refused.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from apexgpu.platforms import owner

_PROC = Path("/proc")
_ESTABLISHED, _LISTENING = "01", "0A"  # proc_net_tcp(5)
_NO_INODE = "0"  # a socket that no process has any more; the kernel reports the uid 0 for it
_INIT = 1
_READS = 5  # of a table from which a busy system may leave out a row


def identifies_clients() -> bool:
    """Tell whether this system says which user is at the other end of a connection on loopback."""
    return os.access(_PROC / "net" / "tcp", os.R_OK)


def is_own_client(client: tuple[str, int], server: tuple[str, int]) -> bool:
    """Tell whether the user who runs this program also is at the client's end of a connection.

    A client that cannot be found is not: it may have sent its request and disconnected at once.
    Where the system does not identify clients, each counts as the user's own.
    """
    if not identifies_clients():
        return True
    local, remote = _kernel_form(*client), _kernel_form(*server)
    # A client may have used an IPv6 socket for this IPv4 connection; it is in the other table then.
    mapped_local, mapped_remote = _mapped_form(local), _mapped_form(remote)
    for _ in range(_READS):
        for table, ours, theirs in (
            ("tcp", local, remote),
            ("tcp6", mapped_local, mapped_remote),
        ):
            for row in _tcp_sockets(table):
                if (row.local, row.remote) == (ours, theirs) and row.inode != _NO_INODE:
                    return row.uid == owner.effective_user_id()
    return False


def client_processes(client: tuple[str, int], server: tuple[str, int]) -> frozenset[int] | None:
    """Return the processes at the client's end of a connection, with their parents and children.

    `client` and `server` are the addresses and ports of the two ends. A tunnel's local port may be
    that of ssh itself or of the program that started ssh (apexgpu relays the connections of its
    tunnels itself), so the answer includes relatives. Reads the descriptors of every process that
    may be read: some ten milliseconds, so ask once for a connection.

    Returns None if the connection is not listed: /proc/net/tcp is not read in one piece, and a
    busy system may skip a row.
    """
    local, remote = _kernel_form(*client), _kernel_form(*server)
    for row in _tcp_sockets("tcp"):
        if (row.local, row.remote, row.state) == (local, remote, _ESTABLISHED):
            owners = {pid for pid in _all_processes() if row.inode in _sockets_of(pid)}
            break
    else:
        return None
    if os.getpid() in owners:
        return frozenset()  # a test's proxy in this process: the client behind it is not known
    # In tests the lab runs in the process that also plays the server in the container.
    return frozenset((owners | _relatives(owners)) - {os.getpid()})


def listens(pids: Collection[int], address: str, port: int) -> bool:
    """Tell whether one of `pids` listens on `address`:`port`; `address` is 127.0.0.1 or ::1."""
    inodes = _listening_inodes(address, port)
    return any(not inodes.isdisjoint(_sockets_of(pid)) for pid in pids)


def _listening_inodes(address: str, port: int) -> set[str]:
    """Return the sockets that a connection to `address`:`port` would reach."""
    table, wildcards = "tcp", [("tcp", "0.0.0.0"), ("tcp6", "::")]  # noqa: S104 - compared only
    if ":" in address:
        table, wildcards = "tcp6", [("tcp6", "::")]
    # The kernel prefers a socket with the address itself to one with any address.
    exact = _inodes(table, _kernel_form(address, port))
    if exact:
        return exact
    found: set[str] = set()
    for wildcard_table, wildcard in wildcards:
        found |= _inodes(wildcard_table, _kernel_form(wildcard, port))
    return found


def _inodes(table: str, local: str) -> set[str]:
    return {
        row.inode for row in _tcp_sockets(table) if row.state == _LISTENING and row.local == local
    }


class _Row(NamedTuple):
    """A socket in /proc/net/tcp: `uid` is the user who opened it."""

    local: str
    remote: str
    state: str
    uid: int
    inode: str


def _tcp_sockets(table: str) -> Iterator[_Row]:
    with contextlib.suppress(OSError):
        for line in (_PROC / "net" / table).read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            yield _Row(fields[1], fields[2], fields[3], int(fields[7]), fields[9])


def _mapped_form(ipv4: str) -> str:
    """Return an IPv4 address of /proc/net/tcp as /proc/net/tcp6 writes it (`::ffff:127.0.0.1`)."""
    prefix = int.from_bytes(b"\0\0\xff\xff", sys.byteorder)
    return f"{'0' * 16}{prefix:08X}{ipv4}"


def _kernel_form(address: str, port: int) -> str:
    """Return `address`:`port` as /proc/net/tcp writes it: 32-bit words in the CPU's byte order."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    words = [packed[start : start + 4] for start in range(0, len(packed), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{port:04X}"


def _all_processes() -> Iterator[int]:
    with contextlib.suppress(OSError):
        for entry in _PROC.iterdir():
            if entry.name.isdigit():
                yield int(entry.name)


def _sockets_of(pid: int) -> set[str]:
    """Return the inodes of a process's sockets; none if it has ended or belongs to another user."""
    inodes = set()
    with contextlib.suppress(OSError):
        for descriptor in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    return inodes


def _relatives(pids: Collection[int]) -> set[int]:
    """Return the parents and the children of processes."""
    relatives = set()
    for pid in _all_processes():
        parent = _parent(pid)
        if parent in pids:
            relatives.add(pid)
        if pid in pids and parent > _INIT:  # init is only where processes in the background end up
            relatives.add(parent)
    return relatives


def _parent(pid: int) -> int:
    """Return the parent of a process; 0 if the process has ended."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return 0
    # The second field is the program's name in brackets, and may itself contain blanks and brackets.
    _, _, fields = text.rpartition(")")
    return int(fields.split()[1])
