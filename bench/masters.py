"""Open masters for everybody: apexgpu's by a command of its own, the peers' by ssh itself."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.farm import Farm

_LIMIT = 60.0


@contextlib.contextmanager
def masters(
    hosts: Farm, environment: Mapping[str, str], *, command: Sequence[str], targets: Sequence[str]
) -> Iterator[Path]:
    """Open connections to `targets` (ssh names) while the block runs; the directory of the peers' sockets.

    `command` is one after which apexgpu keeps connections to all of them.
    """
    path = hosts.directory / "cm"
    path.mkdir()
    subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True)
    for name in targets:
        options = ["-F", str(hosts.config), "-o", f"ControlPath={path}/%C"]
        options += ["-o", "ControlMaster=yes", "-o", "ControlPersist=60"]
        subprocess.run(
            ["ssh", *options, "-fN", name],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    sockets = hosts.directory / "run" / "apexgpu"
    deadline = time.monotonic() + _LIMIT
    while len([entry for entry in sockets.iterdir() if entry.is_socket()]) < len(targets):
        if time.monotonic() > deadline:
            message = "the masters did not open"
            raise RuntimeError(message)
        time.sleep(0.05)
    yield path
