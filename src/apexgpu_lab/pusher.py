"""IAM's pusher of keys: one push after the other, one host after the other, and one log for all."""

import asyncio
from collections import deque
from datetime import datetime

from apexgpu_lab.faults import IAM
from apexgpu_lab.world import World

LOG_PATH = "/log/push-keys"
_KILLERS = ("dead", "refuse", "silent")


class Pusher:
    """The background work after keys were posted; a host that does not answer stops it for good."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.log = ""
        self._waiting: deque[str] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether the log will go on."""
        return self._task is not None

    def start(self, user: str) -> None:
        """Queue a push of `user`'s keys; the log is empty until it begins."""
        self._waiting.append(user)
        if self._task is None:
            self.log = ""
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """End the work, as a restart of the server does."""
        task, self._task = self._task, None
        self._waiting.clear()
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(0.2 * self.world.pace)
            await self._push(self._waiting.popleft())
        self._task = None

    async def _push(self, user: str) -> None:
        self.log = self._stamped(f"task started by {user}")
        stuck = self.world.faults.take(IAM, "stuck-pusher")
        for number, host in enumerate(self.world.hosts.values(), start=1):
            self.log += self._stamped(host.address)
            await asyncio.sleep(0.03 * self.world.pace)
            killed = any(self.world.faults.active(host.name, kind) for kind in _KILLERS)
            if killed or (stuck and number == min(2, len(self.world.hosts))):
                await self._stick()
                return
            account, container = self.world.push(host, user)
            self.log += (
                f"{user:<20}\t[user {_word(account)}]\t[lxc {_word(container)}]\t\n"
                f"{'register':<20}\t[merged  OK ]\t\n{'-' * 30}\n"
            )
        self.log += self._stamped("done")

    async def _stick(self) -> None:
        """Wait for the administrator, who clears the fault; what was queued meanwhile is forgotten."""
        if not self.world.faults.active(IAM, "stuck-pusher"):
            self.world.faults.set(IAM, "stuck-pusher")
        while self.world.faults.active(IAM, "stuck-pusher"):
            await asyncio.sleep(0.05)
        self._waiting.clear()
        self.log = ""

    def _stamped(self, text: str) -> str:
        return f"[{datetime.fromtimestamp(self.world.clock()):%Y-%m-%d %H:%M:%S.%f}]{text}\n"


def _word(present: bool) -> str:
    return " OK " if present else "FAIL"
