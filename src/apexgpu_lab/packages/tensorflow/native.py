"""The part of TensorFlow that is not Python: the loader's libraries, the driver, GPU memory.

It does what TensorFlow 1 does about them, with the same messages: libraries of CUDA and cuDNN must be
where the loader looks, the driver must work, and a session takes a GPU's memory, all of it or as
needed. The lab's nvidia-smi counts that memory.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tensorflow.release import VERSION

CONTAINER = Path(os.environ.get("APEXGPU_LAB_CONTAINER", "."))
_LIBRARIES = (
    "libcublas.so.9.0",
    "libcusolver.so.9.0",
    "libcudart.so.9.0",
    "libcudnn.so.7",
    "libcufft.so.9.0",
    "libcurand.so.9.0",
)
_BUILT_WITH = {
    "1.5": "7.0.4",
    "1.6": "7.0.4",
    "1.7": "7.0.5",
    "1.8": "7.0.5",
    "1.9": "7.0.5",
    "1.10": "7.0.5",
    "1.11": "7.2.1",
    "1.12": "7.1.4",
}
"""The cuDNN that releases were compiled with."""

_CONTEXT = 128  # MiB that CUDA takes for a process
_NEEDED = 320  # MiB that a small computation takes beside it
_FOUND = (
    "Found device 0 with properties: \nname: {} major: 7 minor: 0 memoryClockRate(GHz): 1.455\n"
)
_ADDED = "Adding visible gpu devices: 0"


class NativeError(Exception):
    """What TensorFlow raises for a failure of the GPU; its own classes have other names."""


class Gpu(NamedTuple):
    """A GPU as nvidia-smi describes it; memory in MiB."""

    number: int
    name: str
    bus: str
    total: int
    used: int


class _State:
    """What this process has: the GPU, found once, and the memory that it holds there."""

    gpus: list[Gpu] | None = None
    limit = 0


def find_library(name: str) -> Path | None:
    """Where the loader finds a library: LD_LIBRARY_PATH, then the cache that ldconfig has made."""
    directories = [Path(part) for part in os.environ.get("LD_LIBRARY_PATH", "").split(":") if part]
    try:
        cache = (CONTAINER / "rootfs/etc/ld.so.cache").read_text(encoding="utf-8")
    except OSError:
        cache = ""
    directories += [CONTAINER / "rootfs" / line.lstrip("/") for line in cache.splitlines()]
    for directory in directories:
        if (directory / name).is_file():
            return directory / name
    return None


def load_libraries() -> None:
    """Load what the release is linked with. ImportError names the first that is missing, as the loader does."""
    for name in _LIBRARIES:
        if find_library(name) is None:
            raise ImportError(f"{name}: cannot open shared object file: No such file or directory")
    if _fault() == "gpu-no-driver":
        message = "libcuda.so.1: cannot open shared object file: No such file or directory"
        raise ImportError(message)


def log(level: str, source: str, message: str) -> None:
    """A line of TensorFlow's log, on stderr."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S.000000")
    sys.stderr.write(f"{stamp}: {level} tensorflow/{source}] {message}\n")
    sys.stderr.flush()


def gpus() -> list[Gpu]:
    """The GPUs that the program may use: CUDA_VISIBLE_DEVICES chooses, in the order of nvidia-smi."""
    if _State.gpus is None:
        _State.gpus = _find_gpus()
    return _State.gpus


def _find_gpus() -> list[Gpu]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    fields = "index,name,pci.bus_id,memory.total,memory.used"
    argv = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    finished = subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    if finished.returncode != 0:
        _log_driver_failure()
        return []
    found = []
    for line in finished.stdout.splitlines():
        index, name, bus, total, used = [part.strip() for part in line.split(",")]
        found.append(Gpu(int(index), name, bus, int(total), int(used)))
    if visible is None:
        return found
    chosen = []
    for word in visible.split(","):
        # As in CUDA, the first number that names no GPU ends the list.
        if not word.strip().isdigit() or int(word) >= len(found):
            break
        chosen.append(found[int(word)])
    return chosen


def _log_driver_failure() -> None:
    source = "stream_executor/cuda/cuda_driver.cc:397"
    if _fault() == "gpu-none":
        log("E", source, "failed call to cuInit: CUDA_ERROR_NO_DEVICE")
        return
    log("E", source, "failed call to cuInit: CUDA_ERROR_UNKNOWN")
    if _fault() == "gpu-mismatch":
        message = (
            "kernel version 384.81.0 does not match DSO version 390.48.0 -- cannot find working devices in this"
            " configuration"
        )
        log("E", "stream_executor/cuda/cuda_diagnostics.cc:306", message)


