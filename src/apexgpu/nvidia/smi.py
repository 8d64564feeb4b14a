"""The output of `nvidia-smi -q` as values, for drivers from 2013 to today. Pure.

The output is a tree of names and values, by indentation:

    Driver Version                  : 390.48
    GPU 00000000:02:00.0
        Product Name                : TITAN V
        FB Memory Usage
            Total                   : 12066 MiB

Names and their places changed over the years. A value that is missing or not available (`N/A`, `[Not Supported]`) is
None and never an error. What a GPU reports about its health, and values that are not understood, decide its
`condition`: one bad GPU does not hide the others, and is not mistaken for a free one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from apexgpu import readers
from apexgpu.nvidia.failures import (
    GpuLostError,
    known_failure,
    missing_program,
    unknown_output,
)

MIB = 1024**2

DRIVER_SHARE = 64 * MIB
"""Memory that the driver itself may use on a GPU: less than this is not taken for somebody's program."""

END = "@@"
"""Stands before nvidia-smi's exit status on the line that ends a report (see programs/nvidia_smi.sh)."""

LOCK = "@lock"
"""Begins a line with the UUID of a GPU that a run has locked, and who that is (see programs/gpu_locks.sh)."""

COMMAND_NOT_FOUND = 127
"""sh's exit status when a program does not exist."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A program on a GPU, of this container. `memory` is in bytes, None if the driver does not report it."""

    pid: int
    name: str
    memory: int | None


class Condition(StrEnum):
    """Whether programs can run on a GPU, as far as the GPU reports it."""

    HEALTHY = "healthy"
    MIG = "mig"
    """It is divided into instances (Multi-Instance GPU). No program can use it as a whole."""
    NEEDS_RESET = "needs_reset"
    BROKEN = "broken"
    """It reports errors instead of values."""
    LOST = "lost"
    """The driver cannot reach it any more."""
    HIDDEN = "hidden"
    """The container has no permission to see its values."""
    UNEXPECTED = "unexpected"
    """It reports values that are not understood."""


@dataclass(frozen=True, slots=True)
class MigInstance:
    """A part of a GPU in MIG mode: its numbers, and its memory in bytes."""

    index: int
    gpu_instance: int | None = None
    compute_instance: int | None = None
    total: int | None = None
    used: int | None = None
    free: int | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, with nvidia-smi's `index`. Temperature in °C, utilization in percent, memory in bytes.

    `reason` is what the GPU printed where its condition is not HEALTHY. `instances` are those of MIG. `locked_by` is
    the user and the name of the run that has locked the GPU, "" if none has.
    """

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
    condition: Condition = Condition.HEALTHY
    reason: str = ""
    instances: tuple[MigInstance, ...] = ()
    locked_by: str = ""

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
    """What nvidia-smi printed once: the driver's version, and the GPUs.

    `missing` is how many GPUs the driver has attached that nvidia-smi neither lists nor reports as lost.
    """

    driver: str
    gpus: tuple[Gpu, ...]
    missing: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether all GPUs are there, so that CUDA counts them as nvidia-smi does."""
        return not self.missing and all(gpu.condition is not Condition.LOST for gpu in self.gpus)


def reports(text: str, host: str) -> tuple[Report, ...]:
    """Parse the output of programs/nvidia_smi.sh, in which each report ends with a line `@@ STATUS`.

    Raises NvidiaSmiError if nvidia-smi reports a failure, or if not even one report is complete. Lost GPUs are no
    failure as long as others are listed.
    """
    reports_so_far: list[Report] = []
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(f"{END} "):
            status = readers.number(line.removeprefix(END).strip())
            if status is None:
                raise unknown_output([line], host)
            reports_so_far.append(report(lines, status, host))
            lines = []
        else:
            lines.append(line)
    if not reports_so_far:
        raise unknown_output(lines, host)
    return tuple(reports_so_far)


def report(lines: Sequence[str], status: int, host: str) -> Report:
    """Parse one report, from what nvidia-smi printed and its exit status. Raises NvidiaSmiError."""
    locks = _locks(lines)
    lines = [line for line in lines if not line.startswith(f"{LOCK} ")]
    head, gpu_blocks = _split(lines)
    failure = known_failure(lines, host)
    # A status alone proves nothing: 14, for example, is a warning about the infoROM after a whole report.
    if status and failure is not None and not (gpu_blocks and isinstance(failure, GpuLostError)):
        raise failure
    if not gpu_blocks:
        if failure is not None:
            raise failure
        if status == COMMAND_NOT_FOUND:
            raise missing_program(host)
        raise unknown_output(lines, host)
    gpus = [_gpu(bus, block) for bus, block in gpu_blocks]
    gpus += _lost_gpus(lines)
    # nvidia-smi numbers the GPUs by their place on the bus, lost ones included.
    gpus.sort(key=lambda placed: placed[0])
    attached = readers.number(head.get("attached gpus", "")) or 0
    numbered = []
    for index, (_, gpu) in enumerate(gpus):
        # A GPU without a UUID is locked by its number (see apexgpu.runs).
        locked_by = locks.get(gpu.uuid or f"GPU-{index}", "")
        numbered.append(replace(gpu, index=index, locked_by=locked_by))
    driver = head.get("driver version") or "?"
    return Report(driver, tuple(numbered), max(0, attached - len(numbered)))


