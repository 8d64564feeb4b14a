"""Who may read what apexgpu creates: modes on Linux and macOS, access lists on Windows.

Windows' ssh refuses a file to which anybody but its user, SYSTEM, Administrators and TrustedInstaller has access
(`check_secure_file_permission` in w32-sshfileperm.c of Win32-OpenSSH). Python's `mkdir(mode=0o700)` on Windows grants
access to OWNER RIGHTS (S-1-3-4), so that ssh refuses whatever is created in such a directory.
"""

from collections.abc import Mapping

from apexgpu.platforms.system import System

_SYSTEM_SID = "*S-1-5-18"  # the names are translated on some Windows versions, the numbers are not
_ADMINISTRATORS_SID = "*S-1-5-32-544"


def mode_of_private_directory(system: System) -> int:
    """The mode with which to create a private directory.

    0o777 is no restriction: on Windows, the directory inherits the access list of the profile, which is private.
    """
    return 0o777 if system is System.WINDOWS else 0o700


def restricting_command(
    system: System, directory: str, environment: Mapping[str, str]
) -> tuple[str, ...]:
    """The command that makes a new directory private, and what will be created in it; empty if there is none to run."""
    user = environment.get("USERNAME", "")
    if system is not System.WINDOWS or not user:
        return ()
    domain = environment.get("USERDOMAIN", "")
    account = f"{domain}\\{user}" if domain else user
    # (OI)(CI): files and directories inherit it. F: full access.
    grants = [f"{who}:(OI)(CI)F" for who in (account, _SYSTEM_SID, _ADMINISTRATORS_SID)]
    return ("icacls", directory, "/inheritance:r", "/grant:r", *grants)
