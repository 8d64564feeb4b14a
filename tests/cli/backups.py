"""The command line against a lab whose servers can be disturbed at one chosen command."""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from apexgpu import cli
from apexgpu.kit import Kit
from apexgpu.lab.containers import Container
from apexgpu.lab.inprocess import Lab
from apexgpu.models import Reply, Target
from apexgpu.ssh.transport import Connections, Limits, OnLine
from tests.cli.test_hosts import Product, product_of

TOKEN = r"[0-9a-f]{8}"


@dataclass
class Hook:
    """What happens around one command: `before` it is sent, or to its reply `after`wards."""

    host: str
    pattern: str
    before: Callable[[], None] = lambda: None
    after: Callable[[Reply], Reply] = lambda reply: reply
    times: int = 1

    def meets(self, target: Target, command: str) -> bool:
        return bool(self.times and target.host.name == self.host and re.fullmatch(self.pattern, command, re.DOTALL))


@dataclass
class Wire:
    """The transport of the product, with hooks, and the list of what was sent to manage shells."""

    link: Connections
    hooks: list[Hook]
    sent: list[str]

    def run(
        self, target: Target, command: str, *, limits: Limits | None = None, on_line: OnLine | None = None,
        once: bool = False,
    ) -> Reply:  # fmt: skip
        met = [hook for hook in self.hooks if hook.meets(target, command)]
        if target.role == "manage":
            self.sent.append(f"{target.host.name} {re.sub(TOKEN, 'TOKEN', command)}".strip())
        for hook in met:
            hook.times -= 1
            hook.before()
        reply = self.link.run(target, command, limits=limits, on_line=on_line, once=once)
        for hook in met:
            reply = hook.after(reply)
        return reply

    def route(self, target: Target) -> Any:
        return self.link.route(target)


@dataclass
class Scene(Product):
    """The product in a lab, with the NAS at hand."""

    hooks: list[Hook] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)

    def __call__(self, *words: str) -> int:
        self.capsys.readouterr()
        kit = Kit(environment=os.environ, pause=lambda _: None)
        kit.__dict__["transport"] = Wire(kit.transport, self.hooks, self.sent)
        code = cli.main(words, kit)
        self.out, self.err = self.capsys.readouterr()
        return code

    @property
    def nas(self) -> Path:
        return Path(self.lab.status()["nas"]) / "Workspaces" / "lxc-snapshot"

    @property
    def own(self) -> Path:
        """The one file that the server writes."""
        return self.nas / "alice.tar.gz"

    def container(self, host: str) -> Container:
        found = self.lab.call(lambda world: world.hosts[host].accounts["alice"].container)
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
        self.hooks.append(Hook(host, pattern, before=lambda: self.lab.fault(where or host, fault, 1)))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def scene_of(lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Scene:
    product_of(lab, monkeypatch, capsys)
    return Scene(lab, capsys)
