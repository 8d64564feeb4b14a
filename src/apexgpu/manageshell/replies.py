"""Parses the replies of a manage shell into values. Pure.

A manage shell exits with 0 on most failures, so the text decides what happened. Text that no rule
here knows is an error that quotes the text; it never counts as an empty reply. The recordings of
real servers in `tests/data/transcripts` are the reference.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from apexgpu import readers
from apexgpu.errors import (
    ApexError,
    HalfMadeError,
    IamDownError,
    RefusedError,
    RunningError,
    StartFailedError,
    StoppedError,
    TokenError,
    UnexpectedError,
    UnknownCommandError,
    UsageError,
)
from apexgpu.models import Container, Reply

SSH_PORT = 22  # the container's own sshd; its map belongs to the server, not to the user

_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_FIELD = re.compile(r"^ ?(Name|State|PID|IP|Memory use|CPU use|KMem use|Link): +(\S.*)$")
_STATE = re.compile(r"[A-Z_]{1,20}")
_IP_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:%\w{1,15})?")
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_MAP = re.compile(r"^([0-9.]{7,15}):([0-9]{1,5}) => container:([0-9]{1,5})$")
_MAPPING = re.compile(r"^Mapping ([0-9.]{7,15}:[0-9]{1,5}) => container:[0-9]{1,5}\.\.\.$")
# How an ordinary shell answers a word of the manage shell. `help` is a command of bash too.
_ORDINARY_SHELL = re.compile(
    r"^GNU bash, version |^These shell commands are defined internally|"
    r"^(?:-?[a-z/]*sh|\S+): .*(?:command )?not found\b",
    re.MULTILINE,
)
_UNMAPPING = "Unmapping port "
_DRIVER = re.compile(r"^NVIDIA driver version mismatch! Host=(\S*) Yours=(\S*)$")


@dataclass(frozen=True, slots=True)
class DriverMismatch:
    """The container had another NVIDIA driver than its host.

    `installed`: the server replaced it successfully.
    """

    host: str
    container: str
    installed: bool


@dataclass(frozen=True, slots=True)
class StartReply:
    """The reply to a start. `was_running`: there was nothing to start."""

    container: Container
    was_running: bool
    driver: DriverMismatch | None = None


@dataclass(frozen=True, slots=True)
class StopReply:
    """The reply to a stop. `unmapped` are lines such as `10.77.0.1:11001 => container:6006`."""

    was_running: bool
    unmapped: tuple[str, ...] = ()

    @property
    def ports(self) -> tuple[int, ...]:
        """The container ports of the removed maps, except that of sshd."""
        ports = []
        for line in self.unmapped:
            match = _MAP.match(line)
            if match and int(match[3]) != SSH_PORT:
                ports.append(int(match[3]))
        return tuple(dict.fromkeys(ports))

    @property
    def user_maps(self) -> tuple[str, ...]:
        """The removed maps, except that of sshd."""
        sshd = f"container:{SSH_PORT}"
        return tuple(line for line in self.unmapped if not line.endswith(sshd))


@dataclass(frozen=True, slots=True)
class PortMap:
    """A port map of the server: `address:port` leads to `container_port`."""

    address: str
    port: int
    container_port: int

    @property
    def where(self) -> str:
        """The address with the port, as a person types it."""
        return f"{self.address}:{self.port}"


def clean(text: str) -> str:
    """Return `text` without colours and carriage returns."""
    return _ESCAPE_SEQUENCE.sub("", text).replace("\r", "")


def content_lines(text: str) -> list[str]:
    """Return the lines that are not blank, without colours and without a leading `==========`."""
    lines = []
    for line in clean(text).split("\n"):
        if line.strip():
            without_marks = re.sub(r"^=+ ", "", line)
            lines.append(without_marks.rstrip(" "))
    return lines


def parse_container(text: str) -> Container | None:
    """Parse the last `lxc-info` block of `text`; None when there is no block.

    A start and a stop print two: the state before and the state after. UnexpectedError if the state
    is not a word such as RUNNING. Other values that are not understood are in `unread`.
    """
    fields: dict[str, str] = {}
    addresses: list[str] = []
    for line in clean(text).split("\n"):
        match = _FIELD.match(line)
        if match is None:
            continue
        key, value = match[1], match[2].strip()
        if key == "Name":  # the first line of a block
            fields, addresses = {}, []
        if key == "IP":
            addresses.append(value)
        fields[key] = value
    if "State" not in fields:
        return None
    state = fields["State"]
    if not _STATE.fullmatch(state):
        readers.required(None, "the state of the container", state)
    unread = []
    pid = readers.number(fields.get("PID", "0"))
    if pid is None:
        unread.append(f"PID: {fields['PID']}")
    memory = None
    if "Memory use" in fields:
        memory = readers.size(fields["Memory use"], _UNITS)
        if memory is None:
            unread.append(f"Memory use: {fields['Memory use']}")
    unread += [f"IP: {address}" for address in addresses if not _IP_ADDRESS.fullmatch(address)]
    return Container(
        state=state,
        pid=pid or None,
        addresses=tuple(address for address in addresses if _IP_ADDRESS.fullmatch(address)),
        memory=memory,
        unread=tuple(unread),
    )


def unread_lines(container: Container, host: str) -> UnexpectedError | None:
    """Return the error for a description that is understood in part; None if all of it is."""
    if not container.unread:
        return None
    quoted = readers.quote(" | ".join(container.unread))
    message = f"{host} describes the container in words that apexgpu does not know: {quoted}"
    return UnexpectedError(message, hint=f"ssh {host}-manage help")


def unexpected(reply: Reply, host: str, *, hint: str | None = None) -> ApexError:
    """Return the error for a reply that no rule knows; its message quotes the last lines."""
    lines = content_lines(reply.out)
    if not lines:
        lines = content_lines(reply.err)
    quoted = "nothing"
    if lines:
        quoted = " | ".join(lines[-3:])[:300]
    message = f"{host} answered something apexgpu does not know: {quoted}"
    if hint is None:
        hint = f"ssh {host}-manage help"
    return UnexpectedError(message, hint=hint)


def parse_opening(reply: Reply, host: str) -> tuple[list[str], Container]:
    """Return the lines of a reply and the container's state.

    Raises the refusals that every command may get.
    """
    lines = content_lines(reply.out)
    container = parse_container(reply.out)
    _raise_common_refusal(lines, container, host)
    greeted = has_greeting(lines)
    if not greeted and _ORDINARY_SHELL.search(clean(f"{reply.out}\n{reply.err}")):
        raise half_made(host)
    if lines and not greeted:
        raise unexpected(reply, host, hint=f"apexgpu register {host}")
    if container is None or not greeted:
        raise unexpected(reply, host)
    return lines, container


def half_made(host: str, fact: str = "an ordinary shell answers there") -> HalfMadeError:
    """Return the error for an account that an interrupted registration has left without a manage
    shell.
    """
    message = (
        f"on {host} the account is half-made: {fact}, and no manage shell. If no registration is "
        f"running, ask the administrators to delete your account on {host}, then register again"
    )
    return HalfMadeError(message, hint=f"apexgpu register {host}")


def has_greeting(lines: Sequence[str]) -> bool:
    """Whether the lines contain the greeting of a manage shell."""
    return any(line.startswith("Hi, ") for line in lines)


def _raise_common_refusal(lines: Sequence[str], container: Container | None, host: str) -> None:
    if any(line.startswith("Failed to get your allocated port") for line in lines):
        message = (
            f"{host} cannot ask IAM for your port, so it refuses every command; "
            "try again in a minute, then tell the administrators that IAM is down"
        )
        raise IamDownError(message, hint=f"apexgpu status {host}")
    if "Unknown command" in lines:
        message = f"{host} does not know this command"
        raise UnknownCommandError(message, hint=f"apexgpu status {host}")
    if "You need to first stop your container" in lines:
        message = f"the container on {host} is running; this needs a stopped container"
        raise RunningError(message, hint=f"apexgpu down {host}")
    if "Invalid token" in lines:
        message = f"{host} no longer accepts this token; the same command asks for a new one"
        raise TokenError(message, hint=f"apexgpu status {host}")
    if "You need to start your container first" in lines:
        if container is not None and container.running:
            raise no_address(host)
        raise container_stopped(host)


def container_stopped(host: str) -> StoppedError:
    """Return the error for a command that needs a running container."""
    message = f"the container on {host} is stopped"
    return StoppedError(message, hint=f"apexgpu up {host}")


def no_address(host: str) -> RefusedError:
    """Return the error for a container that runs without an IP address."""
    message = (
        f"the container on {host} runs but has no address; "
        "if a stop and a start do not help, tell the administrators (no DHCP)"
    )
    return RefusedError(message, hint=f"apexgpu restart {host}", code="no_address")


def require_end(lines: Sequence[str], reply: Reply, host: str) -> None:
    """Raise when the last line of every complete reply is missing: the reply was cut off."""
    if not any(line.startswith("Have a good day") for line in lines):
        raise unexpected(reply, host)


def parse_status(reply: Reply, host: str) -> Container:
    """Parse the reply to `help`, which contains the container's state."""
    lines, container = parse_opening(reply, host)
    require_end(lines, reply, host)
    return container


