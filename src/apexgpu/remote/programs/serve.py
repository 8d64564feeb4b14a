"""Finds, starts or stops TensorBoard or Jupyter in a container.

argv[1] is the request as a JSON object (`apexgpu.remote.webservers.command`); the answer is the last
line of the output, `apexgpu ` and a JSON object. A new Jupyter's token is generated here and passed
to Jupyter in its environment, which only the user can read: never in argv, which everyone can read.
Jupyter also keeps a token that it was given out of its log.
"""

import binascii
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable

from apexgpu.remote.programs.processes import (
    HOME,
    accepts_connections,
    free_port,
    has_ended,
    last_log_lines,
    listening_ports,
    option_value,
    output_of,
    own_processes,
    print_line,
    real_path,
    session_listens,
    start_server,
    stop_processes,
    working_directory,
)
from apexgpu.remote.programs.search import find_programs

TENSORBOARD = {"tensorboard": ("tensorboard.main", "tensorboard/main.py")}
JUPYTER = {
    "jupyter-lab": ("jupyterlab", "jupyterlab/__main__.py"),
    "jupyter-notebook": ("notebook", "notebook/__main__.py"),
}
TENSORBOARD_PORT = 6006
JUPYTER_PORT = 8888
ATTEMPTS = 3
INTERPRETER = re.compile(r"(?:python|pypy)[0-9.]*$|(?:ba|da|z)?sh$")
OLD_LIST_LINE = re.compile(r"(https?)://([^/]*?):(\d+)(/[^?\s]*)(?:\?token=(\S*))? :: (.*)$")


def requested_directory(request: "dict[str, object]") -> str:
    """The path of the wanted directory here.

    The laptop's shell may have replaced a `~` by the home directory on the laptop.
    """
    named = str(request["directory"] or "~")
    laptop_home = str(request["home"])
    directory = real_path(named, HOME)
    if laptop_home in ("", "/") or os.path.isdir(directory):
        return directory
    if (named + "/").startswith(laptop_home + "/"):
        return real_path("~" + named[len(laptop_home) :], HOME)
    return directory


def is_tensorboard(words: "list[str]") -> bool:
    """Whether this is the command line of a TensorBoard, whoever started it and how."""
    if not option_value(words, "--logdir"):
        return False
    return os.path.basename(program_of(words)) in ("tensorboard", "tensorboard.main")


def mentions_tensorboard(words: "list[str]") -> bool:
    """Whether a command line names TensorBoard, as its program or as that of a script that starts it."""
    for word in words:
        if word.startswith("--logdir"):
            return False
        if os.path.basename(word) in ("tensorboard", "tensorboard.main"):
            return True
    return False


def program_of(words: "list[str]") -> str:
    """The program of a command line: a script or module where an interpreter runs one, "" if there is none."""
    rest = list(words)
    if rest and INTERPRETER.match(os.path.basename(rest[0])):
        rest = rest[1:]
        while rest and rest[0].startswith("-") and rest[0] != "-m":
            if rest[0] == "-c":
                return ""  # a text, not a program
            rest = rest[1:]
        if rest and rest[0] == "-m":
            rest = rest[1:]
    return rest[0] if rest else ""


def running_tensorboards(directory: str) -> "list[tuple[int, list[str]]]":
    """Process number and command line of each TensorBoard that shows `directory`."""
    running = []
    for pid, words in own_processes():
        logdir = option_value(words, "--logdir")
        if not logdir or not mentions_tensorboard(words):
            continue
        # A script may start it under another name. Then it counts once it listens.
        if not is_tensorboard(words) and not listening_ports(pid):
            continue
        if real_path(logdir, working_directory(pid)) == directory:
            running.append((pid, words))
    return running


