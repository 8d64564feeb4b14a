"""Which version of which system this is, for people who read a report of `doctor`."""

import platform
import sys
from collections.abc import Mapping

from apexgpu.platforms.system import System, current


def describe_system() -> str:
    """The system with its version and its processor: `macOS 15.1 arm64`, `Windows 11 24H2 AMD64`."""
    system = current()
    machine = platform.machine()
    if system is System.MACOS:
        return f"macOS {platform.mac_ver()[0]} {machine}".replace("  ", " ")
    if system is System.WINDOWS:
        return f"{windows_name(_windows_build(), _windows_display_version())} {machine}"
    return f"{platform.system()} {machine}"


def windows_name(build: int, display_version: str) -> str:
    """The name of a Windows. Windows 11 calls itself version 10, from build 22000 on.

    >>> windows_name(26100, "24H2")
    'Windows 11 24H2'
    """
    name = "Windows 11" if build >= 22000 else "Windows 10"
    return f"{name} {display_version}".rstrip()


def _windows_build() -> int:
    get = getattr(sys, "getwindowsversion", None)
    return int(get().build) if get is not None else 0


def _windows_display_version() -> str:
    """What Windows shows as its version, such as 24H2; empty if it is not in the registry."""
    if sys.platform != "win32":
        return ""
    import winreg

    key = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion"
    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
            return str(winreg.QueryValueEx(opened, "DisplayVersion")[0])
    except OSError:
        return ""


def describe_terminal(system: System, environment: Mapping[str, str]) -> str:
    """The terminal, as far as its variables tell; empty if they do not."""
    if environment.get("TERM_PROGRAM"):
        return environment["TERM_PROGRAM"]
    if system is System.WINDOWS:
        return "Windows Terminal" if environment.get("WT_SESSION") else "the console of Windows"
    return ""


def is_store_python(prefix: str, system: System) -> bool:
    """Whether Python (installed at `prefix`) is the Microsoft Store's, whose files below AppData nobody else sees."""
    return system is System.WINDOWS and "\\WindowsApps" in prefix
