"""Which URL IAM has: from the address that a user typed to a URL that may receive a password."""

from collections.abc import Callable

from apexgpu.errors import ApexError, DeclinedError, IamUnreachableError, RefusedError
from apexgpu.iam.client import IamClient
from apexgpu.iam.httpfetch import HttpResponse
from apexgpu.iam.proxies import find_proxy
from apexgpu.iam.urls import candidate_urls, is_loopback
from apexgpu.platforms import hints

# A firewall that drops https silently must not use up the whole of a long --timeout.
_PROBE_TIMEOUT = 3.0  # seconds


class PlainHttpError(DeclinedError):
    """The user did not allow to send the password over plain http."""

    code = "plain_http"


def find_iam(text: str, allow_http: Callable[[str], bool], *, timeout: float = 10) -> str:
    """Return the URL of the IAM at `text`, which is a URL or a bare host name.

    For a bare host name, https is tried before http; `timeout` is in seconds. Plain http to another
    machine needs the consent of `allow_http(url)`. Raises PlainHttpError without that consent,
    UnreachableError if neither https nor http answers, ConfigError if `text` is not an address.

    >>> find_iam("https://iam.example.org/", lambda url: False)
    'https://iam.example.org'
    """
    candidates = candidate_urls(text)
    url = candidates[0]
    if len(candidates) > 1:
        url = _first_answering(candidates, timeout)
    if url.startswith("http://") and not is_loopback(url) and not allow_http(url):
        proxy = find_proxy(url)
        way = f" through the proxy {proxy.name}" if proxy else ""
        raise PlainHttpError(
            f"{url} is plain http: the domain password would be sent unencrypted{way}"
            " (--allow-http allows it)",
            hint="apexgpu login --allow-http",
        )
    return url


def _first_answering(candidates: list[str], timeout: float) -> str:
    failures: list[str] = []
    for url in candidates:
        scheme = url.partition(":")[0]
        try:
            check_answers(url, timeout)
        except ApexError as error:
            failures.append(f"{scheme}: {error.message}")
        else:
            return url
    raise IamUnreachableError(
        f"no IAM answers ({'; '.join(failures)})",
        hint=hints.http_head(f"{candidates[-1]}/"),
        code="no_iam",
    )


def check_answers(url: str, timeout: float) -> None:
    """Raise ApexError unless an IAM answers at `url`, within three seconds at most."""
    # IAM answers this request for any name, registers nobody for it, and the answer is short.
    body = IamClient(url, timeout=min(timeout, _PROBE_TIMEOUT)).config("nobody")
    if HttpResponse(200, body=body).is_html:
        raise RefusedError(f"{url} is a web site, but not IAM", hint="apexgpu login --help")