def describe_tensorboard(
    pid: int, words: "list[str]", port: int, **more: object
) -> "dict[str, object]":
    """A TensorBoard as a part of the answer."""
    prefix = (option_value(words, "--path_prefix") or "").strip("/")
    path = "/" + prefix + "/" if prefix else "/"
    return dict(pid=pid, port=port, path=path, **more)


def tensorboard(request: "dict[str, object]", directory: str, end: float) -> "dict[str, object]":
    """Find the TensorBoard that shows `directory`, or start one; `end` is when to give up."""
    running = running_tensorboards(directory)
    if running:
        print_line("TensorBoard %d shows %s already" % (running[0][0], directory))
        return await_tensorboard(directory, end)

    def begin(argv: "list[str]") -> "tuple[int, str, int]":
        port = free_port(TENSORBOARD_PORT)
        options = ["--logdir", directory, "--host", "127.0.0.1", "--port", str(port)]
        pid, log = start_server(
            "tensorboard", argv + options, port, start_directory(argv, HOME), ""
        )
        return pid, log, port

    def ready(pid: int, port: int) -> "dict[str, object] | None":
        if not session_listens(pid, port):
            return None
        return describe_tensorboard(pid, [], port, started=True)

    return first_that_serves(request, TENSORBOARD, directory, end, begin, ready)


def await_tensorboard(directory: str, end: float) -> "dict[str, object]":
    """Wait until a running TensorBoard that shows `directory` accepts connections."""
    while True:
        running = running_tensorboards(directory)
        for pid, words in running:
            for port in listening_ports(pid):
                if accepts_connections(port):
                    return describe_tensorboard(pid, words, port, started=False)
        if not running or time.monotonic() > end:
            return {"error": "slow", "said": []}
        time.sleep(0.2)


def parse_server_list(text: str) -> "list[dict[str, object]]":
    """The servers in the output of Jupyter's `list`.

    Depending on the version it prints a JSON object per line, one JSON list, or lines such as
    `http://localhost:8888/?token=abc :: /home/alice`.
    """
    servers = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = parse_old_line(line)
        for server in value if isinstance(value, list) else [value]:
            if isinstance(server, dict):
                servers.append(server)
    return servers


def parse_old_line(line: str) -> "dict[str, object] | None":
    """The server in a line of an older `list`; None for any other line."""
    match = OLD_LIST_LINE.match(line.strip())
    if not match:
        return None
    scheme, host, port, base, token, directory = match.groups()
    return {
        "secure": scheme == "https",
        "hostname": host,
        "port": int(port),
        "base_url": base,
        "token": token or "",
        "root_dir": directory,
        "pid": 0,
    }


def running_jupyters(argv: "list[str]") -> "list[dict[str, object]]":
    """The user's running servers, as the Jupyter that `argv` starts lists them."""
    return [server for server in listed_jupyters(argv) if serves(server)]


def listed_jupyters(argv: "list[str]") -> "list[dict[str, object]]":
    """The servers that Jupyter lists, running or not."""
    for list_command in jupyter_list_commands(argv):
        servers = parse_server_list(output_of(list_command, 30))
        if servers:
            return servers
    return []


def serves(server: "dict[str, object]") -> bool:
    """Whether a server that Jupyter lists is running: whether its own process listens on its port.

    The list is made of notes that servers leave in files. The note of a server that was killed stays,
    and its process number may belong to another program by now. `server` gets the `pid` if it has none.
    """
    port = server.get("port")
    if not isinstance(port, int) or not 0 < port < 65536 or server.get("sock"):
        return False
    if not os.path.isdir("/proc"):
        return accepts_connections(port)  # only the lab runs on such a system
    pid = server.get("pid")
    if not pid:
        # An older list does not tell. Some other program may have the port by now.
        pid = listener(port)
        names = " ".join(command_line(pid))
        if "jupyter" not in names and "notebook" not in names:
            return False
        server["pid"] = pid
    own = [number for number, _ in own_processes()]
    return isinstance(pid, int) and pid in own and port in listening_ports(pid)


