"""The container's processes and ports: what runs, what listens, starting what stays, ending it."""

import glob
import os
import re
import signal
import socket
import subprocess
import sys
import time

HOME = os.path.expanduser("~")
NOTES = os.path.join(HOME, ".cache", "apexgpu")
SAID = 20  # lines of a log that are worth telling


def say(text: str) -> None:
    """A line of progress; its letters survive any locale."""
    sys.stdout.write(text.encode("ascii", "backslashreplace").decode() + "\n")
    sys.stdout.flush()


def output(argv: "list[str]", limit: float) -> str:
    """What a program says on stdout; nothing when it fails or takes too long."""
    try:
        return subprocess.check_output(
            argv, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, timeout=limit
        ).decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        return ""


def processes() -> "list[tuple[int, list[str]]]":
    """The user's own processes: number and words."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        try:
            if name.isdigit() and os.stat("/proc/" + name).st_uid == os.geteuid():
                with open("/proc/" + name + "/cmdline", "rb") as line:
                    words = line.read().decode("utf-8", "replace").split("\0")
                found.append((int(name), words[:-1]))
        except OSError:
            continue  # it has ended
    return sorted(found)


def option(words: "list[str]", name: str) -> "str | None":
    """The value of `--name VALUE` or `--name=VALUE`."""
    for place, word in enumerate(words):
        if word == name:
            return "".join(words[place + 1 : place + 2])
        if word.startswith(name + "="):
            return word[len(name) + 1 :]
    return None


def working(pid: int) -> str:
    """The directory that a process is in."""
    try:
        return os.readlink("/proc/%d/cwd" % pid)
    except OSError:
        return HOME


def resolved(path: str, base: str) -> str:
    """The one name of a directory; of what is no path (`gs://bucket`), that."""
    return path if "://" in path else os.path.realpath(os.path.join(base, os.path.expanduser(path)))


def ports(pid: int) -> "list[int]":
    """The ports on which a process listens for TCP connections."""
    inodes = set()
    for name in glob.glob("/proc/%d/fd/*" % pid):
        try:
            found = re.match(r"socket:\[(\d+)\]$", os.readlink(name))
        except OSError:
            continue
        if found:
            inodes.add(found.group(1))
    listening = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as lines:
                rows = [line.split() for line in lines][1:]
        except OSError:
            continue
        listening += [
            int(row[1].rpartition(":")[2], 16)
            for row in rows
            if row[3] == "0A" and row[9] in inodes
        ]
    return sorted(set(listening))


def serves(leader: int, port: int) -> bool:
    """Whether a session's own process (a script may start another) takes connections on a port."""
    if not answers(port) or not os.path.isdir("/proc"):
        return answers(port)
    return any(port in ports(pid) for pid, _ in processes() if session(pid) == leader)


def session(pid: int) -> int:
    """The session of a process, 0 when that is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def answers(port: int) -> bool:
    """Whether something takes connections on a port of this machine."""
    try:
        socket.create_connection(("localhost", port), timeout=5).close()
    except OSError:
        return False
    return True


def free(wanted: int) -> int:
    """A port on which nobody listens: the wanted one or one of the next, else any."""
    for number in [*range(wanted, wanted + 20), 0]:
        with socket.socket() as probe:
            # As a server that is started again would: what is left of old connections does not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no port is free")


def start(
    what: str, argv: "list[str]", more: "list[str]", port: int, cwd: str, token: str
) -> "tuple[int, str]":
    """Start a server that outlives this login: its number and the file that it writes to."""
    os.makedirs(NOTES, mode=0o700, exist_ok=True)
    log = os.path.join(NOTES, "%s-%d.log" % (what, port))
    env = dict(
        os.environ, PATH=os.path.dirname(argv[0]) + os.pathsep + os.environ.get("PATH", os.defpath)
    )
    if token:
        env["JUPYTER_TOKEN"] = token
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        child = subprocess.Popen(
            argv + more,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        os.close(out)
    return child.pid, log


def ended(pid: int) -> bool:
    """Whether a process is gone; a child of ours is buried."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
        with open("/proc/%d/stat" % pid) as state:
            return (
                state.read().rpartition(")")[2].split()[0] == "Z"
            )  # gone, and nobody has asked yet
    except OSError:
        return True


def tail(log: str) -> "list[str]":
    """The last lines of a log, without any token."""
    try:
        with open(log, "rb") as lines:
            said = lines.read()[-20000:].decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [re.sub(r"(token=)[^\s&]+", r"\1...", line)[:500] for line in said if line.strip()][
        -SAID:
    ]


def stop(pids: "list[int]", limit: float) -> None:
    """End processes: asked first, then without asking."""
    for asked, until in ((signal.SIGTERM, limit), (signal.SIGKILL, 5)):
        left = [pid for pid in pids if not ended(pid)]
        for pid in left:
            try:
                os.kill(pid, asked)
            except ProcessLookupError:
                continue
        end = time.monotonic() + until
        while any(not ended(pid) for pid in left) and time.monotonic() < end:
            time.sleep(0.05)
