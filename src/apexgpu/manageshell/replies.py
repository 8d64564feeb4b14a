"""Manage-shell text -> values. Pure. The exit status lies (mostly 0): the outcome is read from the words.

Text that none of the rules knows is an error that keeps the text, never an empty answer. The recordings of
the real servers in `tests/data/transcripts` are the judge.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from apexgpu.errors import (
    ApexError,
    IamDownError,
    RefusedError,
    RunningError,
    StartFailedError,
    StoppedError,
    TokenError,
    UnknownCommandError,
    UsageError,
)
from apexgpu.models import Container, Reply

_CSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_FIELD = re.compile(r"^ ?(Name|State|PID|IP|Memory use|CPU use|KMem use|Link): +(\S.*)$")
_SIZE = re.compile(r"^([0-9.]+) ?(bytes|KiB|MiB|GiB|TiB)$")
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_MAP = re.compile(r"^([0-9.]+):(\d+) => container:(\d+)$")
_MAPPING = re.compile(r"^Mapping ([0-9.]+:\d+) => container:\d+\.\.\.$")
_DRIVER = re.compile(r"^NVIDIA driver version mismatch! Host=(\S*) Yours=(\S*)$")


@dataclass(frozen=True, slots=True)
class Driver:
    """The NVIDIA driver notice of a start; `installed` is whether the server's own install went well."""

    host: str
    container: str
    installed: bool


@dataclass(frozen=True, slots=True)
class Started:
    """What a start gave; `was_running` when there was nothing to start."""

    container: Container
    was_running: bool
    driver: Driver | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """What a stop gave, with the maps it took away."""

    was_running: bool
    unmapped: tuple[str, ...] = ()

    @property
    def ports(self) -> tuple[int, ...]:
        """The container ports of those maps, but for ssh's own."""
        found = (_MAP.match(line) for line in self.unmapped)
        return tuple(dict.fromkeys(int(m[3]) for m in found if m and m[3] != "22"))


@dataclass(frozen=True, slots=True)
class PortMap:
    """One server-side map: `address:port` leads to `container_port`."""

    address: str
    port: int
    container_port: int


def clean(text: str) -> str:
    """The text without colours and carriage returns."""
    return _CSI.sub("", text).replace("\r", "")


def lines(text: str) -> list[str]:
    """The lines that say something, without colours and the `==========` in front."""
    return [
        re.sub(r"^=+ ", "", line).rstrip(" ") for line in clean(text).split("\n") if line.strip()
    ]


def container(text: str) -> Container | None:
    """The last `lxc-info` block of `text`, None when there is none."""
    found: dict[str, str] = {}
    addresses: list[str] = []
    for line in clean(text).split("\n"):
        match = _FIELD.match(line)
        if match is None:
            continue
        key, value = match[1], match[2].strip()
        if key == "Name":
            found, addresses = {}, []
        if key == "IP":
            addresses.append(value)
        found[key] = value
    if "State" not in found:
        return None
    pid = found.get("PID", "")
    return Container(
        found["State"],
        int(pid) if pid.isdigit() else None,
        tuple(addresses),
        _size(found.get("Memory use")),
    )


def _size(text: str | None) -> int | None:
    match = _SIZE.match(text or "")
    return round(float(match[1]) * _UNITS[match[2]]) if match else None


def unexpected(reply: Reply, host: str, *, hint: str | None = None) -> ApexError:
    """The error for words that no rule knows; it keeps them."""
    said = " | ".join(lines(reply.out)[-3:] or lines(reply.err)[-3:]) or "nothing"
    message = f"{host} answered something apexgpu does not know: {said[:300]}"
    return RefusedError(message, hint=hint or f"ssh {host}-manage help", code="unexpected")


def _shared_trouble(said: list[str], reply: Reply, host: str) -> None:
    """The refusals that any command may meet."""
    if any(line.startswith("Failed to get your allocated port") for line in said):
        message = f"{host} cannot ask IAM for your port, so it refuses every command"
        raise IamDownError(
            message,
            hint="try again in a minute; if it stays, tell the administrators that IAM is down",
        )
    if "Unknown command" in said:
        message = f"{host} does not know this command"
        raise UnknownCommandError(message, hint=f"apexgpu status {host}")
    if "You need to first stop your container" in said:
        message = (
            f"the container on {host} is running; the server does this only when it is stopped"
        )
        raise RunningError(message, hint=f"apexgpu down {host}")
    if "Invalid token" in said:
        message = f"{host} no longer takes this token"
        raise TokenError(message, hint="run the same line again: it asks for a fresh one")
    if "You need to start your container first" in said:
        _down(reply, host)


def _down(reply: Reply, host: str) -> None:
    state = container(reply.out)
    if state is not None and state.running:
        message = f"the container on {host} runs but has no address"
        raise RefusedError(
            message, hint=f"apexgpu down {host} && apexgpu up {host}", code="no_address"
        )
    message = f"the container on {host} is stopped"
    raise StoppedError(message, hint=f"apexgpu up {host}")


def opened(reply: Reply, host: str) -> tuple[list[str], Container]:
    """Lines and state of a reply that got through; the shared refusals are raised."""
    said = lines(reply.out)
    _shared_trouble(said, reply, host)
    state = container(reply.out)
    greeted = any(line.startswith("Hi, ") for line in said)
    if state is None or not greeted:
        raise unexpected(reply, host, hint=_half_made(host) if said and not greeted else None)
    return said, state


