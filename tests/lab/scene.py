"""A world without sockets, set as a recording's `state` says, and what a call to it answered."""

import asyncio
import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from apexgpu_lab import rootfs, trees
from apexgpu_lab.console import ClientGone, Console
from apexgpu_lab.containers import Account, Container, PortMap
from apexgpu_lab.faults import IAM
from apexgpu_lab.register import register
from apexgpu_lab.shell import manage
from apexgpu_lab.world import Place, World

TRANSCRIPTS = Path(__file__).parent.parent / "data" / "transcripts"
ENDLESS = 124  # the exit status of recordings that were cut off by a time limit
_COMMAND = re.compile(
    r"ssh (?P<tty>-tt )?(?P<user>\w+)@(?P<host>gpu\d)-manage(?: (?P<command>.*))?", re.DOTALL
)
_TOKEN = re.compile(r"\b(snapshot|recover) (?!deadbeef)([0-9a-f]{8})\b")


@dataclass
class Answer:
    """What came back."""

    exit: int
    out: str
    err: str


class Recorder(Console):
    """A console that keeps what it is told; `leave_at` is the text at which the client goes."""

    def __init__(self, *, tty: bool, leave_at: str | None) -> None:
        super().__init__(tty=tty)
        self.streams = {False: "", True: ""}
        self._leave_at = leave_at

    def send(self, text: str, *, error: bool) -> None:
        """Keep it, on a terminal in one stream."""
        self.streams[error and not self.tty] += text.replace("\n", "\r\n") if self.tty else text
        if self._leave_at and self._leave_at in text:
            self.lose()


@dataclass
class Scene:
    """One host, and the user whom the recording is about."""

    world: World
    user: str
    leave_at: str | None = None
    token: str | None = None
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.host = self.world.hosts["gpu2"]
        self.world.roster.visit(self.user)

    @property
    def container(self) -> Container:
        """The user's container, registered when it is first asked for."""
        account = self.host.accounts.get(self.user) or self.world.register(self.host, self.user)
        assert account.container
        return account.container

    @property
    def snapshots(self) -> Path:
        """The archive directory of the NAS."""
        return self.world.nas / rootfs.SNAPSHOTS

    def set(self, state: str) -> None:
        """Apply words of state from left to right; `word:argument` takes an argument."""
        for word in state.split():
            name, _, argument = word.partition(":")
            STATES[name](self, argument)

    def map(self, port: str) -> None:
        """Forward a port of the container as the shell does."""
        self.world.forward(self.host, self.container, int(port), self.world.next_port(self.host))

    def run(self, command: str | None, *, tty: bool = False, who: str | None = None) -> Answer:
        """Answer one command; one that never ends counts as cut off."""
        console = Recorder(tty=tty, leave_at=self.leave_at)
        code = asyncio.run(self._run(command, console, who or self.user))
        return Answer(code, console.streams[False], console.streams[True])

    async def _run(self, command: str | None, console: Recorder, who: str) -> int:
        if who == "register":
            work = register(self.world, self.host, command, console)
        else:
            account = self.host.accounts.get(who) or Account(who)
            if console.tty and command is None and account.last_login:
                console.out(f"Last login: {account.last_login}\r\n")
            work = manage(self.world, self.host, account, command, console)
        task = asyncio.ensure_future(work)
        seen = -1
        while (
            not task.done()
        ):  # a command that says nothing more over many turns of the loop is waiting for ever
            now = sum(map(len, console.streams.values()))
            if now == seen and await _idle(task):
                task.cancel()
                return ENDLESS
            seen = now
            await asyncio.sleep(0)
        try:
            return task.result()
        except ClientGone:
            return ENDLESS


async def _idle(task: "asyncio.Task[int]") -> bool:
    """Whether nothing comes of it for seconds; in several waits, for a machine that stands still takes only one."""
    for _ in range(6):
        done, _ = await asyncio.wait([task], timeout=0.5)
        if done:
            return False
    return True


def _running(scene: Scene, _: str) -> None:
    scene.world.boot(scene.host, scene.container)
    scene.world.forward(
        scene.host, scene.container, 22, scene.world.port_of(scene.host, scene.user)
    )


