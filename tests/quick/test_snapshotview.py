"""What a person sees of the snapshots: a table that fits and whose names can be copied."""

import io

import pytest

from apexgpu.archives.catalog import Archive
from apexgpu.backups import SnapshotList
from apexgpu.render.backups import show_list
from apexgpu.render.screen import Screen
from apexgpu.text import width as cells

NAMES = ("alice-gpu2-20261101T080000Z", "alice-gpu12-20261128T142233Z")
SNAPSHOTS = SnapshotList(
    archives=tuple(
        Archive(
            name=name,
            host=name.split("-")[1],
            label="",
            path=f"/NAS/alice/snapshots/{name}.tar.gz",
            size=12_345_678_901,
            created=1_764_338_553,
            mode=0o644,
            verified=1_764_338_600,
        )
        for name in NAMES
    ),
    free=1 << 40,
    writable=True,
    directory="/NAS/alice/snapshots",
    server_path="/NAS/alice/snapshots/alice.tar.gz",
    seen_from="gpu2",
)


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_row_wraps_and_no_name_is_shortened(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = Terminal()
    screen = Screen(out=out, err=io.StringIO(), environment={"NO_COLOR": "1"})
    show_list(SNAPSHOTS, screen)
    header, *rows = out.getvalue().splitlines()
    assert "VERIFIED" in header
    assert len(rows) == len(NAMES)
    for name, row in zip(NAMES, rows, strict=True):
        assert row.startswith(name)
        assert cells(row) <= width


def test_a_pipe_gets_every_column() -> None:
    out = io.StringIO()
    show_list(SNAPSHOTS, Screen(out=out, err=io.StringIO(), environment={}))
    header = out.getvalue().splitlines()[0]
    assert header.split() == ["NAME", "HOST", "TIME", "SIZE", "VERIFIED", "OTHERS", "PATH"]
