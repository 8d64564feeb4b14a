"""apt-get, dpkg and dpkg-query in a container: what is installed is noted in its own tree. Standard library only."""

import os
import re
import sys
from pathlib import Path

CONTAINER = Path(os.environ.get("APEXGPU_LAB_CONTAINER", "."))
ROOTFS = CONTAINER / "rootfs"
STATUS = ROOTFS / "var" / "lib" / "dpkg" / "status"
_TEMPLATE = ("python3", "python3-minimal", "python3.5", "python3.5-minimal")
"""What every container of the template has; its system is Ubuntu 16.04."""

_PYTHON_PACKAGE = re.compile(r"(?:lib)?python(\d\.\d+)(?:-.*)?")
_PYTHONS = {"16.04": ("2.7", "3.5"), "18.04": ("2.7", "3.6")}
"""The Pythons that apt has, by the release of Ubuntu."""

_VIRTUALENV = 'exec "{python}" "$(dirname "$0")/python3" -m virtualenv "$@"'
_PROGRAM = 'exec "{python}" "$0" "$@"'
_LOCKED = (
    "E: Could not get lock /var/lib/dpkg/lock - open (11: Resource temporarily unavailable)\n"
    "E: Unable to lock the administration directory (/var/lib/dpkg/), is another process using it?\n"
)
_SERVER = "http://archive.ubuntu.com/ubuntu"
_WITH_VALUE = ("-o", "-c", "-t", "-f", "--showformat")


def installed() -> list[str]:
    """The names of all packages."""
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    noted = [line.removeprefix("Package: ") for line in lines if line.startswith("Package: ")]
    return [*_TEMPLATE, *noted]


def words(arguments: list[str]) -> list[str]:
    """The arguments that are no options."""
    found, skip = [], False
    for word in arguments:
        if not skip and not word.startswith("-"):
            found.append(word)
        skip = word in _WITH_VALUE
    return found


def apt(arguments: list[str]) -> int:
    """`install` notes packages; all else is said to be done, and changes nothing."""
    action, *names = words(arguments) or [""]
    if is_set("apt-locked"):
        sys.stderr.write(_LOCKED)
        return 100
    if action == "update" and is_set("no-internet"):
        sys.stdout.write("Err:1 http://archive.ubuntu.com/ubuntu xenial InRelease\n")
        sys.stderr.write(
            f"W: Failed to fetch {_SERVER}/dists/xenial/InRelease  Could not resolve 'archive.ubuntu.com'\n"
            "W: Some index files failed to download. They have been ignored, or old ones used instead.\n"
        )
        return 0
    if action != "install":
        sys.stdout.write("apt: nothing is changed in the lab\n")
        return 0
    unknown = [name for name in names if not is_available(name)]
    if unknown:
        for name in unknown:
            sys.stderr.write(f"E: Unable to locate package {name}\n")
        return 100
    if is_set("no-internet") and not set(names) <= set(installed()):
        sys.stderr.write(
            f"E: Failed to fetch {_SERVER}/pool/main/  Could not resolve 'archive.ubuntu.com'\n"
            "E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?\n"
        )
        return 100
    STATUS.parent.mkdir(parents=True, exist_ok=True)
    with STATUS.open("a", encoding="utf-8", newline="\n") as stream:
        for name in [name for name in names if name not in installed()]:
            stream.write(f"Package: {name}\nStatus: install ok installed\nVersion: 1.0\n\n")
            put_program(name)
            sys.stdout.write(f"Setting up {name} (1.0) ...\n")
    return 0


def is_set(fault: str) -> bool:
    """Whether a fault of the package tools is set on this host."""
    return (CONTAINER.parent / fault).exists()


def is_available(name: str) -> bool:
    """Whether the distribution has a package: of Pythons only its own, of all others every one."""
    match = _PYTHON_PACKAGE.fullmatch(name)
    if match is None:
        return True
    try:
        text = (ROOTFS / "etc" / "os-release").read_text(encoding="utf-8")
    except OSError:
        text = ""
    release = re.search(r'^VERSION_ID="?([\d.]+)', text, re.MULTILINE)
    return match[1] in _PYTHONS.get(release[1] if release else "", ())


def put_program(package: str) -> None:
    """Put the program of a package into /usr/bin, if it has one that the lab can run."""
    if package == "virtualenv":
        text = _VIRTUALENV
    elif re.fullmatch(r"python\d\.\d+", package):
        text = _PROGRAM
    else:
        return
    path = ROOTFS / "usr" / "bin" / package
    path.parent.mkdir(parents=True, exist_ok=True)
    tools = Path(os.environ.get("APEXGPU_LAB_BIN", "."))
    path.write_text(f"#!/bin/sh\n{text.format(python=tools / 'lab-python')}\n", encoding="utf-8")
    path.chmod(0o755)


def dpkg(arguments: list[str]) -> int:
    """Nothing is changed, unless another apt is at work."""
    if is_set("apt-locked"):
        sys.stderr.write(_LOCKED)
        return 2
    sys.stdout.write("dpkg: nothing is changed in the lab\n")
    return 0


def query(arguments: list[str]) -> int:
    """`-W -f '${Status}' NAME…`: whether packages are installed."""
    names, code = words(arguments), 0
    for name in names:
        if name in installed():
            sys.stdout.write("install ok installed\n")
        else:
            sys.stderr.write(f"dpkg-query: no packages found matching {name}\n")
            code = 1
    return code


if __name__ == "__main__":
    programs = {"dpkg": dpkg, "dpkg-query": query}
    sys.exit(programs.get(sys.argv[1], apt)(sys.argv[2:]))