def _unforwarded(scene: Scene, _: str) -> None:
    scene.world.boot(scene.host, scene.container)


def _halted(scene: Scene, _: str) -> None:
    """Stopped, with its maps left behind."""
    scene.world.halt(scene.host, scene.container)


def _archive(scene: Scene, name: str) -> None:
    """`alice.tar.gz` good, `cut.tar.gz` and `truncated.tar.gz` cut short, `garbage.tar.gz` garbage."""
    target = scene.snapshots / name
    if name.startswith("garbage"):
        target.write_bytes(b"no archive at all" * 500)
        return
    owner = name.removesuffix(".tar.gz")
    if owner in scene.world.roster.registered and owner != scene.user:
        other = scene.world.register(scene.host, owner).container
        assert other
        trees.pack(other.rootfs, target)
        return
    trees.pack(scene.container.rootfs, target)
    if not name.startswith(scene.user):
        trees.cut_short(target)


def _no_tree(scene: Scene, _: str) -> None:
    shutil.rmtree(scene.container.rootfs)
    scene.container.intact = False


def _socket(scene: Scene, name: str) -> None:
    os.mknod(scene.container.home / name, stat.S_IFSOCK | 0o600)


def _lose(scene: Scene, at: str) -> None:
    scene.leave_at = at.replace("_", " ")


def _old_token(scene: Scene, _: str) -> None:
    scene.token = scene.world.token()
    scene.world.clock = lambda: 2e9


STATES: dict[str, Callable[[Scene, str], None]] = {
    "stopped": lambda scene, _: scene.container.bootable or None,  # type: ignore[dict-item]  # for its effect
    "running": _running,
    "unforwarded": _unforwarded,
    "halted": _halted,
    "map": Scene.map,
    "foreign-map": lambda scene, port: scene.host.maps.append(PortMap("10.0.4.250", int(port), 80)),
    "fault": lambda scene, kind: scene.world.faults.set(scene.host.name, kind),
    "no-fault": lambda scene, kind: scene.world.faults.clear(scene.host.name, kind),
    "iam": lambda scene, kind: scene.world.faults.set(IAM, kind),
    "visits-iam": lambda scene, name: scene.world.roster.visit(name) and None,  # type: ignore[dict-item]  # what it returns is not looked at
    "half-made": lambda scene, name: scene.host.accounts.update(
        {name: Account(name, half_made=True)}
    ),
    "archive": _archive,
    "directory": lambda scene, name: (scene.world.nas / name).mkdir(parents=True),
    "no-directory": lambda scene, _: shutil.rmtree(scene.snapshots),
    "no-tree": _no_tree,
    "not-owned": lambda scene, _: setattr(scene.container, "owned", False),
    "cut-tree": lambda scene, _: setattr(scene.container, "intact", False),
    "socket": _socket,
    "leave-at": _lose,
    "old-token": _old_token,
    "last-login": lambda scene, _: setattr(
        scene.host.accounts[scene.user], "last_login", "Mon from 1.2.3.4"
    ),
}


def scene_of(directory: Path, user: str) -> Scene:
    """A fresh scene."""
    return Scene(World(directory, [Place("127.77.0.2", 2222)], pace=0), user)


def replay(directory: Path, name: str, state: str) -> tuple[Answer, Answer]:
    """What the recording `name` says, and what the lab says in the same state to the same command."""
    recorded = json.loads((TRANSCRIPTS / f"{name}.json").read_text(encoding="utf-8"))
    match = _COMMAND.fullmatch(recorded["command"])
    assert match, recorded["command"]
    command = match["command"]
    about = (command or "alice").split()[0] if match["user"] == "register" else match["user"]
    scene = scene_of(directory, "alice" if about not in ("alice", "bob") else about)
    scene.set(state)
    if command:
        token = scene.token or scene.world.token()
        command = _TOKEN.sub(lambda found: f"{found[1]} {token}", command)
    answer = scene.run(command, tty=bool(match["tty"]), who=match["user"])
    return Answer(recorded["exit"], recorded["stdout"], recorded["stderr"]), answer
