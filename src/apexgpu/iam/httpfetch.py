"""One HTTP request with limits on time and size, without redirects and cookies. Owns httpx.

Every error of httpx becomes one of ours in `translated`, and nowhere else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from apexgpu.errors import (
    ApexError,
    ConfigError,
    ConnectionLostError,
    IamUnreachableError,
    RefusedError,
    UnreachableError,
)
from apexgpu.iam.proxies import find_proxy
from apexgpu.platforms import hints
from apexgpu.timelimit import run_with_limit

if TYPE_CHECKING:
    import ssl

    import httpx

_WHOLE_REQUEST = 2  # times the limit of one step; includes the name lookup
_BLANKS_BEFORE_HTML = b"\xef\xbb\xbf \t\r\n"  # a byte order mark and white space


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A server's response: the status, two headers, and the body (`complete` unless it was cut)."""

    status: int
    content_type: str = ""
    location: str = ""
    body: bytes = b""
    complete: bool = True

    @property
    def is_html(self) -> bool:
        """Whether this is a web page, judged by the header or by the first character."""
        if "html" in self.content_type.lower():
            return True
        return self.body.lstrip(_BLANKS_BEFORE_HTML).startswith(b"<")


def fetch(
    method: str,
    url: str,
    *,
    timeout: float,
    limit: int,
    content: bytes | None = None,
) -> HttpResponse:
    """Send one request and return the response with at most `limit` + 1 bytes of its body.

    `timeout` is in seconds, for one step (connect, write, read); the whole request may take twice
    that. `content` is the body of a form. Raises
    UnreachableError (no answer in time), ConnectionLostError (the connection ended early), RefusedError
    (the answer is not understood) or ConfigError (the URL or a proxy setting cannot be used).
    """
    headers = {"Accept-Encoding": "identity"}
    if content is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"

    with translated(url, timeout), _client(url, timeout) as client:

        def send() -> HttpResponse:
            with client.stream(method, url, content=content, headers=headers) as response:
                return _read(response, limit)

        # httpx limits each step only: a name lookup, or a server that sends one byte now and then,
        # could take for ever. Closing the client then ends the thread that still reads.
        return run_with_limit(send, _WHOLE_REQUEST * timeout, name="iam")


def server_name(url: str) -> str:
    """Return `IAM at HOST` for messages, with the proxy that the request goes through."""
    name = f"IAM at {urlsplit(url).netloc}"
    try:
        proxy = find_proxy(url)
    except ConfigError:
        proxy = None
    if proxy is not None:
        # An answer such as 403 may be the proxy's, and nothing else tells which one was used.
        name += f" (through the proxy {proxy.name})"
    return name


@contextmanager
def translated(url: str, timeout: float) -> Iterator[None]:
    """Turn each error of httpx, and those that it lets through, into one of ours."""
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
        raise _our_error(error, url, timeout) from error


def _our_error(error: Exception, url: str, timeout: float) -> ApexError:
    import httpx

    parts = urlsplit(url)
    server = server_name(url)
    head_request = hints.http_head(f"{parts.scheme}://{parts.netloc}/")
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        message = f"{server} did not answer within {timeout:g} s"
        return IamUnreachableError(message, hint=head_request, code="timeout")
    if isinstance(error, httpx.ProxyError):
        hint = hints.set_variable("no_proxy", parts.hostname or "")
        return UnreachableError(f"no connection to {server}: {error}", hint=hint, code="proxy")
    if isinstance(
        error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL, UnicodeError)
    ):
        message = f"{server} cannot be reached: its address is not usable"
        return ConfigError(message, hint="apexgpu config status")
    if isinstance(error, httpx.RemoteProtocolError) and "location header" in str(error):
        # httpx parses the target of a redirect even if it is not to follow it.
        hint = hints.http_get(f"{parts.scheme}://{parts.netloc}/")
        message = f"{server} redirects to something that is not a URL"
        return RefusedError(message, hint=hint, code="redirect")
    if isinstance(
        error, (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError, httpx.CloseError)
    ):
        message = f"{server} ended the connection before its answer was complete"
        return ConnectionLostError(message, hint=head_request)
    if isinstance(error, (httpx.ConnectError, OSError)):
        return _cannot_connect(error, server, head_request)
    if isinstance(error, httpx.HTTPError):
        message = f"{server} sent an answer that cannot be understood"
        return RefusedError(message, hint=head_request)
    return ApexError(f"the request to {server} failed ({type(error).__name__})", hint=head_request)


def _cannot_connect(error: Exception, server: str, head_request: str) -> UnreachableError:
    text = str(error)
    if text.startswith("["):
        # "[Errno 111] Connection refused", "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify …"
        text = text.partition("] ")[2]
    text = text.partition(" (_ssl")[0]
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        reason = text.removeprefix("certificate verify failed: ")
        return UnreachableError(
            f"the certificate of {server} is not trusted: {reason}",
            hint=hints.with_variable("SSL_CERT_FILE", "YOUR_CA.pem", "apexgpu login"),
            code="certificate",
        )
    reason = text.lower() or type(error).__name__
    return IamUnreachableError(f"{server} cannot be reached: {reason}", hint=head_request)


def _read(response: "httpx.Response", limit: int) -> HttpResponse:
    """Read the response, but no more of its body than `limit` + 1 bytes."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        # We asked for an uncompressed body. A few compressed bytes could become gigabytes.
        host = response.url.netloc.decode("ascii", "replace")
        raise RefusedError(f"IAM at {host} sent a compressed answer", hint="apexgpu doctor")
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > limit:
            break
    return HttpResponse(
        status=response.status_code,
        content_type=response.headers.get("content-type", ""),
        location=response.headers.get("location", ""),
        body=bytes(body[: limit + 1]),
        complete=len(body) <= limit,
    )


def _client(url: str, timeout: float) -> "httpx.Client":
    from http.cookiejar import CookieJar, DefaultCookiePolicy

    import httpx

    # httpx would set up every proxy that is configured, and fail on a SOCKS proxy that it never needs.
    proxy = find_proxy(url)
    return httpx.Client(
        timeout=timeout,
        verify=_tls_context(url),
        proxy=proxy.url if proxy else None,
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # keeps none
        headers={"User-Agent": "apexgpu"},
        follow_redirects=False,
    )


def _tls_context(url: str) -> "ssl.SSLContext":
    import ssl

    import httpx

    if url.startswith("http://"):
        # httpx wants a context even for plain http. This one trusts nobody and is quick to make.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = httpx.create_ssl_context()
    # certifi's list, which httpx uses, does not contain a university's own authority.
    context.load_default_certs()
    return context