def _fault() -> str:
    """The fault of the GPUs that the lab has set on this host."""
    try:
        return (CONTAINER.parent / "gpu-fault").read_text(encoding="utf-8")
    except OSError:
        return ""


def open_gpu(*, allow_growth: bool) -> Gpu | None:
    """Begin to use the first GPU, and take its memory unless that may grow; None without a GPU."""
    found = gpus()
    if not found:
        return None
    gpu = found[0]
    if _State.limit:
        return gpu
    source = "core/common_runtime/gpu/gpu_device.cc:1405"
    log("I", source, _FOUND.format(gpu.name) + f"totalMemory: {gpu.total / 1024:.2f}GiB")
    free = gpu.total - gpu.used - _CONTEXT
    if free < 1:
        raise NativeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory")
    log("I", "core/common_runtime/gpu/gpu_device.cc:1484", _ADDED)
    _State.limit = free * 95 // 100
    variable = os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH", "").lower() == "true"
    grows = allow_growth or (variable and _reads_variable())
    hold(gpu, _CONTEXT if grows else _CONTEXT + _State.limit)
    return gpu


def memory_limit() -> int:
    """The bytes that TensorFlow may take of the GPU."""
    return _State.limit * 1024 * 1024


def _reads_variable() -> bool:
    """Whether this release reads TF_FORCE_GPU_ALLOW_GROWTH: 1.12 and newer."""
    return _short_version() >= (1, 12)


def _short_version() -> tuple[int, int]:
    major, minor = VERSION.split(".")[:2]
    return int(major), int(minor)


def hold(gpu: Gpu, mebibytes: int) -> None:
    """Note for nvidia-smi what this process holds; it counts as long as the process lives."""
    note = CONTAINER / "notes" / f"gpu-{os.getpid()}.json"
    text = json.dumps({"gpu": gpu.number, "pid": os.getpid(), "memory": mebibytes})
    new = note.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(note)


def check_cudnn() -> None:
    """Begin a convolution: the cuDNN that is loaded must be compatible with the release."""
    library = find_library("libcudnn.so.7")
    loaded = library.resolve().name.rpartition(".so.")[2] if library else "0"
    built = _BUILT_WITH.get("{}.{}".format(*_short_version()), "7.0.5")
    own, other = (tuple(int(part) for part in text.split(".")[:2]) for text in (loaded, built))
    # Up to 1.7, another minor version is refused; from 1.8 on, a newer one is accepted.
    if _short_version() < (1, 8):
        compatible = own == other
    else:
        compatible = own[0] == other[0] and own >= other
    if not compatible:
        message = (
            f"Loaded runtime CuDNN library: {loaded} but source was compiled with: {built}.  CuDNN library major and"
            " minor version needs to match or have higher minor version in case of CuDNN 7.0 or later version."
        )
        log("E", "stream_executor/cuda/cuda_dnn.cc:343", message)
        raise NativeError(
            "Failed to get convolution algorithm. This is probably because cuDNN failed to initialize"
        )


def convolve(image: list[list[list[list[float]]]], kernel: list[list[list[list[float]]]]) -> object:
    """A convolution without padding of one image on the GPU."""
    gpu = open_gpu(allow_growth=True)
    if gpu is None:
        raise NativeError("Cannot assign a device for operation: no GPU is registered")
    check_cudnn()
    note = CONTAINER / "notes" / f"gpu-{os.getpid()}.json"
    held = json.loads(note.read_text(encoding="utf-8"))["memory"]
    hold(gpu, max(held, _CONTEXT + _NEEDED))
    pixels = image[0]
    height, width = len(pixels) - len(kernel) + 1, len(pixels[0]) - len(kernel[0]) + 1
    outputs = range(len(kernel[0][0][0]))
    rows = [
        [
            [_sum_at(pixels, kernel, (row, column), output) for output in outputs]
            for column in range(width)
        ]
        for row in range(height)
    ]
    if _fault() == "gpu-wrong":
        rows[0][0][0] += 1.0
    return [rows]


def _sum_at(
    pixels: list[list[list[float]]],
    kernel: list[list[list[list[float]]]],
    place: tuple[int, int],
    output: int,
) -> float:
    total = 0.0
    for down, columns in enumerate(kernel):
        for right, channels in enumerate(columns):
            pixel = pixels[place[0] + down][place[1] + right]
            for channel, weights in enumerate(channels):
                total += pixel[channel] * weights[output]
    return total
