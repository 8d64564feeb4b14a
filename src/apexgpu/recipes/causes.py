"""Why TensorFlow does not compute: its words, and those of CUDA, cuDNN and the loader, as causes. Pure.

The words are those of TensorFlow 1.5 ... 2.x, CUDA 8 ... 12 and the GNU loader. The first rule that fits is the cause:
what names a thing stands before what could mean several. A line about memory alone proves nothing, since TensorFlow
also says it where it goes on with less; causes are looked for only where a link did not hold.
"""

import re
import signal

from apexgpu.models import Finding

_RESTART = (
    "apexgpu down {host} && apexgpu up {host}   (a start puts the host's driver into the container)"
)
_OTHER = "take another host: apexgpu gpus   (or ask the administrators to look at {host})"
_LATER = "apexgpu gpus free   (then again, or on a host that is free)"

# (what is said, link, code, fact, hint); {1} and {2} are groups of the pattern.
_RULES: tuple[tuple[str, str, str, str, str], ...] = (
    (
        r"CUDA driver version is insufficient|cudaErrorInsufficientDriver|kernel driver does not support",
        "driver",
        "driver_too_old",
        "the driver is too old for the CUDA that TensorFlow {version} is built for",
        _OTHER,
    ),
    (
        r"version mismatch.{0,40}(?:NVML|kernel)|does not match DSO version|CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        "driver",
        "driver_mismatch",
        "the driver in the container is not of the host's version",
        _RESTART,
    ),
    (
        r"libcuda\.so\S*: cannot open shared object",
        "driver",
        "driver_missing",
        "the driver's library libcuda.so.1 is not in the container",
        _RESTART,
    ),
    (
        r"CUDA_ERROR_NO_DEVICE|no CUDA-capable device is detected",
        "gpu",
        "no_gpu",
        "CUDA sees no GPU in the container",
        _RESTART,
    ),
    (
        r"failed call to cuInit: (?:CUDA_ERROR_UNKNOWN|UNKNOWN ERROR)|CUDA_ERROR_NOT_INITIALIZED",
        "driver",
        "driver_down",
        "CUDA does not start: the driver's devices (nvidia-uvm) are not in the container",
        _RESTART,
    ),
    (
        r"Loaded runtime CuDNN library: (\S+)[^\n]*compiled with:? (\d+(?:\.\d+)*)",
        "cudnn",
        "cudnn_mismatch",
        "cuDNN {1} is loaded, and TensorFlow {version} is built with {2}",
        "apexgpu setup {host} cudnn tensorflow",
    ),
    (
        r"CUDNN_STATUS_VERSION_MISMATCH|CUDNN_STATUS_ARCH_MISMATCH",
        "cudnn",
        "cudnn_mismatch",
        "the cuDNN that is loaded does not go with TensorFlow {version}",
        "apexgpu setup {host} cudnn tensorflow",
    ),
    (
        r"(libcudnn\w*\.so[.\d]*)(?:'|: cannot open shared object|; dlerror)",
        "cudnn",
        "no_cudnn",
        "TensorFlow {version} does not find {1}",
        "apexgpu setup {host} cudnn",
    ),
    (
        r"(lib(?:cudart|cublas|cublasLt|cufft|curand|cusolver|cusparse|nvrtc|cupti)\.so[.\d]*)"
        r"(?:'|: cannot open shared object|; dlerror)",
        "cuda",
        "no_cuda",
        "TensorFlow {version} does not find {1}",
        "apexgpu setup {host} cuda",
    ),
    (
        r"Ignoring visible gpu device[^\n]*compute capability:? ?([\d.]+)[^\n]*minimum required[^\n]*? is ([\d.]+)",
        "gpu",
        "gpu_too_old",
        "the GPU has compute capability {1}, and TensorFlow {version} wants {2}",
        _OTHER,
    ),
    (
        r"no kernel image is available|CUDA_ERROR_INVALID_PTX|CUDA_ERROR_NO_BINARY_FOR_GPU",
        "gpu",
        "no_kernel",
        "TensorFlow {version} holds no code for this GPU",
        _OTHER,
    ),
    (
        r"CUDA_ERROR_ECC_UNCORRECTABLE|uncorrectable ECC|Xid|CUDA_ERROR_LAUNCH_FAILED|CUDA_ERROR_ILLEGAL_ADDRESS",
        "convolution",
        "gpu_fails",
        "the GPU fails while it computes",
        _OTHER,
    ),
)

