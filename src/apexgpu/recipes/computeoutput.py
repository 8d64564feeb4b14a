"""Reads what look.sh, compute.sh and compute.py of `apexgpu.remote.programs` print in a container.

Pure.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from apexgpu import readers
from apexgpu.errors import UnexpectedError
from apexgpu.nvidia.smi import MIB

MARK = "apexgpu"
"""The first word of each line that is an answer; in full `apexgpu` or `apexgpu-NAME`."""

NO_EXIT_CODE = 255
"""The exit code of a run whose output ends too early."""


# What look.sh finds


@dataclass(frozen=True, slots=True)
class PythonInstallation:
    """A Python of the container, and the TensorFlow among its packages.

    `package` is how that is called (`tensorflow-gpu`), `tensorflow` its version; both are empty if
    there is none.
    """

    path: str
    version: str = ""
    package: str = ""
    tensorflow: str = ""


@dataclass(frozen=True, slots=True)
class InstalledSoftware:
    """What a container has: CUDAs as (version, directory), cuDNNs as (version, header), Pythons.

    `is_complete` is False if the output ends too early.
    """

    cudas: tuple[tuple[str, str], ...] = ()
    cudnns: tuple[tuple[str, str], ...] = ()
    pythons: tuple[PythonInstallation, ...] = ()
    is_complete: bool = False


def read_software(output: str) -> InstalledSoftware:
    """Read the output of look.sh."""
    cudas, cudnns, pythons = [], [], []
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        version, _, path = rest.partition(" ")
        if word == f"{MARK}-cuda":
            cudas.append((version, path))
        elif word == f"{MARK}-cudnn" and re.fullmatch(r"\d+(\.\d+)*", version):
            cudnns.append((version, path))
        elif word == f"{MARK}-silent":
            pythons.append(PythonInstallation(path=rest))
        elif word == MARK:
            answer = _json_object(rest)
            pythons.append(
                PythonInstallation(
                    path=_text(answer, "python"),
                    version=_text(answer, "version"),
                    package=_text(answer, "name"),
                    tensorflow=_text(answer, "tensorflow"),
                )
            )
    return InstalledSoftware(
        _without_duplicates(cudas),
        _without_duplicates(cudnns),
        tuple(pythons),
        f"{MARK}-looked" in output.splitlines(),
    )


def _without_duplicates(pairs: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(dict.fromkeys(pairs))


# What compute.sh and compute.py print: one step after the other


@dataclass(frozen=True, slots=True)
class FailedStep:
    """A step that ended with an exception; `message` is what that said."""

    message: str


@dataclass(frozen=True, slots=True)
class ImportStep:
    """TensorFlow was imported. `path` is its directory."""

    version: str
    path: str
    with_cuda: bool


@dataclass(frozen=True, slots=True)
class VisibleGpu:
    """A GPU as TensorFlow describes it; empty where it does not."""

    name: str = ""
    compute_capability: str = ""
    pci_bus_id: str = ""


@dataclass(frozen=True, slots=True)
class DeviceStep:
    """A session was opened, and lists these GPUs."""

    gpus: tuple[VisibleGpu, ...]


@dataclass(frozen=True, slots=True)
class LoadedLibrary:
    """A library of CUDA or cuDNN in the memory of the program.

    `version` is its own number, such as 7005.
    """

    path: str
    version: int | None


@dataclass(frozen=True, slots=True)
class ConvolutionStep:
    """A convolution was computed. `example` is the first wrong number and the right one.

    `libraries` are those that were loaded by then: `cudart`, `cudnn`.
    """

    is_right: bool
    numbers: int
    wrong_numbers: int
    example: tuple[str, ...] = ()
    seconds: float | None = None
    libraries: Mapping[str, LoadedLibrary] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryStep:
    """Bytes in use on the GPU before TensorFlow was imported, and at the end; None if unknown."""

    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class ComputeRun:
    """One run of compute.py. A step that was not reached is None.

    `exit_code` is that of Python, `output` all lines that are not answers, `memory_left` the bytes
    in use on each GPU after Python had ended, by the number of the GPU.
    """

    exit_code: int
    output: str
    nvcc_on_path: bool = False
    imported: ImportStep | FailedStep | None = None
    device: DeviceStep | FailedStep | None = None
    convolution: ConvolutionStep | FailedStep | None = None
    memory: MemoryStep | None = None
    memory_left: Mapping[int, int] = field(default_factory=dict)

    @property
    def tensorflow(self) -> str:
        """The version of TensorFlow; empty if it was not imported."""
        return self.imported.version if isinstance(self.imported, ImportStep) else ""


def read_run(out: str, err: str) -> ComputeRun:
    """Read the output of compute.sh; a run whose end is missing has the exit code NO_EXIT_CODE."""
    answers: dict[str, dict[str, Any]] = {}
    memory_left: dict[int, int] = {}
    exit_code = NO_EXIT_CODE
    other_lines = []
    for line in out.splitlines():
        word, _, rest = line.partition(" ")
        if word == f"{MARK}-end" and readers.number(rest) is not None:
            exit_code = readers.number(rest, most=255) or 0
        elif word == f"{MARK}-left":
            for index, mebibytes in re.findall(r"^([0-9]{1,4}), ([0-9]{1,12})$", rest):
                memory_left[int(index)] = int(mebibytes) * MIB
        elif word == MARK:
            answer = _json_object(rest)
            answers[_text(answer, "step")] = answer
        else:
            other_lines.append(line)
    return ComputeRun(
        exit_code,
        "\n".join([*other_lines, err]),
        bool(answers.get("python", {}).get("nvcc")),
        _step(answers.get("import"), _import_step),
        _step(answers.get("device"), _device_step),
        _step(answers.get("convolution"), _convolution_step),
        _memory_step(answers.get("memory")),
        memory_left,
    )


_S = TypeVar("_S")


def _step(
    answer: dict[str, Any] | None, read: Callable[[dict[str, Any]], _S]
) -> _S | FailedStep | None:
    if answer is None:
        return None
    if "error" in answer:
        return FailedStep(_text(answer, "said"))
    return read(answer)


def _import_step(answer: dict[str, Any]) -> ImportStep:
    return ImportStep(
        _text(answer, "tensorflow"), _text(answer, "path"), bool(answer.get("with_cuda", True))
    )


# Such as `device: 0, name: TITAN V, pci bus id: 0000:02:00.0, compute capability: 7.0`; a name may
# contain commas.
_DEVICE_FIELD = re.compile(
    r"(?:^|, )(device|name|pci bus id|compute capability): "
    r"(.*?)(?=, (?:name|pci bus id|compute capability): |$)"
)


def _device_step(answer: dict[str, Any]) -> DeviceStep:
    gpus = []
    for device in _objects(answer.get("devices")):
        fields = dict(_DEVICE_FIELD.findall(_text(device, "about")))
        gpus.append(
            VisibleGpu(
                fields.get("name", ""),
                fields.get("compute capability", ""),
                fields.get("pci bus id", ""),
            )
        )
    return DeviceStep(tuple(gpus))


def _convolution_step(answer: dict[str, Any]) -> ConvolutionStep:
    seconds = answer.get("seconds")
    libraries = {}
    found = answer.get("libraries")
    for name, library in (found if isinstance(found, dict) else {}).items():
        if isinstance(library, dict):
            libraries[name] = LoadedLibrary(_text(library, "path"), library.get("version"))
    return ConvolutionStep(
        is_right=bool(answer.get("right")),
        numbers=_integer(answer.get("numbers")) or 0,
        wrong_numbers=_integer(answer.get("wrong")) or 0,
        example=_numbers(answer.get("first")),
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        libraries=libraries,
    )


def _memory_step(answer: dict[str, Any] | None) -> MemoryStep | None:
    if answer is None:
        return None
    return MemoryStep(_integer(answer.get("before")), _integer(answer.get("after")))


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _objects(value: object) -> list[dict[str, Any]]:
    """The objects of a JSON list; empty if it is not a list."""
    if not isinstance(value, list):
        return []
    return [item for item in value if isinstance(item, dict)]


def _numbers(value: object) -> tuple[str, ...]:
    """The items of a JSON list as texts; empty if it is not a list."""
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _text(answer: Mapping[str, Any], key: str) -> str:
    return str(answer.get(key, ""))


def _json_object(text: str) -> dict[str, Any]:
    """The JSON object in `text`; empty if it is not one."""
    try:
        value = readers.json_value(text, "an answer")
    except UnexpectedError:
        return {}
    return value if isinstance(value, dict) else {}
