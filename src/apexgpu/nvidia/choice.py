"""Which GPUs are free: decided over several reports, because a pause between two batches is not free. Pure.

A GPU fits if, in every report,

- it is idle (IDLE percent at most), and
- the requested memory is free; or, if none was requested, nearly none is in use (EMPTY at most): memory of an idle
  program will be needed again soon;
- no run has locked it,
- and its compute mode admits one more program.

A GPU that does not report its utilization fits if it is empty. One that does not report its memory never fits, and
neither does one that is not healthy in every report: broken, lost, hidden, in need of a reset, divided into instances,
or with values that are not understood.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from apexgpu import readers
from apexgpu.nvidia.smi import MIB, Condition, Gpu, Report

IDLE = 10
"""Percent of utilization that a driver may report for an unused GPU, just after the GPU woke up."""

GIB = 1024 * MIB
_UUID = re.compile("GPU-[0-9A-Fa-f-]{1,60}")
EMPTY = 256 * MIB
"""Bytes that a display or the driver may use. A program that computes needs more."""


@dataclass(frozen=True, slots=True)
class Need:
    """What is looked for: `count` GPUs of one host with `memory` bytes free on each; None asks for empty GPUs."""

    memory: int | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Fit:
    """A GPU that fits. Over all reports: the least `free` and the most `used` bytes, and the highest `load` in percent.

    `load` is None if the GPU never reported it. `gpu` is from the last report.
    """

    gpu: Gpu
    free: int
    used: int
    load: int | None

    @property
    def is_empty(self) -> bool:
        """Whether no program was using its memory."""
        return self.used <= EMPTY


@dataclass(frozen=True, slots=True)
class Offer:
    """A host with enough GPUs: all that fit, best first. The first `count` of them are offered.

    `by_uuid`: their numbers are not certain for CUDA, because a GPU of the host is lost.
    """

    host: str
    fits: tuple[Fit, ...]
    count: int
    by_uuid: bool = False

    @property
    def offered(self) -> tuple[Fit, ...]:
        """The GPUs that are offered, best first."""
        return self.fits[: self.count]

    @property
    def chosen(self) -> tuple[int, ...]:
        """The indexes of the offered GPUs, in the order of CUDA_VISIBLE_DEVICES."""
        return tuple(sorted(fit.gpu.index for fit in self.offered))

    @property
    def free(self) -> int:
        """Bytes that were free on each of the offered GPUs, at least."""
        return min(fit.free for fit in self.offered)

    @property
    def load(self) -> int | None:
        """The highest utilization of the offered GPUs, in percent; None if one of them does not report it."""
        loads = []
        for fit in self.offered:
            if fit.load is None:
                return None
            loads.append(fit.load)
        return max(loads)

    @property
    def variables(self) -> str:
        """The environment variables to put before a command.

        Without CUDA_DEVICE_ORDER, CUDA would not use nvidia-smi's numbers: it puts the fastest GPU first.
        """
        if self.by_uuid:
            ordered = sorted(self.offered, key=lambda fit: fit.gpu.index)
            uuids = ",".join(fit.gpu.uuid for fit in ordered)
            return f"CUDA_VISIBLE_DEVICES={uuids}"
        indexes = ",".join(str(index) for index in self.chosen)
        return f"CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={indexes}"


def offers(reports: Mapping[str, Sequence[Report]], need: Need) -> tuple[Offer, ...]:
    """The hosts that have enough GPUs that fit, best first; `reports` has each host's, oldest first.

    Empty GPUs come before shared ones, then more free GiB, then less load, then hosts with more GPUs left over, then
    the order of names.
    """
    possible = []
    for host, reports_of_host in reports.items():
        by_uuid = not all(report.is_complete for report in reports_of_host)
        offer = Offer(host, fitting(reports_of_host, need), need.count, by_uuid)
        if by_uuid and not all(_UUID.fullmatch(fit.gpu.uuid) for fit in offer.fits):
            continue
        if len(offer.fits) >= need.count:
            possible.append(offer)
    return tuple(sorted(possible, key=_rank_of_offer))


def fitting(reports: Sequence[Report], need: Need) -> tuple[Fit, ...]:
    """The GPUs of one host that fit in every report, best first."""
    if not reports:
        return ()
    fits = []
    for gpu in reports[-1].gpus:
        fit = _fit([_same_gpu(gpu, report) for report in reports], need)
        if fit is not None:
            fits.append(fit)
    return tuple(sorted(fits, key=_rank_of_fit))


def _same_gpu(gpu: Gpu, report: Report) -> Gpu | None:
    """The same GPU in another report. One whose index has changed, because another GPU was lost, is not the same."""
    for other in report.gpus:
        if (other.uuid, other.index) == (gpu.uuid, gpu.index):
            return other
    return None


def _fit(states: Sequence[Gpu | None], need: Need) -> Fit | None:
    """Judge one GPU by its states in all reports; None if it does not fit."""
    free, used, loads = [], [], []
    for state in states:
        if state is None or state.free is None or state.used is None:
            return None
        if state.condition is not Condition.HEALTHY or state.locked_by:
            return None
        free.append(state.free)
        used.append(state.used)
        if state.utilization is not None:
            loads.append(state.utilization)
    last = states[-1]
    assert last is not None  # noqa: S101  # checked above
    # The worst of all reports counts: a program that pauses now and then still needs its GPU.
    fit = Fit(last, min(free), max(used), max(loads, default=None))
    if need.memory is None:
        has_memory = fit.is_empty
    else:
        has_memory = fit.free >= need.memory
    # A GPU that reports no load is only taken for idle if no memory is in use.
    if fit.load is None:
        is_idle = fit.is_empty
    else:
        is_idle = fit.load <= IDLE
    if has_memory and is_idle and _admits(last.compute_mode, fit.is_empty):
        return fit
    return None


def _admits(compute_mode: str, is_empty: bool) -> bool:
    """Whether a GPU in this mode admits one more program. An exclusive GPU admits one program, or one thread."""
    mode = compute_mode.lower()
    if mode.startswith("exclusive"):
        return is_empty
    return mode == "default"


def _rank_of_fit(fit: Fit) -> tuple[bool, int, int, int]:
    return (not fit.is_empty, -(fit.free // GIB), _load_for_rank(fit.load), fit.gpu.index)


def _load_for_rank(load: int | None) -> int:
    """An unknown load comes last."""
    return 101 if load is None else load


def _rank_of_offer(offer: Offer) -> tuple[int, int, int, int, list[int | str]]:
    """The sort key of an offer: fewer shared GPUs, more free GiB, less load, more GPUs that fit, name."""
    shared_gpus = 0
    for fit in offer.offered:
        if not fit.is_empty:
            shared_gpus += 1
    free_gib = offer.free // GIB
    name = _natural_order(offer.host)
    return (shared_gpus, -free_gib, _load_for_rank(offer.load), -len(offer.fits), name)


def _natural_order(name: str) -> list[int | str]:
    """The sort key that puts gpu9 before gpu10."""
    key: list[int | str] = []
    for part in re.split("([0-9]+)", name):
        if readers.number(part) is not None:
            key.append(int(part))
        else:
            key.append(part)
    return key
