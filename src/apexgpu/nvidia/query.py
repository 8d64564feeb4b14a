"""Looking at the GPUs of a host through the own container: one connection a host, however many looks."""

import shlex
from collections.abc import Callable

from apexgpu.errors import DroppedError, UnreachableError
from apexgpu.manageshell import containershell
from apexgpu.models import Host
from apexgpu.nvidia import smi
from apexgpu.nvidia.smi import Report
from apexgpu.ssh.transport import Limits, Transport

PATIENCE = 30.0
"""Seconds that one nvidia-smi may take: it wakes every card up where nothing keeps the driver awake."""

ROUNDS = 60
"""Looks over one connection; then a new one is made, so that nothing grows for as long as somebody watches."""

# What is not told (N/A) and the blanks that align the rest are most of a report: they stay there.
_SCRIPT = """\
LC_ALL=C; export LC_ALL
n=0
while :; do
  said=$(nvidia-smi -q 2>&1 </dev/null); code=$?
  printf '%s\\n' "$said" | sed -e '/: N\\/A$/d' -e 's/  *: / : /' || exit 1
  echo "{end} $code" || exit 1
  n=$((n + 1))
  [ "$n" -lt {looks} ] || exit 0
  sleep {seconds:g}
done
"""


def command(looks: int, seconds: float) -> str:
    """What the container is to run: `looks` reports, `seconds` apart, whatever the login shell is."""
    return f"sh -c {shlex.quote(_SCRIPT.format(end=smi.END, looks=looks, seconds=seconds))}"


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
