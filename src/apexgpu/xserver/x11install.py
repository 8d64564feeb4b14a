"""What windows need in a container, through its apt: what is sent there, and what its answer means."""

from dataclasses import dataclass

from apexgpu.errors import ApexError, RefusedError, UnreachableError
from apexgpu.models import Host, Reply, Target
from apexgpu.remote import remotescript
from apexgpu.remote.remotescript import MARK
from apexgpu.ssh.transport import Limits, OnLine, Transport

SMALL = ("xauth", "x11-apps")
FULL = (*SMALL, "xorg")
LOCK = 120
"""Seconds that another apt is waited for."""
_WHOLE = 3600.0
_SILENT = 600.0  # apt says something every few seconds; a mirror may be slow


@dataclass(frozen=True, slots=True)
class Installed:
    """What came of it: the packages that were wanted, and whether anything had to be done."""

    packages: tuple[str, ...]
    changed: bool


def command(packages: tuple[str, ...], *, lock: int = LOCK) -> str:
    """The command line for the container's shell."""
    arguments = [" ".join(packages), str(lock), MARK.strip()]
    return remotescript.sh_command("install.sh", arguments=arguments)


def install(link: Transport, host: Host, *, full: bool, on_line: OnLine) -> Installed:
    """Install them where they are missing; RefusedError with apt's last words when that fails."""
    packages = FULL if full else SMALL
    said: list[str] = []

    def line(text: str) -> None:
        if not text.startswith(MARK) and text.strip():
            said.append(text.strip())
            on_line(text.strip())

    limits = Limits(total=_WHOLE, silence=_SILENT)
    reply = link.run(
        Target(host, "container"), command(packages), limits=limits, on_line=line, once=True
    )
    verdict = _verdict(reply, host)
    if verdict == ["present"]:
        return Installed(packages, changed=False)
    if verdict[:2] == ["done", "0"] and not verdict[2:]:
        return Installed(packages, changed=True)
    raise _failure(host, verdict, said, packages)


def _verdict(reply: Reply, host: Host) -> list[str]:
    told = remotescript.answers(reply.out)
    if not told:
        raise remotescript.no_answer_error(
            reply, host.name, hint=f"apexgpu ssh {host.name} -- apt-get --version"
        )
    return told[-1].split()


def _failure(
    host: Host, verdict: list[str], said: list[str], packages: tuple[str, ...]
) -> ApexError:
    where, name = f"the container on {host.name}", host.name
    by_hand = f'apexgpu ssh {name} -- "sudo apt-get update && sudo apt-get install -y {" ".join(packages)}"'
    if verdict[0] == "no_sudo":
        return RefusedError(
            f"sudo in {where} asks for a password",
            hint=f"apexgpu ssh {name}   (then: sudo apt-get install {' '.join(packages)})",
            code="no_sudo",
        )
    if verdict[0] != "done":
        why = {"no_apt": "has no apt-get", "no_room": "has no room in /tmp"}.get(
            verdict[0], "is of an unknown kind"
        )
        return RefusedError(
            f"{where} {why}", hint=f"apexgpu ssh {name} -- df -h /tmp", code=verdict[0]
        )
    if verdict[1] == "99":
        return UnreachableError(
            f"another apt has been at work in {where} for {LOCK} s: {_last(said)}",
            hint=f'apexgpu ssh {name} -- "ps aux | grep -e apt -e dpkg"',
            code="apt_locked",
        )
    if verdict[1] == "0":
        return RefusedError(
            f"apt in {where} says that it is done, and {', '.join(verdict[2:])} is not installed",
            hint=by_hand,
            code="apt_failed",
        )
    if any("dpkg was interrupted" in line or "dpkg --configure -a" in line for line in said):
        return RefusedError(
            f"an earlier installation in {where} was interrupted",
            hint=f'apexgpu ssh {name} -- "sudo dpkg --configure -a" && apexgpu x11 install {name}',
            code="dpkg_interrupted",
        )
    if any("No space left" in line or "enough free space" in line for line in said):
        return RefusedError(
            f"there is no room for them in {where}",
            hint=f"apexgpu ssh {name} -- df -h /",
            code="full",
        )
    return RefusedError(f"apt failed in {where}: {_last(said)}", hint=by_hand, code="apt_failed")


def _last(said: list[str]) -> str:
    """Apt's last words: its errors before anything else."""
    errors = [line for line in said if line.startswith(("E: ", "dpkg: error"))]
    return (errors or said or ["it says nothing"])[-1]
