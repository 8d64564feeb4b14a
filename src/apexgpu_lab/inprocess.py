"""A lab in a thread of this process, for tests and demonstrations that look into its state."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from apexgpu_lab.labserver import LabServer
from apexgpu_lab.labstate import LabState

T = TypeVar("T")
_LIMIT = 60.0


class Lab:
    """A running lab. Its state belongs to its thread: read and change it through `call`."""

    def __init__(self, lab_server: LabServer, loop: asyncio.AbstractEventLoop) -> None:
        self._lab_server = lab_server
        self._loop = loop
        self.layout = lab_server.layout
        self.iam_url = lab_server.iam_url
        self.environment = lab_server.layout.environment(lab_server.iam_url)

    def call(self, function: Callable[[LabState], T | Awaitable[T]]) -> T:
        """Run `function(lab_state)` in the lab's thread and return what it returns (awaited)."""

        async def run() -> T:
            result = function(self._lab_server.lab_state)
            if inspect.isawaitable(result):
                return await cast("Awaitable[T]", result)
            return result

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_LIMIT)

    def fault(self, host: str, kind: str, times: int | None = None) -> None:
        """Put a fault in force at a host or "iam"."""
        self.call(lambda lab_state: lab_state.faults.set(host, kind, times))

    def clear(self, host: str, kind: str) -> None:
        """End a fault."""
        self.call(lambda lab_state: lab_state.faults.clear(host, kind))

    def status(self) -> dict[str, Any]:
        """The lab as `lab status` shows it."""
        return self.call(lambda _: self._lab_server.status())

    def password(self, user: str) -> str:
        """A user's password in the domain."""
        return self.call(lambda lab_state: lab_state.users.people[user].password)

    def leave(self) -> None:
        """Begin to end; one that was ended by its control has gone already."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._lab_server.stopping.set)

    @property
    def troubles(self) -> list[str]:
        """Errors in the lab that nobody awaited: a healthy one has none."""
        return list(self._lab_server.troubles)


@contextmanager
def running(
    directory: Path,
    *,
    hosts: int = 2,
    registered: bool = False,
    pace: float = 0,
    shared: bool = False,
) -> Iterator[Lab]:
    """A lab in `directory` that serves while the block runs; `shared` puts all hosts on one address."""
    ready: Future[Lab] = Future()

    async def serve() -> None:
        lab_server = LabServer(
            directory, hosts=hosts, registered=registered, pace=pace, shared=shared
        )
        try:
            await lab_server.start()
            ready.set_result(Lab(lab_server, asyncio.get_running_loop()))
            await lab_server.stopping.wait()
        finally:
            await lab_server.stop()

    def live() -> None:
        # asyncio.run ends what is left over: a task that never got its turn would warn when it is collected.
        try:
            asyncio.run(serve())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=live, name="lab", daemon=True)
    thread.start()
    lab = ready.result(_LIMIT)
    try:
        yield lab
    finally:
        lab.leave()
        thread.join(_LIMIT)
