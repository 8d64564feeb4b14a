"""Checks and runs the steps of a plan in a container.

The work continues there if the connection is lost.
"""

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
from apexgpu.recipes.planner import SetupPlan, StepState
from apexgpu.recipes.recipe import Recipe
from apexgpu.recipes.setupscript import MarkKind, RunEnd, ScriptMark, ScriptMode, SourceFile
from apexgpu.reporter import Progress, Reporter
from apexgpu.ssh.transport import Limits, Transport
from apexgpu.text import last_line

_CHECK_LIMIT = 1200.0
"""Seconds for a check, which may include the checksum of 1.6 GB over the network."""

_SILENCE_LIMIT = 90.0
"""Seconds without output after which a connection is lost: run.sh prints a mark every 15 s."""

_LOGIN_TEST_LIMIT = 300.0
_CONNECT_ATTEMPTS = 6
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")

_STATES = {
    MarkKind.DID: StepState.DID,
    MarkKind.SKIPPED: StepState.DONE,
    MarkKind.FAILED: StepState.FAILED,
}


class LocalAction(Protocol):
    """What this machine, not the container, does for a step. Raises ApexError if it fails."""

    def __call__(self) -> None: ...


class StepFailedError(ApexError):
    """A step failed; `last_lines` are the last lines of its output."""

    code = "step_failed"

    def __init__(self, message: str, *, hint: str, last_lines: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.last_lines = tuple(last_lines)


@dataclass
class SetupRun:
    """One run of a plan in a container, as its output describes it.

    `connect_timeout` is how many seconds making a connection may take. `states` has the steps that
    have ended, by their number from 1; `current_step` is 0 before the first. `end` is None until
    the run has ended, `other_run` the recipes of another run that is in the way.
    """

    plan: SetupPlan
    reporter: Reporter
    progress: Progress
    connect_timeout: float = 10
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    states: dict[int, StepState] = field(default_factory=dict)
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=12))
    current_step: int = 0
    end: RunEnd | None = None
    other_run: str | None = None

    @property
    def has_changed_something(self) -> bool:
        """Whether any step was done, or has failed."""
        return any(state is not StepState.DONE for state in self.states.values())

    @property
    def current_title(self) -> str:
        """The title of the current step; empty before the first."""
        return self._title(self.current_step) if self.current_step else ""

    def _title(self, number: int) -> str:
        return self.plan.steps[number - 1].title

    def handle_line(self, line: str) -> None:
        """Take in one line: a mark of run.sh, or output of a step's program."""
        mark = setupscript.parse_mark(line)
        if mark is None:
            text = _without_terminal_codes(line)
            if text:
                self.last_lines.append(text)
                self.progress.update(text)
        elif mark.run_id == self.id:
            # A mark with another id was printed by a step's program.
            self._handle_mark(mark)

    def _handle_mark(self, mark: ScriptMark) -> None:
        if mark.kind is MarkKind.ENDED:
            self.end = _read_end(mark)
            return
        if mark.kind is MarkKind.BUSY:
            _id, *recipes = mark.arguments
            self.other_run = " ".join(recipes)
            return
        if not 0 < mark.step <= len(self.plan.steps):
            return
        if mark.kind is MarkKind.BEGIN:
            self.current_step = mark.step
            self.last_lines.clear()
            self.progress.update(self.current_title)
        elif mark.kind in _STATES:
            state = _STATES[mark.kind]
            # After a reconnection, all marks are printed again.
            is_new = self.states.get(mark.step) is not state
            self.states[mark.step] = state
            if is_new and state is StepState.DID:
                self.reporter.success(self._title(mark.step))


def _read_end(mark: ScriptMark) -> RunEnd:
    try:
        return RunEnd(mark.arguments[0])
    except ValueError:
        # The file in which the run notes its end may be empty: the disk may be full.
        return RunEnd.UNKNOWN


def _without_terminal_codes(line: str) -> str:
    return _TERMINAL_CODES.sub("", line).strip()


