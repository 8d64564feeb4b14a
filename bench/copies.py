"""`cp` of a large file and of many small ones against plain rsync and scp, to and from a real sshd."""

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.clock import paired
from bench.farm import farm
from bench.figure import Figure

_LARGE = 512 << 20
_GOALS = {"rsync -a": 1.5, "scp -rp": 1.5}


def copies() -> Iterator[Figure]:
    """Whole runs with their start-up, by turns; each copies to where nothing is."""
    with farm(1, shells=True) as hosts:
        env, name = hosts.environment(keep=False), hosts.hosts[0].name
        make(hosts.directory)
        ssh = f"ssh -F {shlex.quote(str(hosts.config))}"
        here, there = hosts.directory / "here", hosts.directory / "there"
        there.mkdir()
        for what in ("large", "small"):
            for words, source, target in (
                ("to", str(here / what), f"{name}:{there}/x"),
                ("from", f"{name}:{here / what}", f"{there}/x"),
            ):
                ours = f"{sys.executable} -m apexgpu cp --method"
                peers = {
                    "rsync -a": f"rsync -a -e {shlex.quote(ssh)} {source}{'/' if what == 'small' else ''} {target}",
                    "scp -rp": f"scp -rpq -F {hosts.config} {source} {target}",
                    "ours, rsync": f"{ours} rsync {source} {target}",
                    "ours, sftp": f"{ours} sftp {source} {target}",
                }
                commands = {
                    key: (["sh", "-c", f"rm -rf {there}/x; {line}"], env, b"")
                    for key, line in peers.items()
                }
                found = paired(commands, runs=3)
                for mine, peer in (("ours, rsync", "rsync -a"), ("ours, sftp", "scp -rp")):
                    label = "512 MiB" if what == "large" else "5,000 small files"
                    raw = f"{found[mine].wall:.2f} / {found[peer].wall:.2f} s"
                    ratio = found[mine].wall / found[peer].wall
                    yield Figure(
                        f"cp {words} a container, {label}, by {mine[6:]}",
                        peer,
                        ratio,
                        _GOALS[peer],
                        raw,
                    )


def make(directory: Path) -> None:
    """What is to be copied: noise, and files of some hundred bytes in 50 directories."""
    here = directory / "here"
    here.mkdir()
    with (here / "large").open("wb") as stream:
        for _ in range(_LARGE >> 24):
            stream.write(os.urandom(1 << 24))
    for number in range(5000):
        path = here / "small" / str(number // 100) / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * (number % 100))
