"""The situations of the recordings: a lab without sockets, brought into the state that a recording needs."""

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
from apexgpu_lab.labstate import HostAddress, LabState
from apexgpu_lab.shell import run_manage_shell
from apexgpu_lab.shell_register import run_register_shell

TRANSCRIPTS = Path(__file__).parent.parent / "data" / "transcripts"
ENDLESS = 124  # the exit status of recordings that were cut off by a time limit
_COMMAND = re.compile(
    r"ssh (?P<tty>-tt )?(?P<user>\w+)@(?P<host>gpu\d)-manage(?: (?P<command>.*))?",
    re.DOTALL,
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
            self.disconnected()


@dataclass
class Situation:
    """One host, and the user whom the recording is about."""

    lab_state: LabState
    user: str
    leave_at: str | None = None
    token: str | None = None
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.host = self.lab_state.hosts["gpu2"]
        self.lab_state.users.ensure_registered(self.user)

    @property
    def container(self) -> Container:
        """The user's container, registered when it is first asked for."""
        account = self.host.accounts.get(self.user) or self.lab_state.register(self.host, self.user)
        assert account.container
        return account.container

    @property
    def snapshots(self) -> Path:
        """The archive directory of the NAS."""
        return self.lab_state.nas / rootfs.SNAPSHOTS

    def set(self, state: str) -> None:
        """Apply words of state from left to right; `word:argument` takes an argument."""
        for word in state.split():
            name, _, argument = word.partition(":")
            STATES[name](self, argument)

    def map(self, port: str) -> None:
        """Forward a port of the container as the shell does."""
        self.lab_state.forward(
            self.host, self.container, int(port), self.lab_state.next_port(self.host)
        )

    def run(self, command: str | None, *, tty: bool = False, who: str | None = None) -> Answer:
        """Answer one command; one that never ends counts as cut off."""
        console = Recorder(tty=tty, leave_at=self.leave_at)
        code = asyncio.run(self._run(command, console, who or self.user))
        return Answer(code, console.streams[False], console.streams[True])

    async def _run(self, command: str | None, console: Recorder, who: str) -> int:
        if who == "register":
            work = run_register_shell(self.lab_state, self.host, command, console)
        else:
            account = self.host.accounts.get(who) or Account(who)
            if console.tty and command is None and account.last_login:
                console.out(f"Last login: {account.last_login}\r\n")
            work = run_manage_shell(self.lab_state, self.host, account, command, console)
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


def _running(situation: Situation, _: str) -> None:
    situation.lab_state.boot(situation.host, situation.container)
    situation.lab_state.forward(
        situation.host,
        situation.container,
        22,
        situation.lab_state.port_of(situation.host, situation.user),
    )


def _unforwarded(situation: Situation, _: str) -> None:
    situation.lab_state.boot(situation.host, situation.container)


def _halted(situation: Situation, _: str) -> None:
    """Stopped, with its maps left behind."""
    situation.lab_state.halt(situation.host, situation.container)


def _archive(situation: Situation, name: str) -> None:
    """`alice.tar.gz` good, `cut.tar.gz` and `truncated.tar.gz` cut short, `garbage.tar.gz` garbage."""
    target = situation.snapshots / name
    if name.startswith("garbage"):
        target.write_bytes(b"no archive at all" * 500)
        return
    owner = name.removesuffix(".tar.gz")
    if owner in situation.lab_state.users.registered and owner != situation.user:
        other = situation.lab_state.register(situation.host, owner).container
        assert other
        trees.pack(other.rootfs, target)
        return
    trees.pack(situation.container.rootfs, target)
    if not name.startswith(situation.user):
        trees.cut_short(target)


def _no_tree(situation: Situation, _: str) -> None:
    shutil.rmtree(situation.container.rootfs)
    situation.container.intact = False


def _socket(situation: Situation, name: str) -> None:
    os.mknod(situation.container.home / name, stat.S_IFSOCK | 0o600)


def _lose(situation: Situation, at: str) -> None:
    situation.leave_at = at.replace("_", " ")


def _old_token(situation: Situation, _: str) -> None:
    situation.token = situation.lab_state.token()
    situation.lab_state.clock = lambda: 2e9


STATES: dict[str, Callable[[Situation, str], None]] = {
    "stopped": lambda situation, _: situation.container.bootable or None,  # type: ignore[dict-item]  # for its effect
    "running": _running,
    "unforwarded": _unforwarded,
    "halted": _halted,
    "map": Situation.map,
    "foreign-map": lambda situation, port: situation.host.maps.append(
        PortMap("10.0.4.250", int(port), 80)
    ),
    "fault": lambda situation, kind: situation.lab_state.faults.set(situation.host.name, kind),
    "no-fault": lambda situation, kind: situation.lab_state.faults.clear(situation.host.name, kind),
    "iam": lambda situation, kind: situation.lab_state.faults.set(IAM, kind),
    "visits-iam": lambda situation, name: (
        situation.lab_state.users.ensure_registered(name) and None
    ),  # type: ignore[dict-item]  # what it returns is not looked at
    "half-made": lambda situation, name: situation.host.accounts.update(
        {name: Account(name, half_made=True)}
    ),
    "archive": _archive,
    "directory": lambda situation, name: (situation.lab_state.nas / name).mkdir(parents=True),
    "no-directory": lambda situation, _: shutil.rmtree(situation.snapshots),
    "no-tree": _no_tree,
    "not-owned": lambda situation, _: setattr(situation.container, "owned", False),
    "cut-tree": lambda situation, _: setattr(situation.container, "intact", False),
    "socket": _socket,
    "leave-at": _lose,
    "old-token": _old_token,
    "last-login": lambda situation, _: setattr(
        situation.host.accounts[situation.user], "last_login", "Mon from 1.2.3.4"
    ),
}


def make_situation(directory: Path, user: str) -> Situation:
    """Return a situation with nothing in it yet."""
    return Situation(LabState(directory, [HostAddress("127.77.0.2", 2222)], pace=0), user)


def replay(directory: Path, name: str, state: str) -> tuple[Answer, Answer]:
    """What the recording `name` says, and what the lab says in the same state to the same command."""
    recorded = json.loads((TRANSCRIPTS / f"{name}.json").read_text(encoding="utf-8"))
    match = _COMMAND.fullmatch(recorded["command"])
    assert match, recorded["command"]
    command = match["command"]
    about = (command or "alice").split()[0] if match["user"] == "register" else match["user"]
    situation = make_situation(directory, "alice" if about not in ("alice", "bob") else about)
    situation.set(state)
    if command:
        token = situation.token or situation.lab_state.token()
        command = _TOKEN.sub(lambda found: f"{found[1]} {token}", command)
    answer = situation.run(command, tty=bool(match["tty"]), who=match["user"])
    return Answer(recorded["exit"], recorded["stdout"], recorded["stderr"]), answer
