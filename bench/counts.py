"""The connections, logins and round trips that each common command costs, and the numbers that it may not exceed.

    python -m bench.counts [--record] [NAME...]

The commands run in the embedded lab, behind a line on which round trips can be told apart (`slowline`). `counts.json`
has the numbers of today. They may only decrease: a test compares them, and `--record` writes those that are smaller.

A command that prints for longer than a round trip may cost one or two more on a busy machine, because both sides
acknowledge its output in between. What is recorded is the larger number of two runs. The commands in EXACT have the
same numbers each time.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from unittest import mock

from apexgpu_lab.inprocess import Lab, running
from apexgpu_lab.labstate import LabState
from apexgpu_lab.sshd import LabSshServer
from bench.slowline import Address, Line

RECORD = Path(__file__).with_name("counts.json")
RTT = 0.1
"""Seconds: longer than any pause between two parts of one message, also on a busy machine."""

_RUNNING = ("gpu2", "gpu3")  # of three hosts
_LIMIT = 120.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command costs."""

    connections: int
    logins: int
    round_trips: int


@dataclass
class Scene:
    """A member's laptop at a line that leads to a lab of three hosts. Two containers run there."""

    lab: Lab
    line: Line
    directory: Path
    environment: dict[str, str]
    logins: list[str] = field(default_factory=list)

    def run(self, *words: str, code: int = 0, stdin: str = "") -> str:
        """Run apexgpu and return its stdout; AssertionError if it ends with another status than `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "apexgpu", *words],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_LIMIT,
            check=False,
        )
        assert done.returncode == code, f"{words}: exit {done.returncode}: {done.stderr}"
        return done.stdout

    def start_count(self) -> None:
        """Count from now on."""
        self.logins.clear()
        self.line.start_count()

    @property
    def cost(self) -> Cost:
        """What was counted."""
        count = self.line.count
        return Cost(count.connections, len(self.logins), count.round_trips)

    def cost_of(self, *words: str, code: int = 0, stdin: str = "") -> Cost:
        """The cost of a command."""
        self.start_count()
        self.run(*words, code=code, stdin=stdin)
        return self.cost

    def keep_connections(self, keep: bool) -> None:
        """Whether commands may leave connections open for the next ones."""
        file = Path(self.environment["APEXGPU_CONFIG_DIR"]) / "config.toml"
        file.write_text(f"keep_connections = {str(keep).lower()}\n")

    def open_connections(self) -> None:
        """Have connections to the manage shells and the running containers, as after some commands."""
        self.keep_connections(True)
        self.run("status")
        self.run("exec", *_RUNNING, "--", "true")
        names = {"gpu2-manage", "gpu3-manage", "gpu4-manage", *_RUNNING}
        _wait_until(lambda: names <= {path.name.rpartition("-")[0] for path in self._sockets()})

    def _sockets(self) -> list[Path]:
        directory = Path(self.environment["XDG_RUNTIME_DIR"]) / "apexgpu"
        return [path for path in directory.iterdir() if path.is_socket()]

    def close_connections(self) -> None:
        """End what `open_connections` has opened."""
        for path in self._sockets():
            words = ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "any"]
            subprocess.run(words, check=True, capture_output=True)
        self.keep_connections(False)


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _LIMIT
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.02)


@contextlib.contextmanager
def scene(rtt: float = RTT) -> Iterator[Scene]:
    """A scene in a directory of its own, which is deleted at the end."""
    logins: list[str] = []

    def note_login(server: LabSshServer) -> None:
        logins.append(server.user)

    with (
        tempfile.TemporaryDirectory(prefix="c-", dir="/tmp", ignore_cleanup_errors=True) as name,
        mock.patch.object(LabSshServer, "auth_completed", note_login, create=True),
        running(Path(name) / "lab", hosts=3, registered=True) as lab,
        Line(rtt) as line,
    ):
        directory = Path(name)
        environment = _environment(lab, directory)
        lab.call(_start_containers)
        _move_behind(line, lab, environment)
        found = Scene(lab, line, directory, environment, logins)
        found.keep_connections(False)
        found.run(*LOGIN, stdin=f"{lab.password('alice')}\n")
        yield found
        found.run("tunnels", "close", "--all")
        found.run("unmount", "--all")


def _environment(lab: Lab, directory: Path) -> dict[str, str]:
    """The variables of a laptop that uses the lab, and nothing of this machine's."""
    foreign = ("SSH_", "XDG_", "APEXGPU_", "DISPLAY", "DBUS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling anew takes longer than a round trip
    for name in ("home", "run"):
        (directory / name).mkdir(mode=0o700)
    return {
        **kept,
        **lab.environment,
        "HOME": str(directory / "home"),
        "XDG_RUNTIME_DIR": str(directory / "run"),
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        "APEXGPU_TIMEOUT": "60",
        "TERM": "xterm",
    }


def _start_containers(lab_state: LabState) -> None:
    for name in _RUNNING:
        host = lab_state.hosts[name]
        container = host.accounts["alice"].container
        assert container is not None
        lab_state.boot(host, container)
        lab_state.forward(host, container, 22, lab_state.port_of(host, "alice"))


def _move_behind(line: Line, lab: Lab, environment: dict[str, str]) -> None:
    """Let the client know the relays' addresses in the place of the hosts' and IAM's."""

    def addresses(lab_state: LabState) -> dict[str, list[int]]:
        found = {}
        for host in lab_state.hosts.values():
            found[host.address] = [host.manage_port]
            # The port of a stopped container has to refuse connections.
            if host.name in _RUNNING:
                found[host.address].append(lab_state.port_of(host, "alice"))
        return found

    def move(lab_state: LabState) -> None:
        for host in lab_state.hosts.values():
            host.address = _behind(host.address)

    for address, ports in lab.call(addresses).items():
        for port in ports:
            line.lead(Address(_behind(address), port), Address(address, port), address)
        for file in (lab.layout.ssh_config, lab.layout.known_hosts):
            text = file.read_text()
            for mark in ("\n", "]"):
                text = text.replace(f"{address}{mark}", f"{_behind(address)}{mark}")
            file.write_text(text)
    lab.call(move)
    iam = Address.parse(lab.iam_url.removeprefix("http://"))
    relay = line.lead(Address(_behind(iam.host), 0), iam)
    environment["APEXGPU_IAM_URL"] = f"http://{relay.host}:{relay.port}"


def _behind(address: str) -> str:
    """The relay's address for an address of the lab, whose networks have even numbers."""
    first, second, third, fourth = address.split(".")
    return f"{first}.{second}.{int(third) + 1}.{fourth}"


# The commands

LOGIN = ("login", "alice", "--password-stdin", "--yes", "--accept-new", "--allow-http")


def _login_again(scene: Scene) -> Cost:
    return scene.cost_of(*LOGIN, stdin=f"{scene.lab.password('alice')}\n")


def _mount(scene: Scene) -> Cost:
    cost = scene.cost_of("mount", "gpu2")
    scene.run("unmount", "--all")
    return cost


def _unmount(scene: Scene) -> Cost:
    scene.run("mount", "gpu2")
    return scene.cost_of("unmount", "gpu2")


def _tunnel(scene: Scene) -> Cost:
    """Until the first byte comes back through it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        scene.start_count()
        said = scene.run("tunnel", "gpu2", str(port), "--background", "--json")
        local_port = json.loads(said)["tunnels"][0]["local_port"]
        with socket.create_connection(("127.0.0.1", local_port), _LIMIT) as client:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"x")
                assert client.recv(1) == b"x"
        cost = scene.cost
    scene.run("tunnels", "close", "--all")
    return cost


def _jupyter(scene: Scene) -> Cost:
    scene.run("jupyter", "gpu2", "--background")
    scene.run("tunnels", "close", "--all")
    cost = scene.cost_of("jupyter", "gpu2", "--background")
    scene.run("tunnels", "close", "--all")
    scene.run("jupyter", "gpu2", "--stop")
    return cost


def _snapshots(scene: Scene) -> Cost:
    _archive(scene)
    return scene.cost_of("snapshots")


def _archive(scene: Scene) -> str:
    """The name of an archive on the NAS, which is made where there is none."""
    nas = Path(scene.lab.status()["nas"])
    if not any(nas.rglob("alice*.tar.gz")):
        scene.run("snapshot", "gpu4", "--yes", "--no-restart")
    names = [row["name"] for row in json.loads(scene.run("snapshots", "--json"))["snapshots"]]
    return str(names[0])


def _recover(scene: Scene) -> Cost:
    """Until the question, which nobody answers: there is no terminal."""
    return scene.cost_of("recover", "gpu2", "--from", _archive(scene), code=7)


def _copy_there(scene: Scene) -> Cost:
    """300 small files into a new directory."""
    _new_directory(scene, "there")
    return scene.cost_of("cp", str(_small_files(scene)), "gpu2:there/")


def _copy_back(scene: Scene) -> Cost:
    """The same files from the container."""
    _new_directory(scene, "there")
    scene.run("cp", str(_small_files(scene)), "gpu2:there/")
    target = scene.directory / "back"
    shutil.rmtree(target, ignore_errors=True)
    return scene.cost_of("cp", "gpu2:there/small", f"{target}/")


def _copy_again(scene: Scene) -> Cost:
    """The same files, which are there already."""
    words = ("cp", str(_small_files(scene)), "gpu2:there/")
    scene.run(*words)
    return scene.cost_of(*words)


def _copy_matches(scene: Scene) -> Cost:
    """100 files of a directory, by a wildcard."""
    _new_directory(scene, "there")
    scene.run("cp", str(_small_files(scene)), "gpu2:there/")
    target = scene.directory / "matches"
    shutil.rmtree(target, ignore_errors=True)
    return scene.cost_of("cp", "gpu2:there/small/1*", f"{target}/")


def _small_files(scene: Scene) -> Path:
    directory = scene.directory / "small"
    if not directory.exists():
        directory.mkdir()
        for number in range(300):
            (directory / f"{number:03}").write_bytes(b"%d" % number * 500)
    return directory


def _new_directory(scene: Scene, name: str) -> None:
    """Let the container have no such directory."""
    scene.run("exec", "gpu2", "--", f"rm -rf {name}")


def _run(*words: str) -> Callable[[Scene], Cost]:
    """A start that returns at once."""

    def measure(scene: Scene) -> Cost:
        cost = scene.cost_of("run", *words, "--name", "one", "--", "true")
        _remove_runs(scene)
        return cost

    return measure


def _run_logs(scene: Scene) -> Cost:
    """`runs logs --follow` of a run that goes on, until its first line is on the screen."""
    scene.run("run", "gpu2", "--name", "one", "--", "echo first; sleep 1000")
    cost = _cost_to_first_line(scene, "runs", "logs", "one", "--follow")
    _remove_runs(scene)
    return cost


def _run_follow(scene: Scene) -> Cost:
    """`run --follow`, until the first line of CMD is on the screen."""
    words = ("run", "gpu2", "--name", "one", "--follow", "--", "echo first; sleep 1000")
    cost = _cost_to_first_line(scene, *words)
    _remove_runs(scene)
    return cost


def _cost_to_first_line(scene: Scene, *words: str) -> Cost:
    scene.start_count()
    process = subprocess.Popen(
        [sys.executable, "-m", "apexgpu", *words],
        env=scene.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"first\n"
        return scene.cost
    finally:
        process.kill()
        process.wait(_LIMIT)
        process.stdout.close()


def _remove_runs(scene: Scene) -> None:
    scene.run("runs", "stop", "one")
    scene.run("runs", "clean", "--yes")


def _plain_ssh(scene: Scene) -> Cost:
    """The peer of `ssh`."""
    scene.start_count()
    words = ["ssh", "-F", scene.environment["APEXGPU_SSH_CONFIG"], "gpu2", "true"]
    subprocess.run(words, env=scene.environment, check=True, timeout=_LIMIT)
    return scene.cost


def _plain_sshfs(scene: Scene) -> Cost:
    """The peer of `mount`."""
    directory = scene.directory / "plain"
    directory.mkdir()
    scene.start_count()
    words = ["sshfs", "-F", scene.environment["APEXGPU_SSH_CONFIG"], "gpu2:", str(directory)]
    subprocess.run(words, env=scene.environment, check=True, timeout=_LIMIT)
    directory.stat()
    cost = scene.cost
    subprocess.run(["fusermount3", "-u", str(directory)], check=True, timeout=_LIMIT)
    return cost


def _command(*words: str) -> Callable[[Scene], Cost]:
    def measure(scene: Scene) -> Cost:
        return scene.cost_of(*words)

    return measure


COMMANDS: Mapping[str, Callable[[Scene], Cost]] = {
    "ssh -- true": _command("ssh", "gpu2", "--", "true"),
    "(plain ssh)": _plain_ssh,
    "exec": _command("exec", "gpu2", "--", "true"),
    "status": _command("status"),
    "up, running": _command("up", "gpu2"),
    "mount": _mount,
    "(plain sshfs)": _plain_sshfs,
    "unmount": _unmount,
    "tunnel": _tunnel,
    "gpus": _command("gpus"),
    "gpus free": _command("gpus", "free"),
    "run": _run("gpu2"),
    "run --gpu any": _run("gpu2", "--gpu", "any"),
    "run any": _run("any"),
    "run --env": _run("gpu2", "--env", "A=b"),
    "run --follow, first line": _run_follow,
    "runs": _command("runs"),
    "runs logs --follow, first line": _run_logs,
    "snapshots": _snapshots,
    "cp, to the host": _copy_there,
    "cp, back": _copy_back,
    "cp, nothing to do": _copy_again,
    "cp, glob": _copy_matches,
    "jupyter, running": _jupyter,
    "recover, checks": _recover,
    "login, again": _login_again,
}
"""Each with a new login for each connection."""

REPEATED: Mapping[str, Callable[[Scene], Cost]] = {
    f"{name}, repeated": COMMANDS[name]
    for name in (
        "ssh -- true",
        "exec",
        "status",
        "up, running",
        "mount",
        "tunnel",
        "gpus",
        "gpus free",
        "run",
        "run any",
        "run --env",
        "runs",
        "runs logs --follow, first line",
        "snapshots",
        "jupyter, running",
        "recover, checks",
    )
}
"""The same over connections that are open."""


EXACT = ("ssh -- true", "exec", "status", "ssh -- true, repeated")
"""Those that print little, and open one connection to a host."""


def measure(scene: Scene, name: str) -> Cost:
    """The cost of the command called `name`."""
    if name not in REPEATED:
        return COMMANDS[name](scene)
    scene.open_connections()
    try:
        return REPEATED[name](scene)
    finally:
        scene.close_connections()


def recorded() -> dict[str, Cost]:
    """The numbers that may only decrease."""
    return {name: Cost(**cost) for name, cost in json.loads(RECORD.read_text()).items()}


def main() -> int:
    """Print the costs; 1 if one of them has increased."""
    parser = argparse.ArgumentParser(description="Count connections, logins and round trips.")
    parser.add_argument("--record", action="store_true", help="write what has decreased")
    parser.add_argument("names", nargs="*", metavar="NAME")
    chosen = parser.parse_args()
    known = recorded() if RECORD.exists() else {}
    increased = False
    with scene() as found:
        for name in chosen.names or [*COMMANDS, *REPEATED]:
            cost, before = _larger(measure(found, name), measure(found, name)), known.get(name)
            increased |= before is not None and exceeds(cost, before)
            print(f"{name}: {asdict(cost)}, recorded {before and asdict(before)}", flush=True)
            if before is None or not exceeds(cost, before):
                known[name] = cost
    if chosen.record:
        lines = [f"{json.dumps(name)}: {json.dumps(asdict(known[name]))}" for name in known]
        RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 1 if increased else 0


def _larger(one: Cost, other: Cost) -> Cost:
    pairs = zip(asdict(one).values(), asdict(other).values(), strict=True)
    return Cost(*(max(pair) for pair in pairs))


def exceeds(cost: Cost, before: Cost) -> bool:
    pairs = zip(asdict(cost).values(), asdict(before).values(), strict=True)
    return any(now > then for now, then in pairs)


if __name__ == "__main__":
    sys.exit(main())
