"""The figures on a long line (`python -m bench --rtt SECONDS`): whole commands against their peers on the same line."""

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.clock import Command, Timing, paired, paired_steps
from bench.farm import Farm, farm
from bench.figure import Figure
from bench.masters import masters
from bench.slowline import Address, Line

APEXGPU = str(Path(sys.executable).parent / "apexgpu")


@contextlib.contextmanager
def distant_farm(rtt: float, count: int, *, shells: bool = False) -> Iterator[Farm]:
    """As `farm`, with the servers at the other end of a line; with an `rtt` of 0 on loopback."""
    with farm(count, shells=shells) as near:
        if not rtt:
            yield near
            return
        with Line(rtt) as line:
            hosts = []
            known = near.directory / "known_hosts"
            key = known.read_text().split(" ", 1)[1].splitlines()[0]
            for host in near.hosts:
                relay = replace(host, address=_relay_address(host.address))
                line.lead(
                    Address(relay.address, host.manage_port),
                    Address(host.address, host.manage_port),
                )
                hosts.append(relay)
            known.write_text("".join(f"[{host.address}]:{host.port} {key}\n" for host in hosts))
            yield near.of(hosts)


def _relay_address(address: str) -> str:
    first, second, third, fourth = address.split(".")
    return f"{first}.{second}.{int(third) + 100}.{fourth}"


def single_commands(rtt: float, *, runs: int = 7) -> Iterator[Figure]:
    """`ssh` and `exec` on one host, cold and over an open master, against `ssh HOST true`."""
    with distant_farm(rtt, 1, shells=True) as hosts:
        cold, warm = hosts.environment(keep=False), hosts.environment(keep=True)
        name = hosts.hosts[0].name
        plain = ["ssh", "-F", str(hosts.config), name, "true"]
        ssh = [APEXGPU, "ssh", name, "--", "true"]
        execute = [APEXGPU, "exec", name, "--", "true"]
        found = paired(
            {
                "ssh": (plain, cold, b""),
                "apexgpu ssh": (ssh, cold, b""),
                "apexgpu exec": (execute, cold, b""),
            },
            runs=runs,
        )
        for ours, goal in (("apexgpu ssh", 1.15), ("apexgpu exec", 1.15)):
            yield _figure(f"{ours} HOST -- true, cold", "ssh", found, ours, "ssh", goal)
        with masters(hosts, warm, command=execute, targets=[name]) as path:
            over = ["-o", f"ControlPath={path}/%C", "-o", "ControlMaster=no"]
            found = paired(
                {
                    "ssh": ([*plain[:3], *over, *plain[3:]], warm, b""),
                    "apexgpu ssh": (ssh, warm, b""),
                    "apexgpu exec": (execute, warm, b""),
                },
                runs=runs,
            )
        for ours, goal in (("apexgpu ssh", 1.5), ("apexgpu exec", 1.5)):
            what = f"{ours} HOST -- true, repeated"
            yield _figure(what, "ssh over an open master", found, ours, "ssh", goal)


def statuses(rtt: float, count: int = 18, *, runs: int = 7) -> Iterator[Figure]:
    """`status` of many hosts against clush, and over open masters against `xargs -P ssh`."""
    with distant_farm(rtt, count) as hosts:
        cold, warm = hosts.environment(keep=False), hosts.environment(keep=True)
        names = [host.manage_name for host in hosts.hosts]
        lines = "".join(f"{name}\n" for name in names).encode()
        status = [APEXGPU, "status"]
        clush = ["clush", "-S", "-f", "64", "-o", f"-F {hosts.config}", "-w", ",".join(names)]
        found = paired(
            {"apexgpu": (status, cold, b""), "clush": ([*clush, "help"], cold, b"")}, runs=runs
        )
        what = f"status of {count} hosts"
        yield _figure(f"{what}, cold", "clush", found, "apexgpu", "clush", 0.95)
        with masters(hosts, warm, command=status, targets=names) as path:
            over = [
                "-F",
                str(hosts.config),
                "-o",
                f"ControlPath={path}/%C",
                "-o",
                "ControlMaster=no",
            ]
            xargs = ["xargs", "-P", "64", "-I{}", "ssh", *over, "{}", "help"]
            found = paired(
                {"apexgpu": (status, warm, b""), "xargs": (xargs, warm, lines)}, runs=runs
            )
        peer = "xargs -P ssh over open masters"
        yield _figure(f"{what}, repeated", peer, found, "apexgpu", "xargs", 1.2)


