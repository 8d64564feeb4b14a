"""Which versions of driver, CUDA, cuDNN, TensorFlow, PyTorch and Python are compatible. Pure.

M = measured on the published wheels' own binaries or metadata; D = NVIDIA's release notes
(RN-06722-001, table 1) or the project's documentation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from apexgpu.errors import RefusedError, UsageError

CUDA = "9.0"
"""The toolkit whose installer the lab has."""

INSTALLERS = "/newNAS/Share/GPU_Server"
"""The directory with the installers, as containers see the NAS."""

DRIVERS: Mapping[str, str] = {
    "8.0": "375.26",
    "9.0": "384.81",
    "9.1": "390.46",
    "9.2": "396.26",
    "10.0": "410.48",
}
"""CUDA -> the oldest Linux driver that supports it (D)."""


@dataclass(frozen=True, slots=True)
class TensorFlowRelease:
    """A release of tensorflow-gpu, and the cuDNN versions that it works with (M).

    `built_with_cudnn` is the version it was compiled with. It accepts `oldest_cudnn` (`x.y`) and
    newer ones with the same first number; with `only_oldest_cudnn`, no other `x.y`.
    `reads_growth_variable` is whether it reads TF_FORCE_GPU_ALLOW_GROWTH.
    """

    version: str
    cuda: str
    built_with_cudnn: str
    oldest_cudnn: str
    only_oldest_cudnn: bool
    reads_growth_variable: bool

    def accepts_cudnn(self, cudnn: str) -> bool:
        """Whether this release computes with that version of cuDNN."""
        version = version_numbers(cudnn)[:2]
        oldest = version_numbers(self.oldest_cudnn)[:2]
        if self.only_oldest_cudnn:
            return version == oldest
        return version[0] == oldest[0] and version >= oldest

    def describe_cudnn(self) -> str:
        """The versions of cuDNN that it accepts, for a sentence."""
        if self.only_oldest_cudnn:
            return f"{self.oldest_cudnn}.x only"
        major = self.oldest_cudnn.split(".")[0]
        return f"{self.oldest_cudnn} or a newer {major}.x"


def _release(
    version: str, built_with: str, oldest: str, *, only_oldest: bool = False, variable: bool = False
) -> TensorFlowRelease:
    return TensorFlowRelease(version, CUDA, built_with, oldest, only_oldest, variable)


TENSORFLOW = (
    _release("1.5.0", "7.0.4", "7.0", only_oldest=True),
    _release("1.6.0", "7.0.4", "7.0", only_oldest=True),
    _release("1.7.1", "7.0.5", "7.0", only_oldest=True),
    _release("1.8.0", "7.0.5", "7.0"),
    _release("1.9.0", "7.0.5", "7.0"),
    _release("1.10.1", "7.0.5", "7.0"),
    _release("1.11.0", "7.2.1", "7.2"),
    _release("1.12.0", "7.1.4", "7.1", variable=True),
    _release("1.12.3", "7.1.4", "7.1", variable=True),
)
"""The releases for the lab's CUDA, oldest first."""

OTHER_CUDA: Mapping[str, str] = {"1.13.1": "10.0"}
"""The first TensorFlow release that needs another CUDA than the lab's -> that CUDA (M)."""

PYTORCH = "1.1.0"
"""The last build for CUDA 9.0, which the wheel contains (D)."""

PYTHONS = ("2.7", "3.5", "3.6")
"""TensorFlow 1.5 ... 1.12.3 and PyTorch 1.1.0 have wheels for these: cp27mu, cp35m, cp36m (M)."""

PIP = "20.3.4"
"""The last pip for Python 2.7 and 3.5 (M)."""

SYSTEM_PYTHONS: Mapping[tuple[str, str], Sequence[str]] = {
    ("ubuntu", "16.04"): ("3.5", "2.7"),
    ("ubuntu", "18.04"): ("3.6", "2.7"),
    ("ubuntu", "20.04"): ("3.8", "2.7"),
    ("ubuntu", "22.04"): ("3.10",),
    ("ubuntu", "24.04"): ("3.12",),
    ("debian", "10"): ("3.7", "2.7"),
    ("debian", "11"): ("3.9", "2.7"),
    ("debian", "12"): ("3.11",),
    ("debian", "13"): ("3.13",),
}
"""(distribution, release) -> the Pythons that apt installs, newest first."""


@dataclass(frozen=True, slots=True)
class PythonVersion:
    """A Python in a container.

    `wide`: its unicode is UCS-4, which the wheels for Python 2 (cp27mu) need.
    """

    version: str
    wide: bool = True

    @property
    def short(self) -> str:
        """`3.5` for `3.5.2`."""
        return ".".join(self.version.split(".")[:2])


