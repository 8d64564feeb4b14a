"""pip, venv, virtualenv and ipykernel in a container's Python, see tool_python. Standard library only.

What pip can install is what packageindex.json records of the real index: names, versions, what they
require, and for which Pythons there is a file. An installed package has pip's own notes about it, and
a module that can be imported; those of `packages` beside this file do more than that.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from apexgpu_lab.tool_python import Python

HERE = Path(__file__).parent
CONTAINER = Path(os.environ.get("APEXGPU_LAB_CONTAINER", "."))
_BUNDLED = {
    "2.7": {"pip": "8.1.1", "setuptools": "20.7.0", "wheel": "0.29.0"},
    "3.5": {"pip": "8.1.1", "setuptools": "20.7.0"},
    "3.6": {"pip": "9.0.1", "setuptools": "39.0.1"},
}
"""What a new environment contains on Ubuntu 16.04 and 18.04."""

_MODULES = {
    "pillow": "PIL",
    "protobuf": "google.protobuf",
    "python-dateutil": "dateutil",
    "pyzmq": "zmq",
    "tensorflow-gpu": "tensorflow",
    "tensorflow-tensorboard": "tensorboard",
}
"""What is imported, where that is not the package's own name."""

_SCRIPTS = {
    "jupyterlab": ("jupyter-lab",),
    "jupyter-core": ("jupyter",),
    "notebook": ("jupyter-notebook",),
    "tensorboard": ("tensorboard",),
    "tensorflow-tensorboard": ("tensorboard",),
}
_STAND_IN = '''\
"""{name} {version}: a stand-in in the lab's container, which can be imported and does nothing."""

__version__ = "{version}"


def __getattr__(name):
    raise AttributeError("{name} is a stand-in of the lab, and has no " + repr(name))
'''
_TAKES_VALUE = ("-c", "--constraint", "-r", "--requirement", "-i", "--index-url", "--prefix")
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*\(?([^()]*)\)?\s*")
_CLAUSE = re.compile(r"(===|==|~=|!=|<=|>=|<|>)\s*([\w.*+!-]+)")
_OFFLINE = "HTTPSConnection object: Failed to establish a new connection: [Errno -2] Name or service not known"


class PipError(Exception):
    """pip ends with this message, and status 1."""


class Requirement(NamedTuple):
    """A package, by its canonical name, and the versions that are allowed: (operator, version)."""

    text: str
    name: str
    clauses: tuple[tuple[str, str], ...]

    def allows(self, version: str) -> bool:
        """Whether a version is allowed."""
        return all(_compare(version, operator, wanted) for operator, wanted in self.clauses)


class Release(NamedTuple):
    """A version of a package that can be installed."""

    name: str
    version: str
    file: str
    requires: tuple[str, ...]


