"""What a person sees of mounts and copies: tables that fit, and one line about a copy."""

import io
import time
from dataclasses import replace

import pytest

from apexgpu.copying import CopyResult, CopySummary, Method
from apexgpu.mount import Mount, Mounted, MountList, MountState
from apexgpu.render.copying import show_copy
from apexgpu.render.mount import show_list, show_mounted
from apexgpu.render.screen import Screen

ALIVE = Mount(
    host="gpu7",
    directory="/home/alice/apexgpu/gpu7",
    remote="/home/alice",
    since=time.time() - 7200,
    state=MountState.ALIVE,
)
STALE = Mount(
    host="gpu12",
    directory="/home/alice/a rather long name of a directory",
    remote="/SSD/alice/data/实验",
    read_only=True,
    state=MountState.STALE,
    reason="it does not answer within 2 s",
)


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_no_row_of_the_mounts_wraps_and_the_state_is_kept(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = Terminal()
    screen = Screen(out=out, err=io.StringIO(), environment={"NO_COLOR": "1"})
    show_list(MountList((ALIVE, STALE)), screen)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert "STATE" in lines[0]
    assert "alive" in lines[1]
    assert "stale" in lines[2]


def test_a_pipe_gets_every_column_and_stderr_the_reason() -> None:
    out, err = io.StringIO(), io.StringIO()
    # In whole hours, so that the seconds which a busy machine takes until here do not show.
    alive_for_days = replace(ALIVE, since=time.time() - 2 * 86400 - 1800)
    show_list(MountList((alive_for_days, STALE)), Screen(out=out, err=err, environment={}))
    header, alive, stale = out.getvalue().splitlines()
    assert header.split() == ["HOST", "DIRECTORY", "REMOTE", "STATE", "SINCE", "MODE"]
    assert alive.endswith("alive  2 d    read-write")
    assert stale.endswith("stale  -      read-only")
    assert "is stale: it does not answer within 2 s" in err.getvalue()
    assert "hint: apexgpu mounts repair" in err.getvalue()


@pytest.mark.parametrize(
    ("changed", "note"),
    [(True, "to unmount: apexgpu unmount gpu12"), (False, "nothing to do: it is mounted already")],
)
def test_a_mount_is_shown_with_what_is_mounted(changed: bool, note: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    show_mounted(Mounted(STALE, changed), Screen(out=out, err=err, environment={}))
    assert out.getvalue() == f"{STALE.directory}  →  gpu12:/SSD/alice/data/实验 (read-only)\n"
    assert err.getvalue() == f"{note}\n"


@pytest.mark.parametrize(
    ("summary", "line"),
    [
        (
            CopySummary(Method.SFTP, 1, 1024, 0, 0, 0, 0.5, ("/a",)),
            "✓ /a: up to date (1 file, 1.0 KiB)\n",
        ),
        (
            CopySummary(Method.RSYNC, 2, 4 << 20, 2 << 20, 2, 0, 2.0, ("/a", "/a", "/b")),
            "✓ /a, /b: 2 files, 4.0 MiB; 2.0 MiB sent in 2.0 s at 1.0 MiB/s (rsync)\n",
        ),
        (
            CopySummary(Method.SFTP, 4, 4, 4, 4, 1, 0.5, ("/a", "/b", "/c", "/d")),
            "warning: skipped 1 special file (sockets, pipes, devices)\n"
            "✓ 4 files in /: 4 B; 4 B sent in 0.5 s (sftp)\n",
        ),
    ],
)
def test_a_copy_is_one_line(summary: CopySummary, line: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    show_copy(CopyResult("gpu7", summary), Screen(out=out, err=err, environment={}))
    assert (out.getvalue(), err.getvalue()) == ("", line)
