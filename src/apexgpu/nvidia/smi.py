"""The output of `nvidia-smi -q` as values, for drivers from 2013 to today. Pure.

The output is a tree of names and values, by indentation:

    Driver Version                  : 390.48
    GPU 00000000:02:00.0
        Product Name                : TITAN V
        FB Memory Usage
            Total                   : 12066 MiB

Names and their places changed over the years. A value that is missing, or is not what it should be (`N/A`,
`[Not Supported]`, `Unknown Error`), is None and never an error.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from apexgpu.nvidia.failures import known_failure, missing_program, unknown_output

MIB = 1024**2

DRIVER_SHARE = 64 * MIB
"""Memory that the driver itself may use on a GPU: less than this is not taken for somebody's program."""

END = "@@"
"""Stands before nvidia-smi's exit status on the line that ends a report (see programs/nvidia_smi.sh)."""

COMMAND_NOT_FOUND = 127
"""sh's exit status when a program does not exist."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A program on a GPU, of this container. `memory` is in bytes, None if the driver does not report it."""

    pid: int
    name: str
    memory: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, with nvidia-smi's `index`. Temperature in °C, utilization in percent, memory in bytes."""

    index: int
    name: str
    uuid: str = ""
    temperature: int | None = None
    utilization: int | None = None
    total: int | None = None
    used: int | None = None
    free: int | None = None
    compute_mode: str = "Default"
    processes: tuple[GpuProcess, ...] = ()

    @property
    def own(self) -> int | None:
        """Bytes that the container's own programs use; None if that of one of them is unknown."""
        sum_of_known = 0
        for process in self.processes:
            if process.memory is None:
                return None
            sum_of_known += process.memory
        return sum_of_known

    @property
    def others(self) -> int | None:
        """Bytes in use that no program of the container accounts for; None if that is unknown."""
        if self.used is None or self.own is None:
            return None
        unexplained = self.used - self.own
        return unexplained if unexplained > DRIVER_SHARE else 0


@dataclass(frozen=True, slots=True)
class Report:
    """What nvidia-smi printed once: the driver's version, and the GPUs."""

    driver: str
    gpus: tuple[Gpu, ...]


def reports(text: str, host: str) -> tuple[Report, ...]:
    """Parse the output of programs/nvidia_smi.sh, in which each report ends with a line `@@ STATUS`.

    Raises NvidiaSmiError if nvidia-smi reports a failure, or if not even one report is complete.
    """
    reports_so_far: list[Report] = []
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(f"{END} "):
            reports_so_far.append(report(lines, _number(line) or 0, host))
            lines = []
        else:
            lines.append(line)
    if not reports_so_far:
        raise unknown_output(lines, host)
    return tuple(reports_so_far)


def report(lines: Sequence[str], status: int, host: str) -> Report:
    """Parse one report, from what nvidia-smi printed and its exit status. Raises NvidiaSmiError."""
    head, gpu_blocks = _split(lines)
    failure = known_failure(lines, host)
    # A status alone proves nothing: 14, for example, is a warning about the infoROM after a whole report.
    if status and failure is not None:
        raise failure
    if not gpu_blocks:
        if failure is not None:
            raise failure
        if status == COMMAND_NOT_FOUND:
            raise missing_program(host)
        raise unknown_output(lines, host)
    gpus = [_gpu(index, block) for index, block in enumerate(gpu_blocks)]
    return Report(head.get("driver version", "?"), tuple(gpus))


BRIEF_COMMAND = (
    "nvidia-smi --query-gpu=driver_version,index,name,memory.total,memory.used"
    " --format=csv,noheader,nounits"
)
"""A shorter question, for when the output of `-q` is not understood. `brief` parses the answer."""

_BRIEF_CELLS = 5
_VERSION = re.compile(r"\d+(\.\d+)+")


def brief(text: str) -> Report | None:
    """Parse the output of BRIEF_COMMAND, as far as possible; None if it has no driver version."""
    driver = None
    gpus = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if not _VERSION.fullmatch(cells[0]):
            continue
        driver = driver or cells[0]
        if len(cells) == _BRIEF_CELLS:
            _, index, name, mib_total, mib_used = cells
            total, used = _bytes(f"{mib_total} MiB"), _bytes(f"{mib_used} MiB")
            free = _difference(total, used)
            gpus.append(Gpu(_number(index) or 0, name, total=total, used=used, free=free))
    if driver is None:
        return None
    return Report(driver, tuple(gpus) or (Gpu(0, "?"),))