def mounts(rtt: float, *, runs: int = 7) -> Iterator[Figure]:
    """`mount` until it responds against `sshfs`, and `unmount` against `fusermount3 -u`."""
    with distant_farm(rtt, 1, shells=True) as hosts:
        env = hosts.environment(keep=False)
        name = hosts.hosts[0].name
        ours, plain = hosts.directory / "ours", hosts.directory / "plain"
        plain.mkdir()
        remote = hosts.directory / "files"
        remote.mkdir()
        steps: dict[str, Sequence[Command]] = {
            "apexgpu": [
                ([APEXGPU, "mount", name, str(ours), "--remote", str(remote)], env, b""),
                ([APEXGPU, "unmount", str(ours)], env, b""),
            ],
            "sshfs": [
                (["sshfs", "-F", str(hosts.config), f"{name}:{remote}", str(plain)], env, b""),
                (["fusermount3", "-u", str(plain)], env, b""),
            ],
        }
        found = paired_steps(steps, runs=runs)
    mounted = {who: timings[0] for who, timings in found.items()}
    unmounted = {who: timings[1] for who, timings in found.items()}
    yield _figure("mount until it responds", "sshfs", mounted, "apexgpu", "sshfs", 1.5)
    seconds = unmounted["apexgpu"].wall
    raw = f"{seconds:.2f} s; fusermount3 -u: {unmounted['sshfs'].wall:.2f} s"
    pair = (seconds, unmounted["sshfs"].wall)
    yield Figure("unmount, seconds", "fusermount3 -u", seconds, 0.5, raw, pair)


def copies(rtt: float, *, runs: int = 5) -> Iterator[Figure]:
    """`cp` of small files and of a large one, of nothing new, and of a glob, against rsync."""
    with distant_farm(rtt, 1, shells=True) as hosts:
        env, name = hosts.environment(keep=False), hosts.hosts[0].name
        here, far = hosts.directory / "here", hosts.directory / "far"
        far.mkdir()
        _make_files(here)
        rsync = f"rsync -a -e {shlex.quote(f'ssh -F {hosts.config}')}"
        ours = f"{APEXGPU} cp"
        fresh = f"rm -rf {far}/x;"
        rows = [
            ("cp of 300 files of 2 kB", "small", fresh, 1.3),
            ("cp of 300 files, nothing to do", "small", "", 1.3),
            ("cp of 30 MB", "large", fresh, 1.3),
        ]
        for what, source, before, goal in rows:
            # A slash at the end of the target: both put the source into it, also the second time.
            commands = {
                "apexgpu": f"{before} {ours} {here}/{source} {name}:{far}/x/",
                "rsync": f"{before} {rsync} {here}/{source} {name}:{far}/x/",
            }
            yield from _shell_figures(what, commands, env, goal, runs)
        fresh = f"rm -rf {far}/y; mkdir {far}/y;"
        pattern = shlex.quote(f"{name}:{here}/csv/*.csv")
        commands = {
            "apexgpu": f"{fresh} {ours} {pattern} {far}/y/",
            "rsync": f"{fresh} {rsync} {pattern} {far}/y/",
        }
        yield from _shell_figures("cp 'HOST:dir/*.csv' . of 100 files", commands, env, 1.5, runs)


def _shell_figures(
    what: str, commands: dict[str, str], env: dict[str, str], goal: float, runs: int
) -> Iterator[Figure]:
    found = paired(
        {who: (["sh", "-c", line], env, b"") for who, line in commands.items()}, runs=runs
    )
    yield _figure(what, "rsync -a", found, "apexgpu", "rsync", goal)


def _make_files(here: Path) -> None:
    for directory in ("small", "csv"):
        (here / directory).mkdir(parents=True)
    for number in range(300):
        (here / "small" / f"{number}.txt").write_bytes(os.urandom(2000))
    for number in range(100):
        (here / "csv" / f"{number}.csv").write_bytes(os.urandom(2000))
    (here / "large").write_bytes(os.urandom(30_000_000))


def _figure(
    what: str, against: str, found: Mapping[str, Timing], ours: str, peer: str, goal: float
) -> Figure:
    mine, other = found[ours].wall, found[peer].wall
    raw = f"{mine * 1000:.0f} / {other * 1000:.0f} ms"
    return Figure(what, against, mine / other, goal, raw, (mine, other))


ON_A_LINE: dict[str, Callable[..., Iterator[Figure]]] = {
    "ssh": single_commands,
    "status": statuses,
    "mount": mounts,
    "copy": copies,
}
