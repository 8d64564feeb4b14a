"""The home directory that ssh uses."""

from pathlib import Path

from apexgpu.platforms import owner


def is_default_config(config: Path) -> bool:
    """Whether ssh reads the file `config` without being told to (with `-F`)."""
    return config == Path(home()) / ".ssh" / "config"


def home() -> str:
    """The home directory as ssh determines it: from the password database, not from $HOME."""
    return owner.home_in_database()