def _locks(lines: Sequence[str]) -> dict[str, str]:
    """Who has locked a GPU, by its UUID."""
    locks = {}
    for line in lines:
        if line.startswith(f"{LOCK} "):
            uuid, _, owner = line.removeprefix(f"{LOCK} ").partition(" ")
            locks[uuid] = owner.strip()[: readers.QUOTED] or "?"
    return locks


# The GPU's number is there in new versions only: `GPU0: 0000:17:00.0`, `GPU 0000:02:00.0`.
_LOST = re.compile(
    r"\bGPU ?(?:[0-9]{1,3}: ?)?([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f])"
)

Place = tuple[int, ...]
"""Where a GPU is on the bus: domain, bus, device, function."""


def _lost_gpus(lines: Sequence[str]) -> list[tuple[Place, Gpu]]:
    """The GPUs that nvidia-smi names outside of its report because it cannot reach them."""
    lost = {}
    for line in lines:
        match = _LOST.search(line)
        is_heading = match is not None and line.strip() == match[0]
        if match is None or is_heading or line[:1].isspace():
            continue
        reason = line.strip()
        if any(word in reason.lower() for word in ("unable", "lost", "fallen off")):
            gpu = Gpu(0, "?", condition=Condition.LOST, reason=reason[: readers.QUOTED])
            lost[_place(match[1])] = gpu
    return list(lost.items())


def _place(text: str) -> Place:
    """The place that a text such as `00000000:17:00.0` names; texts that name none come last."""
    parts = re.split("[:.]", text)
    if not all(re.fullmatch("[0-9A-Fa-f]{1,8}", part) for part in parts):
        return (1 << 32,)
    return tuple(int(part, 16) for part in parts)


BRIEF_COMMAND = (
    "nvidia-smi --query-gpu=driver_version,index,name,memory.total,memory.used"
    " --format=csv,noheader,nounits"
)
"""A shorter question, for when the output of `-q` is not understood. `brief` parses the answer."""

_BRIEF_CELLS = 5
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){1,5}")


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
            number = readers.number(index) or 0
            gpus.append(Gpu(number, name, total=total, used=used, free=free))
    if driver is None:
        return None
    return Report(driver, tuple(gpus) or (Gpu(0, "?"),))


# The tree of names and values

Path = tuple[str, ...]
"""The names above a value and its own, in lower case."""

_DEEPEST = 12
"""How many headings can be above each other; real reports have five."""

Field = tuple[Path, str]
"""A line of the output: its path and its value ("" for a heading)."""

# The end of a name and the start of its value. A search for it is quick in a long line of blanks, too.
_COLON = re.compile(r"\s:(?=\s|$)")
_GPU_HEADING = re.compile(r"gpu ([0-9a-f:.]+)")


def _split(lines: Sequence[str]) -> tuple[dict[str, str], list[tuple[Place, list[Field]]]]:
    """The fields before the first GPU, and the place and the fields of each GPU."""
    head: dict[str, str] = {}
    gpu_blocks: list[tuple[Place, list[Field]]] = []
    for path, value in _fields(lines):
        heading = None
        if len(path) == 1 and not value:
            heading = _GPU_HEADING.fullmatch(path[0])
        if heading is not None:
            gpu_blocks.append((_place(heading[1]), []))
        elif gpu_blocks and len(path) > 1:
            gpu_blocks[-1][1].append((path[1:], value))
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
        match = _COLON.search(text)
        if match is None:
            name = text  # a heading
            value = ""
        else:
            name = text[: match.start()].rstrip()
            value = text[match.end() :].strip()
        if len(headings) >= _DEEPEST:
            continue
        headings.append((indentation, name.lower()))
        path = tuple(heading for _, heading in headings)
        yield path, value


# One GPU


