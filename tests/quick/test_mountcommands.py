"""The command lines that mount and unmount on each system, each with its source."""

from pathlib import Path

import pytest

from apexgpu.errors import ApexError
from apexgpu.models import Host, Target
from apexgpu.sshfs import mountcommands
from apexgpu.sshfs.mountcommands import MountRequest
from apexgpu.sshfs.mountprograms import MountProgram, ProgramKind

TARGET = Target(Host("gpu7", "10.1.2.7", "alice", 22001), "container")
CONFIG = Path("/home/alice/my config")
# sshfs(1): -o SSHOPT=VAL. The ssh of a mount asks nothing, shares no connection, and notices within 16 s that it died.
SSH = [
    "-o",
    "StrictHostKeyChecking=yes",
    "-o",
    "HostName=10.1.2.7",
    "-o",
    "Port=22001",
    "-o",
    "BatchMode=yes",
    "-o",
    "PermitLocalCommand=no",
    "-o",
    "ControlPath=none",
    "-o",
    "ConnectTimeout=5",
    "-o",
    "ConnectionAttempts=1",
    "-o",
    "ServerAliveInterval=4",
    "-o",
    "ServerAliveCountMax=3",
]
# sshfs(1): idmap, reconnect, ssh_command; mount.fuse3(8) and mount.fuse(8): auto_cache, ac_attr_timeout, attr_timeout.
FUSE = [
    "-o",
    "idmap=user",
    "-o",
    "reconnect",
    "-o",
    "auto_cache",
    "-o",
    "ac_attr_timeout=0",
    "-o",
    "attr_timeout=0.1",
]
COMMAND = ["-o", "ssh_command=ssh -T -o RemoteCommand=none -o RequestTTY=no -o Tunnel=no"]


@pytest.mark.parametrize(
    ("platform", "program", "words"),
    [
        # sshfs(1) of 3.7 and of 2.5: sshfs [user@]host:[dir] mountpoint [options]; -F: another ssh config
        (
            "linux",
            MountProgram(ProgramKind.SSHFS, "/usr/bin/sshfs", (3, 7, 3)),
            ["/usr/bin/sshfs", "alice@gpu7:/data", "/m", "-F", str(CONFIG), *SSH, *FUSE, *COMMAND],
        ),
        (
            "linux",
            MountProgram(ProgramKind.SSHFS, "/usr/bin/sshfs", (2, 5)),
            ["/usr/bin/sshfs", "alice@gpu7:/data", "/m", "-F", str(CONFIG), *SSH, *FUSE, *COMMAND],
        ),
        # macFUSE's wiki, "Mount Options": volname; FUSE-T's README: "drop-in replacement", its sshfs takes the same
        (
            "darwin",
            MountProgram(ProgramKind.SSHFS, "/usr/local/bin/sshfs", (3, 7, 3), "macFUSE"),
            [
                "/usr/local/bin/sshfs",
                "alice@gpu7:/data",
                "/m",
                "-F",
                str(CONFIG),
                *SSH,
                *FUSE,
                "-o",
                "volname=gpu7",
                "-o",
                "noappledouble",
                *COMMAND,
            ],
        ),
        (
            "darwin",
            MountProgram(ProgramKind.SSHFS, "/usr/local/bin/sshfs", (3, 7, 3), "FUSE-T"),
            [
                "/usr/local/bin/sshfs",
                "alice@gpu7:/data",
                "/m",
                "-F",
                str(CONFIG),
                *SSH,
                *FUSE,
                "-o",
                "volname=gpu7",
                *COMMAND,
            ],
        ),
        # https://rclone.org/commands/rclone_nfsmount/ (nfsmount, --daemon, --volname, --dir-cache-time,
        # --vfs-cache-mode); https://rclone.org/sftp/ (--sftp-ssh: a list split at blanks, quotes as in CSV)
        (
            "darwin",
            MountProgram(ProgramKind.RCLONE, "/opt/homebrew/bin/rclone", (1, 68)),
            [
                "/opt/homebrew/bin/rclone",
                "nfsmount",
                ":sftp:/data",
                "/m",
                "--sftp-ssh",
                f'ssh -F "{CONFIG}" -T -a -x {" ".join(SSH)} -o User=alice -o RemoteCommand=none '
                "-o ClearAllForwardings=yes gpu7",
                "--daemon",
                "--volname",
                "gpu7",
                "--dir-cache-time",
                "20s",
                "--vfs-cache-mode",
                "writes",
            ],
        ),
    ],
)
def test_the_command_line_that_mounts(
    platform: str, program: MountProgram, words: list[str]
) -> None:
    assert (
        mountcommands.mount_argv(
            program, MountRequest(TARGET, "/data", "/m", CONFIG), platform=platform
        )
        == words
    )


def test_the_command_line_of_windows() -> None:
    # README of SSHFS-Win, "Advanced Usage": sshfs.exe may be run directly. sshfs-win.c: -f, PATH=/bin, uid=-1,gid=-1,
    # rellinks, fstypename=SSHFS; paths as Cygwin's.
    program = MountProgram(
        ProgramKind.SSHFS_WIN, r"C:\MountProgram Files\SSHFS-Win\bin\sshfs.exe", (3, 5, 2)
    )
    request = MountRequest(
        TARGET, "/data", r"C:\Users\Alice\apexgpu\gpu7", Path(r"C:\Users\Alice\.ssh\config")
    )
    windows = [
        "-o",
        "uid=-1",
        "-o",
        "gid=-1",
        "-o",
        "rellinks",
        "-o",
        "fstypename=SSHFS",
        "-o",
        "volname=gpu7",
    ]
    assert mountcommands.mount_argv(program, request, platform="win32") == [
        program.path,
        "alice@gpu7:/data",
        request.directory,
        "-F",
        "/cygdrive/c/Users/Alice/.ssh/config",
        *SSH,
        *FUSE,
        *windows,
        "-o",
        COMMAND[1].replace("=ssh", "=/bin/ssh"),
        "-f",
    ]


