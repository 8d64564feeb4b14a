"""What goes with what in a container: driver, CUDA, cuDNN, TensorFlow, PyTorch, Python, pip. Pure: tables and choices.

M = measured on the published wheels' own binaries or metadata; D = NVIDIA's release notes (RN-06722-001, table 1) or
the project's documentation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from apexgpu.errors import RefusedError, UsageError

CUDA = "9.0"
"""The toolkit whose installer the lab has."""

DRIVERS: Mapping[str, str] = {
    "8.0": "375.26",
    "9.0": "384.81",
    "9.1": "390.46",
    "9.2": "396.26",
    "10.0": "410.48",
}
"""CUDA -> the Linux driver that it needs at least (D)."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A release of tensorflow-gpu: what it is built with, which cuDNN it takes, whether it knows the growth variable.

    It takes cuDNN from `least` on, `x.y` the same or newer within 7; `only` means no other `x.y` (M).
    """

    version: str
    cuda: str
    built: str
    least: str
    only: bool
    growth: bool

    def takes(self, cudnn: str) -> bool:
        """Whether it computes with this cuDNN."""
        have, least = numbers(cudnn)[:2], numbers(self.least)[:2]
        return have == least if self.only else have[0] == least[0] and have >= least

    @property
    def wants(self) -> str:
        """The cuDNN it takes, in words."""
        return (
            f"{self.least}.x only"
            if self.only
            else f"{self.least} or a newer {self.least.split('.')[0]}.x"
        )


TENSORFLOW = (
    Wheel("1.5.0", "9.0", "7.0.4", "7.0", only=True, growth=False),
    Wheel("1.6.0", "9.0", "7.0.4", "7.0", only=True, growth=False),
    Wheel("1.7.1", "9.0", "7.0.5", "7.0", only=True, growth=False),
    Wheel("1.8.0", "9.0", "7.0.5", "7.0", only=False, growth=False),
    Wheel("1.9.0", "9.0", "7.0.5", "7.0", only=False, growth=False),
    Wheel("1.10.1", "9.0", "7.0.5", "7.0", only=False, growth=False),
    Wheel("1.11.0", "9.0", "7.2.1", "7.2", only=False, growth=False),
    Wheel("1.12.0", "9.0", "7.1.4", "7.1", only=False, growth=True),
    Wheel("1.12.3", "9.0", "7.1.4", "7.1", only=False, growth=True),
)
"""Oldest first."""

OTHER_CUDA: Mapping[str, str] = {"1.13.1": "10.0"}
"""TensorFlow releases that the lab's CUDA cannot serve -> the CUDA that they want (M)."""

PYTORCH = "1.1.0"
"""The last build for CUDA 9.0, which it brings along (D)."""

PYTHONS = ("2.7", "3.5", "3.6")
"""Pythons that TensorFlow 1.5 ... 1.12.3 and PyTorch 1.1.0 have wheels for: cp27mu, cp35m, cp36m (M)."""

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
"""What apt installs where there is no Python: newest first."""


@dataclass(frozen=True, slots=True)
class Python:
    """A Python in a container. `wide`: whether its unicode is UCS-4, as the cp27mu wheels need."""

    version: str
    wide: bool = True

    @property
    def short(self) -> str:
        """`3.5` for `3.5.2`."""
        return ".".join(self.version.split(".")[:2])


