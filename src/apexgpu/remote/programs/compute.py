"""Compute on a GPU in whatever Python runs this, link by link, and say of each what it came to.

argv[1] is a JSON object. `{"do": "look"}` says which TensorFlow this Python has, without importing it; argv[2] is what
it was called by. `{"do": "compute", "gpu": N, "limit": SECONDS}` imports it, opens a session as a program does that has
no wishes of its own, asks for its GPUs, and runs a 3x3 convolution on one of them. Each link is a line `apexgpu ` and a
JSON object; other lines tell that it lives. It is text for Python 2.7 and later: no annotation survives the sending.
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
    from typing import Any  # not in Python 2.7

EVERY = 2.0  # seconds between two signs of life
DISTRIBUTION = re.compile(
    r"(?i)(tensorflow(?:[-_]gpu|[-_]cpu)?|tf[-_]nightly(?:[-_]gpu)?)-(\d[^-]*)(?:-py[\d.]+)?\.(?:dist|egg)-info$"
)
NOW = {"step": "starting Python"}  # type: dict[str, Any]


def say(step: str, **found: object) -> None:
    """A link: what it came to."""
    line("apexgpu " + json.dumps(dict(found, step=step), sort_keys=True))


def line(text: str) -> None:
    """A line on stdout, at once; where nobody reads any more, this ends and lets go of the GPU."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except (IOError, OSError):
        os._exit(1)


def live() -> None:
    """Tell every few seconds what takes so long."""
    began = time.time()
    while True:
        time.sleep(EVERY)
        line("%s (%d s)" % (NOW["step"], time.time() - began))


def told(trouble: BaseException) -> "dict[str, str]":
    """An exception as a link tells it: its kind, and its words, whatever letters are in them."""
    try:
        words = str(trouble)
    except Exception:
        words = repr(trouble)
    return {"error": type(trouble).__name__, "said": words[-4000:]}


def look() -> None:
    """Which TensorFlow is among the packages of this Python."""
    found = {}  # type: dict[str, str]
    for room in sys.path:
        for path in sorted(glob.glob(os.path.join(room or ".", "*-info"))):
            match = DISTRIBUTION.match(os.path.basename(path))
            if match and not found:
                found = {
                    "name": match.group(1).lower().replace("_", "-"),
                    "tensorflow": match.group(2),
                }
        if not found and os.path.exists(os.path.join(room, "tensorflow", "__init__.py")):
            found = {"name": "tensorflow", "tensorflow": ""}
    say("look", python=sys.argv[2], version=version(), **found)


def version() -> str:
    """The version of this Python."""
    return ".".join(str(part) for part in sys.version_info[:3])


def held(gpu: int) -> "int | None":
    """Bytes in use on a GPU; None where nvidia-smi does not tell."""
    argv = ["nvidia-smi", "--query-gpu=index,memory.used", "--format=csv,noheader,nounits"]
    try:
        rows = [row.split(",") for row in subprocess.check_output(argv).decode().splitlines()]
        return next(int(row[1]) for row in rows if int(row[0]) == gpu) * 1024 * 1024
    except (OSError, ValueError, IndexError, StopIteration, subprocess.CalledProcessError):
        return None


def compute(gpu: int) -> None:
    """The whole chain on GPU number `gpu` as nvidia-smi counts; it ends at the first link that does not hold."""
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    before = held(gpu)
    say("python", python=sys.executable, version=version(), nvcc=on_path("nvcc"))
    for step, name, work in (
        ("import", "importing TensorFlow", load),
        ("device", "asking for the GPU", device),
        ("convolution", "computing on the GPU", convolution),
    ):
        NOW["step"] = name
        began = time.time()
        try:
            found = work()
        except Exception as trouble:
            say(step, libraries=libraries(), **told(trouble))
            return
        say(step, seconds=round(time.time() - began, 3), **found)
        if step == "device" and not found["devices"]:
            return
    say("memory", before=before, after=held(gpu))


def on_path(name: str) -> "str | None":
    """Where a program is on PATH."""
    for room in os.environ.get("PATH", "").split(os.pathsep):
        path = os.path.join(room, name)
        if room and os.access(path, os.X_OK):
            return path
    return None


def load() -> "dict[str, Any]":
    """Import TensorFlow."""
    import tensorflow as tf

    try:
        gpus = bool(tf.test.is_built_with_cuda())
    except Exception:
        gpus = True  # nobody knows: the devices will tell
    return {
        "tensorflow": str(tf.__version__),
        "with_cuda": gpus,
        "path": os.path.dirname(tf.__file__),
        "libraries": libraries(),
    }


