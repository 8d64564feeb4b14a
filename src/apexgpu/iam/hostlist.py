"""Parse the `.ssh/config` that IAM answers into hosts. Pure; hostile input is refused as a whole.

The answer travels unencrypted, so anyone on the network can forge it. Only plain `Host`, `HostName`,
`User` and `Port` lines, written as the real site writes them, get through. Anything else must reach
neither a file nor `ssh -G`, which would run a `Match exec`.
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
NETWORKS: tuple[Network, ...] = (
    ip_network("10.0.0.0/8"),
    ip_network("172.16.0.0/12"),
    ip_network("192.168.0.0/16"),
    ip_network("127.0.0.0/8"),
    ip_network("fc00::/7"),
    ip_network("::1/128"),
)
"""Where a lab's hosts may be unless the settings name others: private networks and loopback."""

_MANAGE = "-manage"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LINE = re.compile(r" *(Host|HostName|User|Port) +(\S+) *")
_FORBIDDEN = re.compile(rb"[^\n\x20-\x7e]")
_QUOTED = 60  # characters of hostile text in an error message


@dataclass(slots=True)
class _Block:
    """One `Host` block: its name, the line of `Host`, and the other keywords with their values."""

    name: str
    line: int
    options: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"Host {quoted(self.name)}"


def parse(body: bytes, *, user: str, networks: Sequence[Network] = NETWORKS) -> tuple[Host, ...]:
    """Return the hosts in IAM's answer for `user`, in its order.

    Before IAM has registered the user, the answer has no container blocks; all hosts then have
    `port=None`. Raises ConfigError with the line and the reason for anything unexpected.

    >>> parse(b"Host gpu7-manage\\n  HostName 10.0.0.7\\n  User al\\n", user="al")
    (Host(name='gpu7', address='10.0.0.7', user='al', port=None, manage_port=22),)
    """
    if not _ACCOUNT.fullmatch(user):
        raise ConfigError(f"{quoted(user)} is not an account name", hint="apexgpu login --help")
    blocks = _blocks(_text(body))
    for block in blocks.values():
        _check(block, user, networks)
    return _hosts(blocks)


def quoted(text: str) -> str:
    """Return hostile text for an error message: ASCII, escaped, in quotes, at most 60 characters."""
    escaped = ascii(text)
    if len(escaped) <= _QUOTED:
        return escaped
    quote = escaped[0]
    return f"{escaped[: _QUOTED - 4]}...{quote}"


def _refuse(reason: str, line: int | None = None, *, hint: str = "apexgpu doctor") -> Never:
    position = "" if line is None else f" line {line}"
    message = f"IAM's .ssh/config{position}: {reason}; nothing was changed"
    raise ConfigError(message, hint=hint)


def _text(body: bytes) -> str:
    """Return the body as text: not too long, printable ASCII and LF only, not cut."""
    if len(body) > MAX_BYTES:
        _refuse(f"{len(body)} bytes, more than {MAX_BYTES}")
    forbidden = _FORBIDDEN.search(body)
    if forbidden:
        line = body.count(b"\n", 0, forbidden.start()) + 1
        _refuse(f"byte 0x{forbidden.group()[0]:02x} is not printable ASCII", line)
    text = body.decode("ascii")
    if not text.strip():
        _refuse("the answer is empty")
    if not text.endswith("\n"):
        _refuse("the answer ends inside a line: it is truncated", text.count("\n") + 1)
    return text


def _blocks(text: str) -> dict[str, _Block]:
    """Return the blocks of the text by name, each keyword once."""
    blocks: dict[str, _Block] = {}
    names_in_lower_case: set[str] = set()
    block: _Block | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            reason = f"{quoted(line)} is not Host, HostName, User or Port with one value"
            _refuse(reason, number)
        keyword, value = match.groups()
        if keyword == "Host":
            _check_name(value, number)
            block = _Block(value, number)
            # People, and some file systems, do not tell names apart that differ in case only.
            if value.lower() in names_in_lower_case:
                _refuse(f"{block.label} appears twice", number)
            names_in_lower_case.add(value.lower())
            blocks[value] = block
        elif block is None:
            _refuse(f"{keyword} is before the first Host", number)
        elif keyword in block.options:
            _refuse(f"{keyword} appears twice for {block.label}", number)
        else:
            block.options[keyword] = value
    return blocks


def _check_name(name: str, line: int) -> None:
    if not _NAME.fullmatch(name):
        _refuse(f"Host {quoted(name)} is not a plain name", line)
    if name.lower() == "localhost":
        _refuse("Host 'localhost' is this machine", line)
    if name.lower().removesuffix(_MANAGE).endswith(_MANAGE):
        # "x-manage-manage": the manage name of x-manage, or a container's name?
        _refuse(f"Host {quoted(name)} is ambiguous", line)


def _check(block: _Block, user: str, networks: Sequence[Network]) -> None:
    """Check the values of one block, and normalize its address."""
    required = ["HostName", "User"]
    if not block.name.endswith(_MANAGE):
        required.append("Port")
    for keyword in required:
        if keyword not in block.options:
            _refuse(f"{block.label} has no {keyword}", block.line)
    block_user = block.options["User"]
    if block_user != user:
        _refuse(f"{block.label} is for user {quoted(block_user)}, not {user}", block.line)
    port = block.options.get("Port", "22")
    if not _PORT.fullmatch(port) or int(port) > 65535:
        _refuse(f"Port {quoted(port)} of {block.label} is not in 1-65535", block.line)
    block.options["HostName"] = _address(block, networks)


def _address(block: _Block, networks: Sequence[Network]) -> str:
    value = block.options["HostName"]
    try:
        address = ip_address(value)
    except ValueError:
        _refuse(f"HostName {quoted(value)} of {block.label} is not an IP address", block.line)
    if "%" in value:  # an IPv6 zone; ssh would expand the % as a token
        _refuse(f"HostName {quoted(value)} of {block.label} has a zone", block.line)
    if not any(address in network for network in networks):
        _refuse(
            f"HostName {address} of {block.label} is outside the lab's networks"
            " (networks in config.toml)",
            block.line,
            hint=f"apexgpu config set networks {address}",
        )
    return str(address)


def _hosts(blocks: dict[str, _Block]) -> tuple[Host, ...]:
    """Pair each `X-manage` block with its container's block `X`."""
    hosts: list[str] = []
    containers: list[_Block] = []
    for name, block in blocks.items():
        if name.endswith(_MANAGE):
            hosts.append(name.removesuffix(_MANAGE))
        else:
            containers.append(block)
    for block in containers:
        if block.name not in hosts:
            manage = quoted(block.name + _MANAGE)
            _refuse(f"{block.label} has no {manage} beside it", block.line)
    if len(hosts) > MAX_HOSTS:
        _refuse(f"{len(hosts)} hosts, more than {MAX_HOSTS}")
    registered = bool(containers)
    return tuple(_host(name, blocks, registered=registered) for name in hosts)


def _host(name: str, blocks: dict[str, _Block], *, registered: bool) -> Host:
    manage = blocks[name + _MANAGE]
    container = blocks.get(name)
    address = manage.options["HostName"]
    port: int | None = None
    if container is not None:
        if container.options["HostName"] != address:
            reason = f"{container.label} and {quoted(manage.name)} have different addresses"
            _refuse(reason, container.line)
        port = int(container.options["Port"])
    elif registered:
        # A registered user has a container block for every host.
        _refuse(f"{manage.label} has no {quoted(name)} beside it, as others have", manage.line)
    return Host(
        name,
        address,
        manage.options["User"],
        port=port,
        manage_port=int(manage.options.get("Port", "22")),
    )
