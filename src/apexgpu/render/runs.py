"""How the results of `apexgpu.runs` look."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from apexgpu.errors import NotRegisteredError, StoppedError
from apexgpu.models import Host, Outcome
from apexgpu.render.livetable import RowsView
from apexgpu.render.screen import Screen, reported_already
from apexgpu.runs import (
    FollowedRun,
    HostRuns,
    RemovedRuns,
    Run,
    RunList,
    RunState,
    StartedRun,
    StoppedRuns,
)
from apexgpu.tables import Column, Row
from apexgpu.text import counted, duration, size

# Who looks at runs wants to know which run is in which state: these go last.
_COLUMNS = (
    Column("NAME", least=24),  # other commands need it whole
    Column("HOST"),
    Column("GPU", keep=4, optional=True),
    Column("STATE", is_coloured=True),
    Column("SINCE", keep=5),
    Column("CPU", keep=1, optional=True),
    Column("MEMORY", keep=0, optional=True),
    Column("GPU MEMORY", keep=2, optional=True),
    Column("LAST LINE", least=20, keep=3, optional=True),
)
_LATE_WIDTHS = (24, 0, 3, len("failed 127"), len("23 h 59 min"), 5, 9, 10, 0)
_STATE = 3


def _waiting(host: Host) -> Row:
    return ("…", host.name, *("" for _ in _COLUMNS[2:]))


def _style(row: Row) -> str:
    state = row[_STATE].partition(" ")[0]
    if state == "running":
        return "green"
    return "red" if state in {"failed", "killed", "lost"} else ""


def _rows(outcome: Outcome[HostRuns], _draws: bool) -> list[Row]:
    """A row for each run. A host without runs has none; an error is reported below the table."""
    if outcome.value is None:
        return []
    return [_row(outcome.host.name, run) for run in outcome.value.runs]


def _row(host: str, run: Run) -> Row:
    cpu = "" if run.cpu is None else f"{run.cpu:.0f} %"
    return (
        run.name,
        host,
        "" if run.gpu is None else str(run.gpu),
        describe_state(run),
        _since(run),
        cpu,
        "" if run.memory is None else size(run.memory),
        "" if run.gpu_memory is None else size(run.gpu_memory),
        run.last_line,
    )


def describe_state(run: Run) -> str:
    """The state in a word, with the exit status of a failure."""
    if run.state is RunState.FAILED and run.exit is not None:
        return f"failed {run.exit}"
    return run.state.value


def _since(run: Run) -> str:
    """How long it has been running, or how long ago it ended."""
    if run.ended is not None:
        return f"{duration(max(0, time.time() - run.ended))} ago"
    if run.began is None or not run.is_running:
        return "-"
    return duration(max(0, time.time() - run.began))


def show_runs(result: RunList, screen: Screen) -> None:
    """What follows the table: that there is nothing in it, what it leaves out, and the hosts' errors."""
    values = [outcome.value for outcome in result.outcomes if outcome.value is not None]
    if values and not any(value.runs for value in values):
        screen.reporter.note("there are no runs; to start one: apexgpu run any -- CMD")
    hidden = sum(value.hidden for value in values)
    if hidden:
        screen.reporter.note(f"{counted(hidden, 'older run')} not shown: apexgpu runs --all")
    screen.reporter.errors(result.outcomes)
    for reason, why in ((StoppedError, "stopped"), (NotRegisteredError, "not registered")):
        names = [
            outcome.host.name
            for outcome in result.outcomes
            if outcome.value is not None and isinstance(outcome.value.absent, reason)
        ]
        if names and reason is StoppedError:
            screen.reporter.note(f"not asked (container {why}): {', '.join(names)}")


def show_started(result: StartedRun, screen: Screen) -> None:
    """The name, alone on its line, so that a script can use it."""
    screen.line(result.run.name)


def show_followed(result: FollowedRun, screen: Screen) -> None:
    """How the run ended; its output has been printed."""
    run = result.run
    if run.is_running:
        return
    lasted = ""
    if run.began is not None and run.ended is not None:
        lasted = f" after {duration(run.ended - run.began)}"
    text = f"{run.name} on {result.host}: {describe_state(run)}{lasted}"
    if run.state is RunState.KILLED and run.exit is not None:
        text += f", exit status {run.exit}"
    if run.state is RunState.DONE:
        screen.reporter.success(text)
    else:
        screen.reporter.warn(text)


ROWS: Mapping[type, RowsView] = {
    RunList: RowsView(
        columns=_COLUMNS,
        waiting=_waiting,
        rows=_rows,
        styles=_style,
        late_widths=_LATE_WIDTHS,
    )
}

VIEWS: Mapping[type, Callable[[Any, Screen], None]] = {
    RunList: show_runs,
    StartedRun: show_started,
    FollowedRun: show_followed,
    StoppedRuns: reported_already,
    RemovedRuns: reported_already,
}
