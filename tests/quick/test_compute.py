"""The program that computes in a container, run here: with a TensorFlow 2 in its words, and where things go wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from apexgpu.recipes import computetest

# TensorFlow 2, as far as the program speaks to it; the numbers are worked out by plain Python.
EAGER = """\
import types
__version__ = "2.10.0"
PLACE = []
class test:
    is_built_with_cuda = staticmethod(lambda: True)
class config:
    list_logical_devices = staticmethod(lambda kind: ["GPU:0"])
class device:
    def __init__(self, name): self.name = name
    def __enter__(self): PLACE.append(self.name)
    def __exit__(self, *trouble): PLACE.pop()
def constant(value): return value
class Tensor(list):
    def numpy(self): return self
    def tolist(self): return [one for one in self]
class nn:
    @staticmethod
    def conv2d(image, kernel, strides, padding):
        assert PLACE == ["/device:GPU:0"] and strides == 1 and padding == "VALID"
        size = len(image[0]) - 2
        return Tensor([[[[sum(image[0][r + y][c + x][k] * kernel[y][x][k][o] for y in range(3) for x in range(3)
                              for k in range(2)) for o in range(2)] for c in range(size)] for r in range(size)]])
"""
DEVICES = """\
class Device:
    name, device_type, memory_limit = "/device:GPU:0", "GPU", 11
    physical_device_desc = "device: 0, name: TITAN V, pci bus id: 0000:02:00.0, compute capability: 7.0"
def list_local_devices(): return [Device()]
"""


def tensorflow(packages: Path) -> None:
    """That TensorFlow, in a directory of packages."""
    client = packages / "tensorflow" / "python" / "client"
    client.mkdir(parents=True)
    for room in (client.parent, client):
        (room / "__init__.py").write_text("")
    (packages / "tensorflow/__init__.py").write_text(EAGER)
    (client / "device_lib.py").write_text(DEVICES)
    (packages / "tensorflow_gpu-2.10.0.dist-info").mkdir()


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A directory of packages with that TensorFlow in it."""
    tensorflow(tmp_path)
    return tmp_path


def told(packages: Path, **wish: Any) -> list[dict[str, Any]]:
    """What the program says, step by step."""
    done = subprocess.run(
        [sys.executable, "-c", computetest.program(), json.dumps(wish), "/as/it/was/called"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PYTHONPATH": str(packages), "PATH": os.environ["PATH"]},
    )
    return [json.loads(line.removeprefix("apexgpu ")) for line in done.stdout.splitlines()]


def test_it_computes_with_a_tensorflow_2(packages: Path) -> None:
    steps = {one["step"]: one for one in told(packages, do="compute", gpu=0, limit=30)}
    assert [*steps] == ["python", "import", "device", "convolution", "memory"]
    assert (
        steps["import"]["tensorflow"],
        steps["convolution"]["right"],
        steps["convolution"]["numbers"],
    ) == ("2.10.0", True, 72)
    assert steps["device"]["devices"][0]["about"].startswith("device: 0, name: TITAN V")
    assert (steps["memory"]["before"], steps["memory"]["after"]) == (
        None,
        None,
    )  # there is no nvidia-smi here


def test_it_looks_without_importing(packages: Path) -> None:
    (packages / "tensorflow/__init__.py").write_text("raise SystemExit(9)")
    (found,) = told(packages, do="look")
    assert (found["name"], found["tensorflow"], found["python"]) == (
        "tensorflow-gpu",
        "2.10.0",
        "/as/it/was/called",
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("raise ImportError('libcudart.so.9.0: cannot open')", "ImportError"),
        ("raise ValueError('\\u4e2d')", "ValueError"),
        ("1 /", "SyntaxError"),
    ],
)
def test_an_import_that_fails_is_told_with_its_words(packages: Path, text: str, error: str) -> None:
    (packages / "tensorflow/__init__.py").write_text(text)
    steps = told(packages, do="compute", gpu=0, limit=30)
    assert [one["step"] for one in steps] == ["python", "import"]
    assert steps[-1]["error"] == error
    assert steps[-1]["said"]


@pytest.mark.parametrize(
    "wrong",
    ["[[[[float('nan')] * 2] * 6] * 6]", "[[[[0.0] * 2] * 6] * 6]", "[[[[0.0] * 2] * 5] * 6]"],
)
def test_numbers_that_are_wrong_none_or_too_few_are_not_right(packages: Path, wrong: str) -> None:
    code = (
        (packages / "tensorflow/__init__.py")
        .read_text()
        .replace(
            "return Tensor([[[[sum(image",
            f"return Tensor({wrong})\n        return Tensor([[[[sum(image",
        )
    )
    (packages / "tensorflow/__init__.py").write_text(code)
    (found,) = [
        one for one in told(packages, do="compute", gpu=0, limit=30) if one["step"] == "convolution"
    ]
    assert found["right"] is False


def test_no_gpu_ends_the_chain_before_the_convolution(packages: Path) -> None:
    (packages / "tensorflow/python/client/device_lib.py").write_text(
        "def list_local_devices(): return []"
    )
    steps = told(packages, do="compute", gpu=0, limit=30)
    assert (steps[-1]["step"], steps[-1]["devices"]) == ("device", [])
