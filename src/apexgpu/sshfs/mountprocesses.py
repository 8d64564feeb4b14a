"""The processes behind mounts: which sshfs serves a directory, and how to end one that hangs."""

import contextlib
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from apexgpu import ownprocesses
from apexgpu.errors import ApexError, UnreachableError
from apexgpu.ownprocesses import OwnProcess
from apexgpu.platforms import owner, processcontrol
from apexgpu.platforms.paths import same_name_form
from apexgpu.platforms.system import current, is_windows
from apexgpu.process import TimedCommand, run_all
from apexgpu.ssh.route import parse
from apexgpu.sshfs.mounttable import ssh_name
from apexgpu.sshfs.sshfscommand import SshfsProcess, parse_command_line, parse_windows_processes

MARK = "APEXGPU_MOUNT"
"""The environment variable of sshfs and of its ssh that names the directory they serve."""

WINDOWS_COMMAND = (
    "powershell",
    "-NoProfile",
    "-Command",
    # Without this, a Chinese Windows writes names in its own code page.
    "[Console]::OutputEncoding=[Text.Encoding]::UTF8; "
    "Get-CimInstance Win32_Process -Filter \"Name='sshfs.exe'\" | "
    "Select-Object ProcessId,CommandLine | ConvertTo-Json",
)
_DARWIN_COMMAND = ("ps", "-axww", "-o", "pid=,uid=,lstart=,command=")
_POWERSHELL_LIMIT = 15.0  # seconds: its start alone may take three
_POLL = 0.02  # seconds


def find_sshfs(directories: Collection[str]) -> dict[str, SshfsProcess]:
    """The running sshfs of this user that serve any of `directories`, by directory."""
    if is_windows():
        processes = parse_windows_processes(windows_processes())
    elif ownprocesses.has_proc():
        processes = _find_linux()
    else:
        command = TimedCommand(_DARWIN_COMMAND, 2, env={"LC_ALL": "C"})  # for dates in English
        processes = parse_darwin(run_all([command])[0].text, owner.user_id(), directories)
    by_form = {same_name_form(current(), process.directory): process for process in processes}
    found = {}
    for directory in directories:
        process = by_form.get(same_name_form(current(), directory))
        if process is not None:
            found[directory] = process
    return found


def windows_processes() -> str:
    """What PowerShell prints about the running sshfs.exe, as JSON.

    Raises UnreachableError if it does not answer in time: nothing is known then, which is not the same as none.
    """
    completed = run_all([TimedCommand(WINDOWS_COMMAND, _POWERSHELL_LIMIT)])[0]
    if completed.timed_out:
        message = f"PowerShell did not list the running sshfs within {_POWERSHELL_LIMIT:g} s"
        raise UnreachableError(message, hint="apexgpu mounts")
    return completed.text


def _find_linux() -> list[SshfsProcess]:
    processes = []
    for path in ownprocesses.own_directories():
        with contextlib.suppress(OSError, ValueError, IndexError):
            process = parse_command_line(ownprocesses.read_argv(path), int(path.name))
            if process is not None:
                processes.append(replace(process, started=_start_time(path)))
    return processes


_PS_LINE = re.compile(
    r"[ \t]*([0-9]{1,10})[ \t]+([0-9]{1,10})[ \t]+"
    r"(\w{3} \w{3} {1,2}[0-9]{1,2} [0-9:]{8} [0-9]{4})[ \t]+(.*)"
)


def parse_darwin(
    output: str, uid: int | None, directories: Collection[str] = ()
) -> list[SshfsProcess]:
    """Read `ps -o pid=,uid=,lstart=,command=` of macOS. The start time is five words (ps(1)).

    `directories` are the mounts that there are: `ps` does not tell a blank in a name from one between two words.
    """
    processes = []
    for line in output.splitlines():
        match = _PS_LINE.match(line)
        if match is None or int(match[2]) != uid:
            continue
        try:
            started = time.mktime(time.strptime(match[3], "%a %b %d %H:%M:%S %Y"))
        except (ValueError, OverflowError):
            continue
        process = parse_command_line(match[4].split(" "), int(match[1]), started)
        if process is not None:
            directory = _directory_in(match[4], directories) or process.directory
            processes.append(replace(process, directory=directory))
    return processes