def device() -> "dict[str, Any]":
    """Open a session without any wishes, as the guide's own test does, and list the GPUs that it has."""
    import tensorflow as tf
    from tensorflow.python.client import device_lib

    if hasattr(tf, "Session"):
        NOW["graph"] = tf.Graph()
        NOW["session"] = tf.Session(graph=NOW["graph"])
    else:
        tf.config.list_logical_devices(
            "GPU"
        )  # takes the memory that a program of TensorFlow 2 would
    found = [
        {
            "name": str(one.name),
            "about": str(one.physical_device_desc),
            "memory": int(one.memory_limit),
        }
        for one in device_lib.list_local_devices()
        if one.device_type == "GPU"
    ]
    return {"devices": found, "libraries": libraries()}


def convolution() -> "dict[str, Any]":
    """Whether a 3x3 convolution on the GPU gives what plain Python computes."""
    size = 8
    image = [
        [
            [
                [float((7 * row + 3 * column + channel) % 11) for channel in range(2)]
                for column in range(size)
            ]
            for row in range(size)
        ]
    ]
    kernel = [
        [
            [
                [float((row + 2 * column + channel + 3 * out) % 5 - 2) for out in range(2)]
                for channel in range(2)
            ]
            for column in range(3)
        ]
        for row in range(3)
    ]
    wanted = [
        sum(
            image[0][row + down][column + along][channel] * kernel[down][along][channel][out]
            for down in range(3)
            for along in range(3)
            for channel in range(2)
        )
        for row in range(size - 2)
        for column in range(size - 2)
        for out in range(2)
    ]
    rows = on_gpu(image, kernel, size)
    got = [float(number) for row in rows[0] for cell in row for number in cell]
    wrong = [(one, other) for one, other in zip(got, wanted) if not abs(one - other) < 0.01]  # noqa: B905
    return {
        "right": len(got) == len(wanted) and not wrong,
        "numbers": len(wanted),
        "wrong": len(wrong),
        "first": [str(one) for pair in wrong[:1] for one in pair],
        "libraries": libraries(),
    }


def on_gpu(image: object, kernel: object, size: int) -> "Any":
    """What TensorFlow computes; the image comes from outside, or it would be worked out on the CPU beforehand."""
    import tensorflow as tf

    if "session" not in NOW:
        with tf.device("/device:GPU:0"):
            return (
                tf.nn.conv2d(tf.constant(image), tf.constant(kernel), strides=1, padding="VALID")
                .numpy()
                .tolist()
            )
    with NOW["graph"].as_default(), tf.device("/device:GPU:0"):
        given = tf.placeholder(tf.float32, [1, size, size, 2])
        wanted = tf.nn.conv2d(given, tf.constant(kernel), [1, 1, 1, 1], "VALID")
    return NOW["session"].run(wanted, {given: image}).tolist()


def libraries() -> "dict[str, Any]":
    """The CUDA and cuDNN that have been loaded into this program, wherever they came from."""
    found = {}  # type: dict[str, Any]
    try:
        with open("/proc/self/maps") as maps:
            paths = sorted(set(re.findall(r"(/\S*/lib(?:cudart|cudnn)\.so\S*)", maps.read())))
    except (IOError, OSError):
        return found
    for path in paths:
        name = "cudnn" if "libcudnn" in path else "cudart"
        found[name] = {"path": path, "version": asked(path, name)}
    return found


def asked(path: str, name: str) -> "int | None":
    """The number by which a library calls itself: 7005 is cuDNN 7.0.5, 9000 is CUDA 9.0."""
    try:
        library = ctypes.CDLL(path)
        if name == "cudnn":
            library.cudnnGetVersion.restype = ctypes.c_size_t
            return int(library.cudnnGetVersion())
        number = ctypes.c_int(0)
        return (
            int(number.value) if library.cudaRuntimeGetVersion(ctypes.byref(number)) == 0 else None
        )
    except (OSError, AttributeError):
        return None


def main() -> None:
    """Do what argv asks for. The alarm ends this even where it hangs in the driver."""
    wish = json.loads(sys.argv[1])
    if wish["do"] == "look":
        return look()
    signal.alarm(int(wish["limit"]))
    teller = threading.Thread(target=live)
    teller.daemon = True
    teller.start()
    compute(int(wish["gpu"]))
    sys.stdout.flush()
    os._exit(0)  # what a library does on its way out is not what was asked


if __name__ == "__main__":
    main()
