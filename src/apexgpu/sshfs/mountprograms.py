"""What can mount a container on each system: which program, which version, its command lines. Argument lists are pure.

Sources: sshfs(1) 2.5, 3.7; FUSE's options mount.fuse3(8); fusermount3(1); SSHFS-Win's README and sshfs-win.c; FUSE-T's
README and wiki; `rclone nfsmount` and rclone's page on sftp; umount(8) and diskutil(8) of macOS.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apexgpu.errors import ApexError, MissingProgramError, RefusedError, UsageError
from apexgpu.models import Target
from apexgpu.process import Runner, TimedCommand, run_all, which
from apexgpu.ssh import sshoptions
from apexgpu.ssh.route import config_arguments
from apexgpu.text import last_line

# Seconds: a dead server is noticed within ALIVE * (COUNT + 1), and programs get an error then.
ALIVE, COUNT, CONNECT = 4, 3, 5
MARK = "APEXGPU_MOUNT"  # in the environment of sshfs and its ssh: which mount they belong to
_WINDOWS = r"C:\Program Files\SSHFS-Win\bin\sshfs.exe"
_AS_OF = "as of November 2026"
_BREW = "brew install --cask macfuse && brew install gromgit/fuse/sshfs-mac"
_FUSE_T = "brew install macos-fuse-t/homebrew-cask/fuse-t macos-fuse-t/homebrew-cask/fuse-t-sshfs"
_LINUX = (
    ("debian", "sudo apt install sshfs"),
    ("ubuntu", "sudo apt install sshfs"),
    ("fedora", "sudo dnf install fuse-sshfs"),
    ("rhel", "sudo dnf install epel-release && sudo dnf install fuse-sshfs"),
    ("arch", "sudo pacman -S sshfs"),
    ("suse", "sudo zypper install sshfs"),
    ("alpine", "sudo apk add sshfs"),
    ("gentoo", "sudo emerge net-fs/sshfs"),
    ("void", "sudo xbps-install fuse-sshfs"),
    ("nixos", "nix-env -iA nixos.sshfs"),
)


@dataclass(frozen=True, slots=True)
class Program:
    """A program that mounts: `kind` is sshfs, sshfs-win or rclone; `version` is empty where it does not tell."""

    kind: str
    path: str
    version: tuple[int, ...] = ()
    fuse: str = ""

    def __str__(self) -> str:
        """For people: `sshfs 3.7.3`."""
        return f"{self.kind} {'.'.join(map(str, self.version))}".strip() + (
            f" ({self.fuse})" if self.fuse else ""
        )


@dataclass(frozen=True, slots=True)
class Wish:
    """What to mount where. `remote` is the path there, `options` are the user's own `-o`, `ciphers` are ssh's."""

    target: Target
    remote: str
    directory: str
    config: Path
    read_only: bool = False
    options: tuple[str, ...] = ()
    ciphers: str = ""


def find(runner: Runner, *, platform: str = sys.platform) -> Program:
    """The program of this system; MissingProgramError with the lines that install one."""
    if platform == "win32":
        program = which("sshfs.exe") or _WINDOWS
        if not Path(program).exists():
            raise not_installed(platform, "")
        return Program("sshfs-win", program, *_version(runner, [program, "-V"]))
    path = which("sshfs")
    if path:
        return Program("sshfs", path, *_version(runner, [path, "-V"]))
    rclone = which("rclone") if platform == "darwin" else None
    if rclone:
        return Program("rclone", rclone, *_version(runner, [rclone, "version"]))
    release = Path("/etc/os-release")
    raise not_installed(platform, release.read_text() if release.exists() else "")


def quick_ciphers(runner: Runner, configured: str, *, cpu: Path = Path("/proc/cpuinfo")) -> str:
    """What to prefer where the user has chosen no cipher (`configured` is what `ssh -G` says): AES-GCM is quicker.

    Empty where it is not: a processor without AES, or an OpenSSH before 8.1, which cannot put one in front.
    """
    if cpu.exists() and not re.search(
        r"^(?:flags|Features)\s*:.*\baes\b", cpu.read_text(), re.MULTILINE
    ):
        return ""
    version = re.search(
        r"OpenSSH_\D*(\d+)\.(\d+)",
        runner.run(["ssh", "-V"], timeout=5).err.decode("utf-8", "replace"),
    )
    if version is None or (int(version[1]), int(version[2])) < (8, 1):
        return ""
    default = re.search(
        r"^ciphers (.*)$",
        runner.run(["ssh", "-F", "none", "-G", "x"], timeout=5).text,
        re.MULTILINE,
    )
    return "^aes128-gcm@openssh.com" if default and default[1] == configured else ""


def _version(runner: Runner, argv: Sequence[str]) -> tuple[tuple[int, ...], str]:
    try:
        done = runner.run(argv, timeout=5)
    except (ApexError, OSError):
        return (), ""
    return versions(done.text + done.err.decode("utf-8", "replace"))


def versions(text: str) -> tuple[tuple[int, ...], str]:
    """The version in the answer of `sshfs -V` or `rclone version`, and which FUSE it speaks with, if it says so."""
    found = re.search(r"(?:SSHFS version |rclone v)(\d+(?:\.\d+)*)", text, re.IGNORECASE)
    fuse = re.search(r"(FUSE-T|macFUSE|OSXFUSE)", text, re.IGNORECASE)
    return tuple(map(int, found[1].split("."))) if found else (), fuse[1] if fuse else ""


def not_installed(platform: str, os_release: str) -> MissingProgramError:
    """The error that says how to install what mounts, on `platform` (a `sys.platform` value)."""
    if platform == "darwin":
        message = f"no sshfs is installed ({_AS_OF}, `brew install sshfs` is for Linux only and fails on a Mac)"
        return MissingProgramError(
            message, hint=f"{_FUSE_T}   (without a kernel extension; with one: {_BREW})"
        )
    if platform == "win32":
        hint = f"winget install -h -e --id WinFsp.WinFsp && winget install -h -e --id SSHFS-Win.SSHFS-Win   ({_AS_OF})"
        return MissingProgramError("SSHFS-Win is not installed", hint=hint)
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', os_release, re.MULTILINE))
    names = f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".split()
    lines = [line for name in names for key, line in _LINUX if key in name]
    return MissingProgramError(
        "sshfs is not installed", hint=lines[0] if lines else "sudo apt install sshfs"
    )


def known_bad(program: Program, *, platform: str = sys.platform) -> str:
    """What is known to be wrong with this version, a sentence; empty when nothing is."""
    if program.kind == "rclone" and program.version < (1, 65):
        return "rclone has nfsmount since 1.65: brew upgrade rclone"
    if program.kind == "rclone":
        return "rclone's nfsmount keeps files that are written in a cache and sends them after they were closed"
    if platform == "darwin" and program.fuse.lower() == "osxfuse":
        return f"sshfs for OSXFUSE does not run on today's macOS ({_AS_OF}): {_FUSE_T}"
    if (3, 0) <= program.version < (3, 3):
        return "sshfs 3.0 to 3.2 can lose what is appended to a file (writeback cache): use 3.3 or newer"
    if program.version and program.version < (2, 5):
        return "sshfs before 2.5 does not know all options that are used here"
    return ""


def argv(program: Program, wish: Wish, *, platform: str = sys.platform) -> list[str]:
    """The command line that mounts. It returns when the mount is there, but for SSHFS-Win's, which stays."""
    if program.kind == "rclone":
        return _rclone(program, wish)
    target = wish.target
    config = config_arguments(wish.config)
    ssh = "ssh"
    if program.kind == "sshfs-win":
        # Its own ssh, by its path in Cygwin: Windows' cannot be spoken to over Cygwin's sockets. sshfs-win.c: PATH=/bin
        ssh, config = "/bin/ssh", ["-F", cygwin(str(wish.config))]
    words = [program.path, f"{target.user}@{target.alias}:{wish.remote}", wish.directory, *config]
    # What sshfs does not hand on to ssh by itself; it splits at blanks, and none of these has one.
    command = f"ssh_command={ssh} -T -o RemoteCommand=none -o RequestTTY=no -o Tunnel=no"
    # The user's own are to count: of ssh's options the first one does, of all others the last one.
    own = [part for option in wish.options for part in re.split(r"(?<!\\),", option)]
    for option in (
        sshoptions.KNOWN_HOST_KEY,
        *filter(_is_sshs, own),
        *_ssh_options(target),
        *([f"Ciphers={wish.ciphers}"] if wish.ciphers else []),
        *_options(program, target.alias, platform),
        command,
        *(["ro"] if wish.read_only else []),
        *(one for one in own if not _is_sshs(one)),
    ):
        words += ["-o", option]
    return [*words, "-f"] if program.kind == "sshfs-win" else words


