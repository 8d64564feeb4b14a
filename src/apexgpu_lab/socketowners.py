"""Which processes have which TCP sockets, as /proc on Linux tells it.

Containers of the lab share the ports of this machine. So `ssh -L 6006:localhost:6006` would connect
to its own listening socket, and then again, without end: on a real host, port 6006 of the container
is another port than that of the laptop. The ssh server of a container uses this module to refuse
such a connection.

Where there is no /proc, nothing is found, and nothing refused.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

_PROC = Path("/proc")
_ESTABLISHED, _LISTENING = "01", "0A"  # proc_net_tcp(5)
_INIT = 1


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
    for row_local, row_remote, state, inode in _tcp_sockets("tcp"):
        if (row_local, row_remote, state) == (local, remote, _ESTABLISHED):
            owners = {pid for pid in _all_processes() if inode in _sockets_of(pid)}
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
        inode
        for row_local, _, state, inode in _tcp_sockets(table)
        if state == _LISTENING and row_local == local
    }


def _tcp_sockets(table: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield local address, remote address, state and inode of each socket in /proc/net/`table`."""
    with contextlib.suppress(OSError):
        for line in (_PROC / "net" / table).read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            yield fields[1], fields[2], fields[3], fields[9]


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
