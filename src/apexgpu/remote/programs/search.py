"""Finds a program in a container: on PATH, in an environment of virtualenv or conda, in a Python's packages."""

import glob
import os
import shutil

from apexgpu.remote.programs.processes import HOME, output_of

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
"""Where people put environments, in the order in which they are searched."""

PYTHON_LIMIT = 20.0


def bin_directories(directory: str) -> "list[str]":
    """Where programs may be: on PATH, in environments near `directory`, in the usual environments."""
    search_path = os.environ.get("PATH", "").split(os.pathsep)
    directories = [path for path in search_path if path]
    # A project's own environment comes before the general ones.
    while directory.startswith(HOME + os.sep) or directory == HOME:
        for name in (".venv", "venv", "env"):
            directories.append(os.path.join(directory, name, "bin"))
        directory = os.path.dirname(directory)
    for environment in environments():
        directories.append(os.path.join(environment, "bin"))
    return unique(directories)


def environments() -> "list[str]":
    """The directories of the usual environments, and of those that conda has noted."""
    found = []
    for pattern in ENVIRONMENTS:
        found += sorted(glob.glob(os.path.expanduser(pattern)))
    try:
        with open(os.path.join(HOME, ".conda", "environments.txt")) as lines:
            found += [line.strip() for line in lines if line.strip()]
    except OSError:
        pass
    return found


def find_programs(names: "dict[str, tuple[str, str]]", directory: str) -> "list[list[str]]":
    """The command lines that start one of `names`, the best first.

    `names` maps the name of a script to its module and the module's file: without any script, each
    Python that has the module counts.
    """
    directories = bin_directories(directory)
    scripts = []
    for path in directories:
        for name in names:
            script = shutil.which(name, path=path)
            if script:
                scripts.append([script])
    return scripts or find_modules(names, directories)


def find_modules(
    names: "dict[str, tuple[str, str]]", directories: "list[str]"
) -> "list[list[str]]":
    """As `find_programs`: the command lines `python3 -m MODULE`."""
    pythons = []
    for path in directories:
        python = shutil.which("python3", path=path)
        if python:
            pythons.append(python)
    commands = []
    for python in unique(pythons):
        packages = package_directories(python)
        for module, file in names.values():
            if any(os.path.exists(os.path.join(package, file)) for package in packages):
                commands.append([python, "-m", module])
    return commands


def unique(items: "list[str]") -> "list[str]":
    """Each item once, in the order of the first ones (a dict of Python 3.5 has no order)."""
    return sorted(set(items), key=items.index)


def package_directories(python: str) -> "list[str]":
    """Where a Python looks for packages; only the Python itself knows."""
    code = "import sys; print('\\n'.join(path for path in sys.path if path))"
    return output_of([python, "-c", code], PYTHON_LIMIT).splitlines()
