"""The demo: the whole first day, played against a lab of its own with the commands a member would type."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apexgpu.errors import ApexError
from apexgpu.hosts.replies import clean
from apexgpu.render import Screen


def play(screen: Screen) -> int:
    """Tell the story; 0 when every step went well. Leaves no file and no process behind."""
    home = Path(tempfile.mkdtemp(prefix="apexgpu-demo-"))
    from apexgpu.lab import client

    try:
        screen.result("A lab of three GPU hosts, inside this program, on this machine's loopback.")
        status = client.up(home / "lab", hosts=3, registered=False)
        environment = client.environment(home / "lab")
        # Connections that stay open would outlive the story by some minutes.
        (Path(environment["APEXGPU_CONFIG_DIR"]) / "config.toml").write_text("keep_connections = false\n")
        story = _Story(screen, home / "lab", environment, status)
        story.tell()
        screen.document({"ok": True, "steps": story.steps})
    finally:
        client.down(home / "lab")
        shutil.rmtree(home, ignore_errors=True)
    screen.result("The lab is gone again; nothing of it is left. In your own lab, start with: apexgpu login")
    return 0


class _Story:
    """The steps, each a real command in a process of its own."""

    def __init__(self, screen: Screen, lab: Path, environment: Mapping[str, str], status: Mapping[str, Any]) -> None:
        self._screen = screen
        self._lab = lab
        self._environment = {**environment, "PYTHONWARNINGS": "ignore"}
        self._status = status
        self._config = environment["APEXGPU_SSH_CONFIG"]
        self.steps: list[dict[str, Any]] = []

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
        self._apexgpu("exec", first, "--", "nvidia-smi --query-gpu=name,memory.used --format=csv,noheader")
        self._chapter("A tunnel: what listens in the container is on your laptop's loopback.")
        self._tunnel(first)
        self._chapter("Save it to the NAS, where the archive is tested before anybody calls it good.")
        self._apexgpu("snapshot", first, "--name", "first-day", "--yes")
        self._apexgpu("snapshots")
        self._chapter("Stop it.")
        self._apexgpu("down", first, "--yes")

    def _chapter(self, text: str) -> None:
        self._screen.result("")
        self._screen.result(f"# {text}")

    def _apexgpu(self, *words: str, stdin: str = "") -> None:
        self._show(["apexgpu", *words], self._run([sys.executable, "-m", "apexgpu", *words], stdin))

    def _ssh(self, *words: str) -> None:
        self._show(["ssh", *words], self._run(["ssh", "-F", self._config, *words]))

    def _run(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str]:
        """Exit status, and both streams in the order in which they came."""
        done = subprocess.run(
            list(argv), input=stdin.encode() + b"\n", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=60, env={**os.environ, **self._environment}, check=False,
        )  # fmt: skip
        return done.returncode, clean(done.stdout.decode("utf-8", "replace"))

    def _show(self, words: Sequence[str], done: tuple[int, str]) -> None:
        code, text = done
        self._screen.result(f"$ {' '.join(words)}")
        for line in text.splitlines():
            self._screen.result(f"  {line}")
        self.steps.append({"command": " ".join(words), "exit": code})
        if code:
            message = f"the demo's step `{' '.join(words)}` ended with exit status {code}"
            raise ApexError(message, hint="apexgpu demo --debug")

    def _tunnel(self, host: str) -> None:
        """A web server in the container, seen through `ssh -L`."""
        with socket.socket() as probe, socket.socket() as other:
            probe.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            local, remote = probe.getsockname()[1], other.getsockname()[1]
        serve = f"echo 'hello from the container' > hello.txt; exec python3 -m http.server --bind 127.0.0.1 {remote}"
        argv = [
            "ssh",
            "-F",
            self._config,
            "-o",
            "ExitOnForwardFailure=yes",
            f"-L127.0.0.1:{local}:127.0.0.1:{remote}",
            host,
            serve,
        ]
        self._screen.result(f"$ ssh -L {local}:localhost:{remote} {host} python3 -m http.server {remote}")
        tunnel = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  env={**os.environ, **self._environment})  # fmt: skip
        try:
            self._screen.result(f"$ curl http://localhost:{local}/hello.txt")
            self._screen.result(f"  {_fetch(local).strip()}")
        finally:
            tunnel.terminate()
            tunnel.wait(10)
        self.steps.append({"command": "tunnel", "exit": 0})


def _fetch(port: int) -> str:
    import urllib.request

    deadline = time.monotonic() + 15
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/hello.txt", timeout=2) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise ApexError("nothing came through the tunnel") from None
            time.sleep(0.05)
