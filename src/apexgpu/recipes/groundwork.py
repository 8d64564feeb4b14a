"""The links that files and nvidia-smi tell of before anything is run: driver, CUDA, cuDNN, which GPU to take. Pure."""

from collections.abc import Sequence

from apexgpu.models import Finding
from apexgpu.nvidia.smi import MIB, Gpu
from apexgpu.recipes import compatibility
from apexgpu.recipes.compatibility import DRIVERS, TENSORFLOW, Wheel, numbers
from apexgpu.recipes.evidence import Card, There
from apexgpu.text import size

LEAST = 768 * MIB
"""Bytes that CUDA's context and cuDNN want before anything is computed: with less free, a card is busy."""


def wheel(version: str) -> Wheel | None:
    """The release of tensorflow-gpu in compatibility's table: this one, else the newest before it of the same x.y."""
    same = [one for one in TENSORFLOW if numbers(one.version)[:2] == numbers(version)[:2]]
    return next((one for one in same if one.version == version), same[-1] if same else None)


def wanted_cuda(version: str) -> str:
    """The CUDA that a release of TensorFlow is built for; empty where the table does not tell."""
    found = wheel(version)
    if found:
        return found.cuda
    return next(
        (
            cuda
            for first, cuda in compatibility.OTHER_CUDA.items()
            if numbers(first)[:2] <= numbers(version)[:2] < (2, 1)
        ),
        "",
    )


def _newest(found: Sequence[tuple[str, str]]) -> str:
    return _short(max((version for version, _ in found), key=numbers, default=""))


def _short(version: str) -> str:
    return ".".join(version.split(".")[:2])


def driver(driver: str, found: There, version: str, host: str) -> Finding:
    """Whether the driver is new enough for the CUDA that TensorFlow wants, else for the one that is there."""
    cuda = wanted_cuda(version) or _newest(found.cudas)
    least = DRIVERS.get(cuda)
    if least is None or not numbers(driver):
        return Finding("driver", "ok", driver)
    if numbers(driver) < numbers(least):
        hint = f"take a host with driver {least} or newer: apexgpu gpus   (or ask the administrators to update {host})"
        return Finding(
            "driver",
            "problem",
            f"driver {driver} is too old for CUDA {cuda}, which needs {least} or newer",
            hint,
            "driver_too_old",
        )
    return Finding("driver", "ok", f"{driver} (CUDA {cuda} needs {least} or newer)")


def cuda(found: There, version: str, host: str) -> Finding:
    """The CUDA that TensorFlow wants, as far as it is in /usr/local."""
    wanted = wanted_cuda(version)
    fitting = [one for one in found.cudas if not wanted or _short(one[0]) == wanted]
    if fitting:
        return Finding("cuda", "ok", f"{fitting[0][0]} in {fitting[0][1]}")
    listed = ", ".join(version for version, _ in found.cudas if version)
    fact = f"{listed} is in /usr/local" if listed else "there is none in /usr/local"
    wants = f", and TensorFlow {version} wants {wanted}" if wanted else ""
    return Finding("cuda", "note", fact + wants, f"apexgpu setup {host} cuda", "no_cuda")


def cudnn(found: There, version: str, host: str) -> Finding:
    """The cuDNN whose header is there; what a file is called proves nothing."""
    known = wheel(version)
    fitting = [one for one in found.cudnns if known is None or known.takes(one[0])]
    if fitting:
        return Finding("cudnn", "ok", f"{fitting[0][0]} ({fitting[0][1]})")
    if not found.cudnns:
        return Finding(
            "cudnn", "note", "its header is nowhere", f"apexgpu setup {host} cudnn", "no_cudnn"
        )
    wants = f"TensorFlow {version} takes {known.wants}" if known else ""
    return Finding(
        "cudnn",
        "note",
        f"{found.cudnns[0][0]} is there, and {wants}",
        f"apexgpu setup {host} cudnn tensorflow",
        "cudnn_mismatch",
    )


def no_tensorflow(found: There, host: str, named: str | None) -> Finding:
    """The link where no Python has TensorFlow."""
    if named is not None:
        fact = f"there is no Python {named}" if not found.pythons else f"{named} has no TensorFlow"
        hint = f"apexgpu verify {host}   (it looks for one by itself)"
        return Finding("tensorflow", "problem", fact, hint, "no_tensorflow")
    count = len(found.pythons)
    fact = f"none of {count} Pythons has TensorFlow" if count > 1 else "no Python has TensorFlow"
    hint = f"apexgpu setup {host} tensorflow   (or name one that has it: --python PATH)"
    return Finding("tensorflow", "problem", fact, hint, "no_tensorflow")


def choose(gpus: Sequence[Gpu], host: str) -> tuple[Card | None, Finding | None]:
    """The GPU with most free memory, of those that let programs in; or the link that says why none will do."""
    able = [one for one in gpus if not one.compute_mode.lower().startswith("prohibited")]
    best = max(
        able, key=lambda one: (-1 if one.free is None else one.free, -one.index), default=None
    )
    if best is None:
        hint = f"take another host: apexgpu gpus   (or ask the administrators to look at {host})"
        return None, Finding("gpu", "problem", f"no GPU of {host} lets programs in", hint, "no_gpu")
    card = Card(best.index, best.name, total=best.total, free=best.free)
    if best.free is not None and best.free < LEAST:
        fact = f"the GPU with most free memory (number {best.index}) has {size(best.free)}: others use them all"
        return card, Finding(
            "gpu",
            "busy",
            fact,
            "apexgpu gpus free   (then again, or on a host that is free)",
            "busy",
        )
    return card, None
