"""Software set up in a container: look, plan, check, run. The work goes on there when the connection drops."""

import re
import secrets
import shlex
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from apexgpu.errors import ApexError, DroppedError, UnreachableError
from apexgpu.manageshell import containershell
from apexgpu.manageshell.starting import Pause
from apexgpu.models import Host, Reply, Target
from apexgpu.recipes import planner, setupscript
from apexgpu.recipes.planner import Plan
from apexgpu.recipes.setupscript import Mark, SourceFile
from apexgpu.reporter import Progress, Reporter
from apexgpu.ssh.transport import Limits, Transport
from apexgpu.text import last_line

_CHECKING = 1200.0  # seconds; a checksum of 1.6 GB over the network may be in it
_SILENT = 90.0  # the script says every 15 s that it lives
_LOGIN = 300.0
_TRIES = 6
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Action(Protocol):
    """What the laptop does as a step: raises what went wrong."""

    def __call__(self) -> None: ...


@dataclass
class Run:
    """One run in a container, as its marks tell it. `connect`: seconds that a connection may take to be made."""

    plan: Plan
    reporter: Reporter
    progress: Progress
    connect: float = 10
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    states: dict[int, str] = field(default_factory=dict)
    said: deque[str] = field(default_factory=lambda: deque(maxlen=12))
    now: int = 0
    ended: str = ""
    busy: str = ""

    @property
    def changed(self) -> bool:
        """Whether anything was done, or begun."""
        return any(state != "skipped" for state in self.states.values())

    def line(self, text: str) -> None:
        """Take in one line: a mark of ours, or what a step's program says."""
        found = setupscript.mark(text)
        if found is None:
            clean = _ESCAPES.sub("", text).strip()
            if clean:
                self.said.append(clean)
                self.progress.update(clean)
        elif found.run == self.id:
            self._mark(found)

    def _mark(self, found: Mark) -> None:
        if found.kind in {"ended", "busy"}:
            setattr(self, found.kind, " ".join(found.words))
            return
        number = int(found.words[0]) if found.words[0].isdecimal() else 0
        if not 0 < number <= len(self.plan.steps):
            return
        if found.kind == "begin":
            self.now = number
            self.said.clear()
            self.progress.update(self.plan.steps[number - 1].title)
        elif found.kind in {"did", "skipped", "failed"}:
            news = self.states.get(number) != found.kind
            self.states[number] = found.kind
            if news and found.kind == "did":
                self.reporter.success(self.plan.steps[number - 1].title)


class StepFailedError(ApexError):
    """A step failed; `said` are its last words."""

    code = "step_failed"

    def __init__(self, message: str, *, hint: str, said: Sequence[str]) -> None:
        super().__init__(message, hint=hint)
        self.said = tuple(said)


def check(
    link: Transport, host: Host, plan: Plan, *, connect: float = 10
) -> tuple[Plan, tuple[SourceFile, ...]]:
    """The plan with the state of each step, and the files that would be installed from: the second round trip.

    RefusedError where the disk has no room.
    """
    run = secrets.token_hex(4)
    reply = containershell.query(
        link, host, setupscript.command("check", run, plan), limits=Limits(connect, _CHECKING)
    )
    marks = [
        found
        for line in reply.out.splitlines()
        if (found := setupscript.mark(line)) and found.run == run
    ]
    if not any(found.kind == "end" for found in marks):
        raise _unexpected(host, reply)
    done = frozenset(int(found.words[0]) for found in marks if found.kind == "done")
    files = tuple(one for found in marks if (one := _file(found)) is not None)
    return planner.looked_at(plan, done), files


def _file(found: Mark) -> SourceFile | None:
    if found.kind == "nofile":
        return SourceFile(found.words[0], " ".join(found.words[1:]))
    if found.kind != "file":
        return None
    name, size, sha256, *path = found.words
    return SourceFile(name, " ".join(path), int(size), sha256)


def _unexpected(host: Host, reply: Reply) -> ApexError:
    said = last_line(reply.out + reply.err, "nothing")
    message = f"the container on {host.name} could not be looked at: {said[:200]}"
    return ApexError(message, hint=f"apexgpu ssh {host.name} -- df -h", code="unexpected")


def follow(
    link: Transport, host: Host, busy: str, say: Callable[[str], None], *, connect: float = 10
) -> None:
    """Watch a run that is under way there until it has ended, whoever began it."""
    run = busy.split(" ")[0]

    def line(text: str) -> None:
        if setupscript.mark(text) is None and text.strip():
            say(_ESCAPES.sub("", text).strip())

    limits = Limits(connect, None, _SILENT)
    link.run(
        Target(host, "container"),
        setupscript.command("follow", run),
        limits=limits,
        on_line=line,
        once=True,
    )


