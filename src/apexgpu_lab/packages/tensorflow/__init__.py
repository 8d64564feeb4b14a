"""A stand-in of TensorFlow 1 in the lab: it finds its libraries, opens a GPU, and computes convolutions."""

from typing import Any

from tensorflow import native
from tensorflow.release import VERSION as __version__  # noqa: N811 - its public name

native.load_libraries()

from tensorflow.core.protobuf.config_pb2 import ConfigProto, GPUOptions  # noqa: E402 - libraries first
from tensorflow.python.client.session import Graph, Node, Session  # noqa: E402 - as above

__all__ = [
    "ConfigProto",
    "GPUOptions",
    "Graph",
    "Session",
    "__version__",
    "constant",
    "device",
    "float32",
    "nn",
    "placeholder",
    "test",
]

float32 = "float32"


class test:  # noqa: N801 - TensorFlow's name
    """tf.test."""

    @staticmethod
    def is_built_with_cuda() -> bool:
        """Yes: it is tensorflow-gpu."""
        return True

    @staticmethod
    def is_gpu_available() -> bool:
        """Whether there is a GPU that works."""
        return native.open_gpu(allow_growth=False) is not None


class device:  # noqa: N801 - TensorFlow's name
    """`with tf.device(NAME)`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, *trouble: object) -> None:
        pass


class nn:  # noqa: N801 - TensorFlow's name
    """tf.nn."""

    @staticmethod
    def conv2d(input: Node, filter: Node, strides: list[int], padding: str) -> Node:
        """A convolution with steps of 1 and without padding."""
        if list(strides) != [1, 1, 1, 1] or padding != "VALID":
            raise ValueError("the lab's stand-in computes strides [1, 1, 1, 1] and VALID only")
        return Node("convolution", input, filter)


def constant(value: Any, dtype: object = None) -> Node:
    """A constant."""
    return Node("constant", value)


def placeholder(dtype: object, shape: object = None) -> Node:
    """A value that `run` is given."""
    return Node("placeholder")


def __getattr__(name: str) -> Any:
    raise AttributeError(f"tensorflow is a stand-in of the lab, and has no {name!r}")
