"""Every table as a person sees it, in terminals of 60, 80 and 140 columns: text files, compared whole.

`APEXGPU_WRITE_SCREENS=1 .venv/bin/pytest tests/quick/test_screens.py` writes them anew. Look at each before you commit it.
"""

import io
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from apexgpu.archives.catalog import Archive
from apexgpu.backups import SnapshotList
from apexgpu.containers import ContainerStatus, Statuses
from apexgpu.detached.containerruns import Run, RunState
from apexgpu.errors import UnreachableError
from apexgpu.explain import list_codes
from apexgpu.forwarding.records import Forward, Tunnel, TunnelState
from apexgpu.gpus import GpuList, HostGpus
from apexgpu.manageshell.manage import HostStatus
from apexgpu.models import Container, Host, Outcome
from apexgpu.mount import MountList
from apexgpu.nvidia import smi
from apexgpu.remote.disks import Disk
from apexgpu.render import backups, containers, explain, gpus, lab, mount, runs, software, tunnels
from apexgpu.render.screen import Screen
from apexgpu.runs import HostRuns, RunList
from apexgpu.session import Session
from apexgpu.software import list_recipes
from apexgpu.sshfs.mounts import Mount, MountState
from apexgpu.tunnels import TunnelList
from apexgpu_lab.lab import list_faults

DATA = Path(__file__).parent.parent / "data"
NOW = 1_764_000_000.0
HOSTS = [Host(f"gpu{number}", f"10.0.0.{number}", "alice", 22001) for number in (2, 3, 5, 7, 16)]
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def status() -> Statuses:
    disks = (
        Disk("/SSD", "/dev/sdb1", 960 << 30, 12 << 30),
        Disk("/NAS", "nas:/volume1/everyone", 80 << 40, 31 << 40),
    )
    running = Container("RUNNING", 4242, ("10.0.3.5",), 3 << 30)
    return Statuses(
        [
            Outcome(HOSTS[0], ContainerStatus(HostStatus(True, running, 93784.0, disks))),
            Outcome(HOSTS[1], ContainerStatus(HostStatus(True, Container("STOPPED")))),
            Outcome(HOSTS[2], ContainerStatus(HostStatus(False))),
            Outcome(HOSTS[3], None, UnreachableError("gpu7 (10.0.0.7): no answer in time")),
            Outcome(HOSTS[4], ContainerStatus(HostStatus(True, running, 60.0, reachable=False))),
        ],
        {},
    )


def gpu_list() -> GpuList:
    text = (DATA / "nvidia-smi/q-390.48.txt").read_text()
    report = smi.report(text.splitlines(), 0, "gpu2")
    return GpuList(
        [
            Outcome(HOSTS[0], HostGpus((report,))),
            Outcome(HOSTS[3], None, UnreachableError("gpu7 (10.0.0.7): no answer in time")),
        ]
    )


def run_list() -> RunList:
    def run(name: str, state: RunState, **more: Any) -> Run:
        fields: dict[str, Any] = {"began": int(NOW) - 7300, **more}
        return Run(name, "id", state, "python train.py", "/home/alice", **fields)

    return RunList(
        [
            Outcome(
                HOSTS[0],
                HostRuns(
                    (
                        run(
                            "resnet50-batch256",
                            RunState.RUNNING,
                            gpu=1,
                            cpu=398.0,
                            memory=12 << 30,
                            gpu_memory=10 << 30,
                            last_line="epoch 12  loss 0.0431  验证集准确率 0.934  eta 3 h",
                        ),
                        run("short", RunState.DONE, ended=int(NOW) - 60, exit=0, last_line="done"),
                        run("bad", RunState.FAILED, ended=int(NOW) - 90, exit=1, last_line="nan"),
                    )
                ),
            )
        ]
    )


def snapshot_list() -> SnapshotList:
    def archive(name: str, label: str, **more: Any) -> Archive:
        path = f"/NAS/Workspaces/lxc-snapshot/{name}.tar.gz"
        return Archive(name, "gpu2", label, path, 21 << 30, int(NOW) - 86400, 0o600, **more)

    return SnapshotList(
        archives=[
            archive("alice-gpu2-before-upgrade", "before-upgrade", verified=int(NOW) - 80000),
            archive("alice-gpu2-20251122-181500", "", damage="gzip: unexpected end of file"),
            archive("alice-gpu2-升级前", "升级前"),
        ],
        free=31 << 40,
        writable=True,
        directory="/NAS/Workspaces/lxc-snapshot",
        server_path="/NAS/Workspaces/lxc-snapshot/alice.tar.gz",
        seen_from="gpu2",
    )


def tunnel_list() -> TunnelList:
    def tunnel(host: str, port: int, state: TunnelState, **more: Any) -> Tunnel:
        forwards = (Forward(port, str(port)),)
        return Tunnel(
            f"{host}-{port}", host, forwards, 4242, NOW - 9000, True, state, NOW - 90, **more
        )

    return TunnelList(
        [
            tunnel("gpu2", 6006, TunnelState.UP, bytes_carried=123456789),
            tunnel("gpu16", 8888, TunnelState.WAITING, reconnects=3, reason="no answer in time"),
        ]
    )


def mount_list() -> MountList:
    return MountList(
        (
            Mount(
                "gpu2",
                "/home/alice/apexgpu/gpu2",
                "/home/alice",
                False,
                NOW - 90,
                1,
                MountState.ALIVE,
            ),
            Mount(
                "gpu16",
                "/home/alice/数据/gpu16",
                "/SSD/alice",
                True,
                NOW - 9000,
                2,
                MountState.STALE,
                "it does not answer within 2 s",
            ),
        )
    )


def rows_of(module: ModuleType, result: Any) -> Callable[[Screen], None]:
    """What draws the table whose rows arrive host by host."""
    view = module.ROWS[type(result)]

    def draw(screen: Screen) -> None:
        rows = [row for outcome in result.outcomes for row in view.rows(outcome, True)]
        screen.table(view.columns, rows, styles=view.styles)

    return draw


def view_of(module: ModuleType, result: Any) -> Callable[[Screen], None]:
    return lambda screen: module.VIEWS[type(result)](result, screen)


SCREENS: dict[str, Callable[[], Sequence[Callable[[Screen], None]]]] = {
    "status": lambda: [rows_of(containers, status()), view_of(containers, status())],
    "gpus": lambda: [rows_of(gpus, gpu_list())],
    "runs": lambda: [rows_of(runs, run_list())],
    "snapshots": lambda: [view_of(backups, snapshot_list())],
    "tunnels": lambda: [view_of(tunnels, tunnel_list())],
    "mounts": lambda: [view_of(mount, mount_list())],
    "setup-list": lambda: [view_of(software, list_recipes(Session()))],
    "lab-faults": lambda: [view_of(lab, list_faults())],
    "explain": lambda: [view_of(explain, list_codes())],
}


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("name", SCREENS)
def test_a_table_looks_as_it_was_looked_at(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: NOW)
    terminal = Terminal()
    # Notes and errors are on the same terminal.
    screen = Screen(out=terminal, err=terminal, stdin=io.StringIO(), environment={"TERM": "xterm"})
    for draw in SCREENS[name]():
        draw(screen)
    text = COLOURS.sub("", terminal.getvalue())
    lines = [line.rstrip() for line in text.splitlines()]
    text = "\n".join(lines) + "\n"
    file = DATA / "screens" / f"{name}-{width}.txt"
    if "APEXGPU_WRITE_SCREENS" in os.environ:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()