def parse_start(reply: Reply, host: str) -> StartReply:
    """Parse the reply to a start (a login without a command).

    The container may still lack its address.
    """
    lines, container = parse_opening(reply, host)
    if any(line.startswith("Fail.") for line in lines):
        message = (
            f"the container on {host} does not start: its root file system is damaged or gone; "
            f"recover a snapshot (or rebuild it from the template: apexgpu rebuild {host})"
        )
        raise StartFailedError(message, hint=f"apexgpu recover {host}")
    require_end(lines, reply, host)
    if not container.running:
        message = f"{host} reports a start, but the container's state is {container.state}"
        raise StartFailedError(message, hint=f"apexgpu up {host}")
    was_running = "The container is up" not in lines
    return StartReply(container, was_running, _parse_driver(lines))


def _parse_driver(lines: Sequence[str]) -> DriverMismatch | None:
    for line in lines:
        match = _DRIVER.match(line)
        if match is not None:
            installed = any(
                other.startswith("Successfully installed NVIDIA driver") for other in lines
            )
            return DriverMismatch(match[1], match[2], installed)
    return None


def parse_stop(reply: Reply, host: str) -> StopReply:
    """Parse the reply to `stop`."""
    lines, container = parse_opening(reply, host)
    require_end(lines, reply, host)
    if container.state != "STOPPED":
        message = f"the container on {host} did not stop; its state is {container.state}"
        raise RefusedError(message, hint=f"apexgpu down {host}", code="not_stopped")
    # The first of the two states is the one before the stop.
    states = [line for line in lines if line.startswith("State:")]
    was_running = bool(states) and "RUNNING" in states[0]
    unmapped = [
        line.removeprefix(_UNMAPPING).rstrip(".") for line in lines if line.startswith(_UNMAPPING)
    ]
    return StopReply(was_running, tuple(unmapped))