_BUSY = re.compile(
    r"CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|CUDA runtime implicit initialization on GPU:\d+ failed|"
    r"(?:CUDNN|CUBLAS|CUSOLVER|CUFFT)\w*_ALLOC_FAILED|ResourceExhausted|OOM when allocating|"
    r"failed to allocate [\d.]+\w? |out of memory|Dst tensor is not initialized|"
    r"CUDA-capable device\(?s\)? (?:is|are) busy or unavailable|CUDA_ERROR_DEVICES?_UNAVAILABLE",
    re.IGNORECASE,
)
_MODULE = re.compile(r"No module named '?\"?([\w.]+)")
_ILLEGAL = re.compile(r"was compiled to use (\w+) instructions|Illegal instruction", re.IGNORECASE)


def cause(text: str, *, check: str, code: int, version: str, host: str) -> Finding:
    """Why `check` did not hold, from everything that was said; `code` is the exit status of Python (128 + signal)."""
    for pattern, where, name, fact, hint in _RULES:
        match = re.search(pattern, text, re.IGNORECASE)
        if match:
            groups = {str(number): value or "?" for number, value in enumerate(match.groups(), 1)}
            told = [_filled(text, groups, version, host) for text in (fact, hint)]
            return Finding(where, "problem", told[0], told[1], name)
    if _BUSY.search(text):
        return Finding(
            check,
            "busy",
            "the GPU has no memory left for one more program: others use it",
            _LATER,
            "busy",
        )
    return _of_status(code, check, version, host) or _of_words(text, code, check, version, host)


def _filled(text: str, groups: dict[str, str], version: str, host: str) -> str:
    for name, value in (*groups.items(), ("version", version), ("host", host)):
        text = text.replace(f"{{{name}}}", value)
    return text


def _of_status(code: int, check: str, version: str, host: str) -> Finding | None:
    """What a signal that ended Python tells."""
    number = code - 128
    if number == signal.SIGILL:
        return _no_avx(check, version, host)
    if number == 9:  # SIGKILL, which Windows does not name
        return Finding(
            check,
            "problem",
            "Python was killed: the host ran out of memory, or somebody ended it",
            f"apexgpu verify {host}   (again)",
            "killed",
        )
    return None


def _no_avx(check: str, version: str, host: str) -> Finding:
    fact = f"TensorFlow {version} wants a CPU with AVX, and the one of {host} has none"
    return Finding(check, "problem", fact, f"apexgpu setup {host} tensorflow==1.5.0", "no_avx")


def _of_words(text: str, code: int, check: str, version: str, host: str) -> Finding:
    """What is left: a package that is missing, a CPU without AVX, or the last words."""
    module = _MODULE.search(text)
    if check == "tensorflow" and module:
        return Finding(
            check,
            "problem",
            f"TensorFlow {version} does not find the package {module[1]}",
            f"apexgpu setup {host} tensorflow",
            "broken_import",
        )
    if check == "tensorflow" and _ILLEGAL.search(text):
        return _no_avx(check, version, host)
    last = said(text) or "it says nothing"
    parts = "tensorflow" if check == "tensorflow" else "cuda cudnn tensorflow"
    does, name = (
        (f"crashes (signal {code - 128})", "crashed") if 128 < code < 192 else ("fails", "broken")
    )
    return Finding(
        check,
        "problem",
        f"TensorFlow {version} {does}: {last}",
        f"apexgpu setup {host} {parts}",
        name,
    )


# What a shell without a terminal says of that, and TensorFlow of things that are well.
_NOISE = re.compile(
    r"no job control in this shell|cannot set terminal process group|mesg: ttyname failed|"
    r"^\s*(?:\d{4}-\d\d-\d\d [\d:.]+:? )?[IW] tensorflow|^Traceback|^\s+File |^\s+\^+\s*$|^\s*$"
)


def said(text: str) -> str:
    """The last line that tells something."""
    lines = [line.strip() for line in text.splitlines() if not _NOISE.search(line)]
    return lines[-1][:300] if lines else ""
