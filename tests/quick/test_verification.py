"""What containers and TensorFlow say -> verdicts: recorded words of the real ones, and the chain that they make."""

import json
import re
from typing import Any

import pytest

from apexgpu.errors import ApexError, RefusedError, UnreachableError
from apexgpu.nvidia.smi import MIB, Gpu, Report
from apexgpu.recipes import causes, compatibility, computeoutput, filechecks, verification
from apexgpu.recipes.checks import CHECKS, Check
from apexgpu.recipes.computeoutput import (
    ComputeRun,
    InstalledSoftware,
    PythonInstallation,
)
from apexgpu.recipes.verification import ComputeChecks

# What is said, the link at which it ended, the exit status -> the link that is to blame, its verdict and code.
WORDS: list[tuple[str, str, int, tuple[str, str, str]]] = [
    (
        "tensorflow.python.framework.errors_impl.InternalError: cudaGetDevice() failed. Status: CUDA driver version is "
        "insufficient for CUDA runtime version",
        "gpu",
        0,
        ("driver", "problem", "driver_too_old"),
    ),
    (
        "E cuda_diagnostics.cc:303] kernel version 384.81.0 does not match DSO version 390.48.0 -- cannot find working "
        "devices in this configuration",
        "gpu",
        0,
        ("driver", "problem", "driver_mismatch"),
    ),
    (
        "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory",
        "tensorflow",
        0,
        ("driver", "problem", "driver_missing"),
    ),
    (
        "E tensorflow/stream_executor/cuda/cuda_driver.cc:406] failed call to cuInit: CUDA_ERROR_NO_DEVICE",
        "gpu",
        0,
        ("gpu", "problem", "no_gpu"),
    ),
    (
        "failed call to cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected",
        "gpu",
        0,
        ("gpu", "problem", "no_gpu"),
    ),
    (
        "failed call to cuInit: CUDA_ERROR_UNKNOWN: unknown error",
        "gpu",
        0,
        ("driver", "problem", "driver_down"),
    ),
    ("failed call to cuInit: UNKNOWN ERROR (303)", "gpu", 0, ("driver", "problem", "driver_down")),
    (
        "ImportError: libcublas.so.9.0: cannot open shared object file: No such file or directory\n\n\nFailed to load the "
        "native TensorFlow runtime.",
        "tensorflow",
        0,
        ("cuda", "problem", "no_cuda"),
    ),
    (
        "ImportError: libcudnn.so.7: cannot open shared object file: No such file or directory",
        "tensorflow",
        0,
        ("cudnn", "problem", "no_cudnn"),
    ),
    (
        "W tensorflow/stream_executor/platform/default/dso_loader.cc:55] Could not load dynamic library 'libcudnn.so.7'; "
        "dlerror: libcudnn.so.7: cannot open shared object file",
        "gpu",
        0,
        ("cudnn", "problem", "no_cudnn"),
    ),
    (
        "Could not load dynamic library 'libcudart.so.10.1'; dlerror: libcudart.so.10.1: cannot open",
        "gpu",
        0,
        ("cuda", "problem", "no_cuda"),
    ),
    (
        "E cuda_dnn.cc:343] Loaded runtime CuDNN library: 7.0.5 but source was compiled with: 7.1.4.  CuDNN "
        "library major and minor version needs to match\nUnknownError: Failed to get convolution algorithm.",
        "convolution",
        0,
        ("cudnn", "problem", "cudnn_mismatch"),
    ),
    (
        "Loaded runtime CuDNN library: 7005 (compatibility version 7000) but source was compiled with 6021 (compatibility "
        "version 6000).",
        "convolution",
        134,
        ("cudnn", "problem", "cudnn_mismatch"),
    ),
    (
        "Ignoring visible gpu device (device: 0, name: GeForce GTX 680, compute capability: 3.0) with "
        "Cuda compute capability 3.0. The minimum required Cuda capability is 3.5.",
        "gpu",
        0,
        ("gpu", "problem", "gpu_too_old"),
    ),
    (
        "InternalError: CUDA runtime implicit initialization on GPU:0 failed. Status: no kernel image is available for "
        "execution on the device",
        "gpu",
        0,
        ("gpu", "problem", "no_kernel"),
    ),
    (
        "could not synchronize on CUDA context: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered",
        "convolution",
        134,
        ("convolution", "problem", "gpu_fails"),
    ),
    (
        "failed initializing StreamExecutor for CUDA device ordinal 0: Internal: failed call to cuDevicePrimaryCtxRetain: "
        "CUDA_ERROR_OUT_OF_MEMORY; total memory reported: 12802785280",
        "gpu",
        0,
        ("gpu", "busy", "busy"),
    ),
    (
        "ResourceExhaustedError: OOM when allocating tensor with shape[64,3,3,3]",
        "convolution",
        0,
        ("convolution", "busy", "busy"),
    ),
    (
        "Could not create cudnn handle: CUDNN_STATUS_ALLOC_FAILED",
        "convolution",
        0,
        ("convolution", "busy", "busy"),
    ),
    (
        "failed to create cublas handle: CUBLAS_STATUS_ALLOC_FAILED",
        "convolution",
        0,
        ("convolution", "busy", "busy"),
    ),
    (
        "cudaGetDevice() failed. Status: all CUDA-capable devices are busy or unavailable",
        "gpu",
        0,
        ("gpu", "busy", "busy"),
    ),
    (
        "InternalError: Dst tensor is not initialized.",
        "convolution",
        0,
        ("convolution", "busy", "busy"),
    ),
    ("Illegal instruction (core dumped)", "tensorflow", 132, ("tensorflow", "problem", "no_avx")),
    (
        "F cpu_feature_guard.cc:37] The TensorFlow library was compiled to use AVX instructions, but "
        "these aren't available on your machine.",
        "tensorflow",
        134,
        ("tensorflow", "problem", "no_avx"),
    ),
    (
        "ImportError: No module named google.protobuf",
        "tensorflow",
        0,
        ("tensorflow", "problem", "broken_import"),
    ),
    (
        "ModuleNotFoundError: No module named 'absl'",
        "tensorflow",
        0,
        ("tensorflow", "problem", "broken_import"),
    ),
    (
        "ImportError: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.23' not found",
        "tensorflow",
        0,
        ("tensorflow", "problem", "broken"),
    ),
    ("", "convolution", 137, ("convolution", "problem", "killed")),
    ("Check failed: stream", "convolution", 134, ("convolution", "problem", "crashed")),
    ("", "gpu", 255, ("gpu", "problem", "broken")),
]


