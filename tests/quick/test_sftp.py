"""The SFTP client against a server that says what it is told, and lies."""

import asyncio
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from apexgpu.transfer import sftp
from apexgpu.transfer.fileinfo import FileInfo, FileKind
from apexgpu.transfer.sftp import SftpClient
from apexgpu.transfer.sftppackets import NotSftpError, OpenFlag, SftpError, Status

Answer = Callable[[int, bytes], tuple[int, bytes]]


def string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def packet(kind: int, body: bytes) -> bytes:
    return struct.pack(">IB", len(body) + 1, kind) + body


def name(value: bytes, mode: int = 0o100644, *, more: bool = False) -> bytes:
    """One entry of a listing: size 7, owner, mode, times; `more` adds an extended attribute."""
    flags = 0xF | (0x80000000 if more else 0)
    attributes = struct.pack(">IQIIIII", flags, 7, 1000, 1000, mode, 5, 6)
    return (
        string(value)
        + string(b"-rw-r--r-- ...")
        + attributes
        + (struct.pack(">I", 1) + string(b"x@y") + string(b"z") if more else b"")
    )


def start_answer(kind: int) -> tuple[int, bytes]:
    """What a server without limits answers to the first two requests."""
    if kind == 16:
        return 104, struct.pack(">I", 1) + name(b"/home/alice", 0o040755)
    return 101, struct.pack(">I", Status.UNSUPPORTED) + string(b"") + string(b"")