def canonical(name: str) -> str:
    """The name as the index knows it: `Jinja2` and `jinja_2` alike."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_requirement(text: str) -> Requirement:
    """Read `name>=1,<2`. Raises PipError."""
    match = _REQUIREMENT.fullmatch(text)
    clauses = tuple(_CLAUSE.findall(match[2])) if match else ()
    if match is None or (match[2].strip() and not clauses):
        raise PipError(f"Invalid requirement: '{text}'")
    return Requirement(text.strip(), canonical(match[1]), clauses)


def numbers(version: str) -> tuple[int, ...]:
    """A version for comparisons; the letters of early releases are left out."""
    found = [int(part) for part in re.findall(r"\d+", re.split(r"[a-z+]", version)[0])]
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


def _compare(version: str, operator: str, wanted: str) -> bool:
    own, other = numbers(version), numbers(wanted.removesuffix(".*"))
    if operator in ("==", "===", "!="):
        equal = own[: len(other)] == other if wanted.endswith(".*") else own == other
        return equal is (operator != "!=")
    if operator == "~=":
        places = len(re.findall(r"\d+", wanted)) - 1
        padded = (*own, *[0] * places)
        return own >= other and padded[:places] == (*other, *[0] * places)[:places]
    comparison = {"<": own < other, "<=": own <= other, ">": own > other, ">=": own >= other}
    return comparison[operator]


# -- what is installed


def installed(packages: Path) -> dict[str, tuple[str, str]]:
    """Canonical name -> name and version of the packages of an environment."""
    found = {}
    for path in sorted(packages.glob("*.dist-info")):
        name, _, version = path.name.removesuffix(".dist-info").rpartition("-")
        if name:
            found[canonical(name)] = name.replace("_", "-"), version
    return found


def put_package(python: "Python", release: Release) -> None:
    """Write a package into the environment, with pip's notes about it."""
    remove_package(python, canonical(release.name))
    own_name = canonical(release.name)
    module = _MODULES.get(own_name, own_name.replace("-", "_"))
    directory = python.packages.joinpath(*module.split("."))
    directory.mkdir(parents=True, exist_ok=True)
    ready = HERE / "packages" / module
    if ready.is_dir():
        shutil.copytree(ready, directory, dirs_exist_ok=True)
        (directory / "release.py").write_text(f'VERSION = "{release.version}"\n')
    else:
        text = _STAND_IN.format(name=release.name, version=release.version)
        (directory / "__init__.py").write_text(text, encoding="utf-8")
    notes = python.packages / f"{release.name.replace('-', '_')}-{release.version}.dist-info"
    notes.mkdir()
    requires = "".join(f"Requires-Dist: {text}\n" for text in release.requires)
    (notes / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {release.name}\nVersion: {release.version}\n{requires}",
        encoding="utf-8",
    )
    (notes / "INSTALLER").write_text("pip\n", encoding="utf-8")
    (notes / "top_level.txt").write_text(f"{module.split('.')[0]}\n", encoding="utf-8")
    for script in _SCRIPTS.get(own_name, ()):
        tool = os.environ.get("APEXGPU_LAB_BIN", str(HERE))
        put_script(python.program.parent / script, f'exec "{tool}/{script}" "$@"')


def remove_package(python: "Python", name: str) -> str | None:
    """Remove a package; return its version, None if it is not installed."""
    for notes in python.packages.glob("*.dist-info"):
        own_name, _, version = notes.name.removesuffix(".dist-info").rpartition("-")
        if canonical(own_name) == name:
            module = _MODULES.get(name, name.replace("-", "_"))
            shutil.rmtree(python.packages.joinpath(*module.split(".")), ignore_errors=True)
            shutil.rmtree(notes)
            return version
    return None


def put_script(path: Path, command: str) -> None:
    """Write a program that runs one command line of sh."""
    path.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    path.chmod(0o755)


# -- the index


def index(python: "Python") -> Mapping[str, Mapping[str, Any]]:
    """Canonical name -> version -> file and requirements, for this Python."""
    whole = json.loads((HERE / "packageindex.json").read_text(encoding="utf-8"))
    return dict(whole.get(python.short, {}))


def is_offline() -> bool:
    """Whether a fault keeps this container from the package servers."""
    return (CONTAINER.parent / "no-internet").exists()


