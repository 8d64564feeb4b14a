"""The demo: a first day, played in a lab of its own with the commands that a member would type."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from apexgpu.errors import ApexError
from apexgpu.results import JsonObject, Result
from apexgpu_lab import client

START_LIMIT = 180.0
"""Seconds that a program of the demo may take to start on a busy machine."""
STEP_LIMIT = 180.0
"""Seconds that a command of the demo may take; alone the slowest takes two or three."""


@dataclass(frozen=True)
class Demo(Result):
    """What `play` returns: the commands that were run, with their exit status."""

    steps: Sequence[tuple[str, int]]

    def to_json(self) -> JsonObject:
        """See Result."""
        steps = [{"command": command, "exit": code} for command, code in self.steps]
        return {"ok": True, "steps": steps}


def play(print_line: Callable[[str], None]) -> Demo:
    """Play a first day, and print each command and its output. Leaves no file and no process behind.

    Raises MissingProgramError without the extra `apexgpu[lab]`, and ApexError if a step fails.
    """
    client.need_extra()
    with _signals_as_exits():
        return _play(print_line)


@contextmanager
def _signals_as_exits() -> Iterator[None]:
    """Make SIGTERM and a closed terminal end the program as Ctrl-C does, with the lab taken down.

    They would end this process at once, and the lab is a process of its own that would stay.
    """

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    handlers_before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is None:
                continue  # Windows has no SIGHUP
            # Under nohup SIGHUP is ignored, and stays so.
            if signal.getsignal(number) == signal.SIG_DFL:
                handlers_before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)


def _play(print_line: Callable[[str], None]) -> Demo:
    home = Path(tempfile.mkdtemp(prefix="apexgpu-demo-"))
    try:
        print_line("A lab of three GPU hosts, inside this program, on this machine's loopback.")
        status = client.up(home / "lab", hosts=3, registered=False)
        environment = client.environment(home / "lab")
        # Connections that stay open would outlive the demo by some minutes.
        config = Path(environment["APEXGPU_CONFIG_DIR"]) / "config.toml"
        # The lab is on this machine: what does not answer at once waits for other programs here.
        config.write_text("keep_connections = false\ntimeout = 60\n")
        story = _Demo(print_line, home / "lab", environment, status)
        story.tell()
    finally:
        client.down(home / "lab")
        shutil.rmtree(home, ignore_errors=True)
    print_line("The lab is gone again; nothing of it is left.")
    print_line(f"In your own lab, start with: {_command()} login")
    return Demo(story.steps)


def _command() -> str:
    """How the user starts apexgpu from where they are: its name, or the path of a program that is not in PATH."""
    if shutil.which("apexgpu") is not None:
        return "apexgpu"
    beside = Path(sys.executable).with_name("apexgpu")
    if not beside.exists():
        return f"{shlex.quote(sys.executable)} -m apexgpu"
    path = str(beside)
    with suppress(ValueError):
        path = str(beside.relative_to(Path.cwd()))
    return shlex.quote(path)


class _Demo:
    """The steps, each a real command in a process of its own."""

    def __init__(
        self,
        print_line: Callable[[str], None],
        lab: Path,
        environment: Mapping[str, str],
        status: Mapping[str, Any],
    ) -> None:
        self._print = print_line
        self._lab = lab
        self._environment = {
            **environment,
            "PYTHONWARNINGS": "ignore",
            # Sockets of connections are in the runtime directory: one of the demo's own goes with the rest.
            "XDG_RUNTIME_DIR": str(lab.parent),
        }
        self._status = status
        self._config = environment["APEXGPU_SSH_CONFIG"]
        self._directory = lab.parent / "here"  # in which the commands are run
        self._directory.mkdir()
        self.steps: list[tuple[str, int]] = []

    def tell(self) -> None:
        """From login to down."""
        user = self._status["users"][0]
        first, second = (host["host"] for host in self._status["hosts"][:2])
        self._chapter("Log in once: IAM gets your key, your ssh config gets the hosts.")
        self._apexgpu("login", user["name"], "--password-stdin", "--yes", stdin=user["password"])
        self._apexgpu("config", "sync")
        self._chapter("Make a container on two of the hosts.")
        self._apexgpu("register", first, second)
        self._chapter("Start one, and see how the lab is doing.")
        self._apexgpu("up", first)
        self._apexgpu("status")
        self._chapter("Work there: any ssh program knows the host now, and so does apexgpu.")
        self._ssh(first, "hostname")
        self._apexgpu(
            "exec", first, "--", "nvidia-smi --query-gpu=name,memory.used --format=csv,noheader"
        )
        self._chapter("What do the GPUs do?")
        self._apexgpu("gpus", first)
        self._chapter(
            "Train on a free one. The run continues without this laptop, and no other run gets its GPU."
        )
        training = "for epoch in 1 2 3; do echo epoch $epoch on GPU $CUDA_VISIBLE_DEVICES; done"
        self._apexgpu("run", first, "--gpu", "any", "--name", "training", "--", training)
        self._apexgpu("runs", "logs", "training", "--follow")
        self._apexgpu("runs")
        self._chapter(
            "Copy a file into the container; a tunnel opens its web server on your laptop's loopback."
        )
        (self._directory / "hello.txt").write_text("hello from the container\n")
        self._apexgpu("cp", "hello.txt", f"{first}:")
        self._tunnel(first)
        self._chapter(
            "Save it to the NAS, where the archive is tested before anybody calls it good."
        )
        self._apexgpu("snapshot", first, "--name", "first-day", "--yes")
        self._apexgpu("snapshots")
        self._chapter("Stop it.")
        self._apexgpu("down", first, "--yes")

    def _chapter(self, text: str) -> None:
        self._print("")
        self._print(f"# {text}")

    def _apexgpu(self, *words: str, stdin: str = "") -> None:
        self._step(["apexgpu", *words], [sys.executable, "-m", "apexgpu", *words], stdin)

    def _ssh(self, *words: str) -> None:
        self._step(["ssh", *words], ["ssh", "-F", self._config, *words])

    def _step(self, words: Sequence[str], argv: Sequence[str], stdin: str = "") -> None:
        """Run `argv`, and show it as `words`, with both of its streams in the order in which they came."""
        command = shlex.join(words)
        try:
            done = subprocess.run(
                list(argv),
                input=stdin.encode() + b"\n",
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=STEP_LIMIT,
                cwd=self._directory,
                env={**os.environ, **self._environment},
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            message = f"the demo's step `{command}` did not end within {STEP_LIMIT:.0f} seconds"
            raise ApexError(message, hint="apexgpu demo --debug") from exc
        self._print(f"$ {command}")
        for line in _plain(done.stdout).splitlines():
            self._print(f"  {line}")
        self.steps.append((command, done.returncode))
        if done.returncode:
            message = f"the demo's step `{command}` ended with exit status {done.returncode}"
            raise ApexError(message, hint="apexgpu demo --debug")

    def _tunnel(self, host: str) -> None:
        """A web server in the container, seen through a tunnel for as long as it takes to look."""
        # Port 0 is one that is free. -u: the server's first line, which names it, is written when the server
        # listens, and not kept in a buffer. The lab's containers share this machine's ports, so the tunnel comes
        # after it: it would take the server's port.
        serve = ["python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]
        with self._beside(["ssh", "-F", self._config, host, "exec", *serve]) as server:
            listening = re.search(r" port (\d+) ", server.first_line())
            if listening is None:
                raise _not_started("web server", server)
            words = ["tunnel", host, listening[1]]
            with self._beside([sys.executable, "-m", "apexgpu", *words]) as tunnel:
                self._print(f"$ apexgpu {' '.join(words)}")
                line = tunnel.first_line()
                self._print(f"  {line}")
                if not line:
                    raise _not_started("tunnel", tunnel)
                local = int(line.split()[0].rpartition(":")[2])
                self._print(f"$ curl http://127.0.0.1:{local}/hello.txt")
                self._print(f"  {_fetch(local).strip()}")
        self.steps.append((f"apexgpu {' '.join(words)}", 0))

    @contextmanager
    def _beside(self, argv: Sequence[str]) -> Iterator["_Running"]:
        """A program that runs while we look at something else."""
        with tempfile.TemporaryFile() as stderr:
            running = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=self._directory,
                env={**os.environ, **self._environment},
            )
            with running:
                try:
                    yield _Running(running, stderr)
                finally:
                    running.terminate()


_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def _plain(output: bytes) -> str:
    """A program's output as text, without colours."""
    return _ESCAPES.sub("", output.decode("utf-8", "replace"))