@pytest.mark.parametrize(("said", "check", "code", "wanted"), WORDS)
def test_words_have_a_cause(said: str, check: str, code: int, wanted: tuple[str, str, str]) -> None:
    found = causes.find_cause(
        said, check=Check(check), exit_code=code, version="1.10.1", host="gpu7"
    )
    assert (found.check, found.verdict, found.code) == wanted
    assert found.hint
    assert "{" not in found.fact + found.hint


def test_a_warning_about_memory_does_not_hide_what_is_broken() -> None:
    said = (
        "I failed to allocate 11.50G (12348030976 bytes) from device: CUDA_ERROR_OUT_OF_MEMORY\n"
        "E Loaded runtime CuDNN library: 7.0.5 but source was compiled with: 7.1.4."
    )
    found = causes.find_cause(
        said, check=Check.CONVOLUTION, exit_code=0, version="1.12.0", host="gpu7"
    )
    assert (found.verdict, found.fact) == (
        "problem",
        "cuDNN 7.0.5 is loaded, and TensorFlow 1.12.0 is built with 7.1.4",
    )


def test_the_last_words_are_not_those_of_a_shell_without_a_terminal() -> None:
    said = (
        "ValueError: this one\n\nbash: cannot set terminal process group (9): Inappropriate ioctl for device\n"
        "bash: no job control in this shell\n2018-04-29 11:01:33.1: I tensorflow/core/x.cc:1] all is well\n"
    )
    assert causes.last_meaningful_line(said) == "ValueError: this one"


