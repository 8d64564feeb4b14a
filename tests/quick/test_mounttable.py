"""The tables of mounts of three systems, as their own tools print them."""

import json
import os
from pathlib import Path

import pytest

from apexgpu.models import Host
from apexgpu.sshfs import mountprocesses, mounts, mounttable, sshfscommand
from apexgpu.sshfs.mounttable import MountEntry
from apexgpu.sshfs.sshfscommand import SshfsProcess

GPU7 = Host("gpu7", "10.1.2.7", "alice", 22001)
GPU8 = Host("gpu8", "10.1.2.8", "alice", 22001)
IPV6 = Host("gpu9", "fd00::9", "alice", 22001)

# proc(5), /proc/pid/mountinfo; the rows of sshfs 3.7.3 on Linux 6.
MOUNTINFO = r"""24 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
42 24 0:39 / /home/alice/apexgpu/gpu7 rw,relatime - fuse.sshfs alice@gpu7:/home/alice rw,user_id=1000,group_id=1
43 24 0:40 / /home/alice/two\040words\012line ro,nodev - fuse.sshfs alice@gpu8:/a\040b\134c rw,user_id=1001,group_id=1
44 24 0:41 / /mnt/nfs rw,relatime - nfs4 gpu7:/export rw,vers=4.2
half a line
"""

# mount(8) of macOS, with macFUSE's sshfs, FUSE-T's (its wiki: the volume's name is the source) and a disk.
DARWIN = """/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
alice@gpu7:/home/alice on /Users/alice/apexgpu/gpu7 (macfuse, nodev, nosuid, synchronous, mounted by alice)
fuse-t:/gpu8 on /Users/alice/my (old) gpu8 (nfs, nodev, nosuid, read-only, mounted by alice)
map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)
"""

# README of SSHFS-Win, "Command Line".
NET_USE = r"""New connections will be remembered.


Status       Local     Remote                    Network

-------------------------------------------------------------------------------
             X:        \\sshfs\billziss@mac2018.local
                                                WinFsp.Np
             Y:        \\sshfs.r\alice@gpu8!22001\SSD\alice
                                                WinFsp.Np
OK           Z:        \\server\share            Microsoft Windows Network
The command completed successfully.
"""
SSHFS_WIN = r'"C:\Program Files\SSHFS-Win\bin\sshfs.exe" alice@gpu7:/home/alice "C:\Users\Alice B\apexgpu\gpu7" -F /cygdrive/c/c -o HostName=10.1.2.7 -o Port=22001 -f'


def test_linux() -> None:
    root, seven, eight, nfs = mounttable.parse_linux(MOUNTINFO)
    assert root == MountEntry("/", "/dev/vda1", "ext4", device="1")
    assert seven == MountEntry(
        "/home/alice/apexgpu/gpu7", "alice@gpu7:/home/alice", "fuse.sshfs", False, 1000, "39"
    )
    assert eight == MountEntry(
        "/home/alice/two words\nline", "alice@gpu8:/a b\\c", "fuse.sshfs", True, 1001, "40"
    )
    assert mounttable.find_container(nfs, [GPU7]) is None


def test_darwin() -> None:
    disk, seven, eight, _ = mounttable.parse_darwin(DARWIN)
    assert (disk.kind, disk.read_only) == ("apfs", True)
    assert mounttable.find_container(seven, [GPU7, GPU8]) == (GPU7, "/home/alice")
    assert (eight.directory, eight.read_only) == ("/Users/alice/my (old) gpu8", True)
    assert mounttable.find_container(eight, [GPU7, GPU8]) == (GPU8, "")
    assert mounttable.parse_darwin("") == []


def test_windows() -> None:
    processes = json.dumps(
        [{"ProcessId": 4711, "CommandLine": SSHFS_WIN}, {"ProcessId": 1, "CommandLine": None}]
    )
    seven, x, y = mounttable.parse_windows(processes, NET_USE)
    assert seven == MountEntry(r"C:\Users\Alice B\apexgpu\gpu7", "alice@gpu7:/home/alice", "sshfs")
    assert (x.directory, x.source) == ("X:", "billziss@mac2018.local:")
    assert mounttable.find_container(x, [GPU7, GPU8]) is None
    assert mounttable.find_container(y, [GPU7, GPU8]) == (GPU8, "SSD/alice")
    (one,) = sshfscommand.parse_windows_processes(
        json.dumps({"ProcessId": 4711, "CommandLine": SSHFS_WIN})
    )
    assert one == SshfsProcess(
        4711,
        r"C:\Users\Alice B\apexgpu\gpu7",
        None,
        "10.1.2.7",
        22001,
        "alice@gpu7:/home/alice",
        "/cygdrive/c/c",
    )
    assert (
        sshfscommand.parse_windows_processes("")
        == sshfscommand.parse_windows_processes("not JSON")
        == []
    )


