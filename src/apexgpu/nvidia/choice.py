"""Which GPUs are free: a pure decision over several looks, so that a pause between two batches is none.

A GPU fits when, in every look,

- it does next to nothing (IDLE percent at most), and
- the memory that was asked for is free; where none was asked for, next to nothing is held (EMPTY at most): memory that
  is held by an idle program is wanted again soon;
- and its compute mode lets one more program in.

A card that does not tell its utilisation fits when it is empty; one that does not tell its memory never does.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from apexgpu.nvidia.smi import MIB, Gpu, Report

IDLE = 10
"""Percent of utilisation that a driver shows for a card that nobody uses, just after it woke up."""

GIB = 1024 * MIB
EMPTY = 256 * MIB
"""Bytes that a display or the driver holds; a program that computes begins with more."""


@dataclass(frozen=True, slots=True)
class Need:
    """What is looked for: `count` GPUs of one host, with `memory` bytes free on each; None for empty ones."""

    memory: int | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Fit:
    """A GPU that fits: its last look, the least memory that was free, the most that was held, the highest load."""

    gpu: Gpu
    free: int
    held: int
    load: int


@dataclass(frozen=True, slots=True)
class Offer:
    """A host that has what is needed: every GPU that fits, best first, of which the first `count` would be taken."""

    host: str
    fits: tuple[Fit, ...]
    count: int

    @property
    def chosen(self) -> tuple[int, ...]:
        """The numbers to compute on, as CUDA_VISIBLE_DEVICES wants them."""
        return tuple(sorted(fit.gpu.index for fit in self.fits[: self.count]))

    @property
    def free(self) -> int:
        """Bytes that were free on each of these, at the least."""
        return min(fit.free for fit in self.fits[: self.count])

    @property
    def load(self) -> int:
        """The highest utilisation of these that was seen, in percent."""
        return max(fit.load for fit in self.fits[: self.count])

    @property
    def variables(self) -> str:
        """What to put before a command. CUDA numbers the fastest card first unless it is told otherwise."""
        numbers = ",".join(map(str, self.chosen))
        return f"CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={numbers}"


def offers(seen: Mapping[str, Sequence[Report]], need: Need) -> tuple[Offer, ...]:
    """The hosts that have enough GPUs that fit, best first: empty before shared, then by GiB free, then by load.

    `seen` holds the looks at each host. Between equals, a host with more GPUs left over, then the order of names.
    """
    found = (Offer(host, fitting(looks, need), need.count) for host, looks in seen.items())
    return tuple(sorted((one for one in found if len(one.fits) >= need.count), key=_rank))


def fitting(looks: Sequence[Report], need: Need) -> tuple[Fit, ...]:
    """The GPUs of one host that fit in every look, best first."""
    if not looks:
        return ()
    fits = [_fit([_same(gpu, look) for look in looks], need) for gpu in looks[-1].gpus]
    return tuple(sorted((fit for fit in fits if fit is not None), key=_fit_rank))


def _same(gpu: Gpu, look: Report) -> Gpu | None:
    """The card in another look; one whose number has moved, because another was lost, is not the same."""
    return next((one for one in look.gpus if (one.uuid, one.index) == (gpu.uuid, gpu.index)), None)


def _fit(looks: Sequence[Gpu | None], need: Need) -> Fit | None:
    known = [look for look in looks if look is not None]
    frees = [look.free for look in known if look.free is not None]
    helds = [look.used for look in known if look.used is not None]
    loads = [look.utilization for look in known if look.utilization is not None]
    if min(len(frees), len(helds)) < len(looks):
        return None
    fit = Fit(known[-1], min(frees), max(helds), max(loads, default=0))
    empty = fit.held <= EMPTY
    enough = empty if need.memory is None else fit.free >= need.memory
    idle = fit.load <= IDLE and (bool(loads) or empty)
    return fit if enough and idle and _lets_in(fit.gpu.compute_mode, empty) else None


def _lets_in(mode: str, empty: bool) -> bool:
    word = mode.lower()
    if word.startswith("prohibited"):
        return False
    return empty or not word.startswith("exclusive")


def _fit_rank(fit: Fit) -> tuple[bool, int, int, int]:
    return (fit.held > EMPTY, -(fit.free // GIB), fit.load, fit.gpu.index)


def _rank(offer: Offer) -> tuple[int, int, int, int, list[int | str]]:
    held = sum(fit.held > EMPTY for fit in offer.fits[: offer.count])
    names: list[int | str] = [
        int(part) if part.isdigit() else part for part in re.split(r"(\d+)", offer.host)
    ]
    return (held, -(offer.free // GIB), offer.load, -len(offer.fits), names)
