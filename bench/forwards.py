"""`tunnel` against `ssh -L`: bytes, requests, many connections at once; and what an idle tunnel costs."""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.farm import Farm, farm
from bench.figure import Figure

_APEXGPU = str(Path(sys.executable).parent / "apexgpu")
_BIG, _SMALL = 200 * 2**20, 2000
# A server in a process of its own: it reads lines with a number, and answers each with as many bytes.
_SERVER = """
import asyncio
async def answer(reader, writer):
    while line := await reader.readline():
        count = int(line)
        block = b"x" * min(count, 1 << 20)
        while count > 0:
            writer.write(block[:count]); count -= len(block)
            await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def traffic() -> Iterator[Figure]:
    """Seconds through ours over seconds through ssh's, by turns; the goal is 1/0.95."""
    with _both() as (ours, theirs, _, _):
        rows = (
            ("tunnel: 200 MiB", lambda port: _fetch(port, _BIG), 7),
            ("tunnel: 300 requests, one after another", lambda port: _in_turn(port, 300), 7),
            ("tunnel: 5,000 requests over 50 connections", lambda port: _at_once(port, 50, 100), 7),
            (
                "tunnel: 1,000 requests, 50 at once, each a new connection",
                lambda port: _at_once(port, 1000),
                7,
            ),
        )
        for what, work, runs in rows:
            mine, other = _paired(work, ours, theirs, runs)
            raw = f"{mine * 1000:.0f} / {other * 1000:.0f} ms"
            yield Figure(what, "ssh -L", mine / other, 1 / 0.95, raw)


def idle() -> Iterator[Figure]:
    """Memory, and CPU over ten seconds, of the process behind `tunnel --background`."""
    with _both() as (port, _, pid, _):
        _fetch(port, _BIG)
        status = Path(f"/proc/{pid}/status").read_text()
        memory = int(status.split("VmRSS:")[1].split()[0]) / 1024
        before = _cpu(pid)
        time.sleep(10)
        used = (_cpu(pid) - before) / 10
    yield Figure("tunnel: memory of its process, MiB", "-", memory, 40, f"{memory:.1f} MiB")
    yield Figure("tunnel: CPU when idle, share of a core", "-", used, 0.002, f"{used * 100:.2f} %")


@contextlib.contextmanager
def _both() -> Iterator[tuple[int, int, int, Farm]]:
    """A server behind both: our local port, ssh's, our process."""
    with (
        farm(1, shells=True) as hosts,
        subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True
        ) as server,
    ):
        assert server.stdout is not None
        target = int(server.stdout.readline())
        env = {**os.environ, **hosts.environment(keep=False)}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        name = hosts.hosts[0].name
        said = subprocess.run(
            [_APEXGPU, "tunnel", name, str(target), "--background", "--json"],
            env=env,
            check=True,
            capture_output=True,
        ).stdout
        made = json.loads(said)["tunnels"][0]
        with socket.create_server(("127.0.0.1", 0)) as probe:
            plain = probe.getsockname()[1]
        words = [
            "ssh",
            "-F",
            str(hosts.config),
            "-N",
            "-L",
            f"127.0.0.1:{plain}:localhost:{target}",
            name,
        ]
        # In a session of its own, as ours and one in another terminal: Linux shares processors by session.
        with subprocess.Popen(words, start_new_session=True) as ssh:
            try:
                _await(plain)
                yield made["local_port"], plain, made["pid"], hosts
            finally:
                ssh.terminate()
                server.terminate()
                subprocess.run(
                    [_APEXGPU, "tunnels", "close", "--all"],
                    env=env,
                    check=True,
                    capture_output=True,
                )


def _fetch(port: int, count: int, times: int = 1) -> None:
    room = memoryview(bytearray(1 << 20))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(times):
            connection.sendall(b"%d\n" % count)
            missing = count
            while missing and (size := connection.recv_into(room)):
                missing -= size
            if missing:
                message = f"{missing} of {count} bytes did not come"
                raise RuntimeError(message)


def _in_turn(port: int, times: int) -> None:
    for _ in range(times):
        _fetch(port, _SMALL)


def _at_once(port: int, connections: int, requests: int = 1) -> None:
    with ThreadPoolExecutor(50) as pool:
        list(pool.map(lambda _: _fetch(port, _SMALL, requests), range(connections)))


def _paired(work: Callable[[int], None], ours: int, theirs: int, runs: int) -> tuple[float, float]:
    times: dict[int, list[float]] = {ours: [], theirs: []}
    for number in range(runs + 1):
        for port, many in times.items():
            began = time.perf_counter()
            work(port)
            if number:
                many.append(time.perf_counter() - began)
    return statistics.median(times[ours]), statistics.median(times[theirs])


def _await(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    message = "ssh -L did not come up"
    raise RuntimeError(message)


def _cpu(pid: int) -> float:
    """Seconds of CPU time of all threads. The ticks in /proc/PID/stat, of 10 ms, are too coarse for an idle process."""
    nanoseconds = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9
