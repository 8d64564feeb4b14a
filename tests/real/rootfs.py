"""A container of the tests' own: a Debian root file system that says it is Ubuntu 16.04, with a real sshd in it.

`scripts/make-test-root` makes it once. Each test gets a copy-on-write layer over it, held in memory, in mount, process
and host-name namespaces of its own: nothing outside can be written to, and when it ends, all of it is gone.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests import openssh
from tests.real import nvidia

from apexgpu.models import Host

BASE = Path(__file__).parent.parent.parent / ".venv" / "root"
WHEELS = BASE.with_name("wheels")
USER = "alice"
PLACE = "var/lib/standin"
SHARE = "newNAS/Share/GPU_Server"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games:/usr/local/games"  # Ubuntu's own
PYTHON2 = "usr/local/lib/python2.7/dist-packages"

# What a program leaves behind everywhere: not a change that anybody asked for.
_PASSING = (
    "proc",
    "sys",
    "dev",
    "run",
    "tmp",
    "var/log",
    "var/lib/standin",
    "var/cache/ldconfig",
    "home/alice/.cache",
)

_START = """\
set -eu
# In a plain chroot / is no mount point, and only the namespace's own root can be made private; nsenter goes there.
mount --make-rprivate / 2>/dev/null || nsenter --mount=/proc/self/ns/mnt mount --make-rprivate /
mount -t tmpfs -o mode=755,size=8g tmpfs "$1"  # held only as far as it is written to
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs -o "mode=1777,$4" tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs run
mkdir run/sshd
[ -z "$5" ] || mount -t tmpfs -o "mode=755,size=$5" tmpfs usr/local
hostname gpu7
cp -a "$3/." .
chroot . sh -c 'chown -R root: /etc/ssh /usr/bin/nvidia-smi /newNAS; chown -R alice: /home/alice'
exec chroot . /usr/sbin/sshd -D -e -f /etc/ssh/sshd_config.tests
"""

# UsePAM is what lets /etc/environment reach a command, as in Ubuntu. The second port is the host's manage shell.
_SSHD = """\
ListenAddress 127.0.0.1
Port {port}
Port {manage}
HostKey /etc/ssh/host_key
PidFile none
UsePAM yes
PasswordAuthentication no
MaxStartups 1000
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
Match LocalPort {manage}
  ForceCommand cat /etc/ssh/manage-help
