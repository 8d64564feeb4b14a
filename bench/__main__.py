"""Measure and print every figure; exits 1 when a goal is missed.

python -m bench [NAME...]                   on loopback
python -m bench --rtt 0.05 [NAME...]        on a line with a round-trip time of 50 ms
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from apexgpu import process
from apexgpu.models import Host, Target
from apexgpu.ssh import controlmaster
from apexgpu.sshfiles import configblock
from bench.clock import paired
from bench.copies import copies
from bench.distance import ON_A_LINE
from bench.farm import Farm, farm
from bench.figure import Figure
from bench.forwards import idle, traffic
from bench.gpus import gpus_of_18
from bench.mounts import mounted

BIN = Path(sys.executable).parent
PYTHON = [sys.executable, "-c", "pass"]
APEXGPU = [str(BIN / "apexgpu")]


def start_up() -> Iterator[Figure]:
    """Start-up against a bare Python, CPU seconds."""
    with farm(3) as hosts:
        env = hosts.environment(keep=False)
        complete = {
            **env,
            "_APEXGPU_COMPLETE": "complete_bash",
            "COMP_WORDS": "apexgpu up gp",
            "COMP_CWORD": "2",
        }
        found = paired(
            {
                "python": (PYTHON, {}, b""),
                "--version": ([*APEXGPU, "--version"], env, b""),
                "completion of a host name": (APEXGPU, complete, b""),
                "a command (config restore)": ([*APEXGPU, "config", "restore"], env, b""),
                "--help": ([*APEXGPU, "--help"], env, b""),
            },
            runs=15,
        )
    base = found.pop("python")
    goals = {
        "--version": 1.5,
        "completion of a host name": 2.0,
        "a command (config restore)": 7.0,
        "--help": 8.0,
    }
    for name, timing in found.items():
        raw = f"{timing.wall * 1000:.0f} / {base.wall * 1000:.0f} ms"
        yield Figure(name, "python -c pass", timing.wall / base.wall, goals[name], raw)


def status_of_18() -> Iterator[Figure]:
    """`status` of 18 hosts, cold and repeated, against clush, pdsh and xargs ssh."""
    with farm(18) as hosts:
        cold, warm = hosts.environment(keep=False), hosts.environment(keep=True)
        names = ",".join(host.manage_name for host in hosts.hosts)
        lines = "".join(f"{host.manage_name}\n" for host in hosts.hosts).encode()
        ssh = ["-F", str(hosts.config)]
        clush = [str(_clush()), "-S", "-f", "64", "-o", " ".join(ssh), "-w", names, "help"]
        pdsh = ["pdsh", "-S", "-R", "ssh", "-f", "64", "-w", names, "help"]
        as_they_come = {
            **cold,
            "PDSH_SSH_ARGS_APPEND": f"{' '.join(ssh)} -o KexAlgorithms=sntrup761x25519-sha512@openssh.com",
        }
        found = paired(
            {
                "apexgpu": ([*APEXGPU, "status"], cold, b""),
                "clush": (clush, cold, b""),
                "pdsh": (pdsh, as_they_come, b""),
            },
            runs=7,
        )
        for peer, goal in (("clush", 0.8), ("pdsh", 0.5)):
            note = "the same key exchange" if peer == "clush" else "its key exchange as it comes"
            yield Figure(
                "status of 18 hosts, cold",
                f"{peer}, {note}",
                found["apexgpu"].wall / found[peer].wall,
                goal,
                f"{found['apexgpu'].wall * 1000:.0f} / {found[peer].wall * 1000:.0f} ms",
            )
        with masters(hosts, warm) as path:
            over = [*ssh, "-o", f"ControlPath={path}/%C", "-o", "ControlMaster=no"]
            xargs = ["xargs", "-P", "64", "-I{}", "ssh", *over, "{}", "help"]
            clush_warm = [
                str(_clush()),
                "-S",
                "-f",
                "64",
                "-o",
                " ".join(over).replace("%", "%%"),
                "-w",
                names,
                "help",
            ]
            found = paired(
                {
                    "apexgpu": ([*APEXGPU, "status"], warm, b""),
                    "xargs -P ssh": (xargs, warm, lines),
                    "clush": (clush_warm, warm, b""),
                },
                runs=9,
            )
        for peer, goal in (("xargs -P ssh", 1.3), ("clush", 0.5)):
            yield Figure(
                "status of 18 hosts, repeated",
                f"{peer}, open masters",
                found["apexgpu"].wall / found[peer].wall,
                goal,
                f"{found['apexgpu'].wall * 1000:.0f} / {found[peer].wall * 1000:.0f} ms",
            )


class masters:  # noqa: N801 - reads as the statement it is
    """Open masters for everybody: ours by a first `status`, the peers' by ssh itself."""

    def __init__(self, hosts: Farm, environment: dict[str, str], *, ours: bool = False) -> None:
        self._hosts, self._environment, self._ours = hosts, environment, ours
        self._path = hosts.directory / "cm"

    def __enter__(self) -> Path:
        self._path.mkdir()
        if self._ours:  # more than apexgpu opens by itself
            self._open_ours()
        subprocess.run(
            [*APEXGPU, "status"],
            env={**os.environ, **self._environment},
            check=True,
            capture_output=True,
        )
        for host in self._hosts.hosts:
            options = [
                "-F",
                str(self._hosts.config),
                "-o",
                f"ControlPath={self._path}/%C",
                "-o",
                "ControlMaster=yes",
            ]
            subprocess.run(
                ["ssh", *options, "-fN", "-o", "ControlPersist=60", host.manage_name],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + 30
        sockets = self._hosts.directory / "run" / "apexgpu"
        while len([one for one in sockets.iterdir() if one.is_socket()]) < len(self._hosts.hosts):
            if time.monotonic() > deadline:
                message = "the masters did not open"
                raise RuntimeError(message)
            time.sleep(0.05)
        return self._path

    def _open_ours(self) -> None:
        directory = self._hosts.directory / "run" / "apexgpu"
        directory.mkdir(mode=0o700)
        pool = controlmaster.ControlMasters(
            self._hosts.config, process.LocalRunner(), directory=directory
        )
        for host in self._hosts.hosts:
            target = Target(host, "manage")
            argv = controlmaster.master_argv(
                target, config=self._hosts.config, path=pool.path(target)
            )
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __exit__(self, *_: object) -> None:
        return None


# A process begins with the peak of the one that started it, so a small one has to.
_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def many_hosts() -> Iterator[Figure]:
    """256 hosts against 18: the time is at most linear, and the memory 1 MiB for each host."""
    walls = {}
    peaks = {}  # MiB
    for count in (18, 256):
        with farm(count) as hosts:
            env = hosts.environment(keep=False)
            said = subprocess.run(
                [sys.executable, "-c", _PEAK, *APEXGPU, "status"],
                env={**os.environ, **env},
                check=True,
                capture_output=True,
            ).stdout
            peaks[count] = int(said) / 1024
            walls[count] = paired({"apexgpu": ([*APEXGPU, "status"], env, b"")}, runs=3)["apexgpu"]
    ratio = walls[256].wall / walls[18].wall / (256 / 18)
    yield Figure(
        "256 hosts, a host",
        "18 hosts, a host",
        ratio,
        1.0,
        f"{walls[256].wall:.2f} / {walls[18].wall:.2f} s",
    )
    yield Figure(
        "256 hosts: memory for each host, MiB",
        "18 hosts",
        (peaks[256] - peaks[18]) / (256 - 18),
        1.0,
        f"{peaks[256]:.0f} / {peaks[18]:.0f} MiB",
    )


def warm_256() -> Iterator[Figure]:
    """256 hosts over open masters: the client's CPU seconds, its children's included."""
    with farm(256) as hosts:
        env = hosts.environment(keep=True)
        lines = "".join(f"{host.manage_name}\n" for host in hosts.hosts).encode()
        with masters(hosts, env, ours=True) as path:
            over = [
                "-F",
                str(hosts.config),
                "-o",
                f"ControlPath={path}/%C",
                "-o",
                "ControlMaster=no",
            ]
            found = paired(
                {
                    "apexgpu": ([*APEXGPU, "status"], env, b""),
                    "xargs": (
                        ["xargs", "-P", "64", "-I{}", "ssh", *over, "{}", "help"],
                        env,
                        lines,
                    ),
                },
                runs=3,
            )
        ours, theirs = found["apexgpu"].cpu, found["xargs"].cpu
        raw = f"{ours:.2f} / {theirs:.2f} s"
        yield Figure(
            "256 hosts, repeated: client CPU", "xargs -P ssh, open masters", ours / theirs, 0.1, raw
        )


_LIVING = """
import sys, time
from apexgpu.manageshell import manage
from apexgpu.session import Session
from apexgpu.ssh import fanout
session = Session()
session.flags["timeout"] = "4"
began = time.perf_counter()
last = began
def done(outcome):
    global last
    if outcome.ok:
        last = time.perf_counter()
fanout.each(session.hosts([]), lambda host: manage.status(session.transport, host), on_done=done)
print(last - began, time.perf_counter() - began)
"""


def one_dead() -> Iterator[Figure]:
    """17 living hosts and one that accepts and never speaks: the rows of the living, and the whole (limit 4 s)."""
    limit = 4.0
    with farm(17) as hosts, socket.create_server(("127.88.9.9", 0)) as dead:
        silent = Host(
            "gpu99", "127.88.9.9", hosts.hosts[0].user, dead.getsockname()[1], dead.getsockname()[1]
        )
        times: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
        for _ in range(6):
            for name, some in (("without", hosts.hosts), ("with", (*hosts.hosts, silent))):
                environment = hosts.of(some).environment(keep=False)
                said = subprocess.run(
                    [sys.executable, "-c", _LIVING],
                    env={**os.environ, **environment},
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
                living, whole = map(float, said.split())
                times[name].append((living, whole))
    without, with_ = (
        statistics.median(one for one, _ in times[name][1:]) for name in ("without", "with")
    )
    whole = statistics.median(whole for _, whole in times["with"][1:])
    raw = f"{with_ * 1000:.0f} / {without * 1000:.0f} ms"
    yield Figure(
        "a dead host among 18: rows of the living", "the same without it", with_ / without, 1.1, raw
    )
    yield Figure(
        "a dead host among 18: the whole",
        "its time limit",
        whole / limit,
        1.1,
        f"{whole:.2f} / {limit:g} s",
    )


def merge() -> Iterator[Figure]:
    """The merge of 34 names into files of 34 and 5,000 blocks, in milliseconds, and whether it is linear."""
    hosts = [Host(f"gpu{number}", f"10.1.0.{number}", "alice", 22001) for number in range(2, 19)]
    seconds = {}
    for blocks in (34, 5000):
        old = b"".join(
            b"Host h%d\n  HostName 10.0.0.1\n  User me\n" % number for number in range(blocks)
        )
        began = time.perf_counter()
        for _ in range(20):
            configblock.merge(old, hosts)
        seconds[blocks] = (time.perf_counter() - began) / 20
    yield Figure(
        "merge into 34 blocks, ms", "-", seconds[34] * 1000, 5.0, f"{seconds[34] * 1000:.2f} ms"
    )
    yield Figure(
        "merge into 5,000 blocks, ms",
        "-",
        seconds[5000] * 1000,
        5.0 * 5000 / 34,
        f"{seconds[5000] * 1000:.2f} ms",
    )


def _clush() -> Path:
    import shutil

    return Path(shutil.which("clush") or "clush")


ALL: dict[str, Callable[[], Iterator[Figure]]] = {
    "start": start_up,
    "status": status_of_18,
    "gpus": gpus_of_18,
    "many": many_hosts,
    "warm": warm_256,
    "dead": one_dead,
    "merge": merge,
    "tunnel": traffic,
    "idle": idle,
    "copy": copies,
    "mount": mounted,
}


def _chosen() -> Iterator[Figure]:
    parser = argparse.ArgumentParser(description="Measure apexgpu against its peers.")
    parser.add_argument("--rtt", type=float, default=0.0, help="seconds for a round trip")
    parser.add_argument("names", nargs="*", metavar="NAME")
    chosen = parser.parse_args()
    if chosen.rtt:
        for name in chosen.names or ON_A_LINE:
            yield from ON_A_LINE[name](chosen.rtt)
        return
    for name in chosen.names or ALL:
        yield from ALL[name]()


def main() -> int:
    """Print the table; 1 when a goal is missed."""
    missed = 0
    print("| what | against | ratio | goal | measured |\n|---|---|---|---|---|")
    for figure in _chosen():
        good = figure.value <= figure.goal
        missed += not good
        print(
            f"| {figure.what} | {figure.against} | {figure.value:.2f}{'' if good else ' **missed**'} "
            f"| ≤ {figure.goal:g} | {figure.raw} |",
            flush=True,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