LOOK = """\
Welcome!
apexgpu-cuda 9.0.176 /usr/local/cuda-9.0
apexgpu-cuda 9.0.176 /usr/local/cuda-9.0
apexgpu-cuda  /usr/local/cuda-8.0
apexgpu-cudnn 7.0.5 /usr/local/cuda-9.0/include/cudnn.h
apexgpu-cudnn .. /usr/include/cudnn.h
apexgpu-silent /opt/broken/bin/python
apexgpu {"python": "/usr/bin/python3", "step": "look", "version": "3.5.2"}
apexgpu {"name": "tensorflow-gpu", "python": "/home/alice/my env/bin/python", "tensorflow": "1.10.1"}
apexgpu {broken
"""


def test_what_was_found_is_read() -> None:
    found = computeoutput.read_software(LOOK)
    assert found.cudas == (("9.0.176", "/usr/local/cuda-9.0"), ("", "/usr/local/cuda-8.0"))
    assert found.cudnns == (("7.0.5", "/usr/local/cuda-9.0/include/cudnn.h"),)
    assert [one.tensorflow for one in found.pythons] == ["", "", "1.10.1", ""]
    assert found.pythons[2].path == "/home/alice/my env/bin/python"
    assert (
        found.is_complete,
        computeoutput.read_software(LOOK + "apexgpu-looked\n").is_complete,
    ) == (False, True)


def gpu(index: int = 0, free: int | None = 12000, mode: str = "Default") -> Gpu:
    used = None if free is None else (12066 - free) * MIB
    return Gpu(
        index,
        "TITAN V",
        total=12066 * MIB,
        used=used,
        free=None if free is None else free * MIB,
        compute_mode=mode,
    )


def begun(
    driver: str = "390.48",
    tensorflow: str = "1.10.1",
    cuda: str = "9.0.176",
    cudnn: str = "7.0.5",
    gpus: tuple[Gpu, ...] = (gpu(),),
) -> ComputeChecks:
    found = InstalledSoftware(
        ((cuda, "/usr/local/cuda-9.0"),) if cuda else (),
        ((cudnn, "cudnn.h"),) if cudnn else (),
        (PythonInstallation("/p", "3.5.2", "tensorflow-gpu" if tensorflow else "", tensorflow),),
    )
    return verification.check_files("gpu7", Report(driver, gpus), found)


DRIVERS = [
    (cuda, driver, verdict)
    for cuda, least in compatibility.DRIVERS.items()
    for driver, verdict in (
        (least, "ok"),
        (f"{least[:3]}.01", "problem"),
        ("999.1", "ok"),
        ("361.9", "problem"),
    )
]


@pytest.mark.parametrize(("cuda", "driver", "verdict"), DRIVERS)
def test_each_driver_of_the_table_is_judged_by_the_cuda_that_is_there(
    cuda: str, driver: str, verdict: str
) -> None:
    checks = begun(driver=driver, tensorflow="", cuda=cuda)
    link = checks.finding(Check.DRIVER)
    assert link is not None
    assert link.verdict == verdict


@pytest.mark.parametrize(
    ("tensorflow", "cuda", "driver", "verdict"),
    [
        ("1.10.1", "8.0.61", "381.09", "problem"),
        ("1.13.1", "9.0.176", "390.48", "problem"),
        ("2.0.0", "", "410.48", "ok"),
        ("2.4.0", "", "381.09", "ok"),
        ("1.4.0", "8.0.61", "381.09", "ok"),
    ],
)
def test_the_driver_is_judged_by_the_cuda_that_tensorflow_wants(
    tensorflow: str, cuda: str, driver: str, verdict: str
) -> None:
    link = begun(driver=driver, tensorflow=tensorflow, cuda=cuda).finding(Check.DRIVER)
    assert link is not None
    assert link.verdict == verdict


@pytest.mark.parametrize(
    "release", compatibility.TENSORFLOW, ids=lambda release: str(release.version)
)
@pytest.mark.parametrize("cudnn", ["7.0.5", "7.1.4", "7.2.1", "7.6.5", "6.0.21"])
def test_a_cudnn_that_does_not_go_with_tensorflow_is_noted_and_ends_nothing(
    release: compatibility.TensorFlowRelease, cudnn: str
) -> None:
    checks = begun(tensorflow=release.version, cudnn=cudnn)
    link = checks.finding(Check.CUDNN)
    assert link is not None
    assert link.verdict == ("ok" if release.accepts_cudnn(cudnn) else "note")
    assert not checks.is_decided


