"""Putting a new file in the place of an old one, which Windows refuses while another program has the old one open."""

import os
import time
from collections.abc import Callable

from apexgpu.platforms.system import System, current

_LIMIT = 2.0  # seconds: editors, virus scanners and OneDrive hold a file for milliseconds
_FIRST_PAUSE = 0.01


def replace(
    source: str | bytes | os.PathLike[str],
    target: str | bytes | os.PathLike[str],
    *,
    system: System | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """As os.replace. On Windows, a target that is in use is tried again for two seconds; then the error is raised."""
    if (system or current()) is not System.WINDOWS:
        os.replace(source, target)  # noqa: PTH105
        return
    waited = 0.0
    seconds = _FIRST_PAUSE
    while True:
        try:
            os.replace(source, target)  # noqa: PTH105
        except PermissionError:
            if waited >= _LIMIT or os.path.isdir(target):  # noqa: PTH112
                raise
        else:
            return
        pause(seconds)
        waited += seconds
        seconds *= 2