def command_line(pid: int) -> "list[str]":
    """The words of a process of the user's; none if there is no such process."""
    for number, words in own_processes():
        if number == pid:
            return words
    return []


def jupyter_list_commands(argv: "list[str]") -> "list[list[str]]":
    """The commands that may list the servers, the newest way first; the oldest know no --json."""
    runs_module = argv[1:2] == ["-m"]
    directory = os.path.dirname(argv[0])
    commands = []
    for name, module in (("jupyter-server", "jupyter_server"), ("jupyter-notebook", "notebook")):
        if runs_module:
            program = [argv[0], "-m", module]
        else:
            script = shutil.which(name, path=directory)
            if not script:
                continue
            program = [script]
        commands += [[*program, "list", "--json"], [*program, "list"]]
    return commands


def describe_jupyter(server: "dict[str, object]", **more: object) -> "dict[str, object]":
    """A Jupyter server as a part of the answer."""
    return dict(
        pid=server.get("pid") or 0,
        port=server["port"],
        path=str(server.get("base_url") or "/"),
        token=server.get("token") or "",
        password=bool(server.get("password")),
        secure=bool(server.get("secure")),
        host=server.get("hostname") or "localhost",
        directory=root_directory(server),
        **more,
    )


def listener(port: int) -> int:
    """The process of ours that listens on `port`, 0 if none does: an older `list` does not tell."""
    for pid, _ in own_processes():
        if port in listening_ports(pid):
            return pid
    return 0


def root_directory(server: "dict[str, object]") -> str:
    """The directory that a Jupyter server shows."""
    return os.path.realpath(str(server.get("root_dir") or server.get("notebook_dir") or HOME))


def matching_jupyters(
    servers: "list[dict[str, object]]", request: "dict[str, object]", directory: str
) -> "list[dict[str, object]]":
    """The servers that show `directory`; all of them if none does and the user named none."""
    exact = [server for server in servers if root_directory(server) == directory]
    if exact or request["directory"]:
        return exact
    return servers


def jupyter(request: "dict[str, object]", directory: str, end: float) -> "dict[str, object]":
    """Find the Jupyter that shows `directory`, or start one; `end` is when to give up."""
    startable = start_commands(request, JUPYTER, directory)
    if startable:
        running = matching_jupyters(running_jupyters(startable[0]), request, directory)
        if running:
            return describe_jupyter(running[0], started=False)
    token = binascii.hexlify(os.urandom(24)).decode()

    def begin(argv: "list[str]") -> "tuple[int, str, int]":
        port = free_port(JUPYTER_PORT)
        start = start_directory(argv, directory)
        options = jupyter_options(port, directory, start)
        pid, log = start_server("jupyter", argv + options, port, start, token)
        return pid, log, port

    def ready(pid: int, port: int) -> "dict[str, object] | None":
        # It may have chosen another port, if another program has taken that one meanwhile. Only its
        # own list knows its base path and whether it has a password.
        if not session_listens(pid, port) and not listening_ports(pid):
            return None
        for argv in startable:
            for server in running_jupyters(argv):
                if server.get("pid") == pid or server.get("port") == port:
                    return describe_jupyter(server, started=True)
        return None

    return first_that_serves(request, JUPYTER, directory, end, begin, ready)


def jupyter_options(port: int, directory: str, start: str) -> "list[str]":
    """The options for a Jupyter that shows `directory` and is started in `start`."""
    options = ["--no-browser", "--ip=127.0.0.1", "--port=%d" % port]
    if os.geteuid() == 0:
        options.append("--allow-root")
    if start != directory:
        options.append("--notebook-dir=" + directory)
    return options


def start_directory(argv: "list[str]", directory: str) -> str:
    """Where the server that `argv` starts is started: in `directory`, if that is safe.

    `python -m` looks for modules in the working directory first: a json.py of the user's would be
    run instead of Python's own.
    """
    if argv[1:2] == ["-m"]:
        return "/"
    return directory