def _gpu(place: Place, fields: Sequence[Field]) -> tuple[Place, Gpu]:
    """The place and the state of a GPU; its index is that in the list of all."""
    values: dict[Path, str] = {}
    for path, value in fields:
        values.setdefault(path, value)
    unread: list[str] = []

    def measure(unit: str, *paths: Path, most: int) -> int | None:
        text = _first(values, *paths)
        number = _measure(text, unit, most)
        if number is None and not _is_unavailable(text):
            unread.append(f"{' '.join(paths[0])}: {text}")
        return number

    def memory(name: str) -> int | None:
        # "FB" is the frame buffer; drivers before 331 have "Memory Usage".
        text = _first(values, ("fb memory usage", name), ("memory usage", name))
        size = _bytes(text)
        if size is None and not _is_unavailable(text):
            unread.append(f"memory {name}: {text}")
        return size

    total, used, free = memory("total"), memory("used"), memory("free")
    temperature = measure(
        "C", ("temperature", "gpu current temp"), ("temperature", "gpu"), most=1000
    )
    utilization = measure("%", ("utilization", "gpu"), most=100)
    condition, reason = _condition(fields, values, unread)
    gpu = Gpu(
        0,
        name=values.get(("product name",)) or "?",
        uuid=values.get(("gpu uuid",), ""),
        temperature=temperature,
        utilization=utilization,
        total=total,
        used=used,
        free=free if free is not None else _difference(total, used),
        compute_mode=values.get(("compute mode",)) or "Default",
        processes=tuple(_processes(fields)),
        condition=condition,
        reason=reason[: readers.QUOTED],
        instances=tuple(_instances(fields)),
    )
    return place, gpu


_NOT_AVAILABLE = ("n/a", "not supported", "not available", "deprecated", "insufficient permissions")
_LOST_VALUES = ("gpu is lost", "fallen off the bus")
_RESET_VALUES = ("requires reset", "requires a reset")
_BROKEN_VALUES = ("unknown error", "err!")
# What a healthy GPU prints for each of these, if it prints them at all.
_HEALTH: Mapping[Path, tuple[str, ...]] = {
    ("gpu reset status", "reset required"): ("no",),
    ("gpu reset status", "drain and reset recommended"): ("no",),
    ("gpu recovery action",): ("none",),
    ("channel repair pending",): ("no",),
    ("tpc repair pending",): ("no",),
    ("remapped rows", "pending"): ("no",),
    ("remapped rows", "remapping failure occurred"): ("no",),
    ("retired pages", "pending page blacklist"): ("no",),
    ("retired pages", "pending"): ("no",),
}


def _condition(
    fields: Sequence[Field], values: Mapping[Path, str], unread: Sequence[str]
) -> tuple[Condition, str]:
    """The condition of a GPU and what it printed about it: the worst of all that it reports."""
    for words, condition in (
        (_LOST_VALUES, Condition.LOST),
        (_RESET_VALUES, Condition.NEEDS_RESET),
        (_BROKEN_VALUES, Condition.BROKEN),
    ):
        for path, value in fields:
            # The name of a program may be anything.
            is_program = path[0] in {"processes", "compute processes"} and len(path) > 1
            if not is_program and any(word in value.lower() for word in words):
                return condition, f"{' '.join(path)}: {value}"
    for path, good in _HEALTH.items():
        value = values.get(path, "")
        if not _is_unavailable(value) and value.lower() not in good:
            return Condition.NEEDS_RESET, f"{' '.join(path)}: {value}"
    modes = {values.get(("mig mode", name), "").lower() for name in ("current", "pending")}
    has_instances = any("mig device" in path for path, _ in fields)
    if "enabled" in modes or has_instances:
        return Condition.MIG, ""
    if unread:
        return Condition.UNEXPECTED, ", ".join(unread)
    if "insufficient permissions" in _first(values, ("fb memory usage", "total")).lower():
        return Condition.HIDDEN, ""
    return Condition.HEALTHY, ""


def _is_unavailable(value: str) -> bool:
    """Whether a value is one that nvidia-smi prints where it has none, or a word about the GPU's health."""
    text = value.lower()
    words = (*_NOT_AVAILABLE, *_LOST_VALUES, *_RESET_VALUES, *_BROKEN_VALUES)
    return not text or any(word in text for word in words)


def _instances(fields: Sequence[Field]) -> Iterator[MigInstance]:
    """The instances of a GPU in MIG mode. Each begins with its index."""
    values: dict[Path, str] = {}
    end: Field = (("mig device", "index"), "")
    for path, value in [*fields, end]:
        if "mig device" not in path:
            continue
        inner = path[path.index("mig device") + 1 :]
        if inner == ("index",):
            index = readers.number(values.get(("index",), ""))
            if index is not None:
                yield _instance(index, values)
            values = {}
        values.setdefault(inner, value)


def _instance(index: int, values: Mapping[Path, str]) -> MigInstance:
    def memory(name: str) -> int | None:
        paths = (("shared fb memory usage", name), ("fb memory usage", name))
        return _bytes(_first(values, *paths))

    return MigInstance(
        index,
        readers.number(values.get(("gpu instance id",), "")),
        readers.number(values.get(("compute instance id",), "")),
        memory("total"),
        memory("used"),
        memory("free"),
    )


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
            pid, details = readers.number(value), {}
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


def _measure(text: str, unit: str, most: int) -> int | None:
    """The number in a text such as "97 %"; None for anything else, and for one above `most`."""
    return readers.number(text.removesuffix(unit).strip(), most=most)


def _bytes(text: str) -> int | None:
    """A size such as "12066 MiB" in bytes. Old drivers write MB and mean MiB."""
    return readers.size(text.strip().lower(), _UNITS)
