"""`mount` against sshfs as it comes, `ssh cat` and rsync: reading, reading again, writing, looking at 5,000 files."""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.farm import Farm, farm
from bench.figure import Figure

_APEXGPU = str(Path(sys.executable).parent / "apexgpu")
_BIG, _FILES, _RUNS = 128 * 2**20, 5000, 5


@dataclass(frozen=True)
class _Scene:
    """The files there, and the same directory as apexgpu mounts it and as sshfs does."""

    there: Path
    ours: Path
    plain: Path
    ssh: list[str]
    host: str


def mounted() -> Iterator[Figure]:
    """Seconds of ours over the other's, by turns. What is read is not in the laptop's memory, but for re-reading."""
    with _scene() as scene:
        far = f"{scene.host}:{scene.there}"
        read = {
            "apexgpu": lambda run: _read(scene.ours / "big"),
            "sshfs": lambda run: _read(scene.plain / "big"),
            "ssh cat": lambda run: _run(["ssh", *scene.ssh, scene.host, f"cat {scene.there}/big"]),
            "rsync": lambda run: _rsync(scene, f"{far}/big", scene.there / f"got{run}"),
        }
        yield from _figures(
            "mount: reading 128 MiB", read, {"ssh cat": 1 / 0.9, "sshfs": 1.05, "rsync": 1.05}
        )
        again = {
            "apexgpu": lambda run: _read(scene.ours / "big", cold=False),
            "sshfs": lambda run: _read(scene.plain / "big", cold=False),
        }
        yield from _figures("mount: reading it again", again, {"sshfs": 0.1})
        write = {
            "apexgpu": lambda run: _write(scene.ours / f"a{run}"),
            "sshfs": lambda run: _write(scene.plain / f"b{run}"),
            "rsync": lambda run: _rsync(scene, str(scene.there / "big"), f"{far}/c{run}"),
        }
        yield from _figures("mount: writing 128 MiB", write, {"sshfs": 1.05, "rsync": 1.05})
        stat = {
            "apexgpu": lambda run: _stat(scene.ours / f"small{run}"),
            "sshfs": lambda run: _stat(scene.plain / f"small{run}"),
            "rsync": lambda run: _run(
                ["rsync", "-rn", "--list-only", "-e", _shell(scene), f"{far}/small{run}/"]
            ),
        }
        yield from _figures("mount: stat of 5,000 files, one by one", stat, {"sshfs": 1.05})
        fresh = {
            "apexgpu": lambda run: _list(scene.ours / f"more{run}"),
            "sshfs": lambda run: _list(scene.plain / f"more{run}"),
            "rsync": stat["rsync"],
        }
        yield from _figures(
            "mount: list and stat of 5,000 files", fresh, {"sshfs": 1.05, "rsync": 5.0}
        )


def _figures(
    what: str, works: dict[str, Callable[[int], None]], goals: dict[str, float]
) -> Iterator[Figure]:
    times: dict[str, list[float]] = {name: [] for name in works}
    for run in range(_RUNS + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work(run)
            if run:
                times[name].append(time.perf_counter() - began)
    seconds = {name: statistics.median(some) for name, some in times.items()}
    for peer, goal in goals.items():
        raw = f"{seconds['apexgpu'] * 1000:.0f} / {seconds[peer] * 1000:.0f} ms"
        against = "sshfs as it comes" if peer == "sshfs" else peer
        yield Figure(what, against, seconds["apexgpu"] / seconds[peer], goal, raw)


@contextlib.contextmanager
def _scene() -> Iterator[_Scene]:
    with farm(1, shells=True) as hosts:
        there, plain = hosts.directory / "files", hosts.directory / "plain"
        for path in (there, plain):
            path.mkdir()
        (there / "big").write_bytes(os.urandom(_BIG))
        for run in range(_RUNS + 1):
            for kind in ("small", "more"):
                (there / f"{kind}{run}").mkdir()
                for number in range(_FILES):
                    (there / f"{kind}{run}" / str(number)).touch()
        ssh = ["-F", str(hosts.config)]
        name = hosts.hosts[0].name
        with _apexgpu(hosts, name, there) as ours:
            subprocess.run(["sshfs", *ssh, f"{name}:{there}", plain], check=True)
            try:
                yield _Scene(there, ours, plain, ssh, name)
            finally:
                subprocess.run(["fusermount3", "-u", plain], check=True)


@contextlib.contextmanager
def _apexgpu(hosts: Farm, name: str, there: Path) -> Iterator[Path]:
    ours = hosts.directory / "ours"
    env = {**os.environ, **hosts.environment(keep=False)}
    subprocess.run(
        [_APEXGPU, "mount", name, ours, "--remote", there], env=env, check=True, capture_output=True
    )
    try:
        yield ours
    finally:
        subprocess.run([_APEXGPU, "unmount", "--all"], env=env, check=True, capture_output=True)


def _read(path: Path, *, cold: bool = True) -> None:
    room = memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        if cold:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.readinto(room):
            pass


def _write(path: Path) -> None:
    block = os.urandom(1 << 20)
    with path.open("wb", buffering=0) as file:
        for _ in range(_BIG >> 20):
            file.write(block)


def _stat(directory: Path) -> None:
    for number in range(_FILES):
        (directory / str(number)).stat()


def _list(directory: Path) -> None:
    for entry in os.scandir(directory):
        entry.stat()


def _shell(scene: _Scene) -> str:
    return f"ssh {' '.join(scene.ssh)}"


def _rsync(scene: _Scene, source: str, target: Path | str) -> None:
    _run(["rsync", "--whole-file", "-e", _shell(scene), source, str(target)])
    if isinstance(target, Path):
        target.unlink()


def _run(argv: list[str]) -> None:
    subprocess.run(
        [shutil.which(argv[0]) or argv[0], *argv[1:]], check=True, stdout=subprocess.DEVNULL
    )
