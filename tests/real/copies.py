"""Places to copy to and from, and copies as the command makes them, without the command."""

import asyncio
import getpass
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests import openssh
from tests.lab.calls import rootfs_of, started

from apexgpu.models import Host, Target
from apexgpu.ssh.route import config_arguments, target_arguments
from apexgpu.transfer import copypaths
from apexgpu.transfer.copier import Copier, CopySummary, Method
from apexgpu.transfer.copyconnection import CopyConnection
from apexgpu.transfer.progress import CopyProgress
from apexgpu_lab.inprocess import Lab
from apexgpu_lab.labstate import LabState

SFTP = "Subsystem sftp /usr/lib/openssh/sftp-server"


@dataclass
class There:
    """A container: how to reach it, and where its home lies on this machine."""

    host: Host
    config: Path
    home: Path
    state: Path
    progress: CopyProgress = field(default_factory=CopyProgress)

    def copier(
        self, *words: str | Path, method: Method | None = None, port: int | None = None
    ) -> Copier:
        """A run of `cp WORDS`."""
        host = replace(self.host, port=port) if port else self.host
        target = Target(host, "container")
        where = [*config_arguments(self.config), *target_arguments(target), host.name]
        route = copypaths.parse_route([str(word) for word in words], "linux")
        self.progress = CopyProgress()
        return Copier(
            route,
            lambda: CopyConnection(target, where, connect=10, ask=False),
            self.state,
            method,
            self.progress,
        )

    def cp(
        self, *words: str | Path, method: Method | None = None, port: int | None = None
    ) -> CopySummary:
        """Copy; whatever stands in the way is raised. Nothing made ready stays behind."""
        done = asyncio.run(self.copier(*words, method=method, port=port).run())
        assert stages(self.home) == []
        return done


def sshd(directory: Path) -> tuple[openssh.OpenSSH, There]:
    """A real sshd whose account has an empty home."""
    home = directory / "home"
    home.mkdir(parents=True)
    server = openssh.start(directory / "sshd", extra=SFTP, home=home)
    # The directory where an SFTP session begins is the account's own, whatever HOME says.
    wrapper = directory / "sftp-server"
    wrapper.write_text(f"#!/bin/sh\ncd {home} && exec /usr/lib/openssh/sftp-server\n")
    wrapper.chmod(0o755)
    config = directory / "sshd" / "sshd_config"
    config.write_text(config.read_text().replace("/usr/lib/openssh/sftp-server", str(wrapper)))
    server.stop()
    server.again()
    return server, There(server.host, server.config, home, directory / "state")


def lab_there(lab: Lab, state: Path) -> There:
    """alice's container on gpu2."""
    started(lab)

    def find(lab_state: LabState) -> Host:
        host = lab_state.host("gpu2")
        return Host(
            "gpu2", host.address, "alice", lab_state.port_of(host, "alice"), host.manage_port
        )

    return There(lab.call(find), lab.layout.ssh_config, rootfs_of(lab) / "home" / "alice", state)


def stages(top: Path) -> list[Path]:
    """Directories in which copies are made ready."""
    return sorted(top.rglob(".apexgpu-*.part"))


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    """All below `top` by its path: kind, mode, whole seconds of its time, content or target."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        about = path.lstat()
        name = os.fsencode(path.relative_to(top)).hex()
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("directory", oct(about.st_mode), int(about.st_mtime))
        else:
            found[name] = ("file", oct(about.st_mode), int(about.st_mtime), path.read_bytes())
    return found


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that no compression and no delta finds a pattern in."""
    return random.Random(seed).randbytes(size)


NAMES = (
    b"plain",
    b"a b",
    b"-rf",
    b"-e",
    b"a:b",
    b"#comment",
    b";",
    b"it's",
    b'"quoted"',
    b"new\nline",
    b"back\\slash",
    b"star*",
    b"[1]",
    b"$HOME",
    b"`id`",
    b"~",
    b"tab\t",
    b" leading",
    b"trailing ",
    "名字".encode(),
    "é".encode(),
    b"latin-1-\xe9",
    b".hidden",
    b"%s%C",
    b"!x",
    b"{a,b}",
    b"x" * 200,
)


def nasty(top: Path) -> None:
    """A tree with all that a name can be, and modes and times of its own."""
    for place in (top, top / "dir with\nnewline", top / "-dir:[x]"):
        place.mkdir(parents=True)
        for number, name in enumerate(NAMES):
            path = place / os.fsdecode(name)
            path.write_bytes(name * number)
            path.chmod((0o644, 0o755, 0o600, 0o444)[number % 4])
            os.utime(path, (1_000_000_000 + number, 1_000_000_000 + number))
        (place / "link").symlink_to("star*")
        (place / "broken link").symlink_to(os.fsdecode(b"nowhere/\xe9\n"))
        (place / "empty").mkdir()
        (place / "empty").chmod(0o750)
        (place / "read only/deep").mkdir(parents=True)
        (place / "read only/deep/file").write_text("x")
        (place / "read only/deep").chmod(0o555)
        (place / "read only").chmod(0o555)
    for directory, _, _ in os.walk(top, topdown=False):
        os.utime(directory, (1_100_000_000, 1_100_000_000))


@contextmanager
def small_disk(directory: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes."""
    directory.mkdir(parents=True)
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    owner = f"size={size},mode=755,uid={os.geteuid()},gid={os.getegid()}"
    subprocess.run(
        [*sudo, "mount", "-t", "tmpfs", "-o", owner, getpass.getuser(), directory], check=True
    )
    try:
        yield directory
    finally:
        subprocess.run([*sudo, "umount", directory], check=True)
