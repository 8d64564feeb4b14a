"""The variables of `apexgpu lab env` in this terminal: whether their lab is still the one that runs.

A lab that was ended leaves them behind, and every command would then look for an IAM that is gone.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from apexgpu.errors import ConfigError
from apexgpu.platforms import hints

VARIABLES = (
    "APEXGPU_IAM_URL",
    "APEXGPU_USER",
    "APEXGPU_SSH_CONFIG",
    "APEXGPU_CONFIG_DIR",
    "APEXGPU_STATE_DIR",
)
"""What `lab env` sets, and `lab env --unset` removes."""


def lab_home(environment: Mapping[str, str]) -> Path | None:
    """Return the directory of the lab that the variables point at; None if they are not those of a lab.

    The lab may have been ended, so its directory need not exist: its state directory is known by its name.
    """
    state = environment.get("APEXGPU_STATE_DIR", "")
    if not state:
        return None
    directory = Path(state)
    home = directory.parent
    if (home / "lab.json").exists():
        return home
    is_of_lab = directory.name == "state" and home.name == "lab"
    config = environment.get("APEXGPU_CONFIG_DIR", "")
    if is_of_lab and config == str(home / "config"):
        return home
    return None


def check(environment: Mapping[str, str]) -> None:
    """Raise ConfigError if the variables belong to a lab that was ended: its directory is gone."""
    home = lab_home(environment)
    if home is not None and not home.exists():
        raise ConfigError(
            f"{len(VARIABLES)} variables of this terminal, APEXGPU_IAM_URL and others, belong to a lab "
            f"that is down ({home})",
            hint=hints.set_lab_variables(unset=True),
            code="lab_down",
        )


def why_unreachable(environment: Mapping[str, str]) -> ConfigError | None:
    """The error for variables of an earlier lab of this directory; None if they are those of its lab."""
    home = lab_home(environment)
    if home is None:
        return None
    try:
        description = json.loads((home / "lab.json").read_bytes())
    except (OSError, ValueError):
        return None
    url = description.get("iam_url") if isinstance(description, dict) else None
    if not isinstance(url, str) or url == environment.get("APEXGPU_IAM_URL"):
        return None
    return ConfigError(
        "the APEXGPU_ variables of this terminal belong to an earlier lab; another one is running now",
        hint=hints.set_lab_variables(),
        code="lab_restarted",
    )