def _directory_in(command_line: str, directories: Collection[str]) -> str | None:
    """The longest of `directories` that is a part of a command line, between blanks."""
    found = [directory for directory in directories if f" {directory} " in f"{command_line} "]
    return max(found, key=len, default=None)


def with_address(process: SshfsProcess) -> SshfsProcess:
    """Add the address and port that `ssh -G` reports now, unless the command line has them."""
    name = ssh_name(process.source)
    # A name that begins with a dash would be an option of ssh.
    if process.address or not name or name.startswith("-"):
        return process
    argv = ["ssh", "-G"]
    if process.config:
        argv += ["-F", process.config]
    if process.port:
        argv += ["-p", str(process.port)]
    try:
        completed = run_all([TimedCommand((*argv, name), 2)])[0]
    except ApexError:
        return process
    settings = parse(completed.text)
    address = settings.get("hostname", [""])[0]
    port = settings.get("port", [""])[0]
    if not address or not port.isdigit():
        return process
    return replace(process, address=address, port=int(port))


@dataclass(frozen=True, slots=True)
class ProcessesBehind:
    """What serves a directory: the program that mounted it, and the ssh processes that it started."""

    servers: tuple[OwnProcess, ...] = ()
    connections: tuple[OwnProcess, ...] = ()


def find_behind(directory: str) -> ProcessesBehind:
    """The processes that serve a directory. Only Linux can tell; none elsewhere."""
    if not ownprocesses.has_proc():
        return ProcessesBehind()
    mark = f"{MARK}={directory}".encode("utf-8", "surrogateescape")
    servers = []
    connections = []
    for path in ownprocesses.own_directories():
        # A process may end, or turn out to be somebody else's, while it is read.
        with contextlib.suppress(OSError, ValueError, IndexError):
            argv = ownprocesses.read_argv(path)
            sshfs = parse_command_line(argv, 0)
            serves = sshfs is not None and sshfs.directory == directory
            is_marked = mark in (path / "environ").read_bytes().split(b"\0")
            process = OwnProcess(int(path.name), ownprocesses.start_ticks(path))
            if is_marked and Path(argv[0]).name == "ssh":
                connections.append(process)
            elif serves or is_marked:
                servers.append(process)
    return ProcessesBehind(tuple(servers), tuple(connections))


def end_behind(processes: ProcessesBehind, *, grace: float) -> None:
    """End them; the program that mounted gets `grace` seconds to do so by itself.

    Its ssh processes do not: they have nothing left to send, and would only wait for the server.
    """
    end(processes.servers, grace=grace)
    end(processes.connections, grace=0)


def end(processes: Sequence[OwnProcess], *, grace: float) -> None:
    """Wait up to `grace` seconds until the processes have ended, then kill the rest.

    Returns when they are gone, because their directory is going to be used again.
    """
    deadline = time.monotonic() + grace
    alive = [process for process in processes if ownprocesses.is_alive(process)]
    while alive and time.monotonic() < deadline:
        time.sleep(_POLL)
        alive = [process for process in alive if ownprocesses.is_alive(process)]
    ownprocesses.kill(alive)


def abort_connection(device: str) -> None:
    """Make the kernel end a FUSE connection: programs that wait for it get an error.

    See fuse.rst of Linux, "Control filesystem". `device` is the number in the table of mounts.
    Nothing happens where the kernel does not allow it.
    """
    with contextlib.suppress(OSError):
        Path(f"/sys/fs/fuse/connections/{device}/abort").write_text("1")


def _start_time(path: Path) -> float:
    """The Unix time at which a process began; the kernel counts it in ticks since the boot."""
    uptime, _ = Path("/proc/uptime").read_text().split()
    boot_time = time.time() - float(uptime)
    ticks = int(ownprocesses.start_ticks(path))
    ticks_per_second = processcontrol.ticks_per_second()
    return boot_time + ticks / ticks_per_second
