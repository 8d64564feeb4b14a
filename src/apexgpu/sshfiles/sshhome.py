"""The home directory that ssh uses."""

import os
from pathlib import Path


def is_default_config(config: Path) -> bool:
    """Whether ssh reads the file `config` without being told to (with `-F`)."""
    return config == Path(home()) / ".ssh" / "config"


def home() -> str:
    """The home directory as ssh determines it: from the password database, not from $HOME."""
    try:
        import pwd
    except ImportError:  # on Windows, ssh uses the profile directory
        return str(Path.home())
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return str(Path.home())