# The tree of names and values

Path = tuple[str, ...]
"""The names above a value and its own, in lower case."""

Field = tuple[Path, str]
"""A line of the output: its path and its value ("" for a heading)."""

_NAME_AND_VALUE = re.compile(r"(.*?)\s+:(?:\s+(.*))?")


def _split(lines: Sequence[str]) -> tuple[dict[str, str], list[list[Field]]]:
    """The fields before the first GPU, and those of each GPU."""
    head: dict[str, str] = {}
    gpu_blocks: list[list[Field]] = []
    for path, value in _fields(lines):
        is_heading = len(path) == 1 and not value
        if is_heading and path[0].startswith("gpu "):
            gpu_blocks.append([])
        elif gpu_blocks and len(path) > 1:
            gpu_blocks[-1].append((path[1:], value))
        elif len(path) == 1:
            head.setdefault(path[0], value)
    return head, gpu_blocks


def _fields(lines: Sequence[str]) -> Iterator[Field]:
    """Each line with the headings above it. In lower case, because newer drivers changed some names."""
    headings: list[tuple[int, str]] = []  # each with its indentation
    for line in lines:
        text = line.strip()
        if not text:
            continue
        indentation = len(line) - len(line.lstrip())
        while headings and headings[-1][0] >= indentation:
            headings.pop()
        match = _NAME_AND_VALUE.fullmatch(text)
        if match is None:
            name = text  # a heading
            value = ""
        else:
            name = match[1]
            value = match[2] or ""
        headings.append((indentation, name.lower()))
        path = tuple(heading for _, heading in headings)
        yield path, value


# One GPU


def _gpu(index: int, fields: Sequence[Field]) -> Gpu:
    values: dict[Path, str] = {}
    for path, value in fields:
        values.setdefault(path, value)
    total = _memory(values, "total")
    used = _memory(values, "used")
    free = _memory(values, "free")
    return Gpu(
        index,
        name=values.get(("product name",)) or "?",
        uuid=values.get(("gpu uuid",), ""),
        temperature=_number(
            _first(values, ("temperature", "gpu current temp"), ("temperature", "gpu"))
        ),
        utilization=_number(values.get(("utilization", "gpu"), "")),
        total=total,
        used=used,
        free=free if free is not None else _difference(total, used),
        compute_mode=values.get(("compute mode",)) or "Default",
        processes=tuple(_processes(fields)),
    )


def _memory(values: Mapping[Path, str], name: str) -> int | None:
    # "FB" is the frame buffer; drivers before 331 have "Memory Usage".
    return _bytes(_first(values, ("fb memory usage", name), ("memory usage", name)))


def _first(values: Mapping[Path, str], *paths: Path) -> str:
    """The value at the first of `paths` that has one; "" if none has."""
    for path in paths:
        if values.get(path):
            return values[path]
    return ""


def _difference(total: int | None, used: int | None) -> int | None:
    if total is None or used is None:
        return None
    return max(0, total - used)


def _processes(fields: Sequence[Field]) -> Iterator[GpuProcess]:
    """The programs on a GPU. Each begins with its process id; drivers before 346 call them `Compute Processes`."""
    pid: int | None = None
    details: dict[str, str] = {}
    end: Field = (("processes", "process id"), "")
    for path, value in [*fields, end]:
        if path[0] not in {"processes", "compute processes"}:
            continue
        if path[1:] == ("process id",):
            if pid is not None:
                memory = _bytes(details.get("used gpu memory", ""))
                yield GpuProcess(pid, details.get("name") or "?", memory)
            pid, details = _number(value), {}
        elif len(path) == 3:
            details[path[2]] = value


# Numbers

_UNITS = {
    "b": 1,
    "kib": 1024,
    "kb": 1024,
    "mib": MIB,
    "mb": MIB,
    "gib": 1024 * MIB,
    "gb": 1024 * MIB,
}


def _number(text: str) -> int | None:
    """The first whole number in a text such as "97 %"."""
    match = re.search(r"(?<![\w.])\d+", text)
    return int(match[0]) if match else None


def _bytes(text: str) -> int | None:
    """A size such as "12066 MiB" in bytes. Old drivers write MB and mean MiB."""
    match = re.fullmatch(r"(\d+)\s*([A-Za-z]+)", text.strip())
    if match is None:
        return None
    unit = _UNITS.get(match[2].lower())
    return None if unit is None else int(match[1]) * unit
