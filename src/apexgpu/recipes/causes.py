"""Finds out why TensorFlow does not work, from its messages and those of CUDA and the loader. Pure.

The messages are those of TensorFlow 1.5 ... 2.x, CUDA 8 ... 12 and the GNU loader. The first rule
that matches is the cause, so rules for unambiguous messages come before rules for messages with
several meanings. A message about memory alone proves nothing, because TensorFlow also prints it
when it continues with less; therefore a cause is looked for only if a check has failed.
"""

import re
import signal
from typing import NamedTuple

from apexgpu.models import Finding
from apexgpu.recipes.checks import CauseCode, Check

_RESTART = "apexgpu restart {host}"
_LIST_GPUS = "apexgpu gpus"
_LIST_FREE_GPUS = "apexgpu gpus free"
_SIGKILL = 9  # Windows has no signal.SIGKILL


class _Rule(NamedTuple):
    """`pattern` is searched in the output.

    In `fact` and `hint`, {1} and {2} are groups of the pattern.
    """

    pattern: str
    check: Check
    code: str
    fact: str
    hint: str


_RULES = (
    _Rule(
        r"CUDA driver version is insufficient|cudaErrorInsufficientDriver|kernel driver does not support",
        Check.DRIVER,
        "driver_too_old",
        "the driver is too old for the CUDA that TensorFlow {version} is built for; use another host",
        _LIST_GPUS,
    ),
    _Rule(
        r"version mismatch.{0,40}(?:NVML|kernel)|does not match DSO version|CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        Check.DRIVER,
        "driver_mismatch",
        "the driver in the container has another version than the host's; restarting the container updates it",
        _RESTART,
    ),
    _Rule(
        r"libcuda\.so\S*: cannot open shared object",
        Check.DRIVER,
        "driver_missing",
        "the driver's library libcuda.so.1 is not in the container; restarting the container adds it",
        _RESTART,
    ),
    _Rule(
        r"CUDA_ERROR_NO_DEVICE|no CUDA-capable device is detected",
        Check.GPU,
        "no_gpu",
        "CUDA finds no GPU in the container; try to restart the container",
        _RESTART,
    ),
    _Rule(
        r"failed call to cuInit: (?:CUDA_ERROR_UNKNOWN|UNKNOWN ERROR)|CUDA_ERROR_NOT_INITIALIZED",
        Check.DRIVER,
        "driver_down",
        "CUDA cannot start: the driver's devices (nvidia-uvm) are not in the container; restarting the container adds"
        " them",
        _RESTART,
    ),
    _Rule(
        r"Loaded runtime CuDNN library: (\S+)[^\n]*compiled with:? (\d+(?:\.\d+)*)",
        Check.CUDNN,
        CauseCode.CUDNN_MISMATCH,
        "cuDNN {1} is loaded, and TensorFlow {version} is built with {2}",
        "apexgpu setup {host} cudnn tensorflow",
    ),
    _Rule(
        r"CUDNN_STATUS_VERSION_MISMATCH|CUDNN_STATUS_ARCH_MISMATCH",
        Check.CUDNN,
        CauseCode.CUDNN_MISMATCH,
        "the cuDNN that is loaded is not compatible with TensorFlow {version}",
        "apexgpu setup {host} cudnn tensorflow",
    ),
    _Rule(
        r"(libcudnn\w*\.so[.\d]*)(?:'|: cannot open shared object|; dlerror)",
        Check.CUDNN,
        "no_cudnn",
        "TensorFlow {version} does not find {1}",
        "apexgpu setup {host} cudnn",
    ),
    _Rule(
        r"(lib(?:cudart|cublas|cublasLt|cufft|curand|cusolver|cusparse|nvrtc|cupti)\.so[.\d]*)"
        r"(?:'|: cannot open shared object|; dlerror)",
        Check.CUDA,
        "no_cuda",
        "TensorFlow {version} does not find {1}",
        "apexgpu setup {host} cuda",
    ),
    _Rule(
        r"Ignoring visible gpu device[^\n]*compute capability:? ?([\d.]+)[^\n]*minimum required[^\n]*? is ([\d.]+)",
        Check.GPU,
        "gpu_too_old",
        "the GPU has compute capability {1}, and TensorFlow {version} needs {2}; use another host",
        _LIST_GPUS,
    ),
    _Rule(
        r"no kernel image is available|CUDA_ERROR_INVALID_PTX|CUDA_ERROR_NO_BINARY_FOR_GPU",
        Check.GPU,
        "no_kernel",
        "TensorFlow {version} contains no code for this GPU; use another host",
        _LIST_GPUS,
    ),
    _Rule(
        r"CUDA_ERROR_ECC_UNCORRECTABLE|uncorrectable ECC|Xid|CUDA_ERROR_LAUNCH_FAILED|CUDA_ERROR_ILLEGAL_ADDRESS",
        Check.CONVOLUTION,
        "gpu_fails",
        "the GPU fails while it computes; use another host, and tell the administrators",
        _LIST_GPUS,
    ),
)

