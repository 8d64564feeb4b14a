"""ConfigProto, as far as programs set it: the options of GPU memory."""

import copy
from typing import Any


class GPUOptions:
    """Every option that was set; `allow_growth` is False unless it was."""

    def __init__(self, **options: Any) -> None:
        self.__dict__.update(options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return False


class ConfigProto:
    """The config of a session."""

    def __init__(self, gpu_options: GPUOptions | None = None, **options: Any) -> None:
        self.__dict__.update(options)
        self.gpu_options = gpu_options or GPUOptions()

    def HasField(self, name: str) -> bool:  # noqa: N802 - protobuf's name
        """Whether anything was set in a field."""
        return name == "gpu_options" and bool(vars(self.gpu_options))

    def CopyFrom(self, other: "ConfigProto") -> None:  # noqa: N802 - protobuf's name
        """Take over everything from another config."""
        self.__dict__.update(copy.deepcopy(vars(other)))
