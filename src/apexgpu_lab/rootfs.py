"""Root file systems of containers: the template, clones of it, and what makes a clone one user's."""

import contextlib
import shutil
from pathlib import Path

from apexgpu_lab import nasfiles, standins
from apexgpu_lab.containers import Container
from apexgpu_lab.keypairs import public_line
from apexgpu_lab.trees import pack

SNAPSHOTS = Path("Workspaces") / "lxc-snapshot"
DRIVER = "390.48"

_HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {}\n"
_FILES = {
    "etc/os-release": 'NAME="Ubuntu"\nVERSION="16.04.7 LTS (Xenial Xerus)"\nID=ubuntu\nID_LIKE=debian\n'
    'PRETTY_NAME="Ubuntu 16.04.7 LTS"\nVERSION_ID="16.04"\nVERSION_CODENAME=xenial\n',
    "etc/lsb-release": "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=16.04\nDISTRIB_CODENAME=xenial\n"
    'DISTRIB_DESCRIPTION="Ubuntu 16.04.7 LTS"\n',
    "etc/hostname": "template\n",
    "etc/hosts": _HOSTS.format("template"),
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
    "etc/group": "root:x:0:\nsudo:x:27:\n",
    "etc/environment": 'PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"\n',
    "etc/ssh/sshd_config": "Port 22\nX11Forwarding yes\nSubsystem sftp /usr/lib/openssh/sftp-server\n",
    "etc/skel/.bash_logout": "",
    "etc/skel/.bashrc": "# Nothing below is for shells that nobody types at.\ncase $- in *i*) ;; *) return;; esac\n"
    'PS1="$USER@$(hostname):\\w\\$ "\n',
    "etc/skel/.profile": '[ -z "$APEXGPU_LAB_PATH" ] || PATH=$APEXGPU_LAB_PATH\n',
}
_DIRECTORIES = (
    "NAS",
    "SSD",
    "bin",
    "etc/ld.so.conf.d",
    "etc/profile.d",
    "home",
    "newNAS",
    "root",
    "sbin",
    "tmp",
    "usr/bin",
    "usr/local",
    "var/lib",
    "var/log",
    "var/tmp",
)


def make_template(directory: Path, host_key: bytes) -> None:
    """Lay out the template and its archive on the NAS."""
    template = directory / "template"
    for name in _DIRECTORIES:
        (template / name).mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        path = template / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    for name in ("python3", "python3.5"):
        program = template / "usr" / "bin" / name
        program.write_text(
            f'#!/bin/sh\nexec "{directory / "bin" / standins.PYTHON}" "$0" "$@"\n',
            encoding="utf-8",
            newline="\n",
        )
        program.chmod(0o755)
    key = template / "etc" / "ssh" / "ssh_host_ed25519_key"
    key.write_bytes(host_key)
    key.chmod(0o600)
    key.with_suffix(".pub").write_text(
        public_line(host_key, "root@template"), encoding="ascii", newline="\n"
    )
    (template / "tmp").chmod(0o1777)
    archive = directory / "nas" / SNAPSHOTS / "template.tar.gz"
    archive.parent.mkdir(parents=True, exist_ok=True)
    nasfiles.lay_out(directory / "nas" / "Share" / "GPU_Server")
    pack(template, archive)


def clone_template(directory: Path, target: Path) -> None:
    """Copy the template to a new container."""
    shutil.copytree(directory / "template", target, symlinks=True, dirs_exist_ok=True)


def configure(rootfs: Path, host: str, user: str) -> None:
    """Give a tree its host name; one without /etc is left as it is."""
    name = f"{host}-{user}"
    if (rootfs / "etc").is_dir():
        _write(rootfs / "etc" / "hostname", f"{name}\n")
        _write(rootfs / "etc" / "hosts", _HOSTS.format(name))
    if rootfs.is_dir():
        (rootfs / "tmp").mkdir(exist_ok=True)
        (rootfs / "tmp").chmod(0o1777)


def add_user(rootfs: Path, user: str) -> None:
    """Make the user and a home in a tree."""
    home = rootfs / "home" / user
    home.mkdir(parents=True, exist_ok=True)
    skeleton = rootfs / "etc" / "skel"
    if skeleton.is_dir():
        shutil.copytree(skeleton, home, dirs_exist_ok=True)
    with contextlib.suppress(OSError):
        for name, line in (
            ("passwd", f"{user}:x:1000:1000::/home/{user}:/bin/bash\n"),
            ("group", f"{user}:x:1000:\n"),
        ):
            with (rootfs / "etc" / name).open("a", encoding="utf-8", newline="\n") as stream:
                stream.write(line)


def write_keys(home: Path, keys: str) -> None:
    """Put the pushed keys into a home, over whatever stood there."""
    ssh = home / ".ssh"
    ssh.mkdir(parents=True, exist_ok=True)
    ssh.chmod(0o700)
    _write(ssh / "authorized_keys", keys)
    (ssh / "authorized_keys").chmod(0o600)
    if not (ssh / "config").exists():
        _write(ssh / "config", "")


def set_driver(container: Container, version: str) -> None:
    """Note which NVIDIA driver the container has, for its nvidia-smi."""
    container.notes.mkdir(parents=True, exist_ok=True)
    _write(container.notes / "driver", version)


def set_started(container: Container) -> None:
    """Note since when the container is up, for its ps and uptime."""
    container.notes.mkdir(parents=True, exist_ok=True)
    _write(container.notes / "started", f"{container.started:.3f}")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