def _half_made(host: str) -> str:
    """What to do where an ordinary shell answers: that is what a register that was cut leaves behind."""
    return f"apexgpu register {host}   (tells whether your account there is half-made)"


def ended(said: list[str], reply: Reply, host: str) -> None:
    """An answer that lacks its last line is none."""
    if not any(line.startswith("Have a good day") for line in said):
        raise unexpected(reply, host)


def status(reply: Reply, host: str) -> Container:
    """The answer of `help`."""
    said, state = opened(reply, host)
    ended(said, reply, host)
    return state


def start(reply: Reply, host: str) -> Started:
    """The answer of a start (no command). A container without an address is the caller's to judge."""
    said, state = opened(reply, host)
    if any(line.startswith("Fail.") for line in said):
        message = f"the container on {host} does not start: its root file system is damaged or gone"
        raise StartFailedError(
            message,
            hint=f"apexgpu recover {host}   (or: apexgpu rebuild {host})",
        )
    ended(said, reply, host)
    if not state.running:
        message = f"{host} says it started the container, but its state is {state.state}"
        raise StartFailedError(message, hint=f"apexgpu up {host}")
    return Started(state, "The container is up" not in said, driver(said))


def driver(said: Sequence[str]) -> Driver | None:
    """The driver notice among the lines of a start."""
    for line in said:
        match = _DRIVER.match(line)
        if match:
            installed = any(
                other.startswith("Successfully installed NVIDIA driver") for other in said
            )
            return Driver(match[1], match[2], installed)
    return None


def stop(reply: Reply, host: str) -> Stopped:
    """The answer of `stop`."""
    said, state = opened(reply, host)
    ended(said, reply, host)
    if state.state != "STOPPED":
        message = f"the container on {host} did not stop; its state is {state.state}"
        raise RefusedError(message, hint=f"apexgpu down {host}", code="not_stopped")
    first = next((line for line in said if line.startswith("State:")), "")
    maps = tuple(
        line[len("Unmapping port ") :].rstrip(".")
        for line in said
        if line.startswith("Unmapping port ")
    )
    return Stopped("RUNNING" in first, maps)


def port_maps(reply: Reply, host: str) -> tuple[PortMap, ...]:
    """The list after `Current port forward`: the only part of `port`'s answer that is true."""
    said, _ = opened(reply, host)
    ended(said, reply, host)
    if any("-P option only supports" in line for line in lines(reply.err)):
        message = f"{host} cannot list its maps: the container has several addresses"
        raise RefusedError(message, hint=f"apexgpu tunnel {host} PORT", code="several_addresses")
    if "Current port forward" not in said:
        raise unexpected(reply, host)
    found = (_MAP.match(line) for line in said[said.index("Current port forward") :])
    return tuple(dict.fromkeys(PortMap(m[1], int(m[2]), int(m[3])) for m in found if m))


def port_map(reply: Reply, host: str, port: str) -> PortMap:
    """The map that `port PORT` made or found: believed only where the list holds exactly this port."""
    said = lines(reply.out)
    if any(line.endswith("is not a valid port number") for line in said):
        message = f"{host}: {port!r} is not a valid port number"
        raise UsageError(message, hint=f"apexgpu port {host} 6006", code="port")
    maps = port_maps(reply, host)
    for found in maps:
        if str(found.container_port) == port:
            return found
    raise RefusedError(
        _not_mapped(said, maps, host, port), hint=f"apexgpu tunnel {host} {port}", code="not_mapped"
    )


def _not_mapped(said: list[str], maps: Sequence[PortMap], host: str, port: str) -> str:
    """Why a port is not in the list, whatever the server says of it."""
    made = next((m[1] for m in (_MAPPING.match(line) for line in said) if m), None)
    if made is not None:
        return f"{host} says that {made} leads to port {port}, but does not list it: not to be counted on"
    taken = next(
        (one.container_port for one in maps if str(one.container_port).startswith(port)), None
    )
    if taken is not None:
        return f"{host} does not map port {port} while {taken} is mapped: it takes the one for the other"
    return f"{host} did not map port {port}, whatever it says: the port is not in its list"


def register(reply: Reply, host: str) -> bool:
    """The answer of the register account: True when made, False for `already exist` (which proves nothing)."""
    said = lines(reply.out)
    if any(line.endswith("already exist") for line in said):
        return False
    if any(line.startswith("Failed to get IAM information") for line in said):
        message = f"{host} cannot get your account from IAM: IAM is down, or does not know you"
        raise RefusedError(message, hint="apexgpu login", code="iam_unknown")
    if any(line.startswith("Please give me a username") for line in said):
        message = f"{host} got no user name to register"
        raise UsageError(message, hint=f"apexgpu register {host}", code="no_user")
    if said and said[-1] == "Done!":
        return True
    raise unexpected(reply, host)


def is_manage_shell(reply: Reply) -> bool:
    """Whether the answer is the manage shell's at all: the proof that an account is whole."""
    said = lines(reply.out)
    return any(line.startswith("Hi, ") for line in said) and any(
        "Welcome to APEX GPU Server" in line for line in said
    )
