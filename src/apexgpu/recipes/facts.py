"""Finds out, in one round trip (facts.sh), what a container has that choices depend on."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from apexgpu import readers
from apexgpu.errors import ApexError
from apexgpu.manageshell import containershell
from apexgpu.models import Host, Reply
from apexgpu.recipes.compatibility import INSTALLERS, ContainerSoftware, PythonVersion
from apexgpu.remote import remotescript
from apexgpu.ssh.transport import Limits, Transport
from apexgpu.text import last_line

_LIMIT = 180
"""Seconds that the container may take; the archives on the NAS are read."""


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A GPU: its name, and its memory in MiB (0 if it is not known)."""

    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """The free space of a directory in MiB, and the device number of its file system."""

    mebibytes: int
    file_system: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What a container has. Versions are None if there is nothing.

    `system` is the distribution's full name, `distribution` its id and release. `gpu_trouble` is
    why nvidia-smi reports no driver. `cudnn` is the version in cudnn.h, `cudnn_library` that of the
    library that programs load. `cudnn_archives` are versions on the NAS -> the file. `free` is
    directory -> its free space. `sudo` is whether sudo works without a password. `running_setup` is
    the id and the recipes of a setup that is running now.
    """

    machine: str = "x86_64"
    home: str = ""
    system: str = ""
    distribution: tuple[str, str] = ("", "")
    driver: str | None = None
    gpus: Sequence[GpuModel] = ()
    gpu_trouble: str = ""
    cuda: str | None = None
    cudnn: str | None = None
    cudnn_library: str | None = None
    cudnn_archives: Mapping[str, str] = field(default_factory=dict)
    pythons: Sequence[PythonVersion] = ()
    free: Mapping[str, FreeSpace] = field(default_factory=dict)
    sudo: bool = True
    running_setup: str | None = None

    def software(self, host: str) -> ContainerSoftware:
        """The facts that choices depend on.

        A cuDNN whose header and library disagree does not count.
        """
        cudnn = None
        # The library may report less of the version than the header: 7 for 7.0.5.
        if (
            self.cudnn
            and self.cudnn_library
            and f"{self.cudnn}.".startswith(f"{self.cudnn_library}.")
        ):
            cudnn = self.cudnn
        return ContainerSoftware(
            host,
            self.machine,
            self.distribution,
            self.driver,
            self.gpu_trouble,
            self.pythons,
            cudnn,
            tuple(self.cudnn_archives),
        )


def facts_command(installers: str = INSTALLERS) -> str:
    """The command line that prints the facts."""
    program = remotescript.text("facts.sh")
    return remotescript.apart(
        shlex.join(["env", "LC_ALL=C", "sh", "-c", program, "apexgpu", installers])
    )


def query_facts(
    transport: Transport, host: Host, *, connect_timeout: float = 10, once: bool = False
) -> Facts:
    """Ask the container on `host`; with `once`, over a new connection. Timeout in seconds.

    Raises RefusedError (stopped, not registered), UnreachableError, LoginError; ApexError for an
    incomplete answer.
    """
    limits = Limits(connect=connect_timeout, total=_LIMIT)
    reply = containershell.query(transport, host, facts_command(), limits=limits, once=once)
    return read_facts(reply, host.name)


def read_facts(reply: Reply, host: str) -> Facts:
    """Read what facts.sh printed; ApexError if it did not come to its end."""
    values: dict[str, list[str]] = {}
    for line in remotescript.answers(reply.out):
        name, _, value = line.partition(" ")
        values.setdefault(name, []).append(value.strip())
    if "end" not in values:
        last = last_line(reply.err, f"exit status {reply.code}")
        if last.startswith("Unmatched '"):
            raise remotescript.csh_error(host)
        message = f"cannot find out what the container on {host} has: {last[:200]}"
        raise ApexError(message, hint=f"apexgpu ssh {host} -- uname -a", code="unexpected")

    def first(name: str) -> str:
        return values.get(name, [""])[0]

    driver, gpus = _read_gpus(values.get("gpu", []))
    return Facts(
        machine=first("machine"),
        home=first("home"),
        system=first("os_PRETTY_NAME"),
        distribution=(first("os_ID"), first("os_VERSION_ID")),
        driver=driver,
        gpus=gpus,
        gpu_trouble=first("gpu_trouble"),
        cuda=first("cuda") or None,
        cudnn=first("cudnn") or None,
        cudnn_library=first("cudnn_library") or None,
        cudnn_archives=_read_archives(values.get("cudnn_archive", [])),
        pythons=_read_pythons(values.get("python", [])),
        free=_read_free_space(values.get("free", [])),
        sudo=first("sudo") == "yes",
        running_setup=first("busy") if "busy" in values else None,
    )


def _read_gpus(lines: Sequence[str]) -> tuple[str | None, tuple[GpuModel, ...]]:
    """The driver and the GPUs.

    A line is `390.48, TITAN V, 12066`, or the driver alone from an old nvidia-smi.
    """
    driver = None
    gpus = []
    for line in lines:
        if not line[:1].isdigit():
            continue
        version, name, memory, *_ = [part.strip() for part in f"{line},,".split(",")]
        if driver is None:
            driver = version
        gpus.append(GpuModel(name or "GPU", readers.number(memory) or 0))
    return driver, tuple(gpus)


def _read_archives(lines: Sequence[str]) -> dict[str, str]:
    """A line is `7.0.5 /newNAS/…tgz`; the version is missing if it could not be read.

    If several files have the same version, the first counts.
    """
    archives: dict[str, str] = {}
    for line in lines:
        version, _, path = line.partition(" ")
        if version[:1].isdigit() and path:
            archives.setdefault(version, path)
    return archives


def _read_pythons(lines: Sequence[str]) -> tuple[PythonVersion, ...]:
    """A line is `3.5.2 1 /usr/bin/python3`, where 1 means wide unicode.

    Each version counts once.
    """
    pythons: dict[str, PythonVersion] = {}
    for line in lines:
        version, wide, *_ = [*line.split(), "", ""]
        if version[:1].isdigit():
            pythons.setdefault(version, PythonVersion(version, wide == "1"))
    return tuple(pythons.values())


def _read_free_space(lines: Sequence[str]) -> dict[str, FreeSpace]:
    """A line is `/usr/local 77715 64769`: directory, MiB, device.

    A directory may contain spaces.
    """
    free: dict[str, FreeSpace] = {}
    for line in lines:
        directory, mebibytes, device = [*line.rsplit(" ", 2), "", ""][:3]
        count = readers.number(mebibytes)
        if count is not None:
            free[directory] = FreeSpace(count, device)
    return free
