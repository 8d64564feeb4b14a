"""Sessions: they open the GPU, and compute a graph."""

from typing import Any

from tensorflow import native
from tensorflow.core.protobuf.config_pb2 import ConfigProto


class Graph:
    """A graph; its nodes know themselves what they compute."""

    def as_default(self) -> "Graph":
        """Use it in a `with`."""
        return self

    def __enter__(self) -> "Graph":
        return self

    def __exit__(self, *trouble: object) -> None:
        pass


class Node:
    """A value in a graph: a constant, a placeholder, or a convolution of two others."""

    def __init__(self, kind: str, *inputs: Any) -> None:
        self.kind = kind
        self.inputs = inputs

    def value(self, given: "dict[Node, Any]") -> Any:
        """Compute it."""
        if self in given:
            return given[self]
        if self.kind == "constant":
            return self.inputs[0]
        if self.kind == "placeholder":
            raise ValueError("You must feed a value for placeholder tensor 'Placeholder'")
        image, kernel = (node.value(given) for node in self.inputs)
        return native.convolve(image, kernel)


class Array(list[Any]):
    """A result."""

    def tolist(self) -> list[Any]:
        """The numbers as nested lists."""
        return list(self)


class BaseSession:
    """Opens the GPU at once, as TensorFlow does."""

    def __init__(
        self, target: str = "", graph: Graph | None = None, config: ConfigProto | None = None
    ) -> None:
        self.graph = graph or Graph()
        growth = config is not None and bool(config.gpu_options.allow_growth)
        native.open_gpu(allow_growth=growth)

    def run(self, fetched: Node, feed_dict: "dict[Node, Any] | None" = None) -> Any:
        """Compute a node."""
        value = fetched.value(feed_dict or {})
        return Array(value) if isinstance(value, list) else value

    def close(self) -> None:
        """The memory stays with the process, as TensorFlow keeps it."""

    def __enter__(self) -> "BaseSession":
        return self

    def __exit__(self, *trouble: object) -> None:
        self.close()


class Session(BaseSession):
    """What programs use."""
