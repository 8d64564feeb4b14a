"""A web server on loopback that answers as a test says, byte for byte: over http, and over https at the same port."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs

_TLS_HANDSHAKE = b"\x16"


@dataclass(frozen=True)
class Asked:
    """A request as it came: its form has the last value of each field."""

    method: str
    path: str
    headers: dict[str, str]
    form: dict[str, str]
    secure: bool


Page = Callable[[Asked], bytes | None]
"""Makes the bytes of a whole answer, head and all; None: not a word until the test is over."""


def page(code: int, body: bytes = b"", *headers: str) -> bytes:
    """The bytes of an answer that ends with its connection."""
    head = [
        f"HTTP/1.1 {code} Said",
        "Content-Type: text/plain",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


@dataclass
class Website:
    """A running server: `pages` by method and path (else 404), and what it was asked."""

    port: int
    pages: dict[str, Page | bytes] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    certificate: Path | None = None

    @property
    def url(self) -> str:
        """Its plain http URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        """Method and path of each request so far."""
        return [f"{one.method} {one.path}" for one in self.asked]

    def answer(self, asked: Asked) -> bytes | None:
        """What to say to a request."""
        self.asked.append(asked)
        found = self.pages.get(f"{asked.method} {asked.path}", page(404))
        return found if isinstance(found, bytes) else found(asked)


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Website]:
    """A website; with a `certificate` (file of both halves) it answers https too."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        site = Website(server.server_address[1], certificate=certificate)
        # Each server has a class of its own: handlers know their server only as a socketserver.
        server.RequestHandlerClass = type(
            "Handler", (_Handler,), {"site": site, "context": context}
        )
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield site
        finally:
            site.over.set()
            server.shutdown()
            thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    site: Website
    context: ssl.SSLContext | None

    def setup(self) -> None:
        self.plain: socket.socket = self.request
        secure = self.plain.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE
        if secure and self.context is not None:
            self.request = self.context.wrap_socket(self.plain, server_side=True)
        super().setup()

    def handle(self) -> None:
        # A client that goes away in the middle is what many a test is about.
        with suppress(OSError):
            super().handle()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
        if self.request is not self.plain:
            self.request.close()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode("ascii")
        form = {
            name: values[-1]
            for name, values in parse_qs(
                body, keep_blank_values=True, errors="surrogateescape"
            ).items()
        }
        said = self.site.answer(
            Asked(
                self.command,
                self.path,
                dict(self.headers),
                form,
                isinstance(self.request, ssl.SSLSocket),
            )
        )
        if said is None:
            self.site.over.wait(60)
        else:
            self.wfile.write(said)
        self.close_connection = True

    do_GET = _answer  # noqa: N815 - the names that http.server looks for
    do_POST = _answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on stderr."""


def certificate(directory: Path) -> Path:
    """A new certificate for 127.0.0.1, with its private key, that nobody trusts."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "iam")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = directory / "site.pem"
    file.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + private)
    return file