class Resolver:
    """Chooses a version for each package that is required, with those that they require themselves."""

    def __init__(self, python: "Python", constraints: Sequence[Requirement]) -> None:
        self._index = index(python)
        self._constraints = constraints
        self._required: dict[str, list[Requirement]] = {}
        self.chosen: dict[str, Release] = {}
        self.present = installed(python.packages)

    def require(self, requirement: Requirement, *, upgrade: bool) -> None:
        """Choose a version for a requirement. Raises PipError."""
        name = requirement.name
        wanted = self._required.setdefault(name, [])
        wanted.append(requirement)
        if name in self.chosen:
            if not requirement.allows(self.chosen[name].version):
                raise PipError(
                    f"Cannot install {' and '.join(one.text for one in wanted)} because these package versions"
                    " have conflicting dependencies."
                )
            return
        limits = [*wanted, *(limit for limit in self._constraints if limit.name == name)]
        if name in self.present and not upgrade:
            version = self.present[name][1]
            if all(limit.allows(version) for limit in limits):
                sys.stdout.write(f"Requirement already satisfied: {requirement.text} ({version})\n")
                return
        self.chosen[name] = release = self._newest(requirement, limits)
        _say(f"Collecting {requirement.text}")
        _say(f"  Downloading {release.file}")
        for text in release.requires:
            self.require(parse_requirement(text), upgrade=False)

    def _newest(self, requirement: Requirement, limits: Sequence[Requirement]) -> Release:
        versions = {} if is_offline() else self._index.get(requirement.name, {})
        if is_offline():
            for left in range(4, -1, -1):
                sys.stderr.write(
                    f"  Retrying (Retry(total={left}, connect=None, read=None, redirect=None)) after connection"
                    f" broken by '{_OFFLINE}': /simple/{requirement.name}/\n"
                )
        known = sorted(versions, key=numbers)
        for version in reversed(known):
            if all(limit.allows(version) for limit in limits):
                entry = versions[version]
                return Release(entry["name"], version, entry["file"], tuple(entry["requires"]))
        raise PipError(
            f"Could not find a version that satisfies the requirement {requirement.text} (from versions:"
            f" {', '.join(known)})\nNo matching distribution found for {requirement.text}"
        )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# -- pip


def pip(python: "Python", words: Sequence[str]) -> int:
    """`python -m pip …`: install, uninstall, list, freeze, show."""
    present = installed(python.packages)
    if "pip" not in present:
        sys.stderr.write(f"{python.program}: No module named pip\n")
        return 1
    if "--version" in words or "-V" in words:
        where = python.packages / "pip"
        _say(f"pip {present['pip'][1]} from {where} (python {python.short})")
        return 0
    action, *rest = words or ["help"]
    actions = {
        "install": _install,
        "uninstall": _uninstall,
        "list": _list,
        "freeze": _freeze,
        "show": _show,
    }
    if action not in actions:
        sys.stderr.write(f"pip {action}: not in the lab, which has {', '.join(actions)}\n")
        return 1
    return actions[action](python, rest)