def _is_sshs(option: str) -> bool:
    """Whether it is an option of ssh's, which begin with a capital; those of sshfs and FUSE do not."""
    return option[:1].isupper()


def _ssh_options(target: Target) -> list[str]:
    """sshfs(1): SSHOPT=VAL. A connection of its own, that asks nothing and notices within seconds that it is dead."""
    return [
        f"HostName={target.host.address}",
        f"Port={target.port}",
        sshoptions.NO_PROMPT,
        "PermitLocalCommand=no",
        "ControlPath=none",
        sshoptions.connect_timeout(CONNECT),
        "ConnectionAttempts=1",
        *sshoptions.keep_alive(ALIVE, COUNT),
    ]


def _options(program: Program, name: str, platform: str) -> list[str]:
    # auto_cache: what was read stays in memory, and is thrown away when the file's time or size is another at open;
    # ac_attr_timeout=0 makes sshfs look at each open instead of once a second, and attr_timeout=0.1 makes the kernel
    # believe a size for a tenth of a second instead of one (mount.fuse3(8)); 0 would make listings three times slower.
    options = ["idmap=user", "reconnect", "auto_cache", "ac_attr_timeout=0", "attr_timeout=0.1"]
    if program.kind == "sshfs-win":
        # sshfs-win.c: these make Windows' own user the owner, and links relative.
        return [*options, "uid=-1", "gid=-1", "rellinks", "fstypename=SSHFS", f"volname={name}"]
    return [*options, f"volname={name}"] if platform == "darwin" else options


