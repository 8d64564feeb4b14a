"""Checks what files and nvidia-smi report before anything is run, and chooses the GPU. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from apexgpu.models import Finding
from apexgpu.nvidia.smi import MIB, Gpu
from apexgpu.recipes.checks import CauseCode, Check
from apexgpu.recipes.compatibility import (
    DRIVERS,
    OTHER_CUDA,
    TENSORFLOW,
    TensorFlowRelease,
    version_numbers,
)
from apexgpu.recipes.computeoutput import InstalledSoftware
from apexgpu.text import size

LEAST_FREE_MEMORY = 768 * MIB
"""Bytes that CUDA's context and cuDNN need; a GPU with less free memory is busy."""


@dataclass(frozen=True, slots=True)
class ChosenGpu:
    """The GPU that is computed on. Memory in bytes; what is not known is empty or None."""

    index: int
    name: str
    compute_capability: str = ""
    pci_bus_id: str = ""
    memory_total: int | None = None
    memory_free: int | None = None


def find_release(version: str) -> TensorFlowRelease | None:
    """The row of compatibility's table for a version: the same one, else the newest of its x.y."""
    similar = None
    for release in TENSORFLOW:
        if release.version == version:
            return release
        if version_numbers(release.version)[:2] == version_numbers(version)[:2]:
            similar = release
    return similar


def required_cuda(tensorflow: str) -> str:
    """The CUDA that a version of TensorFlow is built for; empty if the tables do not contain it."""
    release = find_release(tensorflow)
    if release:
        return release.cuda
    for first, cuda in OTHER_CUDA.items():
        # From 2.1 on, TensorFlow is built for newer CUDAs.
        if version_numbers(first)[:2] <= version_numbers(tensorflow)[:2] < (2, 1):
            return cuda
    return ""


def _short(version: str) -> str:
    """`9.0` for `9.0.176`."""
    return ".".join(version.split(".")[:2])


def check_driver(driver: str, software: InstalledSoftware, tensorflow: str) -> Finding:
    """Check that the driver is new enough for TensorFlow's CUDA, else for the newest installed."""
    cuda = required_cuda(tensorflow)
    if not cuda:
        versions = [version for version, _ in software.cudas]
        cuda = _short(max(versions, key=version_numbers, default=""))
    oldest = DRIVERS.get(cuda)
    if oldest is None or not version_numbers(driver):
        return Finding.ok(Check.DRIVER, driver)
    if version_numbers(driver) < version_numbers(oldest):
        fact = (
            f"driver {driver} is too old for CUDA {cuda}, which needs {oldest} or newer; use another host, or ask"
            " the administrators to update the driver"
        )
        return Finding.problem(Check.DRIVER, fact, "apexgpu gpus", code="driver_too_old")
    return Finding.ok(Check.DRIVER, f"{driver} (CUDA {cuda} needs {oldest} or newer)")


def check_cuda(software: InstalledSoftware, tensorflow: str, host: str) -> Finding:
    """Look for the CUDA that TensorFlow needs in /usr/local."""
    required = required_cuda(tensorflow)
    for version, directory in software.cudas:
        if not required or _short(version) == required:
            return Finding.ok(Check.CUDA, f"{version} in {directory}")
    versions = [version for version, _ in software.cudas if version]
    if versions:
        fact = f"{', '.join(versions)} is in /usr/local"
    else:
        fact = "there is none in /usr/local"
    if required:
        fact += f", and TensorFlow {tensorflow} needs {required}"
    return Finding.note(Check.CUDA, fact, f"apexgpu setup {host} cuda", code="no_cuda")


def check_cudnn(software: InstalledSoftware, tensorflow: str, host: str) -> Finding:
    """Look for a cuDNN that TensorFlow works with.

    The version is that of the header: file names prove nothing.
    """
    release = find_release(tensorflow)
    for version, header in software.cudnns:
        if release is None or release.accepts_cudnn(version):
            return Finding.ok(Check.CUDNN, f"{version} ({header})")
    if release is None or not software.cudnns:
        hint = f"apexgpu setup {host} cudnn"
        return Finding.note(Check.CUDNN, "no cudnn.h found", hint, code="no_cudnn")
    version, _ = software.cudnns[0]
    return Finding.note(
        Check.CUDNN,
        f"{version} is installed, and TensorFlow {tensorflow} works with {release.describe_cudnn()}",
        f"apexgpu setup {host} cudnn tensorflow",
        code=CauseCode.CUDNN_MISMATCH,
    )


def missing_tensorflow(software: InstalledSoftware, host: str, named: str | None) -> Finding:
    """The finding if no Python has TensorFlow; `named` is the Python that the user named."""
    hint = f"apexgpu setup {host} tensorflow"
    if named is None:
        fact = "TensorFlow is not installed in any Python"
        if len(software.pythons) > 1:
            fact = f"TensorFlow is not installed in any of {len(software.pythons)} Pythons"
        fact += "; if it is in an environment elsewhere, name that with --python PATH"
    else:
        fact = f"there is no Python {named}"
        if software.pythons:
            fact = f"TensorFlow is not installed in {named}"
        hint = f"apexgpu verify {host}"  # looks for a Python that has it
    return Finding.problem(Check.TENSORFLOW, fact, hint, code="no_tensorflow")


def choose_gpu(gpus: Sequence[Gpu], host: str) -> tuple[ChosenGpu | None, Finding | None]:
    """The GPU with most free memory (None if all refuse programs), and a finding if it is busy."""
    best = None
    for gpu in gpus:
        if gpu.compute_mode.lower().startswith("prohibited"):
            continue
        if best is None or _free_or_unknown(gpu) > _free_or_unknown(best):
            best = gpu
    if best is None:
        fact = f"no GPU of {host} admits programs; use another host"
        return None, Finding.problem(Check.GPU, fact, "apexgpu gpus", code="no_gpu")
    chosen = ChosenGpu(best.index, best.name, memory_total=best.total, memory_free=best.free)
    if best.free is not None and best.free < LEAST_FREE_MEMORY:
        fact = f"the GPU with most free memory (number {best.index}) has {size(best.free)}: others use them all"
        return chosen, Finding(Check.GPU, "busy", fact, "apexgpu gpus free", "busy")
    return chosen, None


def _free_or_unknown(gpu: Gpu) -> int:
    """The free memory for comparisons: a GPU that does not report it comes last."""
    return -1 if gpu.free is None else gpu.free
