"""The container's processes and ports: what runs, what listens, starting what keeps running, ending it."""

import glob
import os
import re
import signal
import socket
import subprocess
import sys
import time

HOME = os.path.expanduser("~")
LOGS = os.path.join(HOME, ".cache", "apexgpu")
SHOWN_LOG_LINES = 20
SHOWN_LINE_LENGTH = 500
LOG_TAIL_BYTES = 20000
KILL_LIMIT = 5.0


def print_line(text: str) -> None:
    """Print a line of progress, in ASCII only: the locale may be any."""
    sys.stdout.write(text.encode("ascii", "backslashreplace").decode() + "\n")
    sys.stdout.flush()


def output_of(argv: "list[str]", limit: float) -> str:
    """What a program prints on stdout; "" if it fails or takes more than `limit` seconds."""
    try:
        return subprocess.check_output(
            argv, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, timeout=limit, cwd="/"
        ).decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        return ""


def own_processes() -> "list[tuple[int, list[str]]]":
    """Process number and command line of each process of the user's."""
    if not os.path.isdir("/proc"):
        return []
    own = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.stat("/proc/" + name).st_uid != os.geteuid():
                continue
            with open("/proc/" + name + "/cmdline", "rb") as cmdline:
                words = cmdline.read().decode("utf-8", "replace").split("\0")
        except OSError:
            continue  # it has ended
        own.append((int(name), words[:-1]))
    return sorted(own)


def option_value(words: "list[str]", name: str) -> "str | None":
    """The value of `--name VALUE` or `--name=VALUE`; None if the option is not given."""
    for position, word in enumerate(words):
        if word == name:
            return "".join(words[position + 1 : position + 2])
        if word.startswith(name + "="):
            return word[len(name) + 1 :]
    return None


def working_directory(pid: int) -> str:
    """The directory in which a process works."""
    try:
        return os.readlink("/proc/%d/cwd" % pid)
    except OSError:
        return HOME


def real_path(path: str, base: str) -> str:
    """The absolute path of a directory, without symlinks; a URL (`gs://bucket`) as it is."""
    if "://" in path:
        return path
    return os.path.realpath(os.path.join(base, os.path.expanduser(path)))


def listening_ports(pid: int) -> "list[int]":
    """The TCP ports on which a process listens."""
    inodes = set()
    for link in glob.glob("/proc/%d/fd/*" % pid):
        try:
            match = re.match(r"socket:\[(\d+)\]$", os.readlink(link))
        except OSError:
            continue
        if match:
            inodes.add(match.group(1))
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as lines:
                rows = [line.split() for line in lines][1:]
        except OSError:
            continue
        for row in rows:
            # proc_net_tcp(5): state 0A is TCP_LISTEN.
            if row[3] == "0A" and row[9] in inodes:
                ports.add(int(row[1].rpartition(":")[2], 16))
    return sorted(ports)


def session_listens(leader: int, port: int) -> bool:
    """Whether a process of the session that `leader` leads listens on `port` and accepts connections.

    The session counts, because what we start may be a script that starts the server.
    """
    if not accepts_connections(port):
        return False
    if not os.path.isdir("/proc"):
        return True
    session = [pid for pid, _ in own_processes() if session_of(pid) == leader]
    return any(port in listening_ports(pid) for pid in session)


def session_of(pid: int) -> int:
    """The session of a process; 0 if it has ended."""
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def accepts_connections(port: int) -> bool:
    """Whether any program accepts connections on a port of this machine."""
    try:
        socket.create_connection(("localhost", port), timeout=5).close()
    except OSError:
        return False
    return True


def free_port(wanted: int) -> int:
    """A port on which nothing listens: `wanted` or one of the next, else any."""
    for number in [*range(wanted, wanted + 20), 0]:
        with socket.socket() as probe:
            # As servers do it: what is left of closed connections does not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no port is free")


def start_server(
    name: str, argv: "list[str]", port: int, directory: str, token: str
) -> "tuple[int, str]":
    """Start a server that keeps running after this login; its process number and its log file."""
    os.makedirs(LOGS, mode=0o700, exist_ok=True)
    log = os.path.join(LOGS, "%s-%d.log" % (name, port))
    # What the server starts itself, such as kernels, comes from its own environment first.
    path = os.path.dirname(argv[0]) + os.pathsep + os.environ.get("PATH", os.defpath)
    env = dict(os.environ, PATH=path)
    if token:
        env["JUPYTER_TOKEN"] = token
    log_file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        server = subprocess.Popen(
            argv,
            cwd=directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        os.close(log_file)
    return server.pid, log


def has_ended(pid: int) -> bool:
    """Whether a process has ended. A child of ours is reaped."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
        with open("/proc/%d/stat" % pid) as stat:
            # Z: a zombie has ended, and its parent has not asked for its status yet.
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def last_log_lines(log: str) -> "list[str]":
    """The last lines of a log, without any token."""
    try:
        with open(log, "rb") as file:
            text = file.read()[-LOG_TAIL_BYTES:].decode("utf-8", "replace")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        if line.strip():
            lines.append(re.sub(r"(token=)[^\s&]+", r"\1...", line)[:SHOWN_LINE_LENGTH])
    return lines[-SHOWN_LOG_LINES:]


def start_time(pid: int) -> str:
    """When a process was started, in the kernel's ticks; "" if it has ended. It tells two with one number apart."""
    try:
        with open("/proc/%d/stat" % pid) as stat:
            # proc_pid_stat(5): field 22; the name before the last `)` may contain anything.
            return stat.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def stop_processes(pids: "list[int]", limit: float) -> None:
    """End processes: with SIGTERM, and with SIGKILL those that still run after `limit` seconds."""
    started = dict((pid, start_time(pid)) for pid in pids)
    for number, seconds in ((signal.SIGTERM, limit), (signal.SIGKILL, KILL_LIMIT)):
        # A number may belong to another process by now.
        running = [pid for pid in pids if not has_ended(pid) and start_time(pid) == started[pid]]
        for pid in running:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + seconds
        while any(not has_ended(pid) for pid in running) and time.monotonic() < deadline:
            time.sleep(0.05)
