"""The stand-in programs of containers: written into the lab's bin directory, run by this Python."""

import shlex
import shutil
import sys
from pathlib import Path

from apexgpu.platforms.system import is_windows

_TOOLS = {
    "tool_gpu.py": ("nvidia-smi",),
    "tool_system.py": (
        "hostname",
        "who",
        "id",
        "whoami",
        "ldconfig",
        "service",
        "systemctl",
        "ssh-keygen",
    ),
    "tool_ps.py": ("ps", "uptime"),
    "tool_packages.py": ("apt", "apt-get", "dpkg", "dpkg-query"),
    "tool_web.py": ("jupyter", "jupyter-lab", "jupyter-notebook", "tensorboard"),
}
# Programs that would change this machine: in the lab they do nothing, and succeed.
_HARMLESS = ("chown", "groupadd", "mount", "umount", "useradd", "usermod")
PYTHON = "lab-python"
"""The program that is every Python of the containers; its first argument is the path it was called by."""

_REFUSED = ("halt", "poweroff", "reboot", "shutdown")
_SUDO = """#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in
    -u|-g|-U|-p) shift 2 ;;
    --) shift; break ;;
    -*) shift ;;
    [A-Za-z_]*=*) export "$1"; shift ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || exit 0
exec "$@"
"""


def install(directory: Path) -> None:
    """Write all programs into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for source, names in {**_TOOLS, "processes.py": ()}.items():
        shutil.copyfile(Path(__file__).with_name(source), directory / source)
        for name in names:
            _write(directory, name, [sys.executable, "-I", str(directory / source), name])
    for name in _HARMLESS:
        _script(directory / name, f"#!/bin/sh\necho '{name}: nothing is changed in the lab'\n")
    for name in _REFUSED:
        _script(directory / name, f"#!/bin/sh\necho '{name}: not in the lab' >&2\nexit 1\n")
    _script(directory / "sudo", _SUDO)
    _install_python(directory)


def _install_python(directory: Path) -> None:
    """What the Pythons in the containers' /usr/bin and environments run, see tool_python."""
    here = Path(__file__).parent
    for name in ("tool_python.py", "tool_pip.py", "packageindex.json"):
        shutil.copyfile(here / name, directory / name)
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(here / "packages", directory / "packages", ignore=skipped, dirs_exist_ok=True)
    # -S: the packages of this Python are not the container's.
    _write(directory, PYTHON, [sys.executable, "-I", "-S", str(directory / "tool_python.py")])
    if is_windows():
        _write(directory, "python3", [sys.executable])


def _write(directory: Path, name: str, argv: list[str]) -> None:
    if is_windows():
        words = " ".join(f'"{word}"' for word in argv)
        _script(directory / f"{name}.cmd", f"@{words} %*\r\n")
    _script(directory / name, f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n')


def _script(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")
    path.chmod(0o755)
