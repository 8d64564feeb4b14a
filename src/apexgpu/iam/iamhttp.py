"""One HTTP request within bounds: time, size, no redirect, no cookie; and the URLs that a text stands for.

Every error of httpx becomes one of ours in `translated`, and nowhere else.
"""

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from apexgpu.errors import (
    ApexError,
    ConfigError,
    ConnectionLostError,
    RefusedError,
    UnreachableError,
)

if TYPE_CHECKING:
    import ssl

    import httpx

_WHOLE = 2  # times the limit of one step: what a whole request may take, name look-up and all


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered: status, the two headers that matter, and the body, `whole` unless it was cut."""

    code: int
    content_type: str = ""
    location: str = ""
    body: bytes = b""
    whole: bool = True


def candidate_urls(text: str) -> list[str]:
    """The URLs to try, in order: https and http of a bare host name, else just the one given."""
    text = text.strip()
    if "://" in text:
        return [checked_url(text)]
    return [checked_url(f"https://{text}"), checked_url(f"http://{text}")]


def checked_url(text: str) -> str:
    """The URL without a slash at its end; ConfigError when it is none, or holds more than scheme, host, port, path."""
    hint = "apexgpu login --iam-url https://iam.example.org"
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("the address of IAM is no URL", hint=hint) from None
    if parts.username is not None or parts.password is not None:
        # Not quoted: that part may well be a password.
        raise ConfigError("the address of IAM must not hold a user name or password", hint=hint)
    if (
        parts.scheme not in ("http", "https")
        or not host
        or port == 0
        or parts.query
        or parts.fragment
    ):
        raise ConfigError(f"the address of IAM is no http or https URL: {text[:80]!r}", hint=hint)
    if not all(char.isprintable() and char not in ' \\"<>' for char in parts.netloc + parts.path):
        raise ConfigError(f"the address of IAM is no URL: {text[:80]!r}", hint=hint)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine, by its name or address."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def looks_like_html(answer: Answer) -> bool:
    """Whether the answer is a web page, by its header or its first character."""
    return "html" in answer.content_type.lower() or answer.body.lstrip(
        b"\xef\xbb\xbf \t\r\n"
    ).startswith(b"<")


def fetch(
    method: str,
    url: str,
    *,
    timeout: float,
    limit: int,
    content: bytes | None = None,
    factory: "Callable[[], httpx.Client] | None" = None,
    who: str = "IAM",
) -> Answer:
    """One request; at most `limit` + 1 bytes of the body. UnreachableError after `timeout` s for one step,
    or twice that for the whole. `who` is asked, in the words of an error."""
    headers = {"Accept-Encoding": "identity"}
    if content is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"

    def work() -> Answer:
        with (
            factory() if factory else _client(url, timeout) as client,
            client.stream(
                method,
                url,
                content=content,
                headers=headers,
                follow_redirects=False,
                timeout=timeout,
            ) as response,
        ):
            return _answer(response, limit, who)

    with translated(url, timeout, who):
        return _within(_WHOLE * timeout, work)


@contextmanager
def translated(url: str, timeout: float, who: str = "IAM") -> Iterator[None]:
    """Turn every error of httpx, and what slips through it, into one of ours that names the host."""
    import httpx

    try:
        yield
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        httpx.StreamError,
        httpx.CookieConflict,
        OSError,
        UnicodeError,
    ) as error:
        raise _error(error, url, timeout, who) from error


def _error(error: Exception, url: str, timeout: float, who: str) -> ApexError:
    import httpx

    parts = urlsplit(url)
    host = parts.netloc
    look = f"curl -I {parts.scheme}://{host}/"
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return UnreachableError(
            f"{who} at {host} did not answer within {timeout:g} s", hint=look, code="timeout"
        )
    if isinstance(error, httpx.ProxyError):
        hint = f"export no_proxy={parts.hostname}"
        return UnreachableError(
            f"the proxy on the way to {who} at {host} failed", hint=hint, code="proxy"
        )
    if isinstance(
        error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL, UnicodeError)
    ):
        return ConfigError(
            f"{who} at {host} cannot be asked: the address is not usable",
            hint="apexgpu config status",
        )
    if isinstance(error, httpx.RemoteProtocolError) and "location header" in str(error):
        # httpx reads where a redirect leads even when it is not to follow it.
        hint = f"curl -i {parts.scheme}://{host}/"
        return RefusedError(
            f"{who} at {host} redirects to what is no URL", hint=hint, code="redirect"
        )
    if isinstance(
        error, (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError, httpx.CloseError)
    ):
        return ConnectionLostError(
            f"{who} at {host} ended the connection before its answer was whole", hint=look
        )
    if isinstance(error, (httpx.ConnectError, OSError)):
        return _unreachable(error, host, look, who)
    if isinstance(error, httpx.HTTPError):
        return RefusedError(f"{who} at {host} gave an answer that cannot be understood", hint=look)
    return ApexError(f"{who} at {host} could not be asked ({type(error).__name__})", hint=look)


def _unreachable(error: Exception, host: str, look: str, who: str) -> UnreachableError:
    words = str(error).partition("] ")[2] if str(error).startswith("[") else str(error)
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        reason = words.removeprefix("certificate verify failed: ").partition(" (_ssl")[0]
        message = f"the certificate of {who} at {host} is not trusted: {reason}"
        return UnreachableError(
            message, hint="SSL_CERT_FILE=YOUR_CA.pem apexgpu login", code="certificate"
        )
    reason = words.partition(" (_ssl")[0].lower() or type(error).__name__
    return UnreachableError(f"{who} at {host} cannot be reached: {reason}", hint=look)


def _answer(response: "httpx.Response", limit: int, who: str) -> Answer:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        # A few bytes could become gigabytes, and nothing was said about accepting this.
        raise RefusedError(
            f"{who} at {response.url.netloc.decode('ascii', 'replace')} sent a compressed answer"
        )
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > limit:
            break
    return Answer(
        response.status_code,
        response.headers.get("content-type", ""),
        response.headers.get("location", ""),
        bytes(body[: limit + 1]),
        len(body) <= limit,
    )


def _client(url: str, timeout: float) -> "httpx.Client":
    import http.cookiejar

    import httpx

    return httpx.Client(
        timeout=timeout,
        verify=_trust(url),
        proxy=_proxy(url),
        trust_env=False,  # the proxy is chosen below, for this one host
        cookies=http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[])),
        headers={"User-Agent": "apexgpu"},
    )


def _trust(url: str) -> "ssl.SSLContext":
    import ssl

    import httpx

    if url.startswith("http://"):
        return ssl.SSLContext(
            ssl.PROTOCOL_TLS_CLIENT
        )  # trusts nobody; never used, and quick to make
    context = httpx.create_ssl_context()
    context.load_default_certs()  # a university's own authority is in the system's store, not in certifi's
    return context


def _proxy(url: str) -> str | None:
    """The proxy of the environment (or the system's settings) for this URL; none for this machine itself.

    httpx would build a transport for every proxy that is set, and fail on a SOCKS one that it never needs.
    """
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    found = getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    if not proxy or is_loopback(url) or proxy_bypass(parts.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    scheme = proxy.partition(":")[0].lower()
    if scheme not in ("http", "https"):
        raise ConfigError(
            f"the proxy set for IAM at {parts.netloc} is of type {scheme[:10]}, which apexgpu cannot use",
            hint=f"export no_proxy={parts.hostname}",
        )
    return proxy


def _within(limit: float, work: Callable[[], Answer]) -> Answer:
    """Do `work` in a thread that may be left behind.

    httpx limits each step only: a name look-up, or a server that sends a byte now and then, has no end.
    """
    answers: list[Answer] = []
    errors: list[BaseException] = []
    done = Event()

    def call() -> None:
        try:
            answers.append(work())
        except BaseException as error:  # carried over to the caller's thread
            errors.append(error)
        finally:
            done.set()

    Thread(target=call, name="iam", daemon=True).start()
    if not done.wait(limit):
        raise TimeoutError
    if errors:
        raise errors[0]
    return answers[0]
