"""`gpus` of 18 hosts against asking one after the other, and against asking all of them at once by clush."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.clock import paired
from bench.farm import farm
from bench.figure import Figure

_REPORT = Path(__file__).parent.parent / "tests" / "data" / "nvidia-smi" / "q-390.48.txt"


def gpus_of_18() -> Iterator[Figure]:
    """Every host answers with the recorded report; what nvidia-smi itself takes is the same for everybody."""
    with farm(18, words=f"{_REPORT.read_text()}\n@@ 0\n") as hosts:
        cold = hosts.environment(keep=False)
        names = [host.name for host in hosts.hosts]
        one = f"ssh -F {shlex.quote(str(hosts.config))}"
        serial = [
            "sh",
            "-c",
            f"for h in {' '.join(names)}; do {one} $h nvidia-smi -q || exit 1; done",
        ]
        clush = [
            "clush",
            "-S",
            "-f",
            "64",
            "-o",
            f"-F {hosts.config}",
            "-w",
            ",".join(names),
            "nvidia-smi",
            "-q",
        ]
        found = paired(
            {
                "apexgpu": ([sys.executable, "-m", "apexgpu", "gpus"], cold, b""),
                "serial": (serial, cold, b""),
                "clush": (clush, cold, b""),
            },
            runs=5,
        )
    ours = found["apexgpu"].wall
    for name, peer, goal in (
        ("serial", "`ssh HOST nvidia-smi -q`, one after the other", 0.5),
        ("clush", "clush", 1.0),
    ):
        raw = f"{ours * 1000:.0f} / {found[name].wall * 1000:.0f} ms"
        yield Figure("gpus of 18 hosts, cold", peer, ours / found[name].wall, goal, raw)
