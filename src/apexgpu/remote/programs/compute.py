"""Tests in a container whether the Python that runs it can compute on a GPU with TensorFlow, and reports each step.

argv[1] is a JSON object:

- `{"do": "look"}` reports which TensorFlow this Python has, without importing it; argv[2] is the path of the Python.
- `{"do": "compute", "gpu": NUMBER, "limit": SECONDS}` imports TensorFlow, opens a session with default options, lists
  its GPUs and computes a 3x3 convolution on one of them.

Each step is a line `apexgpu ` and a JSON object; other lines show progress. Runs on Python 2.7 and later: annotations
are removed before it is sent, and nothing newer is used.
"""

import ctypes
import glob
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # Python 2.7 has no typing

PROGRESS_EVERY = 2.0  # seconds
ERROR_LENGTH = 4000  # characters of an error message that are reported, from its end
# The directory that pip writes beside an installed TensorFlow: tensorflow_gpu-1.10.1.dist-info
DISTRIBUTION = re.compile(
    r"(?i)(tensorflow(?:[-_]gpu|[-_]cpu)?|tf[-_]nightly(?:[-_]gpu)?)-(\d[^-]*)(?:-py[\d.]+)?\.(?:dist|egg)-info$"
)
GPU = "/device:GPU:0"  # the only one that CUDA_VISIBLE_DEVICES leaves
STATE = {"step": "starting Python"}  # type: dict[str, Any]
"""The step under way, and for TensorFlow 1 the session and its graph."""


def report(step: str, **values: object) -> None:
    """Print the result of a step."""
    print_line("apexgpu " + json.dumps(dict(values, step=step), sort_keys=True))


