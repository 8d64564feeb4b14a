"""Installs in a container what windows need, with apt."""

from collections.abc import Sequence
from dataclasses import dataclass

from apexgpu.errors import ApexError, RefusedError, UnreachableError
from apexgpu.models import Host, Reply, Target
from apexgpu.platforms.shellwords import both
from apexgpu.remote import remotescript
from apexgpu.remote.remotescript import MARK
from apexgpu.ssh.transport import Limits, OnLine, Transport

SMALL = ("xauth", "x11-apps")
FULL = (*SMALL, "xorg")
LOCK = 120
"""Seconds to wait for another apt that is running."""
_TOTAL_LIMIT = 3600.0
_SILENCE_LIMIT = 600.0  # apt prints something every few seconds, but a mirror may be slow

_LOCK_FAILED = "99"
"""The status that programs/install.sh reports if another apt holds the lock for longer than LOCK."""


@dataclass(frozen=True, slots=True)
class AptOutcome:
    """The packages that are installed now; `changed` if any of them was not before."""

    packages: tuple[str, ...]
    changed: bool


def command(packages: tuple[str, ...], *, lock: int = LOCK) -> str:
    """The command line that installs `packages` where they are missing."""
    arguments = [" ".join(packages), str(lock), MARK.strip()]
    return remotescript.sh_command("install.sh", arguments=arguments)


def install(transport: Transport, host: Host, *, full: bool, on_line: OnLine) -> AptOutcome:
    """Install the packages; `full` adds all of xorg. `on_line` gets apt's output.

    Raises RefusedError with apt's own last line if it fails, UnreachableError if another apt is running.
    """
    packages = FULL if full else SMALL
    output: list[str] = []

    def keep(line: str) -> None:
        if not line.startswith(MARK) and line.strip():
            output.append(line.strip())
            on_line(line.strip())

    limits = Limits(total=_TOTAL_LIMIT, silence=_SILENCE_LIMIT)
    target = Target(host, "container")
    reply = transport.run(target, command(packages), limits=limits, on_line=keep, once=True)
    outcome = _outcome(reply, host)
    if outcome == ["present"]:
        return AptOutcome(packages, changed=False)
    if outcome == ["done", "0"]:
        return AptOutcome(packages, changed=True)
    raise _failure(host, outcome, output, packages)


def _outcome(reply: Reply, host: Host) -> list[str]:
    """The words of the program's last answer: `present`, or `done STATUS MISSING…`, or a reason such as `no_sudo`."""
    answers = remotescript.answers(reply.out)
    if not answers:
        hint = f"apexgpu ssh {host.name} -- apt-get --version"
        raise remotescript.no_answer_error(reply, host.name, hint=hint)
    return answers[-1].split()


def _failure(
    host: Host, outcome: Sequence[str], output: Sequence[str], packages: Sequence[str]
) -> ApexError:
    if outcome[0] != "done":
        return _cannot_begin(host, outcome[0], packages)
    status, missing = outcome[1], outcome[2:]
    return _apt_failed(host, status, missing, output, packages)


def _cannot_begin(host: Host, reason: str, packages: Sequence[str]) -> ApexError:
    container = f"the container on {host.name}"
    if reason == "no_sudo":
        return RefusedError(
            f"sudo in {container} asks for a password; in a shell there: "
            f"sudo apt-get install {' '.join(packages)}",
            hint=f"apexgpu ssh {host.name}",
            code=reason,
        )
    facts = {"no_apt": "has no apt-get", "no_room": "has no free space in /tmp"}
    fact = facts.get(reason, "is of an unknown kind")
    return RefusedError(
        f"{container} {fact}", hint=f"apexgpu ssh {host.name} -- df -h /tmp", code=reason
    )


def _apt_failed(
    host: Host,
    status: str,
    missing: Sequence[str],
    output: Sequence[str],
    packages: Sequence[str],
) -> ApexError:
    container, ssh = f"the container on {host.name}", f"apexgpu ssh {host.name} --"
    by_hand = f'{ssh} "sudo apt-get update && sudo apt-get install -y {" ".join(packages)}"'
    if status == _LOCK_FAILED:
        return UnreachableError(
            f"another apt has been running in {container} for {LOCK} s: {_last_line(output)}",
            hint=f'{ssh} "ps aux | grep -e apt -e dpkg"',
            code="apt_locked",
        )
    if status == "0":
        return RefusedError(
            f"apt in {container} reports success, but {', '.join(missing)} is not installed",
            hint=by_hand,
            code="apt_failed",
        )
    if _contains(output, "dpkg was interrupted", "dpkg --configure -a"):
        repair = both(f'{ssh} "sudo dpkg --configure -a"', f"apexgpu x11 install {host.name}")
        return RefusedError(
            f"an earlier installation in {container} was interrupted",
            hint=repair,
            code="dpkg_interrupted",
        )
    if _contains(output, "No space left", "enough free space"):
        return RefusedError(
            f"the disk of {container} has not enough free space",
            hint=f"{ssh} df -h /",
            code="full",
        )
    return RefusedError(
        f"apt failed in {container}: {_last_line(output)}", hint=by_hand, code="apt_failed"
    )


def _contains(output: Sequence[str], *phrases: str) -> bool:
    return any(phrase in line for line in output for phrase in phrases)


def _last_line(output: Sequence[str]) -> str:
    """apt's last error; its last line if it printed none."""
    errors = [line for line in output if line.startswith(("E: ", "dpkg: error"))]
    if errors:
        return errors[-1]
    return output[-1] if output else "it printed nothing"
