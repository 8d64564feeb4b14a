"""Small system programs in a container, which know its name and user. Run as a program, standard library only."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

CONTAINER = Path(os.environ.get("APEXGPU_LAB_CONTAINER", "."))
USER = os.environ.get("USER", "nobody")
_IDS = {
    "-u": "1000",
    "-g": "1000",
    "-G": "1000 27",
    "-un": USER,
    "-nu": USER,
    "-gn": USER,
    "-ng": USER,
    "-Gn": f"{USER} sudo",
    "-nG": f"{USER} sudo",
}


def hostname(_: list[str]) -> int:
    """The container's name: host and user."""
    sys.stdout.write(f"{os.environ.get('APEXGPU_LAB_HOST', 'gpu')}-{USER}\n")
    return 0


def who(_: list[str]) -> int:
    """Who is logged in with a terminal."""
    for number, path in enumerate(sorted((CONTAINER / "notes").glob("session-*.json"))):
        session = json.loads(path.read_text(encoding="utf-8"))
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(session["since"]))
        sys.stdout.write(
            f"{session['user']:<8} {f'pts/{number}':<12} {since} ({session['from']})\n"
        )
    return 0


def identity(arguments: list[str]) -> int:
    """The user, always number 1000."""
    text = _IDS.get("".join(arguments[:1]))
    sys.stdout.write(
        f"{text or f'uid=1000({USER}) gid=1000({USER}) groups=1000({USER}),27(sudo)'}\n"
    )
    return 0


def whoami(_: list[str]) -> int:
    """The user's name."""
    sys.stdout.write(f"{USER}\n")
    return 0


def service(arguments: list[str]) -> int:
    """`service ssh restart`, `systemctl restart ssh`: new connections get the host keys of now."""
    if {"ssh", "sshd", "ssh.service"} & set(arguments):
        (CONTAINER / "notes" / "sshd-restart").touch()
        return 0
    sys.stderr.write("only ssh can be restarted in the lab\n")
    return 1


def ldconfig(arguments: list[str]) -> int:
    """Note the directories in which programs look for libraries: those of /etc/ld.so.conf.d, and the arguments."""
    rootfs = CONTAINER / "rootfs"
    directories = []
    for path in sorted((rootfs / "etc" / "ld.so.conf.d").glob("*.conf")):
        directories += path.read_text(encoding="utf-8").split()
    directories += [word for word in arguments if word.startswith("/")]
    # Paths in commands were translated: here they are the container's again.
    names = [directory.rpartition("/rootfs")[2] for directory in directories]
    cache = rootfs / "etc" / "ld.so.cache"
    if "-p" in arguments:
        sys.stdout.write(cache.read_text(encoding="utf-8") if cache.exists() else "")
        return 0
    cache.write_text("".join(f"{name}\n" for name in dict.fromkeys(names)), encoding="utf-8")
    return 0


def ssh_keygen(arguments: list[str]) -> int:
    """The real program; `-A` makes host keys in the container's own tree."""
    path = os.pathsep.join(
        part
        for part in os.environ.get("PATH", "").split(os.pathsep)
        if part != os.environ.get("APEXGPU_LAB_BIN")
    )
    program = shutil.which("ssh-keygen", path=path)
    if program is None:
        sys.stderr.write("ssh-keygen: command not found\n")
        return 127
    if arguments != ["-A"]:
        return subprocess.run([program, *arguments], check=False).returncode  # noqa: S603 - what was asked for
    key = CONTAINER / "rootfs" / "etc" / "ssh" / "ssh_host_ed25519_key"
    if key.exists():
        return 0
    name = f"root@{os.environ.get('APEXGPU_LAB_HOST', 'gpu')}-{USER}"
    argv = [program, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)]
    sys.stdout.write("ssh-keygen: generating new host keys: ED25519 \n")
    return subprocess.run(argv, check=False).returncode  # noqa: S603 - our own words


PROGRAMS = {
    "hostname": hostname,
    "who": who,
    "id": identity,
    "whoami": whoami,
    "ldconfig": ldconfig,
    "service": service,
    "systemctl": service,
    "ssh-keygen": ssh_keygen,
}

if __name__ == "__main__":
    sys.exit(PROGRAMS[sys.argv[1]](sys.argv[2:]))