def _split(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The words that are not options, and the values of options."""
    names: list[str] = []
    values: dict[str, list[str]] = {}
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        option, _, value = word.partition("=")
        if option in _TAKES_VALUE:
            value = value or (remaining.pop(0) if remaining else "")
            values.setdefault(option, []).append(value)
        elif word.startswith("-"):
            values.setdefault(word, [])
        else:
            names.append(word)
    return names, values


def _read_requirements(paths: Sequence[str]) -> Iterator[Requirement]:
    for path in paths:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError:
            raise PipError(f"Could not open requirements file: [Errno 2] {path}") from None
        for line in text.splitlines():
            requirement = line.partition("#")[0].strip()
            if requirement:
                yield parse_requirement(requirement)


def _install(python: "Python", words: Sequence[str]) -> int:
    names, values = _split(words)
    limits = [*values.get("-c", []), *values.get("--constraint", [])]
    files = [*values.get("-r", []), *values.get("--requirement", [])]
    upgrade = "-U" in values or "--upgrade" in values
    wanted = [*(parse_requirement(name) for name in names), *_read_requirements(files)]
    if not wanted:
        raise PipError("You must give at least one requirement to install (see 'pip help install')")
    resolver = Resolver(python, list(_read_requirements(limits)))
    for requirement in wanted:
        resolver.require(requirement, upgrade=upgrade)
    releases = [*reversed(resolver.chosen.values())]
    if not releases:
        return 0
    _say(f"Installing collected packages: {', '.join(one.name for one in releases)}")
    for release in releases:
        old = resolver.present.get(canonical(release.name))
        if old:
            _say(f"  Found existing installation: {old[0]} {old[1]}")
            _say(f"    Uninstalling {old[0]}-{old[1]}:")
            _say(f"      Successfully uninstalled {old[0]}-{old[1]}")
        put_package(python, release)
    names_and_versions = " ".join(sorted(f"{one.name}-{one.version}" for one in releases))
    _say(f"Successfully installed {names_and_versions}")
    return 0


def _uninstall(python: "Python", words: Sequence[str]) -> int:
    names, _ = _split(words)
    for name in names:
        version = remove_package(python, canonical(name))
        if version is None:
            _say(f"WARNING: Skipping {name} as it is not installed.")
        else:
            _say(f"Successfully uninstalled {name}-{version}")
    return 0


def _list(python: "Python", _: Sequence[str]) -> int:
    _say(f"{'Package':<24} Version\n{'-' * 24} {'-' * 8}")
    for name, version in installed(python.packages).values():
        _say(f"{name:<24} {version}")
    return 0


def _freeze(python: "Python", _: Sequence[str]) -> int:
    for name, version in installed(python.packages).values():
        if name not in ("pip", "setuptools", "wheel"):
            _say(f"{name}=={version}")
    return 0


def _show(python: "Python", words: Sequence[str]) -> int:
    names, _ = _split(words)
    present = installed(python.packages)
    code = 0
    for name in names:
        if canonical(name) not in present:
            sys.stderr.write(f"WARNING: Package(s) not found: {name}\n")
            code = 1
            continue
        own_name, version = present[canonical(name)]
        _say(f"Name: {own_name}\nVersion: {version}\nLocation: {python.packages}")
    return code


# -- environments


def ensurepip(python: "Python", _: Sequence[str]) -> int:
    """`python -m ensurepip`: only in an environment of venv's."""
    sys.stderr.write(f"{python.program}: No module named ensurepip\n")
    return 1


def venv(python: "Python", words: Sequence[str]) -> int:
    """`python3.5 -m venv DIRECTORY`; without the package python3.5-venv it fails as on Debian and Ubuntu."""
    names, values = _split(words)
    if not names:
        sys.stderr.write("venv: error: the following arguments are required: ENV_DIR\n")
        return 2
    for name in names:
        directory = Path(name).absolute()
        make_environment(python, directory)
        if "--without-pip" in values:
            continue
        if not _has_ensurepip(python):
            package = f"python{python.short}-venv"
            _say(
                "The virtual environment was not created successfully because ensurepip is not\n"
                "available.  On Debian/Ubuntu systems, you need to install the python3-venv\n"
                f"package using the following command.\n\n    apt-get install {package}\n\n"
                "You may need to use sudo with that command.  After installing the python3-venv\n"
                "package, recreate your virtual environment.\n"
            )
            return 1
        put_bundled(python.short, directory)
    return 0


def _has_ensurepip(python: "Python") -> bool:
    status = CONTAINER / "rootfs" / "var/lib/dpkg/status"
    text = status.read_text(encoding="utf-8") if status.exists() else ""
    names = (f"python{python.short}-venv", "python3-venv")
    return any(f"Package: {name}\n" in text for name in names)


def virtualenv(python: "Python", words: Sequence[str]) -> int:
    """`virtualenv -q -p PYTHON DIRECTORY`, for Python 2 too."""
    remaining = list(words)
    program = python.program
    if "-p" in remaining:
        place = remaining.index("-p")
        program = Path(remaining[place + 1])
        del remaining[place : place + 2]
    names, _ = _split(remaining)
    short = program.name.removeprefix("python")
    if not program.exists() or short not in _BUNDLED or not names:
        sys.stderr.write(f"The path {program} (from --python={program}) does not exist\n")
        return 3
    directory = Path(names[0]).absolute()
    releases = {"2.7": "2.7.12", "3.5": "3.5.2", "3.6": "3.6.9"}
    make_environment(python._replace(program=program, version=releases[short]), directory)
    put_bundled(short, directory)
    return 0


def make_environment(python: "Python", directory: Path) -> None:
    """Lay out an environment of a Python, without pip."""
    programs = directory / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    (directory / "lib" / f"python{python.short}" / "site-packages").mkdir(
        parents=True, exist_ok=True
    )
    (directory / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python.version}\n",
        encoding="utf-8",
    )
    tool = os.environ.get("APEXGPU_LAB_BIN", str(HERE))
    for name in ("python", f"python{python.short[0]}", f"python{python.short}"):
        put_script(programs / name, f'exec "{tool}/lab-python" "$0" "$@"')
    (programs / "activate").write_text(
        f"deactivate () {{ PATH=$_OLD_PATH; PS1=$_OLD_PS1; unset VIRTUAL_ENV; }}\n"
        f"VIRTUAL_ENV='{directory}'; export VIRTUAL_ENV\n"
        "_OLD_PATH=$PATH; PATH=$VIRTUAL_ENV/bin:$PATH; export PATH\n"
        '_OLD_PS1=${PS1:-}; PS1="($(basename "$VIRTUAL_ENV")) ${PS1:-}"\n',
        encoding="utf-8",
    )


