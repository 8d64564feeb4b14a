"""Where a program is in a container: on PATH, in an environment of a virtualenv or conda, in a Python's packages."""

import glob
import os
import shutil

from apexgpu.remote.programs.processes import HOME, output

ENVIRONMENTS = (
    "~/.virtualenvs/*",
    "~/venv*",
    "~/.venv*",
    "~/env",
    "~/*/.venv",
    "~/*/venv",
    "~/.local",
    "~/*conda3",
    "~/*conda3/envs/*",
    "~/miniforge*",
    "~/miniforge*/envs/*",
    "~/mambaforge*",
    "~/mambaforge*/envs/*",
    "~/.conda/envs/*",
    "/opt/*conda*",
    "/opt/*conda*/envs/*",
    "~/.pyenv/versions/*",
    "/usr/local",
    "/usr",
)


def places(directory: str) -> "list[str]":
    """The bin directories of environments: on PATH, beside the wanted directory, in the usual rooms of a home."""
    found = [place for place in os.environ.get("PATH", "").split(os.pathsep) if place]
    while directory.startswith(HOME + os.sep) or directory == HOME:
        found += [os.path.join(directory, name, "bin") for name in (".venv", "venv", "env")]
        directory = os.path.dirname(directory)
    roots = [
        root for pattern in ENVIRONMENTS for root in sorted(glob.glob(os.path.expanduser(pattern)))
    ]
    try:
        with open(os.path.join(HOME, ".conda", "environments.txt")) as listed:
            roots += [line.strip() for line in listed if line.strip()]
    except OSError:
        pass
    found += [os.path.join(root, "bin") for root in roots]
    return unique(found)


def programs(names: "dict[str, tuple[str, str]]", directory: str) -> "list[list[str]]":
    """The command lines that start one of `names`: as a script anywhere, else as a module of a Python."""
    rooms = places(directory)
    scripts = [
        [path]
        for room in rooms
        for path in (shutil.which(name, path=room) for name in names)
        if path
    ]
    if scripts:
        return scripts
    found = []
    for python in unique(
        [path for path in (shutil.which("python3", path=room) for room in rooms) if path]
    ):
        rooms = packages(python)
        found += [
            [python, "-m", module]
            for module, file in names.values()
            if any(os.path.exists(os.path.join(room, file)) for room in rooms)
        ]
    return found


def unique(found: "list[str]") -> "list[str]":
    """Each once, in their order (a dict of Python 3.5 has none)."""
    return sorted(set(found), key=found.index)


def packages(python: str) -> "list[str]":
    """Where a Python keeps its packages, told by itself: it alone knows."""
    code = "import sys; print('\\n'.join(path for path in sys.path if path))"
    return output([python, "-c", code], 20).splitlines()
