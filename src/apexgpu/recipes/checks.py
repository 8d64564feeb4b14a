"""The names that the checks of `apexgpu verify` share. Pure."""

from enum import StrEnum


class Check(StrEnum):
    """The checks of one container, in their order; each needs those before it."""

    DRIVER = "driver"
    CUDA = "cuda"
    CUDNN = "cudnn"
    TENSORFLOW = "tensorflow"
    GPU = "gpu"
    CONVOLUTION = "convolution"
    MEMORY = "memory"
    COMMAND = "command"
    """All of it again, as a command without a terminal."""


CHECKS = tuple(Check)


class CauseCode(StrEnum):
    """The codes of findings that other checks look at. All other codes are only for JSON."""

    BROKEN = "broken"
    """Nothing in the output explains the failure."""

    CUDNN_MISMATCH = "cudnn_mismatch"
    TAKES_ALL_MEMORY = "takes_all"
    COMMAND = "command"
