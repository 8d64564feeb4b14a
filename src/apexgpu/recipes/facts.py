"""What is in a container that decides which software goes together: asked for in one round trip, and read."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from apexgpu.errors import ApexError
from apexgpu.manageshell import containershell
from apexgpu.models import Host, Reply
from apexgpu.recipes.compatibility import Have, Python
from apexgpu.remote import remotescript
from apexgpu.ssh.transport import Limits, Transport
from apexgpu.text import last_line

INSTALLERS = "/newNAS/Share/GPU_Server"


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU: its name, and its memory in MiB."""

    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class Facts:
    """A container. Versions are None where there is nothing; `free` is path -> (MiB, device).

    `cudnn` is what cudnn.h says, `cudnn_library` what the library is that programs load. `archives` are cuDNN versions
    on the NAS -> the file. `busy` is the run that changes it at this moment.
    """

    machine: str = "x86_64"
    home: str = ""
    system: str = ""
    distribution: tuple[str, str] = ("", "")
    driver: str | None = None
    cards: Sequence[Card] = ()
    trouble: str = ""
    cuda: str | None = None
    cudnn: str | None = None
    cudnn_library: str | None = None
    archives: Mapping[str, str] = field(default_factory=dict)
    pythons: Sequence[Python] = ()
    free: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    sudo: bool = True
    busy: str | None = None

    def have(self, where: str) -> Have:
        """What choices depend on. A cuDNN whose header and library disagree is none."""
        whole = (
            self.cudnn
            and self.cudnn_library
            and f"{self.cudnn}.".startswith(f"{self.cudnn_library}.")
        )
        return Have(
            where,
            self.machine,
            self.distribution,
            self.driver,
            self.trouble,
            self.pythons,
            self.cudnn if whole else None,
            tuple(self.archives),
        )


def command(installers: str = INSTALLERS) -> str:
    """The command line that tells the facts."""
    return remotescript.apart(
        shlex.join(
            ["env", "LC_ALL=C", "sh", "-c", remotescript.text("facts.sh"), "apexgpu", installers]
        )
    )


def survey(link: Transport, host: Host, *, connect: float = 10, once: bool = False) -> Facts:
    """Ask the container on `host`; `connect` in seconds. RefusedError (stopped …), UnreachableError …"""
    reply = containershell.query(
        link, host, command(), limits=Limits(connect=connect, total=180), once=once
    )
    return read(reply, host.name)


def read(reply: Reply, where: str) -> Facts:
    """The facts that the script told; ApexError when it did not come to its end."""
    told: dict[str, list[str]] = {}
    for line in remotescript.answers(reply.out):
        name, _, value = line.partition(" ")
        told.setdefault(name, []).append(value.strip())
    if "end" not in told:
        said = last_line(reply.err, f"exit status {reply.code}")
        message = f"the container on {where} could not be looked at: {said[:200]}"
        raise ApexError(message, hint=f"apexgpu ssh {where} -- uname -a", code="unexpected")

    def one(name: str) -> str:
        return told.get(name, [""])[0]

    cards, driver = _cards(told.get("gpu", []))
    return Facts(
        machine=one("machine"),
        home=one("home"),
        system=one("os_PRETTY_NAME"),
        distribution=(one("os_ID"), one("os_VERSION_ID")),
        driver=driver,
        cards=cards,
        trouble=one("gpu_trouble"),
        cuda=one("cuda") or None,
        cudnn=one("cudnn") or None,
        cudnn_library=one("cudnn_library") or None,
        archives=_archives(told.get("cudnn_archive", [])),
        pythons=_pythons(told.get("python", [])),
        free=_free(told.get("free", [])),
        sudo=one("sudo") == "yes",
        busy=one("busy") if "busy" in told else None,
    )


def _cards(lines: Sequence[str]) -> tuple[tuple[Card, ...], str | None]:
    """`390.48, TITAN V, 12066` a line, or the driver alone."""
    rows = [
        [part.strip() for part in f"{line},,".split(",")] for line in lines if line[:1].isdigit()
    ]
    cards = tuple(Card(row[1] or "GPU", int(row[2]) if row[2].isdigit() else 0) for row in rows)
    return cards, rows[0][0] if rows else None


def _archives(lines: Sequence[str]) -> dict[str, str]:
    """`7.0.5 /newNAS/…tgz` a line; one that no version could be read of is none."""
    pairs = [line.partition(" ") for line in lines]
    return {version: path for version, _, path in reversed(pairs) if version[:1].isdigit() and path}


def _pythons(lines: Sequence[str]) -> tuple[Python, ...]:
    """`3.5.2 1 /usr/bin/python3` a line, each version once."""
    found: dict[str, Python] = {}
    for line in lines:
        version, wide, *_ = [*line.split(), "", ""]
        if version[:1].isdigit():
            found.setdefault(version, Python(version, wide == "1"))
    return tuple(found.values())


def _free(lines: Sequence[str]) -> dict[str, tuple[int, str]]:
    """`/usr/local 77715 64769` a line; a path may hold blanks."""
    found: dict[str, tuple[int, str]] = {}
    for line in lines:
        path, size, system = [*line.rsplit(" ", 2), "", ""][:3]
        if size.isdigit():
            found[path] = int(size), system
    return found
