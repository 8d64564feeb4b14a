"""Looking at the GPUs of a host through the own container: one connection a host, however many looks."""

from collections.abc import Callable

from apexgpu.errors import DroppedError, UnreachableError
from apexgpu.manageshell import containershell
from apexgpu.models import Host
from apexgpu.nvidia import smi
from apexgpu.nvidia.smi import Report
from apexgpu.remote import remotescript
from apexgpu.ssh.transport import Limits, Transport

PATIENCE = 30.0
"""Seconds that one nvidia-smi may take: it wakes every card up where nothing keeps the driver awake."""

ROUNDS = 60
"""Looks over one connection; then a new one is made, so that nothing grows for as long as somebody watches."""


def command(looks: int, seconds: float) -> str:
    """The command line for `looks` reports, `seconds` apart."""
    return remotescript.sh_command("nvidia_smi.sh", arguments=[str(looks), f"{seconds:g}"])


def look(
    link: Transport,
    host: Host,
    *,
    looks: int = 1,
    seconds: float = 0,
    connect: float,
    once: bool = False,
) -> tuple[Report, ...]:
    """`looks` reports of a host, `seconds` apart.

    RefusedError where the container is stopped or nvidia-smi cannot tell; UnreachableError where nobody answers.
    `once` makes a connection for this alone, and leaves none open.
    """
    limits = Limits(connect=connect, total=connect + PATIENCE + looks * seconds)
    try:
        reply = containershell.query(link, host, command(looks, seconds), limits=limits, once=once)
    except DroppedError as exc:
        raise _hangs(host, exc) from None
    return smi.reports(reply.out, host.name)


def follow(
    link: Transport,
    host: Host,
    on_report: Callable[[Report], None],
    *,
    seconds: float,
    connect: float,
) -> None:
    """Hand over a report every `seconds` s, ROUNDS times over one connection; raises what `look` raises."""
    lines: list[str] = []

    def line(text: str) -> None:
        lines.append(text)
        if text.startswith(f"{smi.END} "):
            (found,) = smi.reports("\n".join(lines), host.name)
            lines.clear()
            on_report(found)

    limits = Limits(connect=connect, total=None, silence=PATIENCE + seconds)
    try:
        containershell.query(
            link, host, command(ROUNDS, seconds), limits=limits, on_line=line, once=True
        )
    except DroppedError as exc:
        raise _hangs(host, exc) from None


def _hangs(host: Host, exc: DroppedError) -> UnreachableError:
    """A login that worked and a program that says nothing: it waits for a card that does not answer."""
    if exc.code != "timeout":
        return exc
    message = f"nvidia-smi on {host.name} does not answer: one of its GPUs may hang"
    hint = (
        f"ask the administrators to look at the GPUs of {host.name}; meanwhile: apexgpu gpus free"
    )
    return UnreachableError(message, hint=hint, code="gpu_hangs")