@dataclass(frozen=True, slots=True)
class ContainerSoftware:
    """What a container has, as far as choices depend on it.

    `driver` is None if the container shows no GPU; `gpu_trouble` is what nvidia-smi said then.
    `cudnn_archives` are the versions of cuDNN that can be installed from the NAS.
    """

    host: str
    machine: str = "x86_64"
    distribution: tuple[str, str] = ("ubuntu", "16.04")
    driver: str | None = None
    gpu_trouble: str = ""
    pythons: Sequence[PythonVersion] = ()
    cudnn: str | None = None
    cudnn_archives: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class VersionRequest:
    """The parts to choose versions for (`cuda`, `cudnn`, `tensorflow`, `pytorch`, `python3`).

    `versions` are those that the user named. `python` (2 or 3) is the Python of TensorFlow and
    PyTorch.
    """

    parts: frozenset[str]
    versions: Mapping[str, str]
    python: int = 3


@dataclass(frozen=True, slots=True)
class ChosenVersions:
    """Versions that are compatible; empty for a part that was not requested.

    `python` is for TensorFlow and PyTorch, `python3` for tools. `growth` is how TensorFlow is told
    to take GPU memory only as needed: by a `variable`, or by a `hook` in its Python.
    """

    cuda: str = ""
    cudnn: str = ""
    tensorflow: str = ""
    pytorch: str = ""
    python: str = ""
    python3: str = ""
    growth: str = ""


# The parts that have versions to choose from. PyTorch brings its own CUDA.
_PYTHON_PACKAGES = {"tensorflow", "pytorch"}
_NEED_CUDA = {"cuda", "cudnn", "tensorflow"}
_NEED_DRIVER = _NEED_CUDA | _PYTHON_PACKAGES


def version_numbers(version: str) -> tuple[int, ...]:
    """The numbers of a dotted version, for comparisons, up to the first part that is no number."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


def choose_versions(software: ContainerSoftware, request: VersionRequest) -> ChosenVersions:
    """Choose compatible versions for all requested parts.

    RefusedError with the reason and a way out if there are none; UsageError for a version of a part
    that has none.
    """
    _check_requested_versions(software, request)
    parts = request.parts
    needs_cuda = parts & _NEED_CUDA
    if parts & _NEED_DRIVER:
        _check_machine(software)
        _check_driver(software)
    cuda = CUDA if needs_cuda else ""
    cudnn = tensorflow = growth = ""
    if "tensorflow" in parts:
        release, cudnn = _choose_tensorflow(software, request)
        tensorflow = release.version
        growth = "variable" if release.reads_growth_variable else "hook"
    elif "cudnn" in parts:
        cudnn = _choose_cudnn(software, request, None)
    python = python3 = ""
    if parts & _PYTHON_PACKAGES:
        python = _choose_python(software, request)
    if "python3" in parts:
        python3 = _choose_python_for_tools(software)
    pytorch = PYTORCH if "pytorch" in parts else ""
    return ChosenVersions(cuda, cudnn, tensorflow, pytorch, python, python3, growth)


def _check_requested_versions(software: ContainerSoftware, request: VersionRequest) -> None:
    """Refuse versions that no container can have."""
    for part, version in request.versions.items():
        if part == "cuda" and version != CUDA:
            needs = ""
            if version in DRIVERS:
                needs = f" (which needs driver {DRIVERS[version]} or newer)"
            message = f"the lab has no installer of CUDA {version}{needs}, only of CUDA {CUDA}"
            hint = f"apexgpu setup {software.host} cuda=={CUDA}"
            raise RefusedError(message, hint=hint, code="no_version")
        if part == "pytorch" and not _matches(PYTORCH, version):
            message = (
                f"there is no PyTorch {version} for CUDA {CUDA}: the last build for it is {PYTORCH}"
            )
            hint = f"apexgpu setup {software.host} pytorch=={PYTORCH}"
            raise RefusedError(message, hint=hint, code="no_version")
        if part not in _NEED_DRIVER:
            message = f"there are no versions of {part} to choose from"
            raise UsageError(message, hint=f"apexgpu setup {software.host} {part}")


def _matches(version: str, requested: str) -> bool:
    """Whether `version` is the requested one, or begins with it: 1.12.3 matches 1.12."""
    return version == requested or version.startswith(f"{requested}.")


def _check_machine(software: ContainerSoftware) -> None:
    if software.machine != "x86_64":
        message = (
            f"{software.host} is a {software.machine} machine, and the lab's CUDA {CUDA} is for x86_64 only;"
            " use another host"
        )
        raise RefusedError(message, hint="apexgpu gpus", code="machine")


def _check_driver(software: ContainerSoftware) -> None:
    """Refuse a driver that is missing, or too old for the lab's CUDA."""
    host, driver = software.host, software.driver
    if driver is None:
        reason = f": {software.gpu_trouble}" if software.gpu_trouble else ""
        message = (
            f"the container on {host} has no GPU with a driver{reason}; restart the container, and if that does"
            " not help, use another host"
        )
        hint = f"apexgpu restart {host}"
        raise RefusedError(message, hint=hint, code="no_driver")
    oldest = DRIVERS[CUDA]
    if version_numbers(driver) >= version_numbers(oldest):
        return
    supported = ""
    for cuda, oldest_driver in DRIVERS.items():
        if version_numbers(driver) >= version_numbers(oldest_driver):
            supported = cuda
    message = f"{host} has driver {driver}, and CUDA {CUDA} needs {oldest} or newer"
    if supported:
        message += f" (this one supports CUDA {supported})"
    message += "; use another host, or ask the administrators to update the driver"
    raise RefusedError(message, hint="apexgpu gpus", code="driver_too_old")


