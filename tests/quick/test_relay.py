"""The relay of a tunnel: what a local program sends before ssh listens arrives as well."""

import asyncio

from apexgpu.forwarding import ports, relay

REQUEST = b"GET / HTTP/1.1\r\n\r\n"


def test_what_is_sent_before_there_is_a_listener_is_kept() -> None:
    assert asyncio.run(_relay_early_request()) == REQUEST


async def _relay_early_request() -> bytes:
    """Send a request while the relay still waits for ssh; return what arrives at ssh's end."""
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    ssh_listens = asyncio.Event()

    async def take_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set_result(await reader.read())
        writer.close()

    async def find_listener() -> relay.SshListener:
        await ssh_listens.wait()
        return int(container.sockets[0].getsockname()[1])

    container = await asyncio.start_server(take_request, "127.0.0.1", 0)
    listening = ports.listen_anywhere()
    address = listening.getsockname()
    traffic = relay.Traffic()
    server = await relay.serve(listening, traffic, find_listener)
    try:
        _, writer = await asyncio.open_connection(*address)
        writer.write(REQUEST)
        writer.write_eof()
        while not traffic.ends:
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)  # enough for a relay that reads too early
        ssh_listens.set()
        received = await asyncio.wait_for(arrived, 10)
        writer.close()
        return received
    finally:
        server.close()
        container.close()
