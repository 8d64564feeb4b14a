"""What `nvidia-smi -q` says -> values: drivers of 2013 and of today, and every way in which it says that it cannot.

Pure. A value that is missing, `N/A`, `[Not Supported]`, `Unknown Error` or no number is None, and never a failure.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from apexgpu.errors import ApexError, RefusedError

MIB = 1024**2
SLACK = 64 * MIB
"""What the driver itself may hold on a card: less than this that nobody accounts for is nobody's."""

END = "@@"
"""What stands before the exit status of nvidia-smi on the line that ends a report (programs/nvidia_smi.sh)."""


@dataclass(frozen=True, slots=True)
class Process:
    """A program of the container's own on a GPU. `memory` in bytes, None where the driver does not tell."""

    pid: int
    name: str
    memory: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card as nvidia-smi numbers them: temperature in °C, utilisation in percent, memory in bytes."""

    index: int
    name: str
    uuid: str = ""
    temperature: int | None = None
    utilization: int | None = None
    total: int | None = None
    used: int | None = None
    free: int | None = None
    compute_mode: str = "Default"
    processes: tuple[Process, ...] = ()

    @property
    def own(self) -> int | None:
        """Bytes that the container's own programs hold; None where one's share is not told."""
        shares = [one.memory for one in self.processes]
        return None if None in shares else sum(share for share in shares if share is not None)

    @property
    def others(self) -> int | None:
        """Bytes in use that no program here accounts for; None where that cannot be told."""
        if self.used is None or self.own is None:
            return None
        left = self.used - self.own
        return left if left > SLACK else 0


@dataclass(frozen=True, slots=True)
class Report:
    """One look at a host: its driver and its GPUs."""

    driver: str
    gpus: tuple[Gpu, ...]


def reports(text: str, host: str) -> tuple[Report, ...]:
    """Every report in an answer; the error that nvidia-smi itself tells, or RefusedError for one that is cut short."""
    found: list[Report] = []
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(f"{END} "):
            found.append(report(lines, _number(line) or 0, host))
            lines = []
        else:
            lines.append(line)
    if not found:
        raise _unknown(lines, host)
    return tuple(found)


def report(lines: Sequence[str], code: int, host: str) -> Report:
    """One report from what nvidia-smi printed and its exit status; the error that it tells instead."""
    head, blocks = _blocks(lines)
    trouble = _trouble(lines, host)
    if code and trouble:
        raise trouble
    if not blocks:
        raise trouble or (_missing(host) if code == 127 else _unknown(lines, host))
    # A status alone proves nothing: 14, say, is a warning about the infoROM under a whole report.
    return Report(
        head.get("driver version", "?"),
        tuple(_gpu(index, block) for index, block in enumerate(blocks)),
    )


BRIEF = "nvidia-smi --query-gpu=driver_version,index,name,memory.total,memory.used --format=csv,noheader,nounits"
"""What is asked where `-q` says nothing that we know."""


def brief(text: str) -> Report | None:
    """The report in the answer to BRIEF, as far as it goes; None where there is not even a driver's version."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    rows = [row for row in rows if re.fullmatch(r"\d+(\.\d+)+", row[0])]
    if not rows:
        return None
    told = [
        (row, _bytes(f"{row[3]} MiB"), _bytes(f"{row[4]} MiB")) for row in rows if len(row) == 5
    ]
    cards = (
        Gpu(_number(row[1]) or 0, row[2], total=total, used=used, free=_rest(total, used))
        for row, total, used in told
    )
    return Report(rows[0][0], tuple(cards) or (Gpu(0, "?"),))


Path = tuple[str, ...]


def _blocks(lines: Sequence[str]) -> tuple[dict[str, str], list[list[tuple[Path, str]]]]:
    """What stands before the first GPU, and the fields of each one."""
    head: dict[str, str] = {}
    blocks: list[list[tuple[Path, str]]] = []
    for path, value in _fields(lines):
        if len(path) == 1 and path[0].startswith("gpu ") and not value:
            blocks.append([])
        elif blocks and len(path) > 1:
            blocks[-1].append((path[1:], value))
        elif len(path) == 1:
            head.setdefault(path[0], value)
    return head, blocks


_FIELD = re.compile(r"(.*?)\s+:(?:\s+(.*))?")