@pytest.mark.parametrize(
    ("gpus", "index", "code"),
    [
        ((gpu(0, 3000), gpu(1, 9000), gpu(2, 9000)), 1, None),
        ((gpu(0, 12000, "Prohibited"), gpu(1, 4000)), 1, None),
        ((gpu(0, None), gpu(1, 4000)), 1, None),
        ((gpu(0, None),), 0, None),
        ((gpu(0, 500), gpu(1, 700)), 1, "busy"),
        ((gpu(0, 12000, "Prohibited"),), None, "no_gpu"),
        ((), None, "no_gpu"),
    ],
)
def test_the_gpu_with_most_free_memory_is_chosen(
    gpus: tuple[Gpu, ...], index: int | None, code: str | None
) -> None:
    card, trouble = filechecks.choose_gpu(gpus, "gpu7")
    assert (card.index if card else None, trouble.code if trouble else None) == (index, code)


DEVICE = {
    "about": "device: 0, name: TITAN V, pci bus id: 0000:02:00.0, compute capability: 7.0",
    "memory": 1,
}
STEPS: dict[str, dict[str, Any]] = {
    "python": {"nvcc": "/usr/local/cuda-9.0/bin/nvcc"},
    "import": {"tensorflow": "1.10.1", "with_cuda": True, "path": "/p/tensorflow"},
    "device": {"devices": [DEVICE]},
    "convolution": {"right": True, "numbers": 72, "wrong": 0, "seconds": 4.25},
    "memory": {"before": 66 * MIB, "after": 500 * MIB},
}


def ran(words: str = "", code: int = 0, until: str = "memory", **changes: Any) -> ComputeRun:
    names = [*STEPS][: [*STEPS].index(until) + 1]
    lines = [
        "apexgpu " + json.dumps({**STEPS[name], **changes.get(f"{name}_", {}), "step": name})
        for name in names
    ]
    return computeoutput.read_run("\n".join([*lines, f"apexgpu-end {code}"]), words)


def judged(
    first: ComputeRun, second: ComputeRun | None = None, checks: ComputeChecks | None = None
) -> ComputeChecks:
    checks = verification.add_run(checks or begun(), first)
    if second is not None:
        assert not checks.is_decided
        checks = verification.add_command_run(checks, second)
    return verification.complete(checks)


def test_a_chain_that_holds_tells_what_the_guide_s_log_shows() -> None:
    checks = judged(ran(), ran())
    assert [one.check for one in checks.findings] == list(CHECKS)
    assert {one.verdict for one in checks.findings} == {"ok"}
    assert (checks.verdict, checks.error) == ("works", None)
    assert checks.gpu is not None
    assert (checks.gpu.name, checks.gpu.compute_capability, checks.gpu.pci_bus_id) == (
        "TITAN V",
        "7.0",
        "0000:02:00.0",
    )


MISSING = {
    "error": "ImportError",
    "said": "libcublas.so.9.0: cannot open shared object file: No such file",
}
RUNS: list[tuple[ComputeRun, ComputeRun | None, str, str, type[ApexError]]] = [
    (
        ran(until="import", import_={"with_cuda": False}),
        None,
        "tensorflow",
        "no_cuda_build",
        ApexError,
    ),
    (ran(until="import", import_=MISSING), None, "cuda", "no_cuda", ApexError),
    (ran(until="device", device_={"devices": []}), None, "gpu", "no_gpu", ApexError),
    (ran(until="import", code=142), None, "gpu", "slow", UnreachableError),
    (ran(until="device", code=124), None, "convolution", "slow", UnreachableError),
    (
        ran(convolution_={"right": False, "wrong": 3, "first": ["1.0", "2.0"]}),
        None,
        "convolution",
        "wrong_numbers",
        ApexError,
    ),
    (
        ran(until="convolution", convolution_={"error": "E", "said": "OOM when allocating"}),
        None,
        "convolution",
        "busy",
        RefusedError,
    ),
    (
        ran(memory_={"after": 11500 * MIB}),
        ran(memory_={"after": 11500 * MIB}),
        "memory",
        "takes_all",
        ApexError,
    ),
    (ran(), ran(memory_={"after": 11500 * MIB}), "command", "command", ApexError),
    (ran(), ran(until="import", import_=MISSING), "command", "command", ApexError),
    (
        ran(),
        ran("CUDA_ERROR_OUT_OF_MEMORY", until="device", device_={"error": "E", "said": ""}),
        "command",
        "busy",
        RefusedError,
    ),
]