_NO_GPU_MEMORY = re.compile(
    r"CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|CUDA runtime implicit initialization on GPU:\d+ failed|"
    r"(?:CUDNN|CUBLAS|CUSOLVER|CUFFT)\w*_ALLOC_FAILED|ResourceExhausted|OOM when allocating|"
    r"failed to allocate [\d.]+\w? |out of memory|Dst tensor is not initialized|"
    r"CUDA-capable device\(?s\)? (?:is|are) busy or unavailable|CUDA_ERROR_DEVICES?_UNAVAILABLE",
    re.IGNORECASE,
)
_MISSING_MODULE = re.compile(r"No module named '?\"?([\w.]+)")
_MISSING_INSTRUCTIONS = re.compile(
    r"was compiled to use (\w+) instructions|Illegal instruction", re.IGNORECASE
)

# Lines that explain nothing: a shell without a terminal, TensorFlow's information, the frame of a
# traceback.
_NOISE = re.compile(
    r"no job control in this shell|cannot set terminal process group|mesg: ttyname failed|"
    r"^\s*(?:\d{4}-\d\d-\d\d [\d:.]+:? )?[IW] tensorflow|^Traceback|^\s+File |^\s+\^+\s*$|^\s*$"
)


class _Failure(NamedTuple):
    """A check that failed. `exit_code` is Python's: 128 + N if signal N ended it."""

    output: str
    check: Check
    exit_code: int
    version: str
    host: str

    def problem(self, fact: str, hint: str, code: str) -> Finding:
        """The finding that this check has failed."""
        return Finding.problem(self.check, fact, hint, code=code)


def find_cause(output: str, *, check: Check, exit_code: int, version: str, host: str) -> Finding:
    """Return why `check` failed, judging by everything that was printed.

    `exit_code` is the exit status of Python (128 + the number of a signal), `version` that of
    TensorFlow. The finding may name another check than `check`: a missing cuDNN is noticed at the
    first convolution.
    """
    for rule in _RULES:
        match = re.search(rule.pattern, output, re.IGNORECASE)
        if match:
            return _explain(rule, match, version, host)
    failure = _Failure(output, check, exit_code, version, host)
    if _NO_GPU_MEMORY.search(output):
        fact = "the GPU has no memory left for one more program: others use it"
        return Finding(check, "busy", fact, _LIST_FREE_GPUS, "busy")
    return _cause_by_signal(failure) or _cause_by_output(failure)


def _explain(rule: _Rule, match: re.Match[str], version: str, host: str) -> Finding:
    groups = [value or "?" for value in match.groups()]
    # The argument 0 is not used, so that {1} is the first group.
    fact = rule.fact.format(None, *groups, version=version)
    return Finding.problem(rule.check, fact, rule.hint.format(host=host), code=rule.code)


def _cause_by_signal(failure: _Failure) -> Finding | None:
    number = failure.exit_code - 128
    if number == signal.SIGILL:
        return _no_avx(failure)
    if number == _SIGKILL:
        fact = "Python was killed: the host ran out of memory, or somebody ended it; try again"
        return failure.problem(fact, f"apexgpu verify {failure.host}", "killed")
    return None


def _cause_by_output(failure: _Failure) -> Finding:
    """A missing package, a CPU without AVX, or the last line of output."""
    version, host = failure.version, failure.host
    is_import = failure.check == Check.TENSORFLOW
    module = _MISSING_MODULE.search(failure.output)
    if is_import and module:
        fact = f"TensorFlow {version} does not find the package {module[1]}"
        return failure.problem(fact, f"apexgpu setup {host} tensorflow", "broken_import")
    if is_import and _MISSING_INSTRUCTIONS.search(failure.output):
        return _no_avx(failure)
    code: str = CauseCode.BROKEN
    event = "fails"
    if 128 < failure.exit_code < 192:
        code = "crashed"
        event = f"crashes (signal {failure.exit_code - 128})"
    last = last_meaningful_line(failure.output) or "it prints no reason"
    recipes = "tensorflow" if is_import else "cuda cudnn tensorflow"
    fact = f"TensorFlow {version} {event}: {last}"
    return failure.problem(fact, f"apexgpu setup {host} {recipes}", code)


def _no_avx(failure: _Failure) -> Finding:
    fact = (
        f"TensorFlow {failure.version} needs a CPU with AVX, and the one of {failure.host} has none"
    )
    # 1.5.0 is the last release that was built without AVX.
    return failure.problem(fact, f"apexgpu setup {failure.host} tensorflow==1.5.0", "no_avx")


def last_meaningful_line(output: str) -> str:
    """Return the last line that explains something, cut at 300 characters; empty without one."""
    for line in reversed(output.splitlines()):
        if not _NOISE.search(line):
            return line.strip()[:300]
    return ""