def _fields(lines: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Every line with what it stands under, by its indentation; names in small letters: newer drivers changed some."""
    above: list[tuple[int, str]] = []
    for line in lines:
        text = line.strip()
        if not text:
            continue
        indent = len(line) - len(line.lstrip())
        while above and above[-1][0] >= indent:
            above.pop()
        match = _FIELD.fullmatch(text)
        name, value = (match[1], match[2] or "") if match else (text, "")
        above.append((indent, name.lower()))
        yield tuple(one for _, one in above), value


def _gpu(index: int, fields: list[tuple[Path, str]]) -> Gpu:
    found: dict[Path, str] = {}
    for path, value in fields:
        found.setdefault(path, value)

    def first(*paths: Path) -> str:
        return next((found[path] for path in paths if found.get(path)), "")

    memory = {
        name: _bytes(first(("fb memory usage", name), ("memory usage", name)))
        for name in ("total", "used", "free")
    }
    return Gpu(
        index,
        first(("product name",)) or "?",
        first(("gpu uuid",)),
        _number(first(("temperature", "gpu current temp"), ("temperature", "gpu"))),
        _number(first(("utilization", "gpu"))),
        memory["total"],
        memory["used"],
        memory["free"] if memory["free"] is not None else _rest(memory["total"], memory["used"]),
        first(("compute mode",)) or "Default",
        tuple(_processes(fields)),
    )


def _rest(total: int | None, used: int | None) -> int | None:
    return None if total is None or used is None else max(0, total - used)


def _processes(fields: list[tuple[Path, str]]) -> Iterator[Process]:
    """The programs on a card; drivers before 346 head them `Compute Processes`."""
    pid: int | None = None
    told: dict[str, str] = {}
    for path, value in [*fields, (("processes", "process id"), "")]:
        if path[0] not in {"processes", "compute processes"}:
            continue
        if path[1:] == ("process id",):
            if pid is not None:
                yield Process(pid, told.get("name") or "?", _bytes(told.get("used gpu memory", "")))
            pid, told = _number(value), {}
        elif len(path) == 3:
            told[path[2]] = value


def _number(text: str) -> int | None:
    match = re.search(r"(?<![\w.])\d+", text)
    return int(match[0]) if match else None


_UNITS = {
    "b": 1,
    "kib": 1024,
    "kb": 1024,
    "mib": MIB,
    "mb": MIB,
    "gib": 1024 * MIB,
    "gb": 1024 * MIB,
}


def _bytes(text: str) -> int | None:
    match = re.fullmatch(r"(\d+)\s*([A-Za-z]+)", text.strip())
    return (
        int(match[1]) * _UNITS[match[2].lower()] if match and match[2].lower() in _UNITS else None
    )


_RESTART = (
    "apexgpu down {host} && apexgpu up {host}   (a start puts the host's driver into the container)"
)
_ASK = "ask the administrators to look at the GPUs of {host}; meanwhile: apexgpu gpus free"

# (what nvidia-smi says, our code, the fact, what to do)
_TROUBLES = (
    (
        "version mismatch",
        "driver_mismatch",
        "the driver in the container on {host} is not of the host's version",
        _RESTART,
    ),
    (
        "couldn't find libnvidia-ml",
        "driver_missing",
        "the driver in the container on {host} is not whole: its library is missing",
        _RESTART,
    ),
    (
        "nvml: unknown error",
        "gpu_access_lost",
        "the container on {host} has lost its access to the GPUs",
        _RESTART,
    ),
    (
        "nvml: insufficient permissions",
        "gpu_access_lost",
        "the container on {host} may not use the GPUs",
        _RESTART,
    ),
    (
        "nvml: gpu access blocked",
        "gpu_access_lost",
        "the container on {host} may not use the GPUs",
        _RESTART,
    ),
    (
        "couldn't communicate with the nvidia driver",
        "driver_down",
        "the NVIDIA driver of {host} does not answer",
        _ASK,
    ),
    ("nvml: driver not loaded", "driver_down", "the NVIDIA driver of {host} is not loaded", _ASK),
    (
        "gpu is lost",
        "gpu_lost",
        "a GPU of {host} is lost, and with it what nvidia-smi would tell of the others",
        _ASK,
    ),
    ("fallen off the bus", "gpu_lost", "a GPU of {host} has fallen off the bus", _ASK),
    ("unable to determine the device handle", "gpu_lost", "a GPU of {host} does not answer", _ASK),
    ("no devices were found", "no_gpus", "the container on {host} sees no GPU", _ASK),
    ("attached gpus : 0", "no_gpus", "the container on {host} sees no GPU", _ASK),
)

CODES = frozenset(code for _, code, _, _ in _TROUBLES) | {"no_nvidia_smi", "garbled"}
"""The codes of the errors that nvidia-smi itself is the reason for."""


def _trouble(lines: Sequence[str], host: str) -> ApexError | None:
    text = " ".join(" ".join(lines).split()).lower()
    for words, name, message, hint in _TROUBLES:
        if words in text:
            return RefusedError(message.format(host=host), hint=hint.format(host=host), code=name)
    return None


def _missing(host: str) -> ApexError:
    message = f"there is no nvidia-smi in the container on {host}, so no driver"
    return RefusedError(message, hint=_RESTART.format(host=host), code="no_nvidia_smi")


def _unknown(lines: Sequence[str], host: str) -> ApexError:
    said = next((line.strip()[:100] for line in lines if line.strip()), "nothing")
    message = f"nvidia-smi on {host} says something apexgpu does not know: {said}"
    return RefusedError(message, hint=f"apexgpu ssh {host} -- nvidia-smi", code="garbled")
