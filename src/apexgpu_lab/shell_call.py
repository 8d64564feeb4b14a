"""One login to a manage shell: what its commands share."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from apexgpu_lab import texts
from apexgpu_lab.console import Console
from apexgpu_lab.containers import Container, Host, size_iec
from apexgpu_lab.faults import IAM
from apexgpu_lab.labstate import LabState
from apexgpu_lab.texts import command_hint

GARBLE = "\x1b]0;maintenance\x07[bold]Maintenance[/bold]: \u2603 \x07please come back\tlater\n"


@dataclass(frozen=True)
class Call:
    """One login to a manage shell: who, where, what was asked, and the client's end."""

    lab_state: LabState
    host: Host
    user: str
    container: Container
    words: list[str]
    console: Console

    def trigger_fault(self, kind: str) -> bool:
        """Whether a fault of this host strikes now."""
        return self.lab_state.faults.trigger(self.host.name, kind)

    def command_hint(self, label: str, words: str = "") -> str:
        """A command to type, for this user on this host."""
        return command_hint(label, self.user, self.host.address, words)

    @property
    def argument(self) -> str:
        """The word after the command, or nothing."""
        return self.words[1] if len(self.words) > 1 else ""


Command = Callable[[Call], Awaitable[int]]


def information(call: Call) -> str:
    """What lxc-info prints of the container."""
    container = call.container
    rows = [("Name:", container.user), ("State:", container.state)]
    if container.running:
        sent, received = container.traffic()
        rows += [
            ("PID:", str(container.pid)),
            *(("IP:", address) for address in call.lab_state.addresses(call.host, container)),
            ("Memory use:", size_iec(3030000 + 4096 * container.calls)),
            ("KMem use:", size_iec(589824)),
            ("Link:", container.link),
            (" TX bytes:", size_iec(sent)),
            (" RX bytes:", size_iec(received)),
            (" Total bytes:", size_iec(sent + received)),
        ]
    return texts.lines(f"{label:<15} {value}" for label, value in rows)


async def iam_answers(lab_state: LabState, host: Host) -> bool:
    """What the server's unbounded question to IAM comes to: an answer, a failure, or no end at all."""
    if lab_state.faults.trigger(host.name, "hang") or lab_state.faults.is_active(IAM, "hang"):
        await asyncio.Event().wait()
    return not (
        lab_state.faults.trigger(host.name, "iam-down") or lab_state.faults.is_active(IAM, "down")
    )
