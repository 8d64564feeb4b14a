"""Following a host: one connection for many looks, and the text that a container is to run."""

import shutil
import subprocess
from pathlib import Path

import pytest

from apexgpu.errors import (
    CommandTimeoutError,
    ConnectionLostError,
    DroppedError,
    RefusedError,
    UnreachableError,
)
from apexgpu.models import Host, Reply, Target
from apexgpu.nvidia import query, smi
from apexgpu.nvidia.smi import Report
from apexgpu.ssh.transport import Limits, OnLine

HOST = Host("gpu7", "127.0.0.1", "alice", 22001)
RECORDED = (Path(__file__).parent.parent / "data" / "nvidia-smi" / "q-390.48.txt").read_text()


class Link:
    """A transport that says these lines, and counts how often it was asked."""

    def __init__(self, *lines: str, error: DroppedError | None = None) -> None:
        self.lines, self.error, self.calls = lines, error, 0
        self.limits: Limits | None = None

    def run(
        self,
        target: Target,
        command: str,
        *,
        limits: Limits | None = None,
        on_line: OnLine | None = None,
        once: bool = False,
    ) -> Reply:
        assert target.role == "container"
        self.calls += 1
        self.limits = limits
        for line in self.lines:
            if on_line:
                on_line(line)
        if self.error:
            raise self.error
        return Reply(0, "\n".join(self.lines))


REPORT = [*RECORDED.splitlines(), "@@ 0"]


def test_following_is_one_connection_for_all_looks() -> None:
    link, seen = Link(*REPORT * 7), list[Report]()
    query.follow(link, HOST, seen.append, seconds=5, connect=10)
    assert link.calls == 1
    assert len(seen) == 7
    assert link.limits == Limits(
        connect=10,
        total=None,
        silence=query.PATIENCE + 5,
        output=query.MOST_OUTPUT,
        keeps_reading=True,
    )


def test_following_ends_at_the_first_trouble() -> None:
    link, seen = Link(*REPORT, "No devices were found", "@@ 6", *REPORT), list[Report]()
    with pytest.raises(RefusedError, match="sees no GPU"):
        query.follow(link, HOST, seen.append, seconds=5, connect=10)
    assert len(seen) == 1


def test_a_connection_that_is_lost_is_not_a_gpu_that_hangs() -> None:
    lost, late = ConnectionLostError("lost"), CommandTimeoutError("late")
    with pytest.raises(UnreachableError) as caught:
        query.look(Link(error=lost), HOST, connect=10)
    assert caught.value is lost
    with pytest.raises(UnreachableError) as caught:
        query.follow(Link(error=late), HOST, lambda _: None, seconds=5, connect=10)
    assert caught.value.code == "gpu_hangs"


class TestTheScript:
    def run(self, directory: Path, program: str, looks: int = 1) -> str:
        """What the script prints where nvidia-smi is this shell text."""
        script = directory / "nvidia-smi"
        script.write_text(f"#!/bin/sh\n{program}\n")
        script.chmod(0o755)
        done = subprocess.run(
            ["/bin/sh", "-c", query.command(looks, 0)],
            capture_output=True,
            timeout=30,
            check=True,
            env={"PATH": f"{directory}:/usr/bin:/bin"},
        )
        return done.stdout.decode().removeprefix("\n")  # see remotescript.apart

    def test_makes_the_recording_less_than_half_and_changes_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "said").write_text(RECORDED)
        said = self.run(tmp_path, f"cat {tmp_path}/said")
        assert len(said) < len(RECORDED) / 2
        assert smi.reports(said, "gpu7") == smi.reports(f"{RECORDED}\n@@ 0\n", "gpu7")

    def test_looks_as_often_as_it_is_told(self, tmp_path: Path) -> None:
        assert self.run(tmp_path, "echo hello", looks=4) == "hello\n@@ 0\n" * 4

    def test_hands_on_what_a_failing_program_says(self, tmp_path: Path) -> None:
        assert self.run(tmp_path, r"printf '%s\n' 'a \n b' >&2; exit 18") == "a \\n b\n@@ 18\n"

    def test_says_127_where_there_is_none(self, tmp_path: Path) -> None:
        done = subprocess.run(
            ["/bin/sh", "-c", query.command(1, 0)],
            capture_output=True,
            timeout=30,
            check=True,
            env={"PATH": str(_tools(tmp_path))},
        )
        assert done.stdout.decode().splitlines()[-1] == "@@ 127"

    def test_ends_when_nobody_listens_any_more(self, tmp_path: Path) -> None:
        script = tmp_path / "nvidia-smi"
        script.write_text("#!/bin/sh\necho hello\n")
        script.chmod(0o755)
        words = ["/bin/sh", "-c", query.command(100_000_000, 0)]
        path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=path
        ) as child:
            assert child.stdout
            assert child.stdout.readline() == b"\n"
            assert child.stdout.readline() == b"hello\n"
            child.stdout.close()
            assert child.wait(30) != 0


def _tools(directory: Path) -> Path:
    """A PATH that holds a shell and its tools, and surely no nvidia-smi."""
    for name in ("sh", "sed", "sleep"):
        (directory / name).symlink_to(shutil.which(name) or name)
    return directory