def check_plan(
    transport: Transport, host: Host, plan: SetupPlan, *, connect_timeout: float = 10
) -> tuple[SetupPlan, tuple[SourceFile, ...]]:
    """Return the plan with the state of each step, and the files to install from. Changes nothing.

    RefusedError if the disk has no room; other errors if the container cannot be asked.
    """
    run_id = secrets.token_hex(4)
    reply = containershell.query(
        transport,
        host,
        setupscript.script_command(ScriptMode.CHECK, run_id, plan),
        limits=Limits(connect_timeout, _CHECK_LIMIT),
    )
    done = set()
    files = []
    is_complete = False
    for line in reply.out.splitlines():
        mark = setupscript.parse_mark(line)
        if mark is None or mark.run_id != run_id:
            continue
        if mark.kind is MarkKind.DONE:
            done.add(mark.step)
        elif mark.kind is MarkKind.END:
            is_complete = True
        file = setupscript.source_file(mark)
        if file is not None:
            files.append(file)
    if not is_complete:
        raise _incomplete_check(host, reply)
    return planner.with_states(plan, frozenset(done)), tuple(files)


def _incomplete_check(host: Host, reply: Reply) -> ApexError:
    last = last_line(reply.out + reply.err, "nothing")
    message = f"the container on {host.name} could not be checked; last output: {last[:200]}"
    return ApexError(message, hint=f"apexgpu ssh {host.name} -- df -h", code="unexpected")


def follow_setup(
    transport: Transport,
    host: Host,
    running_setup: str,
    show_line: Callable[[str], None],
    *,
    connect_timeout: float = 10,
) -> None:
    """Follow a setup that is running in the container until it ends, whoever started it.

    `running_setup` begins with its id, as in `Facts`. `show_line` is called with each line of
    output.
    """
    run_id = running_setup.split(" ")[0]

    def on_line(line: str) -> None:
        if setupscript.parse_mark(line) is None and line.strip():
            show_line(_without_terminal_codes(line))

    transport.run(
        Target(host, "container"),
        setupscript.script_command(ScriptMode.FOLLOW, run_id),
        limits=Limits(connect_timeout, None, _SILENCE_LIMIT),
        on_line=on_line,
        once=True,
    )


def run_plan(
    transport: Transport,
    host: Host,
    run: SetupRun,
    *,
    published_sources: Sequence[str],
    actions: Mapping[str, LocalAction],
    pause: Pause,
) -> None:
    """Do the steps that are not done yet, verify each, and test what new logins are promised.

    `published_sources` are the names of sources whose checksum is the published one; `actions` are
    the actions that recipes may name. `run` is updated on the way. If the connection is lost, the
    work continues in the container, and a new connection follows it. On Ctrl-C the current step
    finishes, and no other starts.

    StepFailedError if a step fails, UnreachableError if the connection stays lost, ApexError if
    another setup runs.
    """
    if any(not planned.step.action for planned in run.plan.steps_to_do):
        command = setupscript.script_command(ScriptMode.RUN, run.id, run.plan, published_sources)
        _run_script(transport, host, run, command, pause)
        _raise_unless_finished(host, run)
    _run_actions(transport, host, run, actions)
    verify_new_logins(transport, host, run.plan, connect_timeout=run.connect_timeout)


def _run_script(
    transport: Transport, host: Host, run: SetupRun, command: str, pause: Pause
) -> None:
    """Send the script, and again after a lost connection: with the same id, it follows the run."""
    limits = Limits(run.connect_timeout, None, _SILENCE_LIMIT)
    for attempt in range(_CONNECT_ATTEMPTS):
        try:
            reply = transport.run(
                Target(host, "container"),
                command,
                limits=limits,
                on_line=run.handle_line,
                once=True,
            )
        except UnreachableError as exc:
            may_have_begun = isinstance(exc, DroppedError) or run.states or attempt
            if attempt == _CONNECT_ATTEMPTS - 1 or not may_have_begun:
                raise _connection_lost(run, exc) from None
            run.reporter.note(f"{exc.message}; the work continues in the container, reconnecting")
            pause(2**attempt)
        except KeyboardInterrupt:
            _stop_after_current_step(transport, host, run)
            raise
        else:
            if run.end is None:
                # It did not even begin; only the shell says why.
                run.last_lines.extend(
                    line.strip() for line in reply.err.splitlines() if line.strip()
                )
            return


