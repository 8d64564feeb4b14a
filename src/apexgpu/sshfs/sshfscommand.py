"""The command line of a sshfs that is running: which directory it serves, and where it leads.

Pure.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from apexgpu import readers
from apexgpu.errors import UnexpectedError


@dataclass(frozen=True, slots=True)
class SshfsProcess:
    """A running sshfs.

    `source` is what is mounted (`user@host:path`), `started` a Unix time. `address`, `port` and
    `config` are ssh's HostName, Port and config file, empty or None unless the command line gives
    them.
    """

    pid: int
    directory: str
    started: float | None = None
    address: str = ""
    port: int | None = None
    source: str = ""
    config: str = ""


def parse_command_line(
    argv: Sequence[str], pid: int, started: float | None = None
) -> SshfsProcess | None:
    """Read the command line of a process; None if it is not a sshfs.

    Options may be anywhere in it.
    """
    if not argv or not re.search(r"(?:^|[/\\])sshfs(?:\.exe)?$", argv[0], re.IGNORECASE):
        return None
    arguments: list[str] = []
    config = ""
    options: dict[str, str] = {}
    words = iter(argv[1:])
    for word in words:
        if word == "-F":
            config = next(words, "")
        elif word == "-p":
            options["port"] = next(words, "")
        elif word.startswith("-o"):
            options |= _parse_options(word[2:] or next(words, ""))
        elif not word.startswith("-"):
            arguments.append(word)
    if len(arguments) < 2:
        return None
    source, directory = arguments[:2]
    port = options.get("port", "")
    return SshfsProcess(
        pid=pid,
        directory=directory,
        started=started,
        address=options.get("hostname", ""),
        port=readers.port(port),
        source=source,
        config=config,
    )


def _parse_options(text: str) -> dict[str, str]:
    """The options of one `-o`, such as `ro,Port=22`; keys in lower case."""
    options = {}
    for option in text.split(","):
        key, _, value = option.partition("=")
        options[key.lower()] = value
    return options


def parse_windows_processes(output: str) -> list[SshfsProcess]:
    """The running sshfs.exe, from `Get-CimInstance Win32_Process … | ConvertTo-Json`."""
    try:
        rows = readers.json_value(output or "[]", "the list of processes")
    except UnexpectedError:
        return []
    if not isinstance(rows, list):
        rows = [rows]  # PowerShell prints a single process without a list
    processes = []
    for row in rows:
        if not isinstance(row, dict):
            continue
        argv = []
        for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', str(row.get("CommandLine") or "")):
            argv.append(quoted or plain)
        process = parse_command_line(argv, readers.number(str(row.get("ProcessId"))) or 0)
        if process is not None:
            processes.append(process)
    return processes
