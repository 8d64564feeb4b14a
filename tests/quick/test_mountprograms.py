"""What mounts on each system, and its command lines, each with its source."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from apexgpu.errors import ApexError, MissingProgramError
from apexgpu.models import Host, Target
from apexgpu.process import Completed, LocalRunner
from apexgpu.sshfs import mountcommands, mountprograms
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
    ("said", "version", "fuse"),
    [
        ("SSHFS version 3.7.3\nFUSE library version 3.14.0\n", (3, 7, 3), ""),
        ("SSHFS version 2.10\nFUSE library version: 2.9.9\n", (2, 10), ""),
        ("SSHFS version 2.5 (OSXFUSE SSHFS 2.5.0)\nOSXFUSE 3.11.2\n", (2, 5), "OSXFUSE"),
        ("rclone v1.68.2\n- os/version: darwin 15.1\n", (1, 68, 2), ""),
        ("something else", (), ""),
    ],
)
def test_versions(said: str, version: tuple[int, ...], fuse: str) -> None:
    assert mountprograms.parse_version(said) == (version, fuse)


@pytest.mark.parametrize(
    ("platform", "release", "line"),
    [
        ("linux", 'PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\n', "sudo apt install sshfs"),
        ("linux", "ID=ubuntu\nID_LIKE=debian\n", "sudo apt install sshfs"),
        ("linux", 'ID=linuxmint\nID_LIKE="ubuntu debian"\n', "sudo apt install sshfs"),
        ("linux", "ID=fedora\n", "sudo dnf install fuse-sshfs"),
        (
            "linux",
            'ID="rocky"\nID_LIKE="rhel centos fedora"\n',
            "sudo dnf install epel-release && sudo dnf install fuse-sshfs",
        ),
        ("linux", "ID=arch\n", "sudo pacman -S sshfs"),
        ("linux", 'ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "sudo zypper install sshfs"),
        ("linux", "ID=alpine\n", "sudo apk add sshfs"),
        ("linux", "", "sudo apt install sshfs"),
        # README of FUSE-T; macFUSE's wiki and Homebrew's cask
        (
            "darwin",
            "",
            "brew install macos-fuse-t/homebrew-cask/fuse-t macos-fuse-t/homebrew-cask/fuse-t-sshfs",
        ),
        ("darwin", "", "brew install --cask macfuse && brew install gromgit/fuse/sshfs-mac"),
        # README of SSHFS-Win, "Installation"
        (
            "win32",
            "",
            "winget install -h -e --id WinFsp.WinFsp && winget install -h -e --id SSHFS-Win.SSHFS-Win",
        ),
    ],
)
def test_what_installs_it(platform: str, release: str, line: str) -> None:
    error = mountprograms.not_installed(platform, release)
    assert isinstance(error, MissingProgramError)
    assert error.exit_code == 127
    assert error.hint is not None
    if "macfuse" in line:  # the second choice is in the message: a hint is one command
        assert line in error.message
    else:
        assert error.hint == line


@pytest.mark.parametrize(
    ("program", "platform", "part"),
    [
        (MountProgram(ProgramKind.SSHFS, "x", (3, 7, 3)), "linux", ""),
        (MountProgram(ProgramKind.SSHFS, "x", (2, 8)), "linux", ""),
        (
            MountProgram(ProgramKind.SSHFS, "x", (3, 2, 0)),
            "linux",
            "writeback",
        ),  # ChangeLog of sshfs, 3.3.0
        (MountProgram(ProgramKind.SSHFS, "x", (2, 4)), "linux", "before 2.5"),
        (MountProgram(ProgramKind.SSHFS, "x", (2, 5), "OSXFUSE"), "darwin", "OSXFUSE"),
        (
            MountProgram(ProgramKind.RCLONE, "x", (1, 64)),
            "darwin",
            "1.65",
        ),  # ChangeLog of rclone: nfsmount is new in 1.65
        (MountProgram(ProgramKind.RCLONE, "x", (1, 68)), "darwin", "cache"),
    ],
)
def test_what_is_known_to_be_bad(program: MountProgram, platform: str, part: str) -> None:
    found = mountprograms.known_problem(program, platform=platform)
    assert (part in found) if part else found == ""


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
def test_what_sshfs_says_in_our_words(said: str, code: int, part: str) -> None:
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


class Ssh(LocalRunner):
    """An ssh that says what it is told to say."""

    def __init__(self, version: str, default: str = "a,b") -> None:
        self._version, self._default = version, default

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 30,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        assert argv[0] == "ssh"
        if argv[1] == "-V":
            return Completed(tuple(argv), 0, b"", self._version.encode())
        return Completed(tuple(argv), 0, f"user x\nciphers {self._default}\nmacs m\n".encode(), b"")


@pytest.mark.parametrize(
    ("version", "configured", "cpu", "found"),
    [
        ("OpenSSH_9.2p1 Debian-2", "a,b", "flags\t\t: fpu aes avx\n", "^aes128-gcm@openssh.com"),
        ("OpenSSH_for_Windows_9.5p1", "a,b", None, "^aes128-gcm@openssh.com"),
        ("OpenSSH_9.2p1", "b", "flags\t\t: fpu aes avx\n", ""),  # the user has chosen
        ("OpenSSH_9.2p1", "a,b", "flags\t\t: fpu avx\n", ""),
        ("OpenSSH_9.2p1", "a,b", "Features\t: fp asimd aes pmull\n", "^aes128-gcm@openssh.com"),
        (
            "OpenSSH_7.9p1",
            "a,b",
            "flags\t\t: aes\n",
            "",
        ),  # ssh_config(5) of 8.1 is the first with `^`
        ("what?", "a,b", "flags\t\t: aes\n", ""),
    ],
)
def test_the_quick_cipher_is_for_who_has_chosen_none(
    tmp_path: Path, version: str, configured: str, cpu: str | None, found: str
) -> None:
    if cpu is not None:
        (tmp_path / "cpuinfo").write_text(cpu)
    assert mountprograms.faster_ciphers(Ssh(version), configured, cpu=tmp_path / "cpuinfo") == found
