"""The address of IAM: what a user may type, and the URLs it stands for. Pure."""

import ipaddress
from urllib.parse import SplitResult, urlsplit

from apexgpu.errors import ConfigError

_HINT = "apexgpu login --help"
_SHOWN = 80  # characters of a rejected address that an error message quotes


def candidate_urls(text: str) -> list[str]:
    """Return the URLs to try, in order: the one given, or https and http of a bare host name."""
    text = text.strip()
    if "://" in text:
        return [normalize_url(text)]
    return [normalize_url(f"https://{text}"), normalize_url(f"http://{text}")]


def normalize_url(text: str) -> str:
    """Return the URL with a lower-case host and without a slash at its end.

    Raises ConfigError unless it consists of http or https, a host, an optional port and an optional
    path.
    """
    try:
        parts = urlsplit(text.strip())
        port = parts.port  # urlsplit checks the port only when it is read
    except ValueError:
        raise ConfigError("the address of IAM is not a URL", hint=_HINT) from None
    if parts.username is not None or parts.password is not None:
        # The address is not quoted here: this part of it may be a password.
        raise ConfigError("the address of IAM must not contain a user name or password", hint=_HINT)
    shown = repr(text[:_SHOWN])
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(f"the address of IAM is not an http or https URL: {shown}", hint=_HINT)
    if parts.query or parts.fragment:
        raise ConfigError(f"the address of IAM must not contain '?' or '#': {shown}", hint=_HINT)
    if not _is_plain(parts):
        raise ConfigError(f"the address of IAM is not a URL: {shown}", hint=_HINT)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def is_loopback(url: str) -> bool:
    """Return whether the URL's host is this machine: a loopback address or `localhost`."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_plain(parts: SplitResult) -> bool:
    """Return whether host and path can be printed, and pasted into a shell inside quotes."""
    return all(char.isprintable() and char not in ' \\"<>' for char in parts.netloc + parts.path)