def parse_port_maps(reply: Reply, host: str) -> tuple[PortMap, ...]:
    """Parse the list after `Current port forward`.

    It is the only reliable part of the reply to `port`.
    """
    lines, _ = parse_opening(reply, host)
    require_end(lines, reply, host)
    if any("-P option only supports" in line for line in content_lines(reply.err)):
        message = f"{host} cannot list its port maps: the container has several addresses"
        raise RefusedError(message, hint="apexgpu tunnel --help", code="several_addresses")
    if "Current port forward" not in lines:
        raise unexpected(reply, host)
    maps = []
    for line in lines[lines.index("Current port forward") :]:
        match = _MAP.match(line)
        if match is not None:
            port, container_port = readers.port(match[2]), readers.port(match[3])
            if port is None or container_port is None:
                readers.required(None, f"a port map of {host}", line)
            else:
                maps.append(PortMap(match[1], port, container_port))
    return tuple(dict.fromkeys(maps))


def parse_port_map(reply: Reply, host: str, port: str) -> PortMap:
    """Parse the reply to `port PORT`. The map counts only if the list contains exactly this port."""
    lines = content_lines(reply.out)
    if any(line.endswith("is not a valid port number") for line in lines):
        message = f"{host}: {port!r} is not a valid port number"
        raise UsageError(message, hint=f"apexgpu port {host} 6006", code="port")
    maps = parse_port_maps(reply, host)
    for port_map in maps:
        if str(port_map.container_port) == port:
            return port_map
    message = _why_not_mapped(lines, maps, host, port)
    raise RefusedError(message, hint=f"apexgpu tunnel {host} {port}", code="not_mapped")


def _why_not_mapped(lines: Sequence[str], maps: Sequence[PortMap], host: str, port: str) -> str:
    for line in lines:
        match = _MAPPING.match(line)
        if match is not None:
            return (
                f"{host} reports that {match[1]} leads to port {port}, "
                "but its list of maps does not contain it"
            )
    # The server compares by prefix: with 6006 mapped, it believes that 600 is mapped too.
    for port_map in maps:
        if str(port_map.container_port).startswith(port):
            return (
                f"{host} cannot map port {port} while {port_map.container_port} is mapped: "
                "it mistakes one for the other"
            )
    return f"{host} did not map port {port}: its list of maps does not contain it"


def parse_register(reply: Reply, host: str) -> bool:
    """Parse the reply of the register account: True for a new account, False for `already exist`.

    `already exist` does not prove that the account is complete.
    """
    lines = content_lines(reply.out)
    if any(line.endswith("already exist") for line in lines):
        return False
    if any(line.startswith("Failed to get IAM information") for line in lines):
        message = f"{host} cannot get your account from IAM: IAM is down, or does not know you"
        raise RefusedError(message, hint="apexgpu login", code="iam_unknown")
    if any(line.startswith("Please give me a username") for line in lines):
        message = f"{host} got no user name to register"
        raise UsageError(message, hint=f"apexgpu register {host}", code="no_user")
    if lines and lines[-1] == "Done!":
        return True
    raise unexpected(reply, host)


def is_manage_shell(reply: Reply) -> bool:
    """Whether a manage shell answered: the proof that an account is complete."""
    lines = content_lines(reply.out)
    return has_greeting(lines) and any("Welcome to APEX GPU Server" in line for line in lines)
