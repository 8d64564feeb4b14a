"""A small HTTP/1.1 server on h11: one function from request to response."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import parse_qs, unquote, urlsplit

import h11

_LIMIT = 1 << 20


@dataclass(frozen=True)
class Request:
    """What a client asked: the path is decoded, header names are lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        """The fields of an HTML form, the first value of each."""
        fields = parse_qs(self.body.decode("utf-8", "replace"), keep_blank_values=True)
        return {name: values[0] for name, values in fields.items()}


@dataclass(frozen=True)
class Response:
    """What it gets; text bodies are sent as UTF-8."""

    status: int
    body: str = ""
    kind: str = "text/html; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Response]]


def text_response(body: str, **headers: str) -> Response:
    """Text, with a content type that does not name its charset."""
    return Response(200, body, "text/plain", headers)


async def serve(handler: Handler, client: socket.socket, _peer: str) -> None:
    """Answer the requests of one connection until it is closed; a function to hand to a listening port."""
    reader, writer = await asyncio.open_connection(sock=client)
    connection = h11.Connection(h11.SERVER)
    try:
        while request := await _request(connection, reader):
            _send(connection, writer, await handler(request))
            await writer.drain()
            if connection.our_state is not h11.DONE:
                return
            connection.start_next_cycle()
    except (OSError, h11.ProtocolError):
        return  # the client has gone, or speaks something else
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
            if len(body) > _LIMIT:
                return None
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return Request(
                head.method.decode(),
                unquote(urlsplit(head.target.decode("latin-1")).path),
                {name.decode(): value.decode("latin-1") for name, value in head.headers},
                body,
            )
        else:
            return None


def _send(connection: h11.Connection, writer: asyncio.StreamWriter, response: Response) -> None:
    body = response.body.encode()
    headers = [
        ("Content-Type", response.kind),
        ("Content-Length", str(len(body))),
        *response.headers.items(),
        ("Date", formatdate(usegmt=True)),
    ]
    reason = HTTPStatus(response.status).phrase.upper().encode()
    head = h11.Response(
        status_code=response.status,
        reason=reason,
        headers=[(name.encode(), value.encode("latin-1")) for name, value in headers],
    )
    for event in (head, h11.Data(data=body), h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")