@dataclass(frozen=True, slots=True)
class Have:
    """What is there, as far as choices depend on it. `archives` are cuDNN versions that could be installed."""

    where: str
    machine: str = "x86_64"
    distribution: tuple[str, str] = ("ubuntu", "16.04")
    driver: str | None = None
    trouble: str = ""
    pythons: Sequence[Python] = ()
    cudnn: str | None = None
    archives: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted: parts (`cuda`, `cudnn`, `tensorflow`, `pytorch`, `python3`), versions of some, Python 2 or 3."""

    parts: frozenset[str]
    versions: Mapping[str, str]
    python: int = 3


@dataclass(frozen=True, slots=True)
class Choice:
    """Versions that go together; empty where nothing was to be chosen. `growth`: `variable`, `hook` or empty."""

    cuda: str = ""
    cudnn: str = ""
    tensorflow: str = ""
    pytorch: str = ""
    python: str = ""
    python3: str = ""
    growth: str = ""


def numbers(version: str) -> tuple[int, ...]:
    """A version to compare: the numbers of its dotted parts, as far as they are numbers."""
    found = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        found.append(int(part))
    return tuple(found)


def choose(have: Have, wish: Wish) -> Choice:
    """Versions for all wanted parts; RefusedError with the reason and the ways out when none go together."""
    _known(wish)
    computing = wish.parts & {"cuda", "cudnn", "tensorflow", "pytorch"}
    if computing:
        _check_machine(have)
        _check_driver(have, CUDA)
    wheel = _tensorflow(have, wish) if "tensorflow" in wish.parts else None
    cudnn = ""
    if wish.parts & {"cudnn", "tensorflow"}:
        cudnn = _cudnn(have, wish, wheel)
        wheel = _newest(have, cudnn) if "tensorflow" in wish.parts and wheel is None else wheel
    return Choice(
        cuda=CUDA if wish.parts & {"cuda", "cudnn", "tensorflow"} else "",
        cudnn=cudnn,
        tensorflow=wheel.version if wheel else "",
        pytorch=PYTORCH if "pytorch" in wish.parts else "",
        python=_python(have, wish.python) if wish.parts & {"tensorflow", "pytorch"} else "",
        python3=_any_python(have) if "python3" in wish.parts else "",
        growth=("variable" if wheel.growth else "hook") if wheel else "",
    )


def _known(wish: Wish) -> None:
    """Wanted versions that are nobody's."""
    for part, version in wish.versions.items():
        if part == "cuda" and version != CUDA:
            needs = f", and needs driver {DRIVERS[version]} or newer" if version in DRIVERS else ""
            message = (
                f"CUDA {version} is not what the lab has an installer of{needs}: that is {CUDA}"
            )
            raise RefusedError(
                message, hint=f"leave the version out, or write cuda=={CUDA}", code="no_version"
            )
        if part == "pytorch" and not _matches(PYTORCH, version):
            message = f"PyTorch {version} cannot be had for CUDA {CUDA}: {PYTORCH} is the last build for it"
            raise RefusedError(
                message,
                hint=f"leave the version out, or write pytorch=={PYTORCH}",
                code="no_version",
            )
        if part not in {"cuda", "cudnn", "tensorflow", "pytorch"}:
            message = f"there are no versions of {part} to choose from"
            raise UsageError(message, hint=f"write {part} alone")


def _matches(version: str, wanted: str) -> bool:
    return version == wanted or version.startswith(f"{wanted}.")


def _check_machine(have: Have) -> None:
    if have.machine != "x86_64":
        message = (
            f"{have.where} is a {have.machine} machine, and CUDA {CUDA} is there for x86_64 only"
        )
        raise RefusedError(message, hint="take another host: apexgpu gpus", code="machine")


def _check_driver(have: Have, cuda: str) -> None:
    least = DRIVERS[cuda]
    if have.driver is None:
        why = f": {have.trouble}" if have.trouble else ""
        message = f"{have.where} shows no GPU with a driver to its container{why}"
        hint = (
            f"apexgpu down {have.where} && apexgpu up {have.where}   (a start may mend the driver; else take "
            "another host: apexgpu gpus, or ask the administrators)"
        )
        raise RefusedError(message, hint=hint, code="no_driver")
    if numbers(have.driver) < numbers(least):
        fitting = [
            one for one, driver in DRIVERS.items() if numbers(have.driver) >= numbers(driver)
        ]
        upto = f"; this one is good for CUDA {fitting[-1]}" if fitting else ""
        message = (
            f"{have.where} has driver {have.driver}, and CUDA {cuda} needs {least} or newer{upto}"
        )
        hint = f"take a host with driver {least} or newer: apexgpu gpus; or ask the administrators to update this one"
        raise RefusedError(message, hint=hint, code="driver_too_old")


def _tensorflow(have: Have, wish: Wish) -> Wheel | None:
    """The wanted release; None when any will do."""
    wanted = wish.versions.get("tensorflow")
    if wanted is None:
        return None
    found = [one for one in TENSORFLOW if _matches(one.version, wanted)]
    if found:
        return found[-1]
    other = next(
        (cuda for version, cuda in OTHER_CUDA.items() if numbers(wanted) >= numbers(version)), None
    )
    names = ", ".join(one.version for one in TENSORFLOW)
    if other:
        needs = f"CUDA {other} or newer (driver {DRIVERS[other]})"
        message = f"TensorFlow {wanted} wants {needs}, and the lab has CUDA {CUDA}"
    else:
        message = f"TensorFlow {wanted} is none that goes with CUDA {CUDA}"
    raise RefusedError(
        message,
        hint=f"apexgpu setup {have.where} tensorflow   (or tensorflow==VERSION of: {names})",
        code="no_version",
    )