def talk(
    answer: Answer,
    work: Callable[[SftpClient], Coroutine[Any, Any, Any]],
    *,
    hello: bytes | None = None,
) -> Any:
    """Run `work` with a client whose server gives `answer(kind, body)` to every request; kind 0 is none."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(9)
            writer.write(
                packet(2, struct.pack(">I", 3) + string(b"posix-rename@openssh.com") + string(b"1"))
                if hello is None
                else hello
            )
            while True:
                length, _ = struct.unpack(">IB", head := await reader.readexactly(5))
                body = await reader.readexactly(length - 1)
                is_start = struct.unpack(">I", body[:4])[0] <= 2
                if is_start and (head[4] == 16 or hello is None):
                    kind, said = start_answer(head[4])
                else:
                    kind, said = answer(head[4], body[4:])
                if kind:
                    writer.write(packet(kind, body[:4] + said))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def run() -> Any:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            client = SftpClient(reader, writer)
            try:
                await client.start()
                return await work(client)
            finally:
                await client.close()
                writer.close()

    return asyncio.run(run())


def listing(*names: bytes) -> Answer:
    pages = [struct.pack(">I", len(names)) + b"".join(names)]

    def answer(kind: int, _: bytes) -> tuple[int, bytes]:
        if kind == 11:
            return 102, string(b"h")
        if kind == 12 and pages:
            return 104, pages.pop()
        return 101, struct.pack(">I", Status.END_OF_FILE if kind == 12 else Status.OK) + string(
            b""
        ) + string(b"")

    return answer


def test_a_listing_leaves_out_the_directory_itself_and_reads_every_attribute() -> None:
    names = (
        name(b"."),
        name(b".."),
        name(b"\xe9\n", more=True),
        name(b"d", 0o040755),
        name(b"p", 0o010600),
    )
    found = talk(listing(*names), lambda client: client.list_directory(b"/x"))
    assert found == [
        FileInfo(b"\xe9\n", FileKind.FILE, 7, 6, 0o644),
        FileInfo(b"d", FileKind.DIRECTORY, 7, 6, 0o755),
        FileInfo(b"p", FileKind.SPECIAL, 7, 6, 0o600),
    ]


@pytest.mark.parametrize("bad", [b"../../.bashrc", b"/etc/passwd", b"a/b", b"", b"a\0b"])
def test_a_name_that_would_lead_elsewhere_is_refused(bad: bytes) -> None:
    with pytest.raises(SftpError, match="invalid file name"):
        talk(listing(name(b"good"), name(bad)), lambda client: client.list_directory(b"/x"))


def test_what_is_no_sftp_is_shown_as_it_begins() -> None:
    with pytest.raises(NotSftpError) as caught:
        talk(
            lambda *_: (101, b""), lambda client: client.real_path(b"."), hello=b"Welcome to gpu7\n"
        )
    # What follows may be answers to the requests that were sent with the version.
    assert caught.value.start.startswith(b"Welcome to gpu7\n")


def test_a_refusal_has_its_code_and_words_and_what_is_missing_is_none() -> None:
    def answer(kind: int, _: bytes) -> tuple[int, bytes]:
        return 101, struct.pack(
            ">I", Status.NO_SUCH_FILE if kind == 7 else Status.PERMISSION_DENIED
        ) + string(b"No!") + string(b"")

    assert talk(answer, lambda client: client.info(b"/x")) is None
    with pytest.raises(SftpError, match="No!") as caught:
        talk(answer, lambda client: client.mkdir(b"/x"))
    assert caught.value.status == Status.PERMISSION_DENIED


def test_answers_in_any_order_find_their_requests() -> None:
    async def work(client: SftpClient) -> list[bytes]:
        return await asyncio.gather(*(client.read(b"h", number, 10) for number in range(50)))

    def answer(_: int, body: bytes) -> tuple[int, bytes]:
        return 103, string(body[5:13])  # the offset

    assert talk(answer, work) == [struct.pack(">Q", number) for number in range(50)]


def test_a_server_that_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp, "_SILENCE_LIMIT", 0.05)

    async def work(client: SftpClient) -> None:
        with pytest.raises(ConnectionError, match="no answer in time"):
            await client.real_path(b".")

    talk(lambda *_: (0, b""), work)


def test_a_connection_that_ends_fails_what_waits_and_what_comes() -> None:
    async def work(client: SftpClient) -> None:
        with pytest.raises(ConnectionError):
            await client.real_path(b".")
        with pytest.raises(ConnectionError):
            await client.real_path(b".")

    talk(lambda *_: (_ for _ in ()).throw(ConnectionResetError()), work)


def refusing(what: int, code: int) -> Answer:
    """A server that opens everything and answers one kind of request with a status."""

    def answer(kind: int, _: bytes) -> tuple[int, bytes]:
        if kind in {3, 11}:
            return 102, string(b"h")
        return 101, struct.pack(">I", code if kind == what else Status.OK) + string(
            b"No!"
        ) + string(b"")

    return answer


@pytest.mark.parametrize("code", [Status.PERMISSION_DENIED, Status.FAILURE])
def test_a_directory_or_a_file_that_breaks_off_is_not_at_its_end(code: int) -> None:
    with pytest.raises(SftpError, match="No!"):
        talk(refusing(12, code), lambda client: client.list_directory(b"/x"))
    with pytest.raises(SftpError, match="No!"):
        talk(refusing(5, code), lambda client: client.read(b"h", 0, 10))
    assert talk(refusing(5, Status.END_OF_FILE), lambda client: client.read(b"h", 0, 10)) == b""


def test_what_a_close_or_a_write_says_is_heard() -> None:
    for kind, work in (
        (4, lambda client: client.close_handle(b"h")),
        (6, lambda client: client.write(b"h", 0, b"x")),
    ):
        with pytest.raises(SftpError):
            talk(refusing(kind, Status.FAILURE), work)


def heard_by(
    server: Answer, work: Callable[[SftpClient], Coroutine[Any, Any, Any]]
) -> list[tuple[int, bytes]]:
    """The requests that reach a server."""
    heard: list[tuple[int, bytes]] = []

    def answer(kind: int, body: bytes) -> tuple[int, bytes]:
        heard.append((kind, body))
        return server(kind, body)

    talk(answer, work)
    return heard


def test_a_listing_closes_its_directory_also_when_it_breaks_off() -> None:
    async def work(client: SftpClient) -> None:
        with pytest.raises(SftpError):
            await client.list_directory(b"/x")
        await client.mkdir(b"/d")  # requests are worked on in order: after it, all were heard

    kinds = [kind for kind, _ in heard_by(refusing(12, Status.PERMISSION_DENIED), work)]
    assert list(dict.fromkeys(kinds)) == [11, 12, 4, 14]


def test_what_is_made_is_the_owners_alone_until_it_gets_its_mode() -> None:
    async def work(client: SftpClient) -> None:
        await client.open(b"/f", OpenFlag.WRITE | OpenFlag.CREATE)
        await client.mkdir(b"/d")

    (_, opened), (_, made) = heard_by(refusing(0, Status.OK), work)
    assert (opened[-4:], made[-4:]) == (struct.pack(">I", 0o600), struct.pack(">I", 0o700))


@pytest.mark.parametrize(("mtime", "sent"), [(5, 5), (-1, 0), (1 << 40, 0xFFFFFFFF)])
def test_a_time_that_the_protocol_cannot_say_is_the_nearest(mtime: int, sent: int) -> None:
    ((_, body),) = heard_by(
        refusing(0, Status.OK), lambda client: client.set_attributes(b"/f", mode=0o640, mtime=mtime)
    )
    assert body == string(b"/f") + struct.pack(">IIII", 12, 0o640, sent, sent)


def test_links_are_listed_with_where_they_lead() -> None:
    names = listing(name(b"l", 0o120777), name(b"f"), name(b"m", 0o120777))

    def answer(kind: int, body: bytes) -> tuple[int, bytes]:
        if kind == 19:
            return 104, struct.pack(">I", 1) + string(b"to " + body[-1:]) + string(
                b""
            ) + struct.pack(">I", 0)
        return names(kind, body)

    found = talk(answer, lambda client: client.list_directory(b"/x"))
    assert [(one.name, one.link_target) for one in found] == [
        (b"l", b"to l"),
        (b"f", b""),
        (b"m", b"to m"),
    ]


@pytest.mark.parametrize(
    ("read", "write", "chunk"),
    [
        (0, 0, 1 << 17),
        (1 << 16, 0, 1 << 16),
        (1 << 20, 1 << 15, 1 << 15),
        (1 << 30, 1 << 30, 1 << 17),
    ],
)
def test_a_servers_own_limits_are_kept(read: int, write: int, chunk: int) -> None:
    hello = packet(2, struct.pack(">I", 3) + string(b"limits@openssh.com") + string(b"1"))

    async def work(client: SftpClient) -> int:
        return client.chunk

    assert (
        talk(lambda *_: (201, struct.pack(">QQQQ", 1 << 18, read, write, 0)), work, hello=hello)
        == chunk
    )
