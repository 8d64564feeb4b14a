"""Files that ssh does not use because of who else may read or write them: how ssh says so, and the cure."""

import re
from pathlib import Path

from apexgpu.errors import ConfigPermissionsError
from apexgpu.platforms import hints
from apexgpu.process import Runner
from apexgpu.sshfiles.sshhome import is_default_config

_TIME_LIMIT = 30.0  # seconds for `ssh -G`
# readconf.c; the same words on Windows.
_CONFIG_REFUSED = re.compile(r"^Bad owner or permissions on (.+?)\r?$", re.MULTILINE)


def config_error(stderr: str) -> ConfigPermissionsError | None:
    """The error for a config file that ssh does not read, from ssh's `stderr`; None if it read them all."""
    found = _CONFIG_REFUSED.search(stderr)
    if found is None:
        return None
    # Windows' ssh doubles the backslashes of one part of the path.
    file = found[1].replace("\\\\", "\\")
    message = f"ssh does not read {file}: it belongs to another user, or others may write to it"
    return ConfigPermissionsError(message, hint=hints.make_private(file))


def check_config(config: Path, name: str, runner: Runner) -> None:
    """Check that ssh itself reads `config` for `name`, and every file that `config` includes.

    With `-F`, ssh does not look at the owner and the permissions of the config itself, so it is asked without.

    Raises:
        ConfigPermissionsError: it does not.
    """
    arguments = [] if is_default_config(config) else ["-F", str(config)]
    completed = runner.run(["ssh", "-G", *arguments, "--", name], timeout=_TIME_LIMIT)
    error = config_error(completed.err.decode("utf-8", "replace"))
    if error is not None:
        raise error
