"""The command line against a lab whose servers can be disturbed at one chosen command."""

import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from apexgpu import cli
from apexgpu.boundedoutput import OutputTaker
from apexgpu.errors import ConnectionLostError
from apexgpu.models import Host, Reply, Target
from apexgpu.session import Session, connections
from apexgpu.ssh.transport import Connections, Limits, OnLine
from apexgpu_lab.containers import Container
from apexgpu_lab.inprocess import Lab, running
from tests.cli.product import Product, product_of

TOKEN = r"[0-9a-f]{8}"
TAR = rf"snapshot {TOKEN}"
UNPACK = rf"recover {TOKEN} /NAS\S+"
LOOK = r".*probe=\.apexgpu-probe.*"
STAT = r".*# Print the size and the time of a file.*"


@dataclass
class Hook:
    """What happens around one command: `before` it is sent, or to its reply `after`wards."""

    host: str
    pattern: str
    before: Callable[[], None] = lambda: None
    after: Callable[[Reply], Reply] = lambda reply: reply
    times: int = 1

    def meets(self, target: Target, command: str) -> bool:
        return bool(
            self.times
            and target.host.name == self.host
            and re.fullmatch(self.pattern, command, re.DOTALL)
        )


@dataclass
class Wire:
    """The transport of the product, with hooks, and the list of what was sent to manage shells."""

    link: Connections
    hooks: list[Hook]
    sent: list[str]
    limits: dict[str, Limits | None]

    def run(
        self,
        target: Target,
        command: str,
        *,
        limits: Limits | None = None,
        on_line: OnLine | None = None,
        once: bool = False,
    ) -> Reply:
        def run() -> Reply:
            return self.link.run(target, command, limits=limits, on_line=on_line, once=once)

        return self._observed(target, command, limits, run)

    def stream(self, target: Target, command: str, *, limits: Limits, taker: OutputTaker) -> Reply:
        def run() -> Reply:
            return self.link.stream(target, command, limits=limits, taker=taker)

        return self._observed(target, command, limits, run)

    def _observed(
        self, target: Target, command: str, limits: Limits | None, run: Callable[[], Reply]
    ) -> Reply:
        met = [hook for hook in self.hooks if hook.meets(target, command)]
        if target.role == "manage":
            self.sent.append(f"{target.host.name} {re.sub(TOKEN, 'TOKEN', command)}".strip())
        self.limits[re.sub(TOKEN, "TOKEN", command)] = limits
        for hook in met:
            hook.times -= 1
            hook.before()
        reply = run()
        for hook in met:
            reply = hook.after(reply)
        return reply

    def route(self, target: Target) -> Any:
        return self.link.route(target)

    def drop(self, host: Host) -> None:
        self.link.drop(host)

    def dropped_after(self, host: Host) -> AbstractContextManager[None]:
        return self.link.dropped_after(host)

    def close(self, target: Target) -> None:
        self.link.close(target)


@dataclass
class Scene(Product):
    """The product in a lab, with the NAS at hand."""

    hooks: list[Hook] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    limits: dict[str, Limits | None] = field(default_factory=dict)

    def __call__(self, *words: str) -> int:
        self.capsys.readouterr()
        session = Session(
            environment=os.environ, pause=lambda _: None, make_transport=self._observed
        )
        code = cli.main(words, session)
        self.out, self.err = self.capsys.readouterr()
        return code

    def _observed(self, session: Session) -> Any:
        return Wire(connections(session), self.hooks, self.sent, self.limits)

    @property
    def nas(self) -> Path:
        return Path(self.lab.status()["nas"]) / "Workspaces" / "lxc-snapshot"

    @property
    def own(self) -> Path:
        """The one file that the server writes."""
        return self.nas / "alice.tar.gz"

    def container(self, host: str) -> Container:
        found = self.lab.call(lambda lab_state: lab_state.hosts[host].accounts["alice"].container)
        assert found is not None
        return found

    def home(self, host: str) -> Path:
        return self.container(host).home

    def state(self, host: str) -> str:
        return self.container(host).state

    def snapshots(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.json("snapshots")["snapshots"]
        return found

    def good_ones(self) -> dict[str, str]:
        """Bytes of every whole archive of the user's, by hash: none of these may ever be lost."""
        import gzip

        found = {}
        for path in self.nas.glob("alice*.tar.gz"):
            try:
                gzip.decompress(path.read_bytes())
            except (EOFError, OSError):
                continue
            found[digest(path)] = path.name
        return found

    def at(self, pattern: str, fault: str, *, host: str = "gpu2", where: str | None = None) -> None:
        """Let a fault strike once, at the next command like `pattern`."""
        self.hooks.append(
            Hook(host, pattern, before=lambda: self.lab.fault(where or host, fault, 1))
        )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def scene_of(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Scene:
    product_of(lab, monkeypatch, capsys)
    # Whole commands in a row: on a busy machine one of their many connections may well need more than 10 seconds.
    monkeypatch.setenv("APEXGPU_TIMEOUT", "60")
    return Scene(lab, capsys)


@contextmanager
def saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Scene]:
    """Three hosts with alice's containers; gpu2's runs, and was saved with the file `thesis` in it as "first"."""
    with running(tmp_path / "lab", hosts=3, registered=True) as lab:
        scene = scene_of(lab, monkeypatch, capsys)
        assert scene("up", "gpu2") == 0, scene.err
        (scene.home("gpu2") / "thesis").write_text("first")
        assert scene("snapshot", "gpu2", "--name", "first", "--yes") == 0, scene.err
        scene.sent.clear()
        yield scene
        assert lab.troubles == []


def thesis(scene: Scene) -> str:
    return (scene.home("gpu2") / "thesis").read_text()


def plain_ssh(host: str, command: str = "true") -> "subprocess.CompletedProcess[str]":
    """What a user types, with host keys checked."""
    words = ["ssh", "-F", os.environ["APEXGPU_SSH_CONFIG"], "-o", "BatchMode=yes", host, command]
    return subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)


def raising(error: BaseException) -> Callable[[], None]:
    def strike() -> None:
        raise error

    return strike


def lost(reply: Reply) -> Reply:
    raise ConnectionLostError(f"the connection was lost after {len(reply.out)} bytes")


def no_rename(scene: Scene) -> None:
    """A directory like /tmp: only the owner may rename, and the server is the owner. Copies can be made."""
    shim = Path(scene.lab.layout.home) / "bin" / "mv"
    shim.write_text('#!/bin/sh\ncase "$*" in *.part*) exec /bin/mv "$@";; esac\nexit 1\n')
    shim.chmod(0o755)