"""


@dataclass
class Root:
    """A running container. `path` is its root as seen from outside; `host` and `config` lead into it by ssh."""

    process: subprocess.Popen[bytes]
    path: Path
    host: Host
    config: Path

    def ssh(
        self, command: str, *, login: bool = False, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """A command in it, by plain ssh; as after a login, with all of the shell's files, if asked for."""
        told = shlex.join(["bash", "-ilc", command]) if login else command
        argv = ["ssh", "-F", str(self.config), "-p", str(self.host.port), f"{USER}@127.0.0.1", told]
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=120, check=check, stdin=subprocess.DEVNULL
        )

    def state(self, **changes: object) -> None:
        """What its nvidia-smi tells, and what goes wrong in its TensorFlow."""
        new = self.path / PLACE / "state.new"
        new.write_text(nvidia.state(**changes))
        new.rename(self.path / PLACE / "state.json")

    def tree(self) -> dict[str, tuple[object, ...]]:
        """Every file with its kind, mode, owner, size, time of change and target."""
        found: dict[str, tuple[object, ...]] = {}
        for room, names, files in os.walk(self.path):
            here = Path(room).relative_to(self.path)
            names[:] = [name for name in names if str(here / name) not in _PASSING]
            for name in (*names, *files):
                path = Path(room, name)
                at = path.lstat()
                link = str(path.readlink()) if stat.S_ISLNK(at.st_mode) else ""
                size = 0 if stat.S_ISDIR(at.st_mode) else at.st_size
                found[str(here / name)] = (at.st_mode, at.st_uid, size, at.st_mtime_ns, link)
        return found

    def processes(self, words: str) -> list[int]:
        """The processes in it whose command line has these words."""
        found = []
        space = Path(f"/proc/{self.pid}/ns/pid").readlink()
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (
                    (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                if words in line and (place / "ns/pid").readlink() == space:
                    found.append(int(place.name))
        return found

    @property
    def pid(self) -> int:
        """Its first process, as seen from outside."""
        return int(self.path.parts[2])

    def stop(self) -> None:
        """End all of it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(60)


def start(directory: Path, share: Path, *, tmp: str = "size=4g", local: str = "") -> Root:
    """Start one. `share` becomes /newNAS/Share/GPU_Server; `tmp` are mount options of /tmp, `local` is a size for
    a /usr/local of its own.
    """
    assert (BASE / "etc/ssh").is_dir(), "run: make setup-tests"
    assert (WHEELS / "opt/wheels").is_dir(), "run: make setup-tests"
    port, manage = _free(2)
    config = _furniture(directory, share, port, manage)
    space = directory / "space"
    space.mkdir()
    words = [
        "sh",
        "-c",
        _START,
        "sh",
        str(space),
        f"{WHEELS.resolve()}:{BASE.resolve()}",
        str(directory / "furniture"),
        tmp,
        local,
    ]
    flags = [
        "--mount",
        "--pid",
        "--uts",
        "--ipc",
        "--fork",
        "--kill-child",
        "--propagation",
        "unchanged",
    ]
    with (directory / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", *flags, "--", *words], stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        openssh.await_port("127.0.0.1", port, process)
    except RuntimeError as exc:
        process.kill()
        message = (directory / "sshd.log").read_text()
        raise RuntimeError(message) from exc
    first = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    return Root(
        process, Path(f"/proc/{first}/root"), Host("gpu7", "127.0.0.1", USER, port, manage), config
    )


def _furniture(directory: Path, share: Path, port: int, manage: int) -> Path:
    """What is copied into it before it starts, and an ssh config that leads there."""
    room = directory / "furniture"
    for name in ("etc/ssh", f"home/{USER}/.ssh", "usr/bin", SHARE, PLACE):
        (room / name).mkdir(parents=True)
    for key in (room / "etc/ssh/host_key", directory / "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (room / "etc/ssh/sshd_config.tests").write_text(_SSHD.format(port=port, manage=manage))
    said = json.loads((openssh.TRANSCRIPTS / "07-up-running.json").read_text())["stdout"]
    (room / "etc/ssh/manage-help").write_text(said)
    shutil.copy(directory / "id_ed25519.pub", room / f"home/{USER}/.ssh/authorized_keys")
    (room / f"home/{USER}/.bashrc").write_text(
        "case $- in *i*) ;; *) return ;; esac\n"
    )  # as Ubuntu's begins
    shutil.copy(nvidia.HERE / "nvidia-smi", room / "usr/bin/nvidia-smi")
    (room / "usr/bin/nvidia-smi").chmod(0o755)
    for file in share.iterdir():
        if file.is_file():
            shutil.copy(file, room / SHARE)
    (room / PLACE).chmod(0o1777)
    (room / PLACE / "state.json").write_text(nvidia.state())
    (room / "etc/pip.conf").write_text("[global]\nno-index = yes\nfind-links = /opt/wheels\n")
    (room / "etc/hosts").write_text("127.0.0.1 localhost gpu7\n")
    (room / "etc/environment").write_text(f'PATH="{PATH}"\n')
    kind, blob = (room / "etc/ssh/host_key.pub").read_text().split()[:2]
    (directory / "known_hosts").write_text(
        "".join(f"[127.0.0.1]:{one} {kind} {blob}\n" for one in (port, manage))
    )
    config = directory / "config"
    config.write_text(
        f"Host *\n  IdentityFile {directory}/id_ed25519\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {directory}/known_hosts\n"
    )
    return config


def _free(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
