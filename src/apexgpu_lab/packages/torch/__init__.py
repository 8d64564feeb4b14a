"""A stand-in of PyTorch in the lab: its version, and whether there is a GPU."""

import subprocess
from typing import Any

from torch.release import VERSION as __version__  # noqa: N811 - its public name

__all__ = ["__version__", "cuda", "version"]


class version:  # noqa: N801 - PyTorch's name
    """torch.version: the CUDA that the wheel contains."""

    cuda = "9.0.176"


class cuda:  # noqa: N801 - PyTorch's name
    """torch.cuda."""

    @staticmethod
    def device_count() -> int:
        """How many GPUs the driver has; none if it does not work."""
        argv = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        finished = subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
        return len(finished.stdout.splitlines()) if finished.returncode == 0 else 0

    @staticmethod
    def is_available() -> bool:
        """Whether there is a GPU that works."""
        return cuda.device_count() > 0


def __getattr__(name: str) -> Any:
    raise AttributeError(f"torch is a stand-in of the lab, and has no {name!r}")
