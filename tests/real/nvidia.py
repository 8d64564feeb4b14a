"""Stand-ins for what NVIDIA and Google publish, which behave as those do: installer, cuDNN archive, TensorFlow."""

import base64
import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent / "standins"
INSTALLER = "cuda_9.0.176_384.81_linux.run"
ARCHIVE = "cudnn-9.0-linux-x64-v7.tgz"
TITAN = {"name": "GeForce GTX TITAN X", "total": 12237, "used": 11, "capability": "5.2"}

_CUDART = "int cudaRuntimeGetVersion(int *v) { *v = 9000; return 0; }"
_CUDNN = "unsigned long cudnnGetVersion(void) { return %d; }"
_HEADER = "#define CUDNN_MAJOR {0}\n#define CUDNN_MINOR {1}\n#define CUDNN_PATCHLEVEL {2}\n"


def state(**changes: object) -> str:
    """What stands in state.json: driver, cards, and what is to go wrong."""
    return json.dumps({"driver": "390.48", "cards": [TITAN], **changes})


def installer(directory: Path) -> Path:
    """The CUDA installer."""
    directory.mkdir(parents=True, exist_ok=True)
    room = directory / "unpacked"
    toolkit = room / "toolkit"
    for name in ("bin", "lib64", "include"):
        (toolkit / name).mkdir(parents=True, exist_ok=True)
    (toolkit / "version.txt").write_text("CUDA Version 9.0.176\n")
    (toolkit / "include/cuda.h").write_text("#define CUDA_VERSION 9000\n")
    nvcc = toolkit / "bin/nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 9.0, V9.0.176'\n")
    nvcc.chmod(0o755)
    _library(toolkit / "lib64", "libcudart.so.9.0", "176", _CUDART)
    _library(toolkit / "lib64", "libcublas.so.9.0", "176", "int cublas(void) { return 0; }")
    script = room / "install-linux"
    script.write_text((HERE / "install-linux").read_text())
    script.chmod(0o755)
    payload = io.BytesIO()
    with tarfile.open(fileobj=payload, mode="w:gz") as packed:
        packed.add(room, ".")
    data = payload.getvalue()
    head = (HERE / "cuda.sh").read_text().replace("@SUM@", hashlib.md5(data).hexdigest())
    made = directory / INSTALLER
    made.write_bytes(head.encode() + data)
    return made


def archive(directory: Path, version: str = "7.0.5", name: str = ARCHIVE) -> Path:
    """The archive of a cuDNN; its name says no more than the real one's."""
    room = directory / f"cudnn-{version}" / "cuda"
    for part in ("include", "lib64"):
        (room / part).mkdir(parents=True, exist_ok=True)
    numbers = version.split(".")
    (room / "include/cudnn.h").write_text(_HEADER.format(*numbers))
    major, minor, patch = map(int, numbers)
    _library(
        room / "lib64", "libcudnn.so.7", version[2:], _CUDNN % (major * 1000 + minor * 100 + patch)
    )
    made = directory / name
    with tarfile.open(made, mode="w:gz") as packed:
        packed.add(room, "cuda")
    return made


def _library(directory: Path, soname: str, rest: str, code: str) -> None:
    """A real shared library, so that the real loader finds it or does not; with its links."""
    whole = directory / f"{soname}.{rest}"
    if whole.exists():
        return
    argv = [
        "gcc",
        "-shared",
        "-nostdlib",
        "-fPIC",
        f"-Wl,-soname,{soname}",
        "-x",
        "c",
        "-o",
        str(whole),
        "-",
    ]
    subprocess.run(argv, input=code, text=True, check=True)
    for link in (soname, f"{soname.split('.so')[0]}.so"):
        (directory / link).symlink_to(whole.name)


def tensorflow(directory: Path, version: str) -> None:
    """The package, as pip leaves it in a directory of packages."""
    for file in sorted((HERE / "tensorflow").rglob("*")):
        if file.is_file():
            place = directory / file.relative_to(HERE).with_suffix(".py")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(file.read_text().replace("@VERSION@", version))
    info = directory / f"tensorflow_gpu-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: tensorflow-gpu\nVersion: {version}\n"
    )


def wheel(directory: Path, version: str, tag: str, requires: list[str]) -> Path:
    """The package as a wheel, with what the real one requires."""
    name = f"tensorflow_gpu-{version}"
    made = directory / f"{name}-{tag}-manylinux1_x86_64.whl"
    sources = [file for file in sorted((HERE / "tensorflow").rglob("*")) if file.is_file()]
    texts = {
        file.relative_to(HERE).with_suffix(".py").as_posix(): file.read_text() for file in sources
    }
    files = {path: text.replace("@VERSION@", version).encode() for path, text in texts.items()}
    lines = ["Metadata-Version: 2.1", "Name: tensorflow-gpu", f"Version: {version}"]
    lines += [f"Requires-Dist: {one}" for one in requires]
    files[f"{name}.dist-info/METADATA"] = "\n".join([*lines, ""]).encode()
    files[f"{name}.dist-info/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: false\nTag: {tag}-manylinux1_x86_64\n"
    ).encode()
    record = [f"{path},sha256={_sum(data)},{len(data)}" for path, data in files.items()]
    files[f"{name}.dist-info/RECORD"] = "\n".join(
        [*record, f"{name}.dist-info/RECORD,,", ""]
    ).encode()
    with zipfile.ZipFile(made, "w") as packed:
        for path, data in files.items():
            packed.writestr(path, data)
    return made


def _sum(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