@pytest.mark.parametrize(
    "program",
    [MountProgram(ProgramKind.SSHFS, "sshfs"), MountProgram(ProgramKind.RCLONE, "rclone")],
)
def test_the_users_own_options_count(program: MountProgram) -> None:
    # ssh_config(5): the first value counts; mount.fuse3(8): the last. Nothing gets before the check of host keys.
    own = (
        "noauto_cache,max_conns=2",
        "Ciphers=b",
        "StrictHostKeyChecking=no",
        "ServerAliveInterval=60",
    )
    request = MountRequest(TARGET, "", "/m", CONFIG, read_only=True, options=own, ciphers="^a")
    words = mountcommands.mount_argv(program, request, platform="linux")
    text = " ".join(words)
    order = [
        "StrictHostKeyChecking=yes",
        "StrictHostKeyChecking=no",
        "ServerAliveInterval=60",
        "ServerAliveInterval=4",
    ]
    assert [text.index(word) for word in order] == sorted(text.index(word) for word in order)
    if program.kind == "sshfs":
        assert words[-6:] == ["-o", "ro", "-o", "noauto_cache", "-o", "max_conns=2"]
        assert text.index("Ciphers=b") < text.index("Ciphers=^a")
    else:
        assert "--read-only" in words  # https://rclone.org/commands/rclone_nfsmount/
        assert words[-2:] == ["-o", "noauto_cache,max_conns=2"]


def test_no_word_of_the_ssh_command_needs_a_quote() -> None:
    # sshfs splits ssh_command at blanks and knows no quotes (sshfs.c, tokenize_on_space).
    assert not set(COMMAND[1]) & set("'\"\\,")


def test_no_mount_turns_host_key_checking_off() -> None:
    for program in (
        MountProgram(ProgramKind.SSHFS, "x"),
        MountProgram(ProgramKind.RCLONE, "x"),
        MountProgram(ProgramKind.SSHFS_WIN, "x"),
    ):
        for platform in ("linux", "darwin", "win32"):
            words = " ".join(
                mountcommands.mount_argv(
                    program, MountRequest(TARGET, "", "/m", CONFIG), platform=platform
                )
            )
            assert "StrictHostKeyChecking=yes" in words
            assert "UserKnownHostsFile" not in words


@pytest.mark.parametrize(
    ("platform", "directory", "force", "has", "words"),
    [
        # fusermount3(1), fusermount(1): -u, -z (lazy)
        ("linux", "/m", False, {"fusermount3", "fusermount"}, [["fusermount3", "-u", "/m"]]),
        ("linux", "/m", True, {"fusermount3"}, [["fusermount3", "-uz", "/m"]]),
        ("linux", "/m", False, {"fusermount"}, [["fusermount", "-u", "/m"]]),
        # umount(8)
        ("linux", "/m", True, set(), [["umount", "-l", "/m"]]),
        # umount(8), diskutil(8) of macOS
        ("darwin", "/m", False, set(), [["umount", "/m"]]),
        (
            "darwin",
            "/m",
            True,
            set(),
            [["umount", "-f", "/m"], ["diskutil", "unmount", "force", "/m"]],
        ),
        # README of SSHFS-Win: net use X: /delete; a directory goes with its process
        ("win32", "X:", False, set(), [["net", "use", "X:", "/delete", "/y"]]),
        ("win32", r"C:\m", False, set(), []),
    ],
)
def test_the_command_lines_that_unmount(
    platform: str, directory: str, force: bool, has: set[str], words: list[list[str]]
) -> None:
    found = mountcommands.unmount_argvs(
        directory, force=force, platform=platform, find=lambda name: name if name in has else None
    )
    assert found == words


@pytest.mark.parametrize(
    ("said", "code", "part"),
    [
        ("fuse: failed to open /dev/fuse: Permission denied", 6, "no permission to use /dev/fuse"),
        ("fuse: device not found, try 'modprobe fuse' first", 6, "no FUSE"),
        (
            "fusermount3: option allow_other only allowed if 'user_allow_other' is set in x",
            6,
            "allow_other",
        ),
        ("fusermount3: user has no write access to mountpoint /m", 6, "not yours"),
        ("mount_macfuse: the file system is not available (255)", 6, "system extension"),
        ("remote host has disconnected", 6, "closed the connection"),
        ("fuse: unknown option(s): `-o nonsense=3'", 2, "one of the options"),
        ("something new", 1, "something new"),
        ("", 1, "did not say why"),
    ],
)
def test_the_output_of_sshfs_becomes_our_error(said: str, code: int, part: str) -> None:
    error = mountcommands.mount_failure("gpu7", f"a line before\n{said}\n" if said else "")
    assert isinstance(error, ApexError)
    assert error.exit_code == code
    assert part in error.message
    assert error.hint
    assert "HOST" not in error.hint or "DIR" in error.hint


def test_paths_for_cygwin() -> None:
    assert (
        mountcommands.cygwin_path(r"C:\Users\Alice B\.ssh\config")
        == "/cygdrive/c/Users/Alice B/.ssh/config"
    )
    assert mountcommands.cygwin_path("/home/alice/config") == "/home/alice/config"