def _cudnn(have: Have, wish: Wish, wheel: Wheel | None) -> str:
    """The cuDNN that is to be there in the end: the wanted one, the one that is there, the newest that fits."""
    wanted = wish.versions.get("cudnn")
    offered = sorted(
        {*have.archives, *([have.cudnn] if have.cudnn else [])}, key=numbers, reverse=True
    )
    listed = ", ".join(offered) or "none"
    if wanted is not None:
        offered = [one for one in offered if _matches(one, wanted)]
        if not offered:
            message = f"{have.where} has no cuDNN {wanted} for CUDA {CUDA}, nor has the NAS; there is: {listed}"
            hint = f"take one of these, or ask the administrators for cudnn-{CUDA}-linux-x64-v{wanted}.tgz on the NAS"
            raise RefusedError(message, hint=hint, code="no_cudnn")
    elif have.cudnn:
        offered = [have.cudnn]
    usable = [one for one in offered if wheel is None or wheel.takes(one)]
    if not usable and wheel is not None and offered:
        raise _cudnn_unfit(have, wheel, offered[0])
    if not usable:
        message = f"{have.where} has no cuDNN, and its NAS has no archive of one for CUDA {CUDA}"
        hint = f"ask the administrators to put cudnn-{CUDA}-linux-x64-v7.tgz into /newNAS/Share/GPU_Server"
        raise RefusedError(message, hint=hint, code="no_cudnn")
    return usable[0]


def _cudnn_unfit(have: Have, wheel: Wheel, cudnn: str) -> RefusedError:
    message = f"TensorFlow {wheel.version} computes with cuDNN {wheel.wants}, and {have.where} has {cudnn}"
    ways = [
        f"apexgpu setup {have.where} cudnn=={one} tensorflow=={wheel.version}"
        for one in have.archives
        if one != cudnn and wheel.takes(one)
    ][:1]
    fitting = [one.version for one in TENSORFLOW if one.takes(cudnn)]
    if fitting:
        ways.append(
            f"apexgpu setup {have.where} tensorflow=={fitting[-1]}   (the newest for cuDNN {cudnn})"
        )
    elif not ways:
        pairs = [
            (archive, one) for one in TENSORFLOW for archive in have.archives if one.takes(archive)
        ]
        ways += [
            f"apexgpu setup {have.where} cudnn=={archive} tensorflow=={one.version}"
            for archive, one in pairs[-1:]
        ]
    ways = ways or [f"ask the administrators for the archive of a cuDNN {wheel.wants}"]
    return RefusedError(message, hint="; or: ".join(ways), code="cudnn")


def _newest(have: Have, cudnn: str) -> Wheel:
    fitting = [one for one in TENSORFLOW if one.takes(cudnn)]
    if not fitting:
        raise _cudnn_unfit(have, TENSORFLOW[-1], cudnn)
    return fitting[-1]


def _python(have: Have, major: int) -> str:
    """The newest Python of `major` that has wheels: one that is there, else what apt would install."""
    there = [one for one in have.pythons if one.short in PYTHONS and (one.wide or major == 3)]
    by_apt = [one for one in SYSTEM_PYTHONS.get(have.distribution, ()) if one in PYTHONS]
    for offered in ([one.short for one in there], by_apt):
        fitting = sorted((one for one in offered if one.startswith(f"{major}.")), key=numbers)
        if fitting:
            return fitting[-1]
    found = (
        ", ".join(one.version for one in have.pythons if one.version.startswith(f"{major}."))
        or "none"
    )
    narrow = " with wide unicode (cp27mu)" if major == 2 else ""
    listed = " or ".join(one for one in PYTHONS if one.startswith(f"{major}."))
    message = (
        f"{have.where} has no Python {listed}{narrow}, which the wheels are for; there is: {found}"
    )
    other = 2 if major == 3 else 3
    ways = []
    if any(one.short in PYTHONS and one.short.startswith(f"{other}.") for one in have.pythons):
        ways.append(f"the same with --python {other}")
    ways.append(
        f"a container of Ubuntu 16.04 or 18.04: apexgpu rebuild {have.where}   (it deletes your files there)"
    )
    raise RefusedError(message, hint="; or: ".join(ways), code="no_python")


def _any_python(have: Have) -> str:
    """The Python 3 for tools that have no wheels of their own: the system's, which apt has packages for."""
    system = [one for one in SYSTEM_PYTHONS.get(have.distribution, ()) if one.startswith("3.")]
    there = sorted(
        (one.short for one in have.pythons if numbers(one.version) >= (3, 5)), key=numbers
    )
    for one in [*system, *reversed(there)]:
        if one in there or not there:
            return one
    message = f"{have.where} has no Python 3.5 or newer"
    raise RefusedError(
        message,
        hint=f"apexgpu ssh {have.where} -- sudo apt-get install -y python3",
        code="no_python",
    )