def execute(
    link: Transport,
    host: Host,
    run: Run,
    *,
    known: Sequence[str],
    actions: Mapping[str, Action],
    pause: Pause,
) -> None:
    """Do the steps of a run's plan that are not done yet, prove them, and prove what every login is promised.

    A lost connection is made again while the work goes on there. Ctrl-C lets the step under way end, and no more.
    """
    if any(not one.step.action for one in run.plan.todo):
        _carry(link, host, run, setupscript.command("run", run.id, run.plan, known), pause)
        _judge(host, run)
    _act(link, host, run, actions)
    prove_logins(link, host, run.plan, connect=run.connect)


def _carry(link: Transport, host: Host, run: Run, command: str, pause: Pause) -> None:
    """Send the run, and again after a drop: the same id finds what goes on there."""
    limits = Limits(run.connect, None, _SILENT)
    for attempt in range(_TRIES):
        try:
            reply = link.run(
                Target(host, "container"), command, limits=limits, on_line=run.line, once=True
            )
        except UnreachableError as exc:
            if attempt == _TRIES - 1 or not (
                isinstance(exc, DroppedError) or run.states or attempt
            ):
                raise _lost(run, exc) from None
            run.reporter.note(f"{exc.message}; the work goes on there, connecting again")
            pause(2**attempt)
        except KeyboardInterrupt:
            _stop(link, host, run)
            raise
        else:
            if not run.ended:  # it did not even begin: the shell's own words say why
                run.said.extend(line.strip() for line in reply.err.splitlines() if line.strip())
            return


def _lost(run: Run, exc: UnreachableError) -> UnreachableError:
    if not run.now:
        return exc
    message = f"{exc.message}; the setup goes on there at its own pace, if the container still runs"
    return exc.with_message(
        message, hint=f"{run.plan.again}   (follows it, and goes on from there)"
    )


def _stop(link: Transport, host: Host, run: Run) -> None:
    """Let nothing begin after the step under way: to cut that one could leave it half done."""
    with suppress(ApexError):
        asked = f'touch "$HOME/.cache/apexgpu/setup/stop-{run.id}"'
        link.run(Target(host, "container"), asked, limits=Limits(connect=5, total=10), once=True)
    title = run.plan.steps[run.now - 1].title if run.now else "nothing yet"
    run.reporter.note(f"interrupted at: {title}. That step ends on {host.name}, no other begins")
    run.reporter.note(f"to go on from there: {run.plan.again}")


def _judge(host: Host, run: Run) -> None:
    """What the run came to; StepFailedError and others where it is not finished."""
    if run.ended == "finished":
        return
    if run.busy:
        message = f"another setup is under way on {host.name}: {run.busy.partition(' ')[2] or 'of another apexgpu'}"
        raise ApexError(
            message, hint=f"{run.plan.again}   (follows it to its end first)", code="busy"
        )
    last = run.said[-1] if run.said else "nothing"
    if not run.now:
        message = f"{host.name}: the setup could not begin; it said: {last[:300]}"
        raise StepFailedError(message, hint=f"apexgpu ssh {host.name} -- df -h", said=())
    title = run.plan.steps[run.now - 1].title
    words = {"failed": "did not work", "stopped": "was the last before a Ctrl-C elsewhere"}.get(
        run.ended, "was cut: the container was stopped, or the work killed"
    )
    message = f"{host.name}: {title}: {words}; it said: {last[:300]}"
    raise StepFailedError(
        message, hint=f"{run.plan.again}   (goes on with this step)", said=tuple(run.said)
    )


def _act(link: Transport, host: Host, run: Run, actions: Mapping[str, Action]) -> None:
    """What the laptop does, and whether that has worked."""
    for number, one in enumerate(run.plan.steps, 1):
        if one.step.action and one in run.plan.todo:
            run.progress.update(one.title)
            actions[one.step.action]()
            states = check(link, host, run.plan, connect=run.connect)[0].steps
            if states[number - 1].state != planner.DONE:
                message = f"{host.name}: {one.title}: it was done, but the check after it does not find it so"
                raise StepFailedError(message, hint=run.plan.again, said=())
            run.states[number] = "did"
            run.reporter.success(one.title)


def prove_logins(link: Transport, host: Host, plan: Plan, *, connect: float = 10) -> None:
    """Each recipe's promise to every login, over a login that is new and has no terminal."""
    for recipe in plan.recipes:
        if recipe.login:
            command = setupscript.login_command(plan, recipe)
            reply = link.run(
                Target(host, "container"), command, limits=Limits(connect, _LOGIN), once=True
            )
            if reply.code:
                said = [line for line in (reply.out + reply.err).splitlines() if line.strip()]
                message = (
                    f"{recipe.name} is set up on {host.name}, but a new login does not find it"
                )
                hint = f"apexgpu ssh {host.name} -- sh -c {shlex.quote(recipe.login.strip())}"
                raise StepFailedError(message, hint=hint, said=said[-5:])
