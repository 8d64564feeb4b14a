"""One login to a manage shell: what all its commands need."""

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
    """One login to a manage shell: the user, the host, the command line and the output."""

    lab_state: LabState
    host: Host
    user: str
    container: Container
    words: list[str]
    console: Console

    def trigger_fault(self, kind: str) -> bool:
        """Tell whether a fault of this host happens now; uses up one of its occasions."""
        return self.lab_state.faults.trigger(self.host.name, kind)

    def command_hint(self, label: str, words: str = "") -> str:
        """Return a line that shows the user a command to type."""
        return command_hint(label, self.user, self.host.address, words)

    @property
    def argument(self) -> str:
        """The word after the command; empty if there is none."""
        return self.words[1] if len(self.words) > 1 else ""


Command = Callable[[Call], Awaitable[int]]


def information(call: Call) -> str:
    """Return what lxc-info prints about the container."""
    container = call.container
    rows = [("Name:", container.user), ("State:", container.state)]
    if container.running:
        sent, received = container.next_traffic()
        rows += [
            ("PID:", str(container.pid)),
            *(("IP:", address) for address in call.lab_state.addresses(call.host, container)),
            ("Memory use:", size_iec(3030000 + 4096 * container.info_count)),
            ("KMem use:", size_iec(589824)),
            ("Link:", container.link),
            (" TX bytes:", size_iec(sent)),
            (" RX bytes:", size_iec(received)),
            (" Total bytes:", size_iec(sent + received)),
        ]
    return texts.lines(f"{label:<15} {value}" for label, value in rows)


async def iam_answers(lab_state: LabState, host: Host) -> bool:
    """Ask IAM for the user's port, as the server does before every command; False if IAM fails.

    The real server sets no time limit: if IAM hangs, this never returns.
    """
    if lab_state.faults.trigger(host.name, "hang") or lab_state.faults.is_active(IAM, "hang"):
        await asyncio.Event().wait()
    return not (
        lab_state.faults.trigger(host.name, "iam-down") or lab_state.faults.is_active(IAM, "down")
    )