@pytest.mark.parametrize(("first", "second", "check", "code", "kind"), RUNS)
def test_runs_are_judged(
    first: ComputeRun, second: ComputeRun | None, check: str, code: str, kind: type[ApexError]
) -> None:
    checks = judged(first, second)
    error = checks.error
    assert error is not None
    assert (type(error), error.code) == (kind, code)
    assert re.match(r"(TensorFlow (works|does not work) on )?gpu7\b", error.message)
    bad = [one.check for one in checks.findings if one.verdict in {"problem", "busy", "slow"}]
    assert bad == [check]
    assert [one.check for one in checks.findings] == list(CHECKS)


def test_a_cudnn_of_conda_s_own_makes_the_note_good() -> None:
    loaded = {
        "libraries": {
            "cudnn": {"path": "/c/libcudnn.so.7.6.5", "version": 7605},
            "cudart": {"path": "/c/libcudart.so.9.0", "version": 9000},
        }
    }
    checks = judged(ran(convolution_=loaded), ran(), begun(tensorflow="1.12.3", cuda="", cudnn=""))
    assert checks.error is None
    facts = {one.check: one.fact for one in checks.findings}
    assert (facts["cudnn"], facts["cuda"]) == (
        "7.6.5 (/c/libcudnn.so.7.6.5)",
        "9.0 (/c/libcudart.so.9.0)",
    )


def test_a_convolution_that_fails_without_a_word_is_put_down_to_the_cudnn_that_does_not_fit() -> (
    None
):
    said = {"error": "UnknownError", "said": "Failed to get convolution algorithm"}
    checks = judged(ran(until="convolution", convolution_=said), checks=begun(tensorflow="1.12.3"))
    assert checks.error is not None
    assert checks.error.code == "cudnn_mismatch"


def test_memory_that_others_took_meanwhile_is_not_laid_to_the_session() -> None:
    steps = "\n".join(
        "apexgpu " + json.dumps({**told, "step": name}) for name, told in STEPS.items()
    )
    told = steps.replace(f'"after": {500 * MIB}', f'"after": {9000 * MIB}')
    assert told != steps
    others = computeoutput.read_run(
        f"{told}\napexgpu-left 1, 0\napexgpu-left 0, 8600\napexgpu-left 0, N/A\napexgpu-end 0", ""
    )
    assert others.memory_left == {0: 8600 * MIB, 1: 0}
    ours = computeoutput.read_run(f"{told}\napexgpu-left 0, 70\napexgpu-end 0", "")
    facts = {one.check: one for one in judged(others, others).findings}
    assert (facts["memory"].verdict, facts["memory"].fact) == (
        "ok",
        "took 400.0 MiB, and more only as needed",
    )
    assert judged(ours, ours).verdict == "broken"


def test_nvcc_that_a_command_does_not_find_is_a_note() -> None:
    checks = judged(ran(), ran(python_={"nvcc": None}))
    assert (checks.error, checks.findings[-1].verdict, checks.findings[-1].code) == (
        None,
        "note",
        "no_path",
    )


@pytest.mark.parametrize(
    ("number", "name", "text"),
    [
        (7005, "cudnn", "7.0.5"),
        (7605, "cudnn", "7.6.5"),
        (8902, "cudnn", "8.9.2"),
        (90100, "cudnn", "9.1.0"),
        (9000, "cudart", "9.0"),
        (9020, "cudart", "9.2"),
        (10010, "cudart", "10.1"),
    ],
)
def test_a_library_s_number_is_read(number: int, name: str, text: str) -> None:
    read = verification.cudnn_version if name == "cudnn" else verification.cuda_version
    assert read(number) == text