def put_bundled(short: str, directory: Path) -> None:
    """Put pip and setuptools of the distribution into a new environment."""
    packages = directory / "lib" / f"python{short}" / "site-packages"
    for name, version in _BUNDLED.get(short, {"pip": "23.0.1", "setuptools": "66.1.1"}).items():
        (packages / name).mkdir(exist_ok=True)
        text = _STAND_IN.format(name=name, version=version)
        (packages / name / "__init__.py").write_text(text, encoding="utf-8")
        notes = packages / f"{name}-{version}.dist-info"
        notes.mkdir(exist_ok=True)
        (notes / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n", encoding="utf-8")
    for name in ("pip", f"pip{short[0]}", f"pip{short}"):
        put_script(directory / "bin" / name, 'exec "$(dirname "$0")/python" -m pip "$@"')


# -- Jupyter kernels


def ipykernel(python: "Python", words: Sequence[str]) -> int:
    """`python -m ipykernel install --prefix DIRECTORY --name NAME --display-name TEXT`."""
    if "ipykernel" not in installed(python.packages):
        sys.stderr.write(f"{python.program}: No module named ipykernel\n")
        return 1
    options = dict(zip(words[1::2], words[2::2], strict=False))
    if words[:1] != ["install"] or not {"--prefix", "--name"} <= set(options):
        sys.stderr.write("ipykernel: in the lab only `install --prefix DIRECTORY --name NAME`\n")
        return 1
    name = options["--name"]
    directory = Path(options["--prefix"]) / "share" / "jupyter" / "kernels" / name
    directory.mkdir(parents=True, exist_ok=True)
    program = str(python.program).removeprefix(str(CONTAINER / "rootfs"))
    argv = [program, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = {
        "argv": argv,
        "display_name": options.get("--display-name", name),
        "language": "python",
    }
    (directory / "kernel.json").write_text(json.dumps(kernel, indent=1) + "\n", encoding="utf-8")
    _say(f"Installed kernelspec {name} in {directory}")
    return 0


PROGRAMS = {
    "ensurepip": ensurepip,
    "ipykernel": ipykernel,
    "pip": pip,
    "venv": venv,
    "virtualenv": virtualenv,
}


def main(python: "Python", name: str, words: Sequence[str]) -> int:
    """Run one of the programs."""
    try:
        return PROGRAMS[name](python, list(words))
    except PipError as failure:
        for line in str(failure).splitlines():
            sys.stderr.write(f"ERROR: {line}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"ERROR: Could not install packages due to an EnvironmentError: {error}\n")
        return 1
