"""The disks of a container, from what `df` says."""

import re
from pathlib import Path

from apexgpu.remote import remotescript
from apexgpu.remote.disks import Disk, parse_disks

RECORDED = (Path(__file__).parent.parent / "data" / "df-h.txt").read_text()
HEADER = "Filesystem 1024-blocks Used Available Capacity Mounted on\n"
_UNITS = {"K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}


def as_blocks(text: str) -> str:
    """The same mounts as `df -Pk` tells of them."""

    def blocks(size: str) -> str:
        return "0" if size == "0" else str(int(float(size[:-1]) * _UNITS[size[-1]]))

    lines = [HEADER.rstrip()]
    for line in text.splitlines()[1:]:
        device, size, used, free, share, path = line.split()
        lines.append(f"{device} {blocks(size)} {blocks(used)} {blocks(free)} {share} {path}")
    return "\n".join(lines) + "\n"


def test_a_recorded_host_shows_its_ssd_and_every_share_and_nothing_of_the_system() -> None:
    found = parse_disks(
        f"4711\n{as_blocks(RECORDED)}@disk /SSD\n{HEADER}/dev/sda2 430964736 160432128 249561088 40% /SSD\n"
        f"@disk /newNAS\n{HEADER}/dev/sda1 61865984 2726297 55574528 5% /\n"
    )
    paths = [one.path for one in found]
    assert paths[0] == "/SSD"
    assert paths[1].startswith("/newNAS/")
    assert paths[-3:] == ["/NAS/Dataset", "/NAS/Share", "/NAS/Workspaces"]
    assert len(paths) == 1 + len(re.findall(r" /(?:new)?NAS/", RECORDED))
    ssd = found[0]
    assert (ssd.device, ssd.size, ssd.free) == ("/dev/sda2", 411 * 1024**3, 238 * 1024**3)


def test_a_root_without_a_mount_stands_for_the_disk_it_lies_on() -> None:
    text = (
        f"{HEADER}/dev/sda1 1000 900 100 90% /\n@disk /SSD\n{HEADER}/dev/sda1 1000 900 100 90% /\n"
    )
    assert parse_disks(text) == (Disk("/SSD", "/dev/sda1", 1024_000, 102_400),)
    assert [disk.to_json() for disk in parse_disks(text)] == [
        {"path": "/SSD", "device": "/dev/sda1", "bytes": 1024_000, "free": 102_400}
    ]


def test_odd_lines_are_read_and_foreign_ones_left_alone() -> None:
    text = (
        "nas:/export of us  2000 1990 -5 101% /newNAS/my data\ntmpfs 5 0 5 0% /SSDs\n/dev/x - - - - /NAS\n"
        "df: /SSD: Stale file handle\n\x1b[1m\n"
    )
    assert parse_disks(text) == (Disk("/newNAS/my data", "nas:/export of us", 2_048_000, 0),)
    assert parse_disks("") == ()


def test_the_command_bounds_each_df_where_it_can() -> None:
    program = remotescript.text("disks.sh")
    assert program.count("$limit df") == 2
    assert "limit='timeout 5'" in program