@dataclass(frozen=True)
class _Running:
    """A program in the background. Its stderr is a file, which it can fill while nobody reads."""

    program: subprocess.Popen[bytes]
    stderr: IO[bytes]

    def first_line(self) -> str:
        """The first line that it prints; "" when it ends, or takes longer than START_LIMIT, without one."""
        lines: list[bytes] = []

        def read() -> None:
            # Ctrl-C closes the output, perhaps before this thread has begun to read it.
            with suppress(ValueError):
                if self.program.stdout is not None:
                    lines.append(self.program.stdout.readline())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(START_LIMIT)
        return _plain(lines[0]).strip() if lines else ""

    def reason(self) -> str:
        """Why it has printed nothing, as far as it says so."""
        self.stderr.seek(0)
        lines = _plain(self.stderr.read()).split("\n")
        reported = [line.strip() for line in lines if line.strip()]
        if reported:
            return reported[-1]
        if self.program.poll() is None:
            return f"it printed nothing for {START_LIMIT:.0f} seconds"
        return f"it ended with exit status {self.program.returncode}"


def _not_started(what: str, running: _Running) -> ApexError:
    return ApexError(
        f"the demo's {what} did not start: {running.reason()}", hint="apexgpu demo --debug"
    )


def _fetch(port: int) -> str:
    import urllib.request

    deadline = time.monotonic() + START_LIMIT
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/hello.txt", timeout=2) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise ApexError("nothing came through the tunnel") from None
            time.sleep(0.05)