def _choose_tensorflow(
    software: ContainerSoftware, request: VersionRequest
) -> tuple[TensorFlowRelease, str]:
    """The release and the cuDNN: the requested release, else the newest for the cuDNN."""
    requested = request.versions.get("tensorflow")
    if requested is not None:
        release = _find_release(software, requested)
        return release, _choose_cudnn(software, request, release)
    cudnn = _choose_cudnn(software, request, None)
    releases = releases_for(cudnn)
    if not releases:
        raise _incompatible_cudnn(software, TENSORFLOW[-1], cudnn)
    return releases[-1], cudnn


def releases_for(cudnn: str) -> list[TensorFlowRelease]:
    """The releases of TensorFlow that compute with a version of cuDNN, oldest first."""
    return [release for release in TENSORFLOW if release.accepts_cudnn(cudnn)]


def _find_release(software: ContainerSoftware, requested: str) -> TensorFlowRelease:
    """The newest release that matches the requested version."""
    for release in reversed(TENSORFLOW):
        if _matches(release.version, requested):
            return release
    available = ", ".join(release.version for release in TENSORFLOW)
    message = f"there is no TensorFlow {requested} for CUDA {CUDA}"
    for first, cuda in OTHER_CUDA.items():
        if version_numbers(requested) >= version_numbers(first):
            message = (
                f"TensorFlow {requested} needs CUDA {cuda} or newer (driver {DRIVERS[cuda]}), and the lab has CUDA"
                f" {CUDA}"
            )
            break
    raise RefusedError(
        f"{message}; the versions for it are {available}",
        hint=f"apexgpu setup {software.host} tensorflow",
        code="no_version",
    )


def _choose_cudnn(
    software: ContainerSoftware, request: VersionRequest, release: TensorFlowRelease | None
) -> str:
    """The cuDNN to have: the requested, else the installed, else the newest for `release`."""
    host, requested = software.host, request.versions.get("cudnn")
    versions = set(software.cudnn_archives)
    if software.cudnn:
        versions.add(software.cudnn)
    available = sorted(versions, key=version_numbers, reverse=True)
    candidates = available
    if requested is not None:
        candidates = [version for version in available if _matches(version, requested)]
        if not candidates:
            listed = ", ".join(available) or "none"
            message = (
                f"{host} has no cuDNN {requested} for CUDA {CUDA}, and the NAS has none; there is: {listed};"
                f" administrators can put {_archive_name(requested)} into {INSTALLERS}"
            )
            raise RefusedError(message, hint=f"apexgpu setup {host} cudnn", code="no_cudnn")
    elif software.cudnn:
        # A cuDNN that is installed is replaced only if the user names another version.
        candidates = [software.cudnn]
    for version in candidates:
        if release is None or release.accepts_cudnn(version):
            return version
    if release is not None and candidates:
        raise _incompatible_cudnn(software, release, candidates[0])
    message = (
        f"{host} has no cuDNN, and its NAS has no archive of one for CUDA {CUDA}; administrators can put"
        f" {_archive_name('7')} into {INSTALLERS}"
    )
    raise RefusedError(message, hint=_list_installers(host), code="no_cudnn")


def _archive_name(cudnn: str) -> str:
    """The file name under which NVIDIA publishes a version of cuDNN."""
    return f"cudnn-{CUDA}-linux-x64-v{cudnn}.tgz"