def _rclone(program: Program, wish: Wish) -> list[str]:
    """https://rclone.org/commands/rclone_nfsmount/ and https://rclone.org/sftp/#sftp-ssh: OpenSSH carries it."""
    target = wish.target
    words = ["ssh", *config_arguments(wish.config), "-T", "-a", "-x"]
    own = filter(_is_sshs, wish.options)
    words += sshoptions.arguments(
        [
            sshoptions.KNOWN_HOST_KEY,
            *own,
            *_ssh_options(target),
            f"User={target.user}",
            "RemoteCommand=none",
            "ClearAllForwardings=yes",
        ]
    )
    ssh = " ".join(_rclone_word(word) for word in [*words, target.alias])
    more = ["--read-only"] if wish.read_only else ["--vfs-cache-mode", "writes"]
    for option in wish.options:
        more += [] if _is_sshs(option) else ["-o", option]
    return [
        program.path,
        "nfsmount",
        f":sftp:{wish.remote}",
        wish.directory,
        "--sftp-ssh",
        ssh,
        "--daemon",
        "--volname",
        target.alias,
        "--dir-cache-time",
        "20s",
        *more,
    ]


def _rclone_word(word: str) -> str:
    # rclone's SpaceSepList is read as CSV: a word with a blank stands in double quotes.
    return f'"{word}"' if " " in word else word


def cygwin(path: str) -> str:
    r"""A Windows path as Cygwin's programs want it: `C:\Users\a` is `/cygdrive/c/Users/a`."""
    drive = re.match(r"([A-Za-z]):[\\/]", path)
    rest = path.replace("\\", "/")
    return f"/cygdrive/{drive[1].lower()}/{rest[3:]}" if drive else rest


def unmount_argv(
    directory: str,
    *,
    force: bool,
    platform: str = sys.platform,
    has: Callable[[str], str | None] = which,
) -> list[list[str]]:
    """The command lines that unmount, the next one for when the one before could not. Windows: the process is ended."""
    if platform == "win32":
        return (
            [["net", "use", directory, "/delete", "/y"]]
            if re.fullmatch("[A-Za-z]:", directory)
            else []
        )
    if platform == "darwin":
        return (
            [["umount", "-f", directory], ["diskutil", "unmount", "force", directory]]
            if force
            else [["umount", directory]]
        )
    program = next((name for name in ("fusermount3", "fusermount") if has(name)), None)
    if program is None:
        return [["umount", *(["-l"] if force else []), directory]]
    return [[program, "-uz" if force else "-u", directory]]


# What sshfs and FUSE say, and what it means: (part of their words, our words, hint). Compared without regard to case.
_SAID = (
    (
        "/dev/fuse: permission denied",
        "this account may not use /dev/fuse",
        "sudo chmod 666 /dev/fuse",
    ),
    ("device not found", "the kernel has no FUSE: its module is not loaded", "sudo modprobe fuse"),
    (
        "user_allow_other",
        "allow_other is only for whoever the administrator lets",
        "echo user_allow_other | sudo tee -a /etc/fuse.conf",
    ),
    (
        "no write access to mountpoint",
        "the directory is not yours, so nothing can be mounted on it",
        "apexgpu mount HOST DIR   (another directory)",
    ),
    (
        "file system is not available",
        "macOS has not loaded macFUSE's system extension",
        "open 'x-apple.systempreferences:com.apple.preference.security'   (allow it, and restart)",
    ),
    ("remote host has disconnected", "the container's sshd hung up", "apexgpu doctor HOST"),
    (
        "connection reset by peer",
        "the connection ended before sshfs could begin",
        "apexgpu doctor HOST",
    ),
    ("unknown option", "sshfs does not know one of the options", "sshfs --help"),
    ("mount_max", "there are too many FUSE mounts", "apexgpu mounts"),
)


def failed(host: str, said: str) -> ApexError:
    """The error for a program that could not mount, from its own words."""
    last = last_line(said, "it did not say why")
    for part, words, hint in _SAID:
        if part in said.lower():
            cure = hint.replace("HOST", host)
            if part == "unknown option":
                return UsageError(f"sshfs does not know one of the options: {last}", hint=hint)
            return RefusedError(
                f"{host} could not be mounted: {words} ({last})", hint=cure, code="mount_failed"
            )
    return ApexError(
        f"{host} could not be mounted: {last}", hint=f"apexgpu doctor {host}", code="mount_failed"
    )


def launch(program: Program, wish: Wish, *, limit: float) -> None:
    """Mount; nothing is left running when it could not within `limit` seconds."""
    mark: Mapping[str, str] = {MARK: wish.directory}
    name = wish.target.host.name
    done = run_all([TimedCommand(tuple(argv(program, wish)), limit, env=mark)])[0]
    if done.timed_out:
        message = f"{program} did not mount {name} within {limit:g} s"
        raise RefusedError(message, hint=f"apexgpu doctor {name}", code="timeout")
    if done.code != 0:
        raise failed(name, done.err.decode("utf-8", "replace") + done.text)
