"""For commands that have not moved to a user-level module yet: their names for what `containers` and `shells` do."""

from apexgpu.containers import ensure_running as ready
from apexgpu.containers import is_running as answers
from apexgpu.containers import offer_start, one_host
from apexgpu.shells import ssh_arguments

__all__ = ["answers", "offer_start", "one_host", "ready", "ssh_arguments"]
