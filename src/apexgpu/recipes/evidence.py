"""What was found in a container and what a run there said, as values: the answers to what `trial` sends. Pure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apexgpu.nvidia.smi import MIB

MARK = "apexgpu"
"""What stands before an answer, on a line of its own."""


@dataclass(frozen=True, slots=True)
class Python:
    """A Python of the container, and the TensorFlow among its packages; empty where there is none."""

    path: str
    version: str = ""
    name: str = ""
    tensorflow: str = ""


@dataclass(frozen=True, slots=True)
class There:
    """What is in a container: (version, directory) of each CUDA, (version, header) of each cuDNN, the Pythons.

    `looked` is whether the look came to its end.
    """

    cudas: tuple[tuple[str, str], ...] = ()
    cudnns: tuple[tuple[str, str], ...] = ()
    pythons: tuple[Python, ...] = ()
    looked: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the program said: each step's findings, its exit status, all other words.

    `left` are the bytes in use on each GPU after it had ended.
    """

    steps: Mapping[str, Mapping[str, Any]]
    code: int
    words: str
    left: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Card:
    """The GPU that was computed on. Memory in bytes; what nobody told is empty or None."""

    index: int
    name: str
    capability: str = ""
    bus: str = ""
    total: int | None = None
    free: int | None = None


def there(text: str) -> There:
    """What the look at a container found."""
    cudas, cudnns, pythons = [], [], []
    for line in text.splitlines():
        what, _, rest = line.partition(" ")
        version, _, path = rest.partition(" ")
        if what == f"{MARK}-cuda":
            cudas.append((version, path))
        elif what == f"{MARK}-cudnn" and re.fullmatch(r"\d+(\.\d+)*", version):
            cudnns.append((version, path))
        elif what == f"{MARK}-silent":
            pythons.append(Python(rest))
        elif what == MARK:
            told = _read(rest)
            pythons.append(
                Python(
                    *(
                        str(told.get(name, ""))
                        for name in ("python", "version", "name", "tensorflow")
                    )
                )
            )
    looked = f"{MARK}-looked" in text.splitlines()
    return There(tuple(dict.fromkeys(cudas)), tuple(dict.fromkeys(cudnns)), tuple(pythons), looked)


def _read(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def run(out: str, err: str) -> Run:
    """What a run of the program said; one whose end is missing has ended with 255."""
    steps: dict[str, dict[str, Any]] = {}
    left: dict[int, int] = {}
    words, code = [], 255
    for line in out.splitlines():
        what, _, rest = line.partition(" ")
        if what == f"{MARK}-end" and rest.isdigit():
            code = int(rest)
        elif what == f"{MARK}-left":
            left |= {
                int(index): int(used) * MIB for index, used in re.findall(r"^(\d+), (\d+)$", rest)
            }
        elif what == MARK:
            told = _read(rest)
            steps[str(told.get("step"))] = told
        else:
            words.append(line)
    return Run(steps, code, "\n".join([*words, err]), left)
