"""IAM's `.ssh/config` answer -> hosts. PURE, and hostile until parsed: one doubt refuses the whole answer.

The answer travels in clear, so whoever sits on the path can forge it. What is not a plain `Host`,
`HostName`, `User` or `Port` line as the real site writes it never reaches a file, nor an `ssh -G` (which
runs `Match exec`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Never

from apexgpu.errors import ConfigError
from apexgpu.models import Host

Network = IPv4Network | IPv6Network

MAX_BYTES = 64 * 1024
MAX_HOSTS = 200
NETWORKS: tuple[Network, ...] = tuple(
    map(
        ip_network,
        (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "127.0.0.0/8",
            "fc00::/7",
            "::1/128",
        ),
    )
)
"""Where a lab's hosts may be unless the settings say otherwise: private networks and loopback."""

_HINT = "nothing was changed; to see what IAM answers: apexgpu doctor"
_MANAGE = "-manage"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LINE = re.compile(r" *(Host|HostName|User|Port) +(\S+) *")
_FORBIDDEN = re.compile(rb"[^\n\x20-\x7e]")


@dataclass(slots=True)
class _Block:
    name: str
    line: int
    options: dict[str, str] = field(default_factory=dict)


def parse(body: bytes, *, user: str, networks: Sequence[Network] = NETWORKS) -> tuple[Host, ...]:
    """The hosts in IAM's answer for `user`, in its order; ConfigError with line and reason for anything odd.

    A user whom IAM has not registered yet has no container blocks: all hosts come with `port=None`.
    """
    if not _ACCOUNT.fullmatch(user):
        raise ConfigError(f"{quoted(user)} is no account name", hint="apexgpu login USER")
    blocks = _blocks(_text(body))
    for block in blocks.values():
        _check(block, user, networks)
    return _paired(blocks)


def quoted(text: str) -> str:
    """Hostile text for an error message: ASCII, control characters escaped, at most 60 characters."""
    shown = ascii(text)
    return shown if len(shown) <= 60 else f"{shown[:56]}...{shown[0]}"


def _refuse(reason: str, line: int | None = None) -> Never:
    place = "" if line is None else f" line {line}"
    raise ConfigError(f"IAM's .ssh/config{place}: {reason}", hint=_HINT)


def _text(body: bytes) -> str:
    if len(body) > MAX_BYTES:
        _refuse(f"{len(body)} bytes, more than {MAX_BYTES}")
    if odd := _FORBIDDEN.search(body):
        line = body.count(b"\n", 0, odd.start()) + 1
        _refuse(f"byte 0x{odd.group()[0]:02x} is no printable ASCII", line)
    text = body.decode("ascii")
    if not text.strip():
        _refuse("the answer is empty")
    if not text.endswith("\n"):
        _refuse("the answer ends inside a line: it is truncated", text.count("\n") + 1)
    return text


def _blocks(text: str) -> dict[str, _Block]:
    blocks: dict[str, _Block] = {}
    seen: set[str] = set()
    block: _Block | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            _refuse(f"{quoted(line)} is none of Host, HostName, User, Port with one value", number)
        keyword, value = match.groups()
        if keyword == "Host":
            block = _Block(_host_name(value, number), number)
            # Names that differ in case only are one name to people, and to file systems.
            if value.lower() in seen:
                _refuse(f"Host {quoted(value)} is there twice", number)
            seen.add(value.lower())
            blocks[value] = block
        elif block is None:
            _refuse(f"{keyword} stands before the first Host", number)
        elif keyword in block.options:
            _refuse(f"{keyword} is there twice for Host {quoted(block.name)}", number)
        else:
            block.options[keyword] = value
    return blocks


def _host_name(value: str, line: int) -> str:
    if not _NAME.fullmatch(value):
        _refuse(f"Host {quoted(value)} is no plain name", line)
    if value.lower() == "localhost":
        _refuse("Host 'localhost' is this machine", line)
    if value.lower().removesuffix(_MANAGE).endswith(_MANAGE):
        _refuse(f"Host {quoted(value)} could be two things", line)
    return value


def _check(block: _Block, user: str, networks: Sequence[Network]) -> None:
    container = not block.name.endswith(_MANAGE)
    for keyword in ("HostName", "User", *(("Port",) if container else ())):
        if keyword not in block.options:
            _refuse(f"Host {quoted(block.name)} has no {keyword}", block.line)
    if (found := block.options["User"]) != user:
        _refuse(f"Host {quoted(block.name)} is for user {quoted(found)}, not {user}", block.line)
    port = block.options.get("Port", "22")
    if not _PORT.fullmatch(port) or int(port) > 65535:
        _refuse(f"Port {quoted(port)} of Host {quoted(block.name)} is not in 1-65535", block.line)
    block.options["HostName"] = _address(block, networks)


def _address(block: _Block, networks: Sequence[Network]) -> str:
    value = block.options["HostName"]
    try:
        address = ip_address(value)
    except ValueError:
        _refuse(
            f"HostName {quoted(value)} of Host {quoted(block.name)} is no IP address", block.line
        )
    if "%" in value:  # an IPv6 zone, where ssh would see a token to expand
        _refuse(f"HostName {quoted(value)} of Host {quoted(block.name)} has a zone", block.line)
    if not any(address in network for network in networks):
        raise ConfigError(
            f"IAM's .ssh/config line {block.line}: HostName {address} of Host {quoted(block.name)} "
            "is outside the lab's networks",
            hint=f'nothing was changed; if it is the lab\'s, set in config.toml: networks = ["{address}"]',
        )
    return str(address)


def _paired(blocks: dict[str, _Block]) -> tuple[Host, ...]:
    names = [name.removesuffix(_MANAGE) for name in blocks if name.endswith(_MANAGE)]
    containers = [block for name, block in blocks.items() if not name.endswith(_MANAGE)]
    for block in containers:
        if block.name not in names:
            _refuse(
                f"Host {quoted(block.name)} has no {quoted(block.name + _MANAGE)} beside it",
                block.line,
            )
    if len(names) > MAX_HOSTS:
        _refuse(f"{len(names)} hosts, more than {MAX_HOSTS}")
    return tuple(_host(name, blocks, registered=bool(containers)) for name in names)


def _host(name: str, blocks: dict[str, _Block], *, registered: bool) -> Host:
    manage, container = blocks[name + _MANAGE], blocks.get(name)
    if container is None and registered:
        _refuse(
            f"Host {quoted(manage.name)} has no {quoted(name)} beside it, as others have",
            manage.line,
        )
    address = manage.options["HostName"]
    if container is not None and container.options["HostName"] != address:
        _refuse(
            f"Host {quoted(name)} and {quoted(manage.name)} have different addresses",
            container.line,
        )
    return Host(
        name,
        address,
        manage.options["User"],
        port=int(container.options["Port"]) if container else None,
        manage_port=int(manage.options.get("Port", "22")),
    )