def _connection_lost(run: SetupRun, exc: UnreachableError) -> UnreachableError:
    if not run.current_step:
        return exc
    message = (
        f"{exc.message}; the setup continues in the container if that is still running; the same command follows"
        " and resumes it"
    )
    return exc.with_message(message, hint=run.plan.command)


def _stop_after_current_step(transport: Transport, host: Host, run: SetupRun) -> None:
    """Ask the run to start no other step.

    The current one finishes: ended in the middle, it could be half done.
    """
    command = f'touch "$HOME/.cache/apexgpu/setup/stop-{run.id}"'
    with suppress(ApexError):
        transport.run(
            Target(host, "container"), command, limits=Limits(connect=5, total=10), once=True
        )
    if run.current_step:
        run.reporter.note(
            f"interrupted at: {run.current_title}. The current step will finish on {host.name}; later steps will"
            " not start"
        )
    else:
        run.reporter.note("interrupted before the first step; no step will start")
    run.reporter.note(f"to resume: {run.plan.command}")


_FAILURES = {
    RunEnd.FAILED: "failed",
    RunEnd.STOPPED: "was the last step before a Ctrl-C elsewhere",
    RunEnd.UNKNOWN: "ended, but the container did not record how (its disk may be full)",
}


def _raise_unless_finished(host: Host, run: SetupRun) -> None:
    """Raise the error for a run that has not done all of its steps."""
    if run.end is RunEnd.FINISHED:
        return
    if run.other_run is not None:
        what = run.other_run or "started by another apexgpu"
        message = f"another setup is running on {host.name}: {what}; the same command follows it until it ends"
        raise ApexError(message, hint=run.plan.command, code="busy")
    last = run.last_lines[-1] if run.last_lines else "nothing"
    if not run.current_step:
        message = f"{host.name}: the setup could not start; last output: {last[:300]}"
        raise StepFailedError(message, hint=f"apexgpu ssh {host.name} -- df -h")
    failure = "was interrupted: the container was stopped, or the process killed"
    if run.end in _FAILURES:
        failure = _FAILURES[run.end]
    message = f"{host.name}: {run.current_title}: {failure}; last output: {last[:300]}"
    raise StepFailedError(message, hint=run.plan.command, last_lines=run.last_lines)


def _run_actions(
    transport: Transport, host: Host, run: SetupRun, actions: Mapping[str, LocalAction]
) -> None:
    """Do the steps that are done on this machine, and check each."""
    for number, planned in enumerate(run.plan.steps, 1):
        if not planned.step.action or planned.state is StepState.DONE:
            continue
        run.progress.update(planned.title)
        actions[planned.step.action]()
        checked, _ = check_plan(transport, host, run.plan, connect_timeout=run.connect_timeout)
        if checked.steps[number - 1].state is not StepState.DONE:
            message = f"{host.name}: {planned.title}: it was done, but the check afterwards fails"
            raise StepFailedError(message, hint=run.plan.command)
        run.states[number] = StepState.DID
        run.reporter.success(planned.title)


def verify_new_logins(
    transport: Transport, host: Host, plan: SetupPlan, *, connect_timeout: float = 10
) -> None:
    """Test what each recipe promises to every login, in a new login without a terminal.

    StepFailedError if it fails.
    """
    for recipe in plan.recipes:
        if recipe.login:
            _verify_new_login(transport, host, plan, recipe, connect_timeout)


def _verify_new_login(
    transport: Transport, host: Host, plan: SetupPlan, recipe: Recipe, connect_timeout: float
) -> None:
    reply = transport.run(
        Target(host, "container"),
        setupscript.login_test_command(plan, recipe),
        limits=Limits(connect_timeout, _LOGIN_TEST_LIMIT),
        once=True,
    )
    if reply.code:
        lines = [line for line in (reply.out + reply.err).splitlines() if line.strip()]
        message = f"{recipe.name} is set up on {host.name}, but a new login does not find it"
        hint = f"apexgpu ssh {host.name} -- sh -c {shlex.quote(recipe.login.strip())}"
        raise StepFailedError(message, hint=hint, last_lines=lines[-5:])