@pytest.mark.parametrize(
    ("source", "sshfs", "found"),
    [
        ("alice@gpu7:", None, (GPU7, "")),
        ("gpu7:/a:b\nc", None, (GPU7, "/a:b\nc")),
        ("alice@10.1.2.8:/SSD", None, (GPU8, "/SSD")),  # the guide's way
        ("alice@[fd00::9]:/x", None, (IPV6, "/x")),
        ("alice@elsewhere:/x", None, None),
        ("gpu7", None, (GPU7, "")),
        ("/dev/sda1", None, None),
        # The same name in another lab: the sshfs that serves it says where it goes.
        ("alice@gpu7:/x", SshfsProcess(1, "/m", None, "10.1.2.7", 22001), (GPU7, "/x")),
        ("alice@gpu7:/x", SshfsProcess(1, "/m", None, "10.1.2.7", None), (GPU7, "/x")),
        ("alice@gpu7:/x", SshfsProcess(1, "/m", None, "10.1.2.7", 22002), None),
        ("alice@gpu7:/x", SshfsProcess(1, "/m", None, "10.9.9.9", 22001), None),
    ],
)
def test_whose_a_mount_is(
    source: str, sshfs: SshfsProcess | None, found: tuple[Host, str] | None
) -> None:
    assert (
        mounttable.find_container(MountEntry("/m", source, "fuse.sshfs"), [GPU7, GPU8, IPV6], sshfs)
        == found
    )


def test_of_mounts_on_top_of_each_other_the_last_is_seen() -> None:
    below, above = MountEntry("/m", "a", "ext4"), MountEntry("/m", "b", "fuse.sshfs")
    assert mounttable.entry_at([below, above], "/m") is above
    assert mounttable.entry_at([below], "/m/x") is None


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["sshfs", "gpu7:", "/m"], SshfsProcess(1, "/m", source="gpu7:")),
        (
            ["/usr/bin/sshfs", "-o", "ro", "gpu7:/x", "-p", "22001", "/m"],
            SshfsProcess(1, "/m", None, "", 22001, "gpu7:/x"),
        ),
        (
            ["sshfs", "-oport=5,HostName=h", "-f", "gpu7:", "/m", "-F", "c"],
            SshfsProcess(1, "/m", None, "h", 5, "gpu7:", "c"),
        ),
        (["sshfs", "gpu7:"], None),
        (["grep", "sshfs", "x"], None),
        ([], None),
    ],
)
def test_the_command_line_of_an_sshfs(words: list[str], found: SshfsProcess | None) -> None:
    assert sshfscommand.parse_command_line(words, 1) == found


def test_the_processes_of_macos() -> None:
    # ps(1) of macOS: lstart is what ctime(3) writes.
    text = """  501   501 Wed Nov 25 09:03:07 2026     /opt/bin/sshfs alice@gpu7:/x /Users/alice/gpu7 -o reconnect
  502   502 Wed Nov 25 09:03:07 2026     sshfs bob@gpu7:/x /Users/bob/gpu7
    1     0 Mon Nov  2 08:00:00 2026     /sbin/launchd
"""
    (one,) = mountprocesses.parse_darwin(text, 501)
    assert (one.pid, one.directory, one.source) == (501, "/Users/alice/gpu7", "alice@gpu7:/x")
    assert one.started is not None


@pytest.mark.parametrize("source", ["gpu7:/export", "10.1.2.7:/export"])
def test_a_real_nfs_export_of_a_host_is_none_of_ours(source: str) -> None:
    assert mounttable.find_container(MountEntry("/m", source, "nfs"), [GPU7]) is None


def test_another_users_mount_is_not_ours_to_list_or_unmount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = MountEntry("/mine", "alice@gpu7:/x", "fuse.sshfs", owner=os.getuid())
    theirs = MountEntry("/theirs", "alice@gpu7:/x", "fuse.sshfs", owner=os.getuid() + 1)
    monkeypatch.setattr(mounts, "read_table", lambda: [mine, theirs])
    assert [one.directory for one in mounts.find_mounts(tmp_path, [GPU7])] == ["/mine"]


def test_a_source_that_would_be_an_option_of_ssh_is_not_asked_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mountprocesses, "run_all", lambda commands: pytest.fail(str(commands)))
    for source in ("alice@-oProxyCommand=x:/p", "-F:/p", "/dev/sda1"):
        one = SshfsProcess(1, "/m", source=source)
        assert mountprocesses.with_address(one) == one
