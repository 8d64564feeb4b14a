"""Which program mounts on each system: its version, how to install it, what is wrong with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from apexgpu.errors import MissingProgramError
from apexgpu.process import Completed, LocalRunner
from apexgpu.sshfs import mountprograms
from apexgpu.sshfs.mountprograms import MountProgram, ProgramKind


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
def test_the_version_is_read(said: str, version: tuple[int, ...], fuse: str) -> None:
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
            "winget install -h -e --id WinFsp.WinFsp; winget install -h -e --id SSHFS-Win.SSHFS-Win",
        ),
    ],
)
def test_the_command_that_installs_a_program(platform: str, release: str, line: str) -> None:
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
def test_known_problems_of_a_version(program: MountProgram, platform: str, part: str) -> None:
    found = mountprograms.known_problem(program, platform=platform)
    assert (part in found) if part else found == ""


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
def test_the_faster_cipher_is_for_users_who_have_chosen_none(
    tmp_path: Path, version: str, configured: str, cpu: str | None, found: str
) -> None:
    if cpu is not None:
        (tmp_path / "cpuinfo").write_text(cpu)
    assert mountprograms.faster_ciphers(Ssh(version), configured, cpu=tmp_path / "cpuinfo") == found
