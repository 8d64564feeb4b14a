"""The programs that can mount a container: find one, its version, how to install it.

Sources: sshfs(1) 2.5 and 3.7 and its ChangeLog; README of SSHFS-Win; FUSE-T's README and wiki;
rclone's change log.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from apexgpu.errors import ApexError, MissingProgramError
from apexgpu.platforms.system import current
from apexgpu.process import Runner, which

_AS_OF = "as of November 2026"
_WINDOWS_PATH = r"C:\Program Files\SSHFS-Win\bin\sshfs.exe"
_INSTALL_WINDOWS = (
    "winget install -h -e --id WinFsp.WinFsp; winget install -h -e --id SSHFS-Win.SSHFS-Win"
)
_INSTALL_MACFUSE = "brew install --cask macfuse && brew install gromgit/fuse/sshfs-mac"
_INSTALL_FUSE_T = (
    "brew install macos-fuse-t/homebrew-cask/fuse-t macos-fuse-t/homebrew-cask/fuse-t-sshfs"
)
# By part of the ID or ID_LIKE of /etc/os-release; the first that matches counts.
_INSTALL_LINUX = {
    "debian": "sudo apt install sshfs",
    "ubuntu": "sudo apt install sshfs",
    "fedora": "sudo dnf install fuse-sshfs",
    "rhel": "sudo dnf install epel-release && sudo dnf install fuse-sshfs",
    "arch": "sudo pacman -S sshfs",
    "suse": "sudo zypper install sshfs",
    "alpine": "sudo apk add sshfs",
    "gentoo": "sudo emerge net-fs/sshfs",
    "void": "sudo xbps-install fuse-sshfs",
    "nixos": "nix-env -iA nixos.sshfs",
}


class ProgramKind(StrEnum):
    """Which program mounts."""

    SSHFS = "sshfs"
    SSHFS_WIN = "sshfs-win"
    RCLONE = "rclone"


@dataclass(frozen=True, slots=True)
class MountProgram:
    """An installed program that can mount.

    `version` and `fuse` are empty where it does not tell.
    """

    kind: ProgramKind
    path: str
    version: tuple[int, ...] = ()
    fuse: str = ""

    def __str__(self) -> str:
        """For people: `sshfs 3.7.3 (macFUSE)`."""
        text = str(self.kind)
        if self.version:
            text += " " + ".".join(map(str, self.version))
        if self.fuse:
            text += f" ({self.fuse})"
        return text


def find_program(runner: Runner, *, platform: str | None = None) -> MountProgram:
    """The program to mount with on `platform`.

    Raises MissingProgramError with the command that installs one.
    """
    platform = platform or current()
    if platform == "win32":
        path = which("sshfs.exe") or _WINDOWS_PATH
        if not Path(path).exists():
            raise not_installed(platform, "")
        return MountProgram(ProgramKind.SSHFS_WIN, path, *_read_version(runner, [path, "-V"]))
    sshfs = which("sshfs")
    if sshfs:
        return MountProgram(ProgramKind.SSHFS, sshfs, *_read_version(runner, [sshfs, "-V"]))
    rclone = which("rclone") if platform == "darwin" else None
    if rclone:
        version = _read_version(runner, [rclone, "version"])
        return MountProgram(ProgramKind.RCLONE, rclone, *version)
    release = Path("/etc/os-release")
    raise not_installed(platform, release.read_text() if release.exists() else "")


def _read_version(runner: Runner, argv: Sequence[str]) -> tuple[tuple[int, ...], str]:
    try:
        completed = runner.run(argv, timeout=5)
    except (ApexError, OSError):
        return (), ""
    return parse_version(completed.text + completed.err.decode("utf-8", "replace"))


def parse_version(output: str) -> tuple[tuple[int, ...], str]:
    """The version in the output of `sshfs -V` or `rclone version`, and which FUSE it was built for.

    >>> parse_version("SSHFS version 3.7.3")
    ((3, 7, 3), '')
    """
    match = re.search(r"(?:SSHFS version |rclone v)(\d+(?:\.\d+)*)", output, re.IGNORECASE)
    version: tuple[int, ...] = ()
    if match:
        version = tuple(int(part) for part in match[1].split("."))
    fuse_name = ""
    fuse = re.search(r"(FUSE-T|macFUSE|OSXFUSE)", output, re.IGNORECASE)
    if fuse:
        fuse_name = fuse[1]
    return version, fuse_name


def not_installed(platform: str, os_release: str) -> MissingProgramError:
    """The error that says how to install a program on `platform`.

    `os_release` is the text of /etc/os-release.
    """
    if platform == "darwin":
        message = (
            "no sshfs is installed: FUSE-T's needs no kernel extension, macFUSE's does "
            f"({_INSTALL_MACFUSE}); `brew install sshfs` is for Linux only, {_AS_OF}"
        )
        return MissingProgramError(message, hint=_INSTALL_FUSE_T)
    if platform == "win32":
        message = f"SSHFS-Win is not installed (packages {_AS_OF})"
        return MissingProgramError(message, hint=_INSTALL_WINDOWS)
    return MissingProgramError("sshfs is not installed", hint=_linux_hint(os_release))


def _linux_hint(os_release: str) -> str:
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', os_release, re.MULTILINE))
    distributions = f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".split()
    for distribution in distributions:
        for name, command in _INSTALL_LINUX.items():
            if name in distribution:
                return command
    return _INSTALL_LINUX["debian"]


def known_problem(program: MountProgram, *, platform: str | None = None) -> str:
    """What is wrong with this version, as a sentence; empty if nothing is known."""
    platform = platform or current()
    version = program.version
    if program.kind is ProgramKind.RCLONE:
        if version < (1, 65):
            return "rclone has nfsmount since 1.65: brew upgrade rclone"
        return (
            "rclone's nfsmount keeps written files in a cache and sends them after they are closed"
        )
    if platform == "darwin" and program.fuse.lower() == "osxfuse":
        return f"sshfs for OSXFUSE does not run on today's macOS ({_AS_OF}): {_INSTALL_FUSE_T}"
    if (3, 0) <= version < (3, 3):
        return (
            "sshfs 3.0 to 3.2 can lose data appended to a file (writeback cache): use 3.3 or newer"
        )
    if version and version < (2, 5):
        return "sshfs before 2.5 does not have all options that are used here"
    return ""


def faster_ciphers(runner: Runner, configured: str, *, cpu: Path = Path("/proc/cpuinfo")) -> str:
    """The value of ssh's Ciphers that puts AES-GCM first.

    Empty where that would not be faster or is not wanted.

    `configured` is the value that `ssh -G` reports: ciphers that the user has chosen are left
    alone. AES-GCM is slower on a processor without AES, and an OpenSSH before 8.1 cannot put a
    cipher in front.
    """
    if cpu.exists() and not _has_aes(cpu.read_text()):
        return ""
    if _openssh_version(runner) < (8, 1):
        return ""
    completed = runner.run(["ssh", "-F", "none", "-G", "x"], timeout=5)
    default = re.search(r"^ciphers (.*)$", completed.text, re.MULTILINE)
    if default is None or default[1] != configured:
        return ""
    return "^aes128-gcm@openssh.com"


def _has_aes(cpuinfo: str) -> bool:
    return re.search(r"^(?:flags|Features)\s*:.*\baes\b", cpuinfo, re.MULTILINE) is not None


def _openssh_version(runner: Runner) -> tuple[int, int]:
    """Major and minor version; (0, 0) if `ssh -V` does not tell."""
    completed = runner.run(["ssh", "-V"], timeout=5)
    output = completed.err.decode("utf-8", "replace")
    match = re.search(r"OpenSSH_\D*(\d+)\.(\d+)", output)
    if match is None:
        return 0, 0
    return int(match[1]), int(match[2])
