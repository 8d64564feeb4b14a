"""Asking nvidia-smi in the container on a host: one connection for each host, however many reports are wanted."""

from collections.abc import Callable

from apexgpu.errors import CommandTimeoutError, UnreachableError
from apexgpu.manageshell import containershell
from apexgpu.models import Host
from apexgpu.nvidia import smi
from apexgpu.nvidia.failures import unknown_output
from apexgpu.nvidia.smi import Report
from apexgpu.remote import remotescript
from apexgpu.ssh.transport import Limits, Transport

PATIENCE = 30.0
"""Seconds that one nvidia-smi may take. It wakes up every GPU if nothing keeps the driver loaded."""

MOST_OUTPUT = 1 << 22
"""Bytes that the reports of one question may have. A report on eight GPUs has about 50 KiB."""

REPORTS_PER_CONNECTION = 60
"""How many reports `follow` reads before it returns, so that what the connection has printed stays small."""


class GpuHangsError(UnreachableError):
    """The login worked, but nvidia-smi printed nothing in time: it waits for a GPU that does not answer."""

    code = "gpu_hangs"


def command(count: int, seconds: float) -> str:
    """The command line for `count` reports, `seconds` apart."""
    return remotescript.sh_command(
        "gpu_locks.sh", "nvidia_smi.sh", arguments=[str(count), f"{seconds:g}"]
    )


def look(
    transport: Transport,
    host: Host,
    *,
    looks: int = 1,
    seconds: float = 0,
    connect: float,
    once: bool = False,
) -> tuple[Report, ...]:
    """Return `looks` reports of a host, `seconds` apart.

    `connect` is how many seconds the host may take to connect. `once` makes a connection for this call alone, and
    leaves none open.

    Raises StoppedError or NotRegisteredError if no container runs there, NvidiaSmiError if nvidia-smi cannot report,
    GpuHangsError if it does not end, and UnreachableError if the host does not answer.
    """
    total = connect + PATIENCE + looks * seconds
    limits = Limits(connect=connect, total=total, output=MOST_OUTPUT)
    try:
        reply = containershell.query(
            transport, host, command(looks, seconds), limits=limits, once=once
        )
    except CommandTimeoutError:
        raise _hangs(host) from None
    return smi.reports(reply.out, host.name)


def follow(
    transport: Transport,
    host: Host,
    on_report: Callable[[Report], None],
    *,
    seconds: float,
    connect: float,
) -> None:
    """Call `on_report` every `seconds` seconds, for `REPORTS_PER_CONNECTION` reports. Raises what `look` raises."""
    lines: list[str] = []
    length = 0

    def on_line(line: str) -> None:
        nonlocal length
        lines.append(line)
        length += len(line)
        if length > MOST_OUTPUT or len(lines) > MOST_OUTPUT:
            raise unknown_output(lines, host.name)
        if line.startswith(f"{smi.END} "):
            (report,) = smi.reports("\n".join(lines), host.name)
            lines.clear()
            length = 0
            on_report(report)

    silence = PATIENCE + seconds
    limits = Limits(connect, None, silence, output=MOST_OUTPUT, keeps_reading=True)
    script = command(REPORTS_PER_CONNECTION, seconds)
    try:
        # Over the connection of the first look, if that was made for this run; with `on_line`, never over one that
        # stays open between runs.
        containershell.query(transport, host, script, limits=limits, on_line=on_line)
    except CommandTimeoutError:
        raise _hangs(host) from None


def _hangs(host: Host) -> GpuHangsError:
    message = (
        f"nvidia-smi on {host.name} does not answer: one of its GPUs may hang; "
        "tell the administrators"
    )
    return GpuHangsError(message, hint="apexgpu gpus free")
