"""IAM's pusher of keys: one push after the other, one host after the other, and one log for all."""

import asyncio
from collections import deque
from datetime import datetime

from apexgpu_lab.faults import IAM
from apexgpu_lab.labstate import LabState

LOG_PATH = "/log/push-keys"
_BLOCKING_FAULTS = ("dead", "refuse", "silent")


class Pusher:
    """The background work after keys were posted; a host that does not answer stops it for good."""

    def __init__(self, lab_state: LabState) -> None:
        self.lab_state = lab_state
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
            await asyncio.sleep(0.2 * self.lab_state.pace)
            await self._push(self._waiting.popleft())
        self._task = None

    async def _push(self, user: str) -> None:
        self.log = self._stamped(f"task started by {user}")
        stuck = self.lab_state.faults.trigger(IAM, "stuck-pusher")
        for number, host in enumerate(self.lab_state.hosts.values(), start=1):
            self.log += self._stamped(host.address)
            await asyncio.sleep(0.03 * self.lab_state.pace)
            killed = any(
                self.lab_state.faults.is_active(host.name, kind) for kind in _BLOCKING_FAULTS
            )
            if killed or (stuck and number == min(2, len(self.lab_state.hosts))):
                await self._wait_for_administrator()
                return
            account, container = self.lab_state.push(host, user)
            self.log += (
                f"{user:<20}\t[user {_ok_or_fail(account)}]\t[lxc {_ok_or_fail(container)}]\t\n"
                f"{'register':<20}\t[merged  OK ]\t\n{'-' * 30}\n"
            )
        self.log += self._stamped("done")

    async def _wait_for_administrator(self) -> None:
        """Wait for the administrator, who clears the fault; what was queued meanwhile is forgotten."""
        if not self.lab_state.faults.is_active(IAM, "stuck-pusher"):
            self.lab_state.faults.set(IAM, "stuck-pusher")
        while self.lab_state.faults.is_active(IAM, "stuck-pusher"):
            await asyncio.sleep(0.05)
        self._waiting.clear()
        self.log = ""

    def _stamped(self, text: str) -> str:
        return f"[{datetime.fromtimestamp(self.lab_state.clock()):%Y-%m-%d %H:%M:%S.%f}]{text}\n"


def _ok_or_fail(present: bool) -> str:
    return " OK " if present else "FAIL"