def start_commands(
    request: "dict[str, object]", names: "dict[str, tuple[str, str]]", directory: str
) -> "list[list[str]]":
    """The command lines that can be tried: of the program that the user named, else of those found."""
    named = str(request["program"] or "")
    if not named:
        return find_programs(names, directory)
    path = os.path.expanduser(named)
    if os.path.isdir(path):  # an environment
        bin_directory = os.path.join(path, "bin")
        scripts = [shutil.which(name, path=bin_directory) for name in names]
    else:
        scripts = [shutil.which(path)]
    return [[script] for script in scripts if script]


def first_that_serves(
    request: "dict[str, object]",
    names: "dict[str, tuple[str, str]]",
    directory: str,
    end: float,
    begin: "Callable[[list[str]], tuple[int, str, int]]",
    ready: "Callable[[int, int], dict[str, object] | None]",
) -> "dict[str, object]":
    """Try the programs one after the other until one serves.

    `begin` starts a program and returns its process number, log and port; `ready` describes a
    server once it serves.
    """
    log = ""
    log_lines = []  # type: list[str]
    for argv in start_commands(request, names, directory)[:ATTEMPTS]:
        for _ in range(ATTEMPTS):
            print_line("starting " + " ".join(argv))
            pid, log, port = begin(argv)
            server = await_server(pid, port, end, ready)
            if server:
                return dict(server, program=" ".join(argv), log=log)
            log_lines = last_log_lines(log)
            if not has_ended(pid):
                return {"error": "slow", "said": log_lines, "log": log}
            print_line("it ended: " + (log_lines[-1] if log_lines else "it printed nothing"))
            # If its port answers now, another program took it first: try the same one again.
            if not accepts_connections(port):
                break
    return {"error": "failed" if log else "no_program", "said": log_lines, "log": log}


def await_server(
    pid: int, port: int, end: float, ready: "Callable[[int, int], dict[str, object] | None]"
) -> "dict[str, object] | None":
    """Wait for what `ready` returns; None if the process ends, or at the time `end`."""
    while time.monotonic() < end and not has_ended(pid):
        server = ready(pid, port)
        if server:
            return server
        time.sleep(0.1)
    return None


def stop_servers(request: "dict[str, object]", directory: str) -> "dict[str, object]":
    """Stop the servers that show `directory`."""
    servers = []  # type: list[tuple[int, int]]
    if request["what"] == "tensorboard":
        for pid, _ in running_tensorboards(directory):
            open_ports = listening_ports(pid)
            if open_ports:
                servers.append((pid, open_ports[0]))
    else:
        startable = start_commands(request, JUPYTER, directory)
        running = running_jupyters(startable[0]) if startable else []
        for server in matching_jupyters(running, request, directory):
            port = int(str(server["port"]))
            number = server.get("pid")
            if isinstance(number, int) and number:
                servers.append((number, port))
    stop_processes([pid for pid, _ in servers], 10)
    stopped = [{"pid": pid, "port": port} for pid, port in servers if has_ended(pid)]
    return {"stopped": stopped}


def handle(request: "dict[str, object]") -> "dict[str, object]":
    """The answer to a request."""
    directory = requested_directory(request)
    if request["do"] == "stop":
        return dict(stop_servers(request, directory), directory=directory)
    # TensorBoard can also show URLs, such as gs://bucket.
    if "://" not in directory and not os.path.isdir(directory):
        return {"error": "no_directory", "directory": directory}
    end = time.monotonic() + float(str(request["wait"]))
    if request["what"] == "tensorboard":
        server = tensorboard(request, directory, end)
    else:
        server = jupyter(request, directory, end)
    return dict({"directory": directory}, **server)


if __name__ == "__main__":
    print_line("apexgpu " + json.dumps(handle(json.loads(sys.argv[1]))))
