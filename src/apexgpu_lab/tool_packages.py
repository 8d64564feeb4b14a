"""apt-get and dpkg-query in a container: what is installed is noted in its own tree. Standard library only."""

import os
import sys
from pathlib import Path

STATUS = (
    Path(os.environ.get("APEXGPU_LAB_CONTAINER", "."))
    / "rootfs"
    / "var"
    / "lib"
    / "dpkg"
    / "status"
)
_WITH_VALUE = ("-o", "-c", "-t", "-f", "--showformat")


def installed() -> list[str]:
    """The names of all packages."""
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line.removeprefix("Package: ") for line in lines if line.startswith("Package: ")]


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
    if action != "install":
        sys.stdout.write("apt: nothing is changed in the lab\n")
        return 0
    STATUS.parent.mkdir(parents=True, exist_ok=True)
    with STATUS.open("a", encoding="utf-8", newline="\n") as stream:
        for name in [name for name in names if name not in installed()]:
            stream.write(f"Package: {name}\nStatus: install ok installed\nVersion: 1.0\n\n")
            sys.stdout.write(f"Setting up {name} (1.0) ...\n")
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
    sys.exit((query if sys.argv[1] == "dpkg-query" else apt)(sys.argv[2:]))
