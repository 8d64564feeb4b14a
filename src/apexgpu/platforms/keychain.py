"""Passphrases of ssh keys in the Keychain of macOS, which Apple's ssh-add reads and writes."""

from apexgpu.platforms.system import System


def add_option(system: System) -> tuple[str, ...]:
    """The option of ssh-add that also stores the passphrase for good."""
    return ("--apple-use-keychain",) if system is System.MACOS else ()


def load_command(system: System) -> tuple[str, ...]:
    """The command that adds the keys whose passphrases are stored to the agent. It asks nobody; empty elsewhere."""
    return ("ssh-add", "--apple-load-keychain") if system is System.MACOS else ()