def _list_installers(host: str) -> str:
    return f"apexgpu ssh {host} -- ls -l {INSTALLERS}"


def _incompatible_cudnn(
    software: ContainerSoftware, release: TensorFlowRelease, cudnn: str
) -> RefusedError:
    """The error for a release and a cuDNN that are not compatible.

    The hint keeps the TensorFlow and replaces the cuDNN if the NAS has one that fits; otherwise it
    keeps the cuDNN; otherwise it replaces both.
    """
    host = software.host
    message = (
        f"TensorFlow {release.version} works with cuDNN {release.describe_cudnn()}, and {host} has"
        f" {cudnn}"
    )
    hints = []
    for archive in software.cudnn_archives:
        if archive != cudnn and release.accepts_cudnn(archive):
            hints.append(f"apexgpu setup {host} cudnn=={archive} tensorflow=={release.version}")
            break
    releases = releases_for(cudnn)
    if releases:
        newest = releases[-1].version
        message += f"; the newest TensorFlow for cuDNN {cudnn} is {newest}"
        hints.append(f"apexgpu setup {host} tensorflow=={newest}")
    pair = _newest_pair(software)
    if pair:
        hints.append(f"apexgpu setup {host} cudnn=={pair[0]} tensorflow=={pair[1]}")
    if not hints:
        message += f"; ask the administrators for the archive of a cuDNN {release.describe_cudnn()}"
        hints.append(_list_installers(host))
    return RefusedError(message, hint=hints[0], code="cudnn")


def _newest_pair(software: ContainerSoftware) -> tuple[str, str] | None:
    """The newest TensorFlow that computes with a cuDNN from the NAS, as (cuDNN, TensorFlow)."""
    pair = None
    for release in TENSORFLOW:
        for archive in software.cudnn_archives:
            if release.accepts_cudnn(archive):
                pair = archive, release.version
    return pair


def _choose_python(software: ContainerSoftware, request: VersionRequest) -> str:
    """The newest Python 2 or 3, as requested, with wheels: an installed one, else one of apt's."""
    major = request.python
    installed = []
    for python in software.pythons:
        # Wheels for Python 2 exist for wide unicode only.
        if python.short in PYTHONS and (python.wide or major == 3):
            installed.append(python.short)
    by_apt = [
        version for version in SYSTEM_PYTHONS.get(software.distribution, ()) if version in PYTHONS
    ]
    for versions in (installed, by_apt):
        candidates = [version for version in versions if version.startswith(f"{major}.")]
        if candidates:
            return max(candidates, key=version_numbers)
    raise _no_python(software, request)


def _no_python(software: ContainerSoftware, request: VersionRequest) -> RefusedError:
    host, major = software.host, request.python
    other_major = 2 if major == 3 else 3
    installed = []
    other_has_wheels = False
    for python in software.pythons:
        if python.version.startswith(f"{major}."):
            installed.append(python.version)
        if python.short in PYTHONS and python.short.startswith(f"{other_major}."):
            other_has_wheels = True
    with_wheels = " or ".join(version for version in PYTHONS if version.startswith(f"{major}."))
    narrow = " with wide unicode (cp27mu)" if major == 2 else ""
    message = (
        f"{host} has no Python {with_wheels}{narrow}, which the wheels are for; there is:"
        f" {', '.join(installed) or 'none'}"
    )
    if other_has_wheels:
        parts = " ".join(sorted(request.parts & {"tensorflow", "pytorch"}))
        hint = f"apexgpu setup {host} {parts} --python {other_major}"
    else:
        message += "; a container of Ubuntu 16.04 or 18.04 has one (a rebuild deletes your files in the container)"
        hint = f"apexgpu rebuild {host}"
    return RefusedError(message, hint=hint, code="no_python")


def _choose_python_for_tools(software: ContainerSoftware) -> str:
    """The Python 3 for tools: the system's own, for which apt has packages, else the newest one."""
    system = []
    for version in SYSTEM_PYTHONS.get(software.distribution, ()):
        if version.startswith("3."):
            system.append(version)
    installed = []
    for python in software.pythons:
        if version_numbers(python.version) >= (3, 5):
            installed.append(python.short)
    if not installed and system:
        return system[0]
    installed.sort(key=version_numbers, reverse=True)
    for version in (*system, *installed):
        if version in installed:
            return version
    message = f"{software.host} has no Python 3.5 or newer"
    hint = f"apexgpu ssh {software.host} -- sudo apt-get install -y python3"
    raise RefusedError(message, hint=hint, code="no_python")