def print_line(text: str) -> None:
    """Print a line at once. If nobody reads any more, exit, so that the GPU's memory is released."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except (IOError, OSError):
        os._exit(1)


def print_progress() -> None:
    """Print the step under way every few seconds. Runs in a thread."""
    began = time.time()
    while True:
        time.sleep(PROGRESS_EVERY)
        print_line("%s (%d s)" % (STATE["step"], time.time() - began))


def describe(error: BaseException) -> "dict[str, str]":
    """The class and the message of an exception."""
    try:
        message = str(error)
    except Exception:  # on Python 2, a message that is not ASCII
        message = repr(error)
    return {"error": type(error).__name__, "said": message[-ERROR_LENGTH:]}


def look() -> None:
    """Report which TensorFlow is among the packages of this Python."""
    tensorflow = {}  # type: dict[str, str]
    for directory in sys.path:
        tensorflow = find_tensorflow(directory)
        if tensorflow:
            break
    report("look", python=sys.argv[2], version=python_version(), **tensorflow)


def find_tensorflow(directory: str) -> "dict[str, str]":
    """Return the name and the version of the TensorFlow in a directory of packages, if any."""
    for path in sorted(glob.glob(os.path.join(directory or ".", "*-info"))):
        match = DISTRIBUTION.match(os.path.basename(path))
        if match:
            name = match.group(1).lower().replace("_", "-")
            return {"name": name, "tensorflow": match.group(2)}
    # One that was built or copied there, without pip's directory.
    if os.path.exists(os.path.join(directory, "tensorflow", "__init__.py")):
        return {"name": "tensorflow", "tensorflow": ""}
    return {}


def python_version() -> str:
    """The version of this Python."""
    return ".".join(str(part) for part in sys.version_info[:3])


def memory_in_use(gpu: int) -> "int | None":
    """The bytes in use on a GPU, None if nvidia-smi does not report them."""
    argv = ["nvidia-smi", "--query-gpu=index,memory.used", "--format=csv,noheader,nounits"]
    try:
        for row in subprocess.check_output(argv).decode().splitlines():
            index, mebibytes = row.split(",")
            if int(index) == gpu:
                return int(mebibytes) * 1024 * 1024
    except (OSError, ValueError, subprocess.CalledProcessError):
        pass
    return None


def compute(gpu: int) -> None:
    """Run all steps on the GPU that nvidia-smi numbers `gpu`; stop at the first one that fails."""
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # number the GPUs as nvidia-smi does
    os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    before = memory_in_use(gpu)
    report("python", python=sys.executable, version=python_version(), nvcc=which("nvcc"))
    for step, progress, work in (
        ("import", "importing TensorFlow", import_tensorflow),
        ("device", "asking for the GPU", list_devices),
        ("convolution", "computing on the GPU", convolution),
    ):
        STATE["step"] = progress
        began = time.time()
        try:
            values = work()
        except Exception as error:
            report(step, libraries=loaded_libraries(), **describe(error))
            return
        report(step, seconds=round(time.time() - began, 3), **values)
        if step == "device" and not values["devices"]:
            return
    report("memory", before=before, after=memory_in_use(gpu))


def which(name: str) -> "str | None":
    """The path of a program (shutil.which is newer than Python 2.7)."""
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        path = os.path.join(directory, name)
        if directory and os.access(path, os.X_OK):
            return path
    return None


def import_tensorflow() -> "dict[str, Any]":
    """Import TensorFlow."""
    import tensorflow as tf

    try:
        with_cuda = bool(tf.test.is_built_with_cuda())
    except Exception:
        with_cuda = True  # it is not known; the list of devices will show it
    return {
        "tensorflow": str(tf.__version__),
        "with_cuda": with_cuda,
        "path": os.path.dirname(tf.__file__),
        "libraries": loaded_libraries(),
    }


def list_devices() -> "dict[str, Any]":
    """Open a session with default options, and list its GPUs."""
    import tensorflow as tf
    from tensorflow.python.client import device_lib

    if hasattr(tf, "Session"):  # TensorFlow 1
        STATE["graph"] = tf.Graph()
        STATE["session"] = tf.Session(graph=STATE["graph"])
    else:
        # As any program of TensorFlow 2, this allocates the GPU's memory.
        tf.config.list_logical_devices("GPU")
    devices = []
    for device in device_lib.list_local_devices():
        if device.device_type == "GPU":
            devices.append(
                {
                    "name": str(device.name),
                    "about": str(device.physical_device_desc),
                    "memory": int(device.memory_limit),
                }
            )
    return {"devices": devices, "libraries": loaded_libraries()}


def convolution() -> "dict[str, Any]":
    """Compare a convolution on the GPU with the same one in plain Python."""
    size = 8
    image = example_image(size)
    kernel = example_kernel()
    expected = convolve(image[0], kernel, size)
    rows = convolve_on_gpu(image, kernel, size)
    computed = [float(number) for row in rows[0] for pixel in row for number in pixel]
    wrong = []
    for number, right in zip(computed, expected):  # noqa: B905 - newer than Python 2.7
        # A NaN is not less than anything, hence the `not`.
        if not abs(number - right) < 0.01:
            wrong.append((number, right))
    return {
        "right": len(computed) == len(expected) and not wrong,
        "numbers": len(expected),
        "wrong": len(wrong),
        "first": [str(number) for pair in wrong[:1] for number in pair],
        "libraries": loaded_libraries(),
    }


def example_image(size: int) -> "list[Any]":
    """One image with two channels: [image][row][column][channel]."""
    rows = []
    for row in range(size):
        pixels = []
        for column in range(size):
            pixels.append([float((7 * row + 3 * column + channel) % 11) for channel in range(2)])
        rows.append(pixels)
    return [rows]


def example_kernel() -> "list[Any]":
    """A 3x3 kernel from two channels to two: [row][column][channel][output]."""
    rows = []
    for row in range(3):
        columns = []
        for column in range(3):
            weights = []
            for channel in range(2):
                sums = [row + 2 * column + channel + 3 * output for output in range(2)]
                weights.append([float(number % 5 - 2) for number in sums])
            columns.append(weights)
        rows.append(columns)
    return rows


def convolve(image: "list[Any]", kernel: "list[Any]", size: int) -> "list[float]":
    """The convolution without padding, in plain Python; the numbers in the order of [row][column][output]."""
    numbers = []
    for row in range(size - 2):
        for column in range(size - 2):
            for output in range(2):
                total = 0.0
                for down in range(3):
                    for right in range(3):
                        for channel in range(2):
                            pixel = image[row + down][column + right][channel]
                            total += pixel * kernel[down][right][channel][output]
                numbers.append(total)
    return numbers


def convolve_on_gpu(image: object, kernel: object, size: int) -> "Any":
    """The convolution as TensorFlow computes it, as nested lists."""
    import tensorflow as tf

    if "session" not in STATE:  # TensorFlow 2
        with tf.device(GPU):
            result = tf.nn.conv2d(
                tf.constant(image), tf.constant(kernel), strides=1, padding="VALID"
            )
            return result.numpy().tolist()
    with STATE["graph"].as_default(), tf.device(GPU):
        # A placeholder: TensorFlow would compute a graph of constants in advance, on the CPU.
        given = tf.placeholder(tf.float32, [1, size, size, 2])
        result = tf.nn.conv2d(given, tf.constant(kernel), [1, 1, 1, 1], "VALID")
    return STATE["session"].run(result, {given: image}).tolist()


def loaded_libraries() -> "dict[str, Any]":
    """The CUDA and cuDNN libraries that this process has loaded, with their versions."""
    libraries = {}  # type: dict[str, Any]
    try:
        with open("/proc/self/maps") as maps:
            paths = sorted(set(re.findall(r"(/\S*/lib(?:cudart|cudnn)\.so\S*)", maps.read())))
    except (IOError, OSError):
        return libraries
    for path in paths:
        name = "cudnn" if "libcudnn" in path else "cudart"
        libraries[name] = {"path": path, "version": library_version(path, name)}
    return libraries


def library_version(path: str, name: str) -> "int | None":
    """The version that a library reports: 7005 is cuDNN 7.0.5, 9000 is CUDA 9.0."""
    try:
        library = ctypes.CDLL(path)
        if name == "cudnn":
            library.cudnnGetVersion.restype = ctypes.c_size_t
            return int(library.cudnnGetVersion())
        version = ctypes.c_int(0)
        status = library.cudaRuntimeGetVersion(ctypes.byref(version))
        return int(version.value) if status == 0 else None
    except (OSError, AttributeError):
        return None


def main() -> None:
    """Do what argv asks for."""
    request = json.loads(sys.argv[1])
    if request["do"] == "look":
        look()
        return
    signal.alarm(int(request["limit"]))  # ends this process even if it hangs in the driver
    progress = threading.Thread(target=print_progress)
    progress.daemon = True
    progress.start()
    compute(int(request["gpu"]))
    sys.stdout.flush()
    os._exit(0)  # without the exit handlers of libraries, which may crash after the result


if __name__ == "__main__":
    main()
