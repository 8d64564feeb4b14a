"""Which proxy a request to IAM goes through: the environment's settings, read as curl reads them.

`no_proxy` has no standard. Whatever curl takes for an exclusion is one here, and so are four forms that
only other programs know: `*.name`, `name:port`, `[IPv6]` and blanks instead of commas. Where in doubt, a
request (it may contain the password) does not go to a proxy.
"""

import ipaddress
import os
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from apexgpu.errors import ConfigError
from apexgpu.iam.urls import is_loopback
from apexgpu.platforms import hints

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy. `url` may contain a password; `name` does not, and is what messages show."""

    url: str
    name: str


def find_proxy(url: str) -> Proxy | None:
    """Return the proxy of the environment (or of the system's settings) for `url`, None for none.

    This machine itself is never reached through a proxy. Raises ConfigError for a proxy of a type
    that cannot be used.
    """
    from urllib.request import getproxies, getproxies_environment, proxy_bypass

    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or is_loopback(url):
        return None
    if getproxies_environment():
        excluded = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
        is_direct = matches_no_proxy(url, excluded)
    else:
        is_direct = bool(proxy_bypass(parts.netloc))  # the settings of macOS and Windows
    if is_direct:
        return None
    return _parse_proxy(proxy, parts)


def matches_no_proxy(url: str, no_proxy: str) -> bool:
    """Tell whether the list `no_proxy` says that `url` is requested without a proxy.

    >>> matches_no_proxy("http://10.1.2.3/", "localhost, 10.0.0.0/8")
    True
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    entries = re.split(r"[,\s]+", no_proxy.lower())
    return "*" in entries or any(_matches(host, port, entry) for entry in entries)


def _matches(host: str, port: int, entry: str) -> bool:
    entry, wanted_port = _split_port(entry)
    if not entry or (wanted_port is not None and wanted_port != port):
        return False
    address = _address(host)
    if address is not None:
        return _is_in_network(address, entry)
    name = entry.removeprefix("*").removeprefix(".").removesuffix(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split_port(entry: str) -> tuple[str, int | None]:
    """Return an entry without brackets and port, and the port (None if it has none)."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::([0-9]{1,5}))?", entry)
    if bracketed is not None:
        return bracketed[1], int(bracketed[2]) if bracketed[2] else None
    with_port = re.fullmatch(r"([^:]*):([0-9]{1,5})", entry)  # more colons: a bare IPv6 address
    if with_port is not None:
        return with_port[1], int(with_port[2])
    return entry, None


def _address(text: str) -> "ipaddress.IPv4Address | ipaddress.IPv6Address | None":
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_in_network(address: "ipaddress.IPv4Address | ipaddress.IPv6Address", entry: str) -> bool:
    base, slash, bits = entry.partition("/")
    # curl takes a range of 0 bits for the address itself.
    if not slash or bits == "0":
        return _address(base) == address
    try:
        # Host bits may be set: 10.1.2.3/8 is written too.
        return address in ipaddress.ip_network(f"{base}/{int(bits)}", strict=False)
    except ValueError:
        return False


def _parse_proxy(text: str, target: SplitResult) -> Proxy:
    url = text if "://" in text else f"http://{text}"
    hint = hints.set_variable("no_proxy", target.hostname or "")
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        message = f"the proxy set for IAM at {target.netloc} is not a URL"
        raise ConfigError(message, hint=hint) from None
    if parts.scheme not in ("http", "https"):
        raise ConfigError(
            f"apexgpu cannot use the proxy set for IAM at {target.netloc}: its type is"
            f" {parts.scheme[:10]}",
            hint=hint,
        )
    return Proxy(url, f"{parts.scheme}://{parts.hostname}{port}")
