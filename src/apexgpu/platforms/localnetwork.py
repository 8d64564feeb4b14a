"""macOS' permission "Local Network", without which a terminal reaches no machine of the network it is in.

Since macOS 15, programs that a terminal app without the permission starts get "No route to host" from directly
attached networks. Terminal.app, and what sshd starts, always have it.
"""

from apexgpu.platforms.system import System

SETTINGS = "System Settings > Privacy & Security > Local Network"


def open_settings_command(system: System) -> str | None:
    """The command that opens the switch of the terminals; None on systems that have no such permission."""
    if system is not System.MACOS:
        return None
    return 'open "x-apple.systempreferences:com.apple.preference.security?Privacy_LocalNetwork"'


def explanation(system: System) -> str:
    """What "no route to host" may mean on this system, for a message; empty where it means what it says."""
    if system is not System.MACOS:
        return ""
    return f"macOS may be keeping this terminal from the local network ({SETTINGS})"
