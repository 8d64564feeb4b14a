"""See whether TensorBoard or Jupyter serves already in a container, start or stop it.

argv[1] is a JSON object: the wish; the last line said is `apexgpu ` and a JSON object: what it came to. A token is
made here and handed on in the environment alone, where only the user can read it: never in argv, and where it is
given, Jupyter keeps it out of its log too.
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
    answers,
    ended,
    free,
    option,
    output,
    ports,
    processes,
    resolved,
    say,
    serves,
    start,
    stop,
    tail,
    working,
)
from apexgpu.remote.programs.search import programs

TENSORBOARD = {"tensorboard": ("tensorboard.main", "tensorboard/main.py")}
JUPYTER = {
    "jupyter-lab": ("jupyterlab", "jupyterlab/__main__.py"),
    "jupyter-notebook": ("notebook", "notebook/__main__.py"),
}
TRIES = 3


def wanted_directory(wish: "dict[str, object]") -> str:
    """The directory here that was meant: the laptop's shell may have put the laptop's home for a `~`."""
    named, laptop = str(wish["directory"] or "~"), str(wish["home"])
    here = resolved(named, HOME)
    if (
        laptop not in ("", "/")
        and (named + "/").startswith(laptop + "/")
        and not os.path.isdir(here)
    ):
        return resolved("~" + named[len(laptop) :], HOME)
    return here


def is_tensorboard(words: "list[str]") -> bool:
    """Whether these are the words of a TensorBoard, whoever started it and how."""
    before = words[
        : next((place for place, word in enumerate(words) if word.startswith("--logdir")), 0)
    ]
    return any(os.path.basename(word) in ("tensorboard", "tensorboard.main") for word in before)


def boards(directory: str) -> "list[tuple[int, list[str]]]":
    """The TensorBoards that show a directory."""
    found = []
    for pid, words in processes():
        shown = option(words, "--logdir")
        if shown and is_tensorboard(words) and resolved(shown, working(pid)) == directory:
            found.append((pid, words))
    return found


def board(pid: int, words: "list[str]", port: int, **more: object) -> "dict[str, object]":
    """A TensorBoard as the answer tells it."""
    prefix = (option(words, "--path_prefix") or "").strip("/")
    return dict(pid=pid, port=port, path="/" + prefix + "/" if prefix else "/", **more)


def tensorboard(wish: "dict[str, object]", directory: str, end: float) -> "dict[str, object]":
    """Find the one that shows the directory, or start one."""
    running = boards(directory)
    if running:
        say("TensorBoard %d shows %s already" % (running[0][0], directory))
        while True:
            for pid, words in boards(directory):
                port = next((port for port in ports(pid) if answers(port)), 0)
                if port:
                    return board(pid, words, port, started=False)
            if time.monotonic() > end or not boards(directory):
                return {"error": "slow", "said": []}
            time.sleep(0.2)

    def begin(argv: "list[str]") -> "tuple[int, str, int]":
        port = free(6006)
        more = ["--logdir", directory, "--host", "127.0.0.1", "--port", str(port)]
        return (*start("tensorboard", argv, more, port, HOME, ""), port)

    def ready(pid: int, port: int) -> "dict[str, object] | None":
        return board(pid, [], port, started=True) if serves(pid, port) else None

    return first_that_serves(wish, TENSORBOARD, directory, end, begin, ready)


def read_list(text: str) -> "list[dict[str, object]]":
    """The servers in what `list` says: JSON a line, one JSON list, or `URL?token=… :: DIRECTORY`."""
    found = []
    for line in text.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            said = read_line(line)
        found += [
            one for one in (said if isinstance(said, list) else [said]) if isinstance(one, dict)
        ]
    return found


def read_line(line: str) -> "dict[str, object] | None":
    """A server in the words of an older `list`."""
    found = re.match(
        r"(https?)://([^/]*?):(\d+)(/[^?\s]*)(?:\?token=(\S*))? :: (.*)$", line.strip()
    )
    if not found:
        return None
    scheme, host, port, base, token, directory = found.groups()
    return {
        "secure": scheme == "https",
        "hostname": host,
        "port": int(port),
        "base_url": base,
        "token": token or "",
        "root_dir": directory,
        "pid": 0,
    }


def notebooks(argv: "list[str]") -> "list[dict[str, object]]":
    """The notebook servers of the user that run, as Jupyter itself lists them."""
    room, python = os.path.dirname(argv[0]), argv[0] if argv[1:2] == ["-m"] else ""
    found = []
    for name, module in (("jupyter-server", "jupyter_server"), ("jupyter-notebook", "notebook")):
        script = shutil.which(name, path=room)
        front = [python, "-m", module] if python else [script] if script else []
        for more in (["list", "--json"], ["list"]) if front else ():
            found = read_list(output(front + more, 30))
            if found:
                return [one for one in found if one.get("port") and not one.get("sock")]
    return []


def notebook(one: "dict[str, object]", **more: object) -> "dict[str, object]":
    """A notebook server as the answer tells it."""
    base = str(one.get("base_url") or "/")
    return dict(
        pid=one.get("pid") or 0,
        port=one["port"],
        path=base,
        token=one.get("token") or "",
        password=bool(one.get("password")),
        secure=bool(one.get("secure")),
        host=one.get("hostname") or "localhost",
        directory=root(one),
        **more,
    )


def owner(port: int) -> int:
    """The process that listens on a port: an older `list` does not tell."""
    return next((pid for pid, _ in processes() if port in ports(pid)), 0)


def root(one: "dict[str, object]") -> str:
    """The directory that a notebook server shows."""
    return os.path.realpath(str(one.get("root_dir") or one.get("notebook_dir") or HOME))


def chosen(
    found: "list[dict[str, object]]", wish: "dict[str, object]", directory: str
) -> "list[dict[str, object]]":
    """Those that show the directory; when none was named, any will do."""
    exact = [one for one in found if root(one) == directory]
    return exact or ([] if wish["directory"] else found)


def jupyter(wish: "dict[str, object]", directory: str, end: float) -> "dict[str, object]":
    """Find the one that serves the directory, or start one."""
    known = commands(wish, JUPYTER, directory)
    for one in chosen(notebooks(known[0]), wish, directory) if known else ():
        return notebook(one, started=False)
    token = binascii.hexlify(os.urandom(24)).decode()

    def begin(argv: "list[str]") -> "tuple[int, str, int]":
        port = free(8888)
        more = ["--no-browser", "--ip=127.0.0.1", "--port=%d" % port]
        more += ["--allow-root"] if os.geteuid() == 0 else []
        return (*start("jupyter", argv, more, port, directory, token), port)

    def ready(pid: int, port: int) -> "dict[str, object] | None":
        # It may have taken another port, where that one was lost in the meantime.
        if not serves(pid, port) and not ports(pid):
            return None
        found = [
            one
            for argv in known
            for one in notebooks(argv)
            if one.get("pid") == pid or one.get("port") == port
        ]
        return notebook(found[0], started=True) if found else None

    return first_that_serves(wish, JUPYTER, directory, end, begin, ready)


def commands(
    wish: "dict[str, object]", names: "dict[str, tuple[str, str]]", directory: str
) -> "list[list[str]]":
    """What can be started: the program that the user named, else what is found."""
    named = str(wish["program"] or "")
    if not named:
        return programs(names, directory)
    path = os.path.expanduser(named)
    if os.path.isdir(path):
        return [
            [found]
            for found in (shutil.which(name, path=os.path.join(path, "bin")) for name in names)
            if found
        ]
    found = shutil.which(path)
    return [[found]] if found else []


def first_that_serves(
    wish: "dict[str, object]",
    names: "dict[str, tuple[str, str]]",
    directory: str,
    end: float,
    begin: "Callable[[list[str]], tuple[int, str, int]]",
    ready: "Callable[[int, int], dict[str, object] | None]",
) -> "dict[str, object]":
    """Start what is found, one after the other, until one serves."""
    said = []  # type: list[str]
    log = ""
    for argv in commands(wish, names, directory)[:TRIES]:
        for _ in range(TRIES):
            say("starting " + " ".join(argv))
            pid, log, port = begin(argv)
            found = awaited(pid, port, end, ready)
            if found:
                return dict(found, program=" ".join(argv), log=log)
            said = tail(log)
            if not ended(pid):
                return {"error": "slow", "said": said, "log": log}
            say("it ended: " + (said[-1] if said else "it said nothing"))
            if not answers(port):
                break  # else another program had its port before it could
    return {"error": "failed" if log else "no_program", "said": said, "log": log}


def awaited(
    pid: int, port: int, end: float, ready: "Callable[[int, int], dict[str, object] | None]"
) -> "dict[str, object] | None":
    """What `ready` tells of a server once it serves; None when it has ended, or its time has."""
    while time.monotonic() < end and not ended(pid):
        found = ready(pid, port)
        if found:
            return found
        time.sleep(0.1)
    return None


def stopped(wish: "dict[str, object]", directory: str) -> "dict[str, object]":
    """End what serves the directory."""
    if wish["what"] == "tensorboard":
        found = boards(directory)
        gone = [(pid, port) for pid, _ in found for port in ports(pid)[:1] or [0]]
    else:
        known = commands(wish, JUPYTER, directory)
        servers = chosen(notebooks(known[0]), wish, directory) if known else []
        gone = [
            (int(str(one.get("pid") or owner(int(str(one["port"]))))), int(str(one["port"])))
            for one in servers
        ]
    stop([pid for pid, _ in gone if pid], 10)
    gone = [(pid, port) for pid, port in gone if pid and ended(pid)]
    return {"stopped": [{"pid": pid, "port": port} for pid, port in gone]}


def answer(wish: "dict[str, object]") -> "dict[str, object]":
    """What a wish comes to."""
    directory = wanted_directory(wish)
    if wish["do"] == "stop":
        return dict(stopped(wish, directory), directory=directory)
    if "://" not in directory and not os.path.isdir(directory):
        return {"error": "no_directory", "directory": directory}
    end = time.monotonic() + float(str(wish["wait"]))
    work = tensorboard if wish["what"] == "tensorboard" else jupyter
    return dict({"directory": directory}, **work(wish, directory, end))


if __name__ == "__main__":
    say("apexgpu " + json.dumps(answer(json.loads(sys.argv[1]))))
