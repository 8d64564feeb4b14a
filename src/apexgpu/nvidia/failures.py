"""What nvidia-smi prints when it cannot report, as errors with the command that helps. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from apexgpu.errors import RefusedError


class NvidiaSmiError(RefusedError):
    """nvidia-smi in the container is missing, reports a failure, or prints something unknown."""


class UnknownOutputError(NvidiaSmiError):
    """nvidia-smi printed neither a report nor a failure that is known."""

    code = "garbled"


class GpuLostError(NvidiaSmiError):
    """The driver cannot reach a GPU any more. nvidia-smi may still report the others."""

    code = "gpu_lost"


class _SmiFailure(NamedTuple):
    """`phrase` is part of nvidia-smi's output in lower case; `{host}` stands for the host's name."""

    phrase: str
    code: str
    message: str
    hint: str


# A start of the container puts the host's driver into it.
_RESTART = "apexgpu restart {host}"
_ASK = "apexgpu gpus free"

_FAILURES = (
    _SmiFailure(
        "version mismatch",
        "driver_mismatch",
        "the driver in the container on {host} has another version than the host's",
        _RESTART,
    ),
    _SmiFailure(
        "couldn't find libnvidia-ml",
        "driver_missing",
        "the driver in the container on {host} is incomplete: its library is missing",
        _RESTART,
    ),
    _SmiFailure(
        "nvml: unknown error",
        "gpu_access_lost",
        "the container on {host} has lost its access to the GPUs",
        _RESTART,
    ),
    _SmiFailure(
        "nvml: insufficient permissions",
        "gpu_access_lost",
        "the container on {host} has no permission to use the GPUs",
        _RESTART,
    ),
    _SmiFailure(
        "nvml: gpu access blocked",
        "gpu_access_lost",
        "the container on {host} has no permission to use the GPUs",
        _RESTART,
    ),
    _SmiFailure(
        "couldn't communicate with the nvidia driver",
        "driver_down",
        "the NVIDIA driver of {host} does not answer; tell the administrators",
        _ASK,
    ),
    _SmiFailure(
        "nvml: driver not loaded",
        "driver_down",
        "the NVIDIA driver of {host} is not loaded; tell the administrators",
        _ASK,
    ),
    _SmiFailure(
        "gpu is lost",
        "gpu_lost",
        "a GPU of {host} is lost, and nvidia-smi reports none of the others; tell the administrators",
        _ASK,
    ),
    _SmiFailure(
        "fallen off the bus",
        "gpu_lost",
        "a GPU of {host} has fallen off the bus; tell the administrators",
        _ASK,
    ),
    _SmiFailure(
        "unable to determine the device handle",
        "gpu_lost",
        "a GPU of {host} does not answer; tell the administrators",
        _ASK,
    ),
    _SmiFailure(
        "no devices were found",
        "no_gpus",
        "the container on {host} sees no GPU; tell the administrators",
        _ASK,
    ),
    _SmiFailure(
        "attached gpus : 0",
        "no_gpus",
        "the container on {host} sees no GPU; tell the administrators",
        _ASK,
    ),
)


def known_failure(lines: Sequence[str], host: str) -> NvidiaSmiError | None:
    """The failure that nvidia-smi reports in `lines`; None if it reports none that is known."""
    # Messages are wrapped differently in different versions.
    text = " ".join(" ".join(lines).split()).lower()
    for failure in _FAILURES:
        if failure.phrase in text:
            kind = GpuLostError if failure.code == GpuLostError.code else NvidiaSmiError
            return kind(
                failure.message.format(host=host),
                hint=failure.hint.format(host=host),
                code=failure.code,
            )
    return None


def missing_program(host: str) -> NvidiaSmiError:
    """The error for a container without nvidia-smi, which comes with the driver."""
    message = (
        f"there is no nvidia-smi in the container on {host}, so it has no NVIDIA driver; "
        "tell the administrators"
    )
    # Not a restart: it ends all running work, and a start does not install what was never there.
    return NvidiaSmiError(message, hint=f"apexgpu doctor {host}", code="no_nvidia_smi")


def unknown_output(lines: Sequence[str], host: str) -> NvidiaSmiError:
    """The error for output that is neither a report nor a known failure; it quotes the first line."""
    first = "nothing"
    for line in lines:
        if line.strip():
            first = line.strip()[:100]
            break
    message = f"nvidia-smi on {host} printed something that apexgpu does not know: {first}"
    return UnknownOutputError(message, hint=f"apexgpu ssh {host} -- nvidia-smi")
